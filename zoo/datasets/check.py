"""Checks whether a data set is fit to train on: reads every case once and lists every fault."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.datasets import splits as folds
from zoo.datasets.cases import Case, cases, fitting, readers
from zoo.datasets.images import read_labels
from zoo.datasets.label_values import WHOLE, Explained, add_label_map, explain_values, word_unknown
from zoo.datasets.left_out import unused_files
from zoo.datasets.parallel import convert
from zoo.volumes import image as images
from zoo.volumes import nifti
from zoo.volumes.scan_files import describe

if TYPE_CHECKING:
    from zoo.training.task import Task

ERROR, WARNING = "error", "warning"
PICTURE = 255  # white
KINDS = ("layout", "unreadable", "channels", "geometry", "labels", "empty mask", "duplicate", "split")


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        level: "error" (training would fail or mislead) or "warning" (look at it).
        kind: one of `KINDS`.
        case: id, or ids with commas, or empty where the whole data set is meant.
        text: what is wrong, with its value.
    """

    level: str
    kind: str
    case: str
    text: str


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes:
        source: what was checked.
        num_cases: cases listed.
        num_subjects: subjects among them.
        channels: channel name -> number of cases that have it.
        shapes: "16 x 24 x 32" -> number of cases.
        spacings_mm: "1 x 1 x 2.5" -> number of cases.
        labels: label value -> number of cases that hold it.
        findings: errors first.
        left_out: one line on the files that no case uses, and why; empty where there is none.
        notes: what label values count as for the task, one line each.
    """

    source: str
    num_cases: int = 0
    num_subjects: int = 0
    channels: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, int] = field(default_factory=dict)
    spacings_mm: dict[str, int] = field(default_factory=dict)
    labels: dict[int, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    left_out: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def num_errors(self) -> int:
        """Number of findings that are errors; a command would end with 1 where there are any."""
        return sum(finding.level == ERROR for finding in self.findings)

    def plain(self) -> dict[str, Any]:
        """Returns the report as JSON has it."""
        labels = {str(value): count for value, count in self.labels.items()}
        return {**asdict(self), "labels": labels, "num_errors": self.num_errors}

    def __str__(self) -> str:
        tables: dict[str, Mapping[Any, int]] = {
            "channels": self.channels,
            "shapes": self.shapes,
            "spacings (mm)": self.spacings_mm,
            "label values": _join_runs(self.labels),
        }
        lines = [f"{self.source}: {self.num_cases} cases of {self.num_subjects} subjects"]
        lines += [f"  {title}: {_list_counts(table)}" for title, table in tables.items() if table]
        lines += [f"  {note}" for note in (*self.notes, self.left_out) if note]
        lines += [f"{_name_place(finding)}: {finding.text}" for finding in self.findings]
        num_warnings = len(self.findings) - self.num_errors
        return "\n".join([*lines, f"{self.num_errors} errors, {num_warnings} warnings"])


def check(
    source: str | Path | Sequence[Case],
    *,
    tolerance_mm: float = 0.1,
    splits: str | Path | Sequence[folds.Split] | None = None,
    reader: str | None = None,
    channels: Mapping[str, str] | None = None,
    labels: str | None = None,
    task: "Task | None" = None,
    recursive: bool = False,
) -> Report:
    """Checks a data set, in itself or for a task.

    Looked at are: files that cannot be used; channels that only some cases have; files of a case on different grids;
    label values that are no whole numbers, or that one case alone holds; empty label maps; the same voxels under two
    names; cases without labels among labelled ones; subjects that both train and validate. With a task also: its
    channels, and label values that are not its own, as training reads them.

    Args:
        source: a folder, or cases.
        tolerance_mm: how far the same voxel of two files of a case may lie apart.
        splits: folds, or the file that holds them; None looks for `splits.json` in the folder.
        reader: as `zoo.datasets.cases.cases` takes it; so are the next two.
        channels: channel name -> what the reader calls it.
        labels: what the reader calls the label map.
        task: what is to be trained; its reader, patterns and `label_map` count where those above are left out.
        recursive: in a plain folder, take sub-folders at any depth as cases.

    Returns:
        The report; it never raises for what is wrong with the data.

    Raises:
        FileNotFoundError: there is no such folder, or no such file of splits.
        ValueError: there is no reader of that name.

    Example:
        >>> report = zoo.check("data", task=zoo.task("brain_structures"))  # doctest: +SKIP
        >>> print(report)  # doctest: +SKIP
    """
    if not isinstance(source, str | Path):
        listed, name = list(source), "the cases given"
    else:
        name = str(source)
        try:
            listed = _list_cases(source, task, reader=reader, channels=channels, labels=labels, recursive=recursive)
        except ValueError as error:
            if reader is not None and reader not in readers():
                raise
            return Report(name, findings=[Finding(ERROR, "layout", "", str(error))])
        default = Path(source) / "splits.json"
        splits = default if splits is None and default.is_file() else splits
    left_out = "" if name != str(source) else describe(unused_files(Path(name), listed), Path(name))
    looks, faults = _look_at_all(listed)
    if task is not None:
        faults += [*_check_task_channels(listed, task), *_check_task_values(looks, task)]
    findings = [*faults, *_check_channels(listed), *_check_geometry(looks, tolerance_mm), *_check_labels(looks, listed)]
    findings += [*_find_duplicates(looks), *_check_splits(listed, splits)]
    report = _report(name, listed, looks, sorted(findings, key=lambda finding: finding.level))
    return replace(report, left_out=left_out, notes=_note_folds(looks, task) if task is not None else [])


def _list_cases(
    source: str | Path,
    task: "Task | None",
    *,
    reader: str | None,
    channels: Mapping[str, str] | None,
    labels: str | None,
    recursive: bool,
) -> list[Case]:
    if task is None:
        return cases(source, reader=reader, channels=channels, labels=labels, recursive=recursive)
    patterns = {**task.data.patterns, **(channels or {}), **({"labels": labels} if labels else {})}
    reader = reader or task.data.reader
    return fitting(source, task.data.channels, reader=reader, patterns=patterns, recursive=recursive)


@dataclass(frozen=True)
class _Look:
    """What is kept of a case after it was read: grids, hashes of the voxels, and label counts."""

    case: Case
    grids: dict[str, Any]
    hashes: dict[str, str]
    values: dict[float, int] | None


class _Grid:
    """Shape and affine of an image whose voxels may go."""

    def __init__(self, image: images.Image) -> None:
        self.shape, self.affine = image.shape, image.affine


def _look_at_all(listed: Sequence[Case]) -> tuple[list[_Look], list[Finding]]:
    looks, failures = convert(listed, _read_case, "Reading", quiet=True)
    return looks, [Finding(ERROR, "unreadable", failure.case, failure.reason) for failure in failures]


def _read_case(case: Case) -> _Look:
    grids: dict[str, Any] = {}
    hashes: dict[str, str] = {}
    values: Counter[float] | None = None
    for name, path in case.channels.items():
        image = images.read(path, ndim=4 if name in case.volumes else 3)
        voxels = np.asanyarray(image.dataobj)
        grids[name] = _Grid(image)
        hashes[name] = _hash(voxels[..., case.volumes[name]] if name in case.volumes else voxels)
    if case.labels:
        mask = read_labels(case.labels)
        grids["labels"] = _Grid(mask)
        labels, counts = np.unique(np.asanyarray(mask.dataobj), return_counts=True)
        values = Counter()
        for label, count in zip(labels.tolist(), counts.tolist(), strict=True):
            values[_to_whole(label)] += count
    return _Look(case, grids, hashes, values)


def _to_whole(value: float) -> float:
    """Returns the whole number that a label value means, or the value itself where it means none."""
    return round(value) if math.isfinite(value) and abs(value - round(value)) <= WHOLE else value


def _hash(voxels: np.ndarray) -> str:
    content = np.ascontiguousarray(voxels)
    return hashlib.sha256(repr(content.shape).encode() + content.astype(np.float32).tobytes()).hexdigest()


def _check_channels(listed: Sequence[Case]) -> Iterable[Finding]:
    every = {name for case in listed for name in case.channels}
    for case in listed:
        missing = sorted(every - set(case.channels))
        if missing:
            yield Finding(ERROR, "channels", case.id, f"channels that others have are missing: {', '.join(missing)}")


def _check_geometry(looks: Sequence[_Look], tolerance_mm: float) -> Iterable[Finding]:
    for look in looks:
        try:
            images.check_same_grid(list(look.grids.values()), list(look.grids), tolerance_mm=tolerance_mm)
        except ValueError as error:
            yield Finding(ERROR, "geometry", look.case.id, str(error))


def _check_labels(looks: Sequence[_Look], listed: Sequence[Case]) -> Iterable[Finding]:
    holders: dict[float, list[str]] = defaultdict(list)
    unlabelled = [case.id for case in listed if case.labels is None]
    if unlabelled and len(unlabelled) < len(listed):
        yield Finding(ERROR, "labels", ", ".join(unlabelled), "no label map, and other cases have one")
    labelled = [look for look in looks if look.values is not None]
    for look in labelled:
        values = look.values or {}
        if not any(values):
            yield Finding(WARNING, "empty mask", look.case.id, "the label map holds nothing but 0")
        yield from _check_values(look.case.id, values)
        for value in values:
            holders[value].append(look.case.id)
    for value, ids in sorted(holders.items()):
        if len(ids) == 1 and len(labelled) > 3:
            yield Finding(WARNING, "labels", ids[0], f"label value {value:g} is in this case alone")


def _check_values(case: str, values: Iterable[float]) -> Iterable[Finding]:
    """Yields what is odd about the values of one label map."""
    if set(values) == {0, PICTURE}:
        text = f"the label map is 0 and {PICTURE}, as a mask saved as a picture is; divide it by {PICTURE}"
        yield Finding(WARNING, "labels", case, text)
    broken = [value for value in values if not isinstance(value, int) or value < 0]
    if broken:
        text = f"label values that are not 0, 1, 2 and so on: {', '.join(f'{value:g}' for value in broken[:5])}"
        yield Finding(ERROR, "labels", case, text)


def _explain(look: _Look, task: "Task") -> Explained:
    """Returns what the label values of a case count as for a task."""
    known = add_label_map({value: value for _, value in task.data.labels.values()}, task.data.label_map)
    counts = {value: number for value, number in (look.values or {}).items() if isinstance(value, int)}
    return explain_values(counts, known)


def _check_task_channels(listed: Sequence[Case], task: "Task") -> Iterable[Finding]:
    """Yields the channels of a task that cases do not have, the cases with the same fault together."""
    holders: dict[tuple[str, ...], list[Case]] = defaultdict(list)
    for case in listed:
        holders[tuple(name for name in task.data.channels if name not in case.channels)].append(case)
    for missing, held in holders.items():
        if missing:
            has = ", ".join(held[0].channels)
            text = f"the task's channels {', '.join(missing)} are missing, and there is {has}; name files by --pattern"
            yield Finding(ERROR, "channels", ", ".join(case.id for case in held), text)


def _check_task_values(looks: Sequence[_Look], task: "Task") -> Iterable[Finding]:
    """Yields the label values that training would refuse."""
    known = add_label_map({value: value for _, value in task.data.labels.values()}, task.data.label_map)
    for look in looks:
        explained = _explain(look, task)
        if explained.unknown:
            yield Finding(ERROR, "labels", look.case.id, word_unknown(explained, known, "the label map"))


def _note_folds(looks: Sequence[_Look], task: "Task") -> list[str]:
    return list(dict.fromkeys(note for look in looks for note in _explain(look, task).notes))


def _find_duplicates(looks: Sequence[_Look]) -> Iterable[Finding]:
    owners: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for look in looks:
        for name, digest in look.hashes.items():
            owners[digest].append((look.case.id, name))
    for pairs in owners.values():
        if len(pairs) > 1:
            ids = ", ".join(dict.fromkeys(key for key, _ in pairs))
            names = ", ".join(f"{key}/{name}" for key, name in pairs)
            yield Finding(ERROR, "duplicate", ids, f"the same voxels under {len(pairs)} names: {names}")


def _check_splits(listed: Sequence[Case], splits: str | Path | Sequence[folds.Split] | None) -> Iterable[Finding]:
    if splits is None:
        return
    subject_of = {case.id: case.subject for case in listed}
    for number, split in enumerate(folds.read(splits) if isinstance(splits, str | Path) else splits):
        lost = sorted({*split.train, *split.validation} - set(subject_of))
        if lost:
            yield Finding(ERROR, "split", ", ".join(lost), f"fold {number} names cases that are not in the data")
        sides = [{subject_of[key] for key in side if key in subject_of} for side in (split.train, split.validation)]
        both = sides[0] & sides[1]
        if both:
            ids = [key for key, subject in subject_of.items() if subject in both]
            text = f"subjects both train and validate in fold {number}: {', '.join(sorted(both))}"
            yield Finding(ERROR, "split", ", ".join(ids), text)


def _report(name: str, listed: Sequence[Case], looks: Sequence[_Look], findings: list[Finding]) -> Report:
    grids = [next(iter(look.grids.values())) for look in looks]
    spacings = [nifti.spacing_mm(grid.affine) for grid in grids]
    values = Counter(value for look in looks for value in (look.values or {}) if isinstance(value, int))
    return Report(
        name,
        len(listed),
        len({case.subject for case in listed}),
        dict(Counter(channel for case in listed for channel in case.channels)),
        dict(Counter(" x ".join(str(size) for size in grid.shape[:3]) for grid in grids)),
        dict(Counter(" x ".join(f"{size:.3g}" for size in spacing) for spacing in spacings)),
        dict(sorted(values.items())),
        findings,
    )


def _join_runs(table: Mapping[int, int]) -> dict[str, int]:
    """Returns "1001-1035" -> cases for values that follow each other, three or more, and are in as many cases."""
    runs: list[list[int]] = []
    for value, count in table.items():
        if runs and value == runs[-1][-1] + 1 and table[runs[-1][-1]] == count:
            runs[-1].append(value)
        else:
            runs.append([value])
    parts = [[run] if len(run) > 2 else [[value] for value in run] for run in runs]
    joined = [run for part in parts for run in part]
    return {f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]): table[run[0]] for run in joined}


def _list_counts(table: Mapping[Any, int]) -> str:
    return ", ".join(f"{key} ({count})" for key, count in table.items())


def _name_place(finding: Finding) -> str:
    return f"{finding.level}: {finding.kind}" + (f": {finding.case}" if finding.case else "")
