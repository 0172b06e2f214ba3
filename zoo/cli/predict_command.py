"""`zoo predict`: which cases its arguments mean, and what became of each."""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo import errors, tasks
from zoo.cli.terminal import FAILURES, UsageError
from zoo.hub import card as cards
from zoo.hub.tabular import encode

NIFTI = (".nii", ".nii.gz")
SHOWN_LABELS = 3
Given = Path | list[Path] | dict[str, dict[str, Path]]


def given_cases(scans: Sequence[str], card: cards.Card) -> Given:
    """What the arguments mean: one folder, files, or one case of named channels.

    Args:
        scans: "scan.nii.gz", "folder" or "T1w=scan.nii.gz"; for several channels a folder is a data set.
        card: of the model.

    Raises:
        UsageError: a path that is not there, or channels that are not those of the card.
    """
    pairs = [_pair(scan) for scan in scans]
    for _, path in pairs:
        if not path.exists():
            raise UsageError(f"There is no file or folder {str(path)!r}.")
    named = [(channel, path) for channel, path in pairs if channel]
    wanted = [channel.name for channel in card.input.channels]
    if not named and len(pairs) == 1 and (len(wanted) == 1 or pairs[0][1].is_dir()):
        return pairs[0][1]
    if not named and len(wanted) == 1:
        if any(path.is_dir() for _, path in pairs):
            raise UsageError("Give files, or one folder, got several of which one is a folder.")
        return [path for _, path in pairs]
    _check_named([channel for channel, _ in pairs], wanted, f"{card.name} takes", " ".join(scans))
    return {_stem(named[0][1]): {str(channel): path for channel, path in named}}


def _check_named(given: Sequence[str | None], wanted: Sequence[str], taker: str, words: str) -> None:
    """Refuses channels that are not, each once, those of the model."""
    for channel in given:
        if channel and channel not in wanted:
            raise UsageError(str(errors.unknown_choice("channel", channel, wanted)))
    if sorted(map(str, given)) != sorted(wanted):
        example = " ".join(f"{name}=FILE" for name in wanted)
        missing = [name for name in wanted if name not in given]
        told = f"{', '.join(missing)} is missing in" if missing and any(given) else "got"
        raise UsageError(f"{taker} {example}, each once, or the folder of a data set; {told} {words!r}.")


def given_tabular(text: str, card: cards.Card) -> dict[str, str]:
    """The values of "--tabular age=71,tici=2b", checked against the card.

    Raises:
        UsageError: another form, a name twice, or what `zoo.hub.tabular.encode` refuses.
    """
    values: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not name or not equals or name in values:
            raise UsageError(f"--tabular is NAME=VALUE,NAME=VALUE, each name once; got {text!r}.")
        values[name] = value
    if values and not card.input.tabular:
        raise UsageError(f"{card.name} takes no tabular values, got {text!r}. Leave --tabular out.")
    try:
        encode(card.input.tabular, values)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return values


def _pair(scan: str) -> tuple[str | None, Path]:
    """`T1w=scan.nii.gz` as a channel and a path; a file whose name has such a form is a file."""
    found = re.fullmatch(r"([A-Za-z0-9_.-]+)=(.+)", scan)
    return (None, Path(scan)) if found is None or Path(scan).exists() else (found[1], Path(found[2]))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def lesion_writer(card: cards.Card, lesions: Path | None, regions: str) -> Any:
    """What writes the lesions of each case beside its labels; None where no table was asked for.

    Args:
        card: of the model.
        lesions: the table of all cases.
        regions: a label map, "unet3d.brain_structures", or "".

    Raises:
        UsageError: regions without a table, a model without lesions, or a label map that cannot be read.
    """
    if lesions is None:
        if regions:
            raise UsageError(f"--regions {regions} names the places of lesions: add --lesions TABLE.csv.")
        return None
    known = tasks.task(card.task).output.lesions if card.task in tasks.names() else ()
    if card.output.kind != "segmentation" or (card.task in tasks.names() and not known):
        raise UsageError(f"{card.name} finds no lesions: leave --lesions out, or see --volumes.")
    from zoo.workflows.lesion_tables import LesionWriter

    names = [label.name for label in card.output.labels.values()]
    try:
        return LesionWriter(regions or None, [name for name in known if name in names] or None)
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(f"--regions: {error}") from error


def write_lesion_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes one table of the lesions of all cases, from those beside their results."""
    from zoo.workflows.lesion_tables import read_lesions, table_of, write_lesions

    whole = [row for row in rows if "error" not in row]
    write_lesions(path, {row["case"]: read_lesions(table_of(Path(row["out"]))) for row in whole})


def predict_cases(
    folder: Path,
    card: cards.Card,
    given: Given,
    out: Path,
    *,
    settings: Any,
    overwrite: bool,
    tabular: Mapping[str, str] | None = None,
    writer: Any = None,
) -> list[dict[str, Any]]:
    """Predicts what was given; Keras is loaded already.

    Args:
        folder: of the model.
        card: of the model.
        given: as `given_cases` returns it.
        out: a folder, or a NIfTI file where there is one case.
        settings: `zoo.inference.settings.Settings`.
        overwrite: whether results in a folder are replaced; a file that is named always is.
        tabular: values beside the images of every case; they pass those of a data set's tables.
        writer: `zoo.inference.cohort.Writer` of each case; None for its image alone.

    Returns:
        A row a case: "case" and "error", or "case", "out", "kept", "seconds" and "volumes_ml".

    Raises:
        UsageError: no cases, two of one name, or a file as `out` for several.
    """
    from zoo.inference.cohort import predict_many

    cases = named_cases(given, card)
    if out.name.endswith(NIFTI):
        return [_predict_one(folder, card, cases, out, settings=settings, tabular=tabular, writer=writer)]
    beside = {name: dict(tabular or {}) for name in cases}
    report = predict_many(folder, cases, out, settings=settings, tabular=beside, overwrite=overwrite, writer=writer)
    rows: list[dict[str, Any]] = []
    for name in cases:
        if name in report.failed:
            rows.append({"case": name, "error": report.failed[name]})
        else:
            path = Path(report.done.get(name) or report.kept[name])
            volumes = {} if settings.probabilities else volumes_ml(path, card)
            rows.append(_row(name, path, volumes, report.seconds.get(name)))
    return rows


def named_cases(given: Given, card: cards.Card) -> dict[str, Any]:
    """The cases that were given, by name; Keras is loaded already.

    Raises:
        UsageError: no cases, or two of one name.
    """
    from zoo.inference.inputs import find_cases

    try:
        return find_cases(_listed(given, card), ignore=f"_{card.name.split('.')[-1]}")
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error


def _listed(given: Given, card: cards.Card) -> Any:
    """A folder for a model of several channels is a data set, in the layout of the model's task where it has one."""
    if not isinstance(given, Path) or not given.is_dir() or len(card.input.channels) == 1:
        return given
    from zoo.datasets.cases import fitting

    task = tasks.task(card.task) if card.task in tasks.names() else None
    names = [channel.name for channel in card.input.channels]
    reader, patterns = (task.data.reader, task.data.patterns) if task else (None, None)
    return fitting(given, names, reader=reader, patterns=patterns)


def _predict_one(
    folder: Path,
    card: cards.Card,
    cases: Mapping[str, Any],
    out: Path,
    *,
    settings: Any,
    tabular: Mapping[str, str] | None,
    writer: Any,
) -> dict[str, Any]:
    """One case into the file `out`."""
    from zoo.inference.cohort import Writer
    from zoo.inference.predictor import Predictor
    from zoo.progress import progress_bar

    if len(cases) != 1:
        raise UsageError(f"--out {out} is one file, got {len(cases)} scans. Name a folder.")
    ((name, images),) = cases.items()
    if not isinstance(images, dict | Path):
        raise UsageError(f"--out {out} is one file, got a data set. Name a folder.")
    if out.resolve() in {path.resolve() for path in (images.values() if isinstance(images, dict) else [images])}:
        raise UsageError(f"--out {out} is the scan itself. Name another file.")
    start = time.perf_counter()
    with progress_bar(card.name) as tell:
        (writer or Writer()).write(Predictor(folder, settings=settings), images, out, tabular=tabular, progress=tell)
    seconds = round(time.perf_counter() - start, 3)
    return _row(name, out, {} if settings.probabilities else volumes_ml(out, card), seconds)


def _row(name: str, path: Path, volumes: dict[str, float], seconds: float | None) -> dict[str, Any]:
    return {"case": name, "out": str(path), "kept": seconds is None, "seconds": seconds, "volumes_ml": volumes}


def volumes_ml(path: Path, card: cards.Card) -> dict[str, float]:
    """Volume in ml of each label other than 0 in a label map; empty where the model gives no labels."""
    if card.output.kind != "segmentation":
        return {}
    import nibabel

    from zoo.inference.structure_volumes import volumes

    return {str(row["structure"]): float(row["volume_ml"]) for row in volumes(nibabel.nifti1.load(path), card)}


def write_tables(rows: Sequence[Mapping[str, Any]], card: cards.Card) -> None:
    """Writes `SCAN_TAG_volumes.csv` beside every result: voxels, ml and left-right asymmetry a structure."""
    import nibabel

    from zoo.inference.structure_volumes import write_volumes

    for row in rows:
        if "error" not in row:
            path = Path(row["out"])
            write_volumes(path.with_name(f"{_stem(path)}_volumes.csv"), nibabel.nifti1.load(path), card)


def case_line(row: Mapping[str, Any]) -> str:
    """A row without error as a line; many labels are summed, `--json` has each."""
    volumes = row["volumes_ml"]
    if len(volumes) > SHOWN_LABELS:
        volumes = {f"{len(volumes)} labels,": sum(volumes.values())}
    told = [f"{name} {volume:,.1f} ml" for name, volume in volumes.items()]
    told += ["was there already (--overwrite replaces it)"] if row["kept"] else [f"{row['seconds']:.1f} s"]
    return f"{row['out']}: {', '.join(told)}"


def locate_recordings(folder: Path, recordings: Sequence[str], out: Path) -> list[dict[str, Any]]:
    """Locates the sources of EEG files; each gives a table and a posterior in the folder `out`.

    Args:
        folder: of the model.
        recordings: files that mne reads.
        out: a folder.

    Returns:
        A row a file: "case" and "error", or "case", "out", "sources", "repairs" and "text".

    Raises:
        UsageError: no such file, or two of one name.
    """
    from zoo.source_imaging import locate

    paths = [Path(name) for name in recordings]
    names = [re.sub(r"([-_](ave|epo|eeg|raw))?(\.fif)?(\.gz)?$", "", path.name) for path in paths]
    for path, name in zip(paths, names, strict=True):
        if not path.exists():
            raise UsageError(f"There is no file {str(path)!r}.")
        if names.count(name) > 1:
            raise UsageError(f"Two recordings would both be called {name!r}. Give them one at a time.")
    rows: list[dict[str, Any]] = []
    for path, name in zip(paths, names, strict=True):
        try:
            found = locate.locate_sources(path, model=folder)
            files = [str(written) for written in locate.write(found, out, name)]
        except FAILURES as error:
            rows.append({"case": path.name, "error": str(error)})
            continue
        places = "; ".join("({:.0f}, {:.0f}, {:.0f})".format(*source.mni_mm) for source in found.sources)
        text = " ".join([f"{files[0]}: {len(found.sources)} sources at {places} mm MNI,", *_told(found)])
        row = {"case": path.name, "out": files, "sources": found.table(), "repairs": list(found.repairs)}
        rows.append({**row, "text": text})
    return rows


def _told(found: Any) -> list[str]:
    """How well the sources explain the topography, and what was repaired."""
    return [f"{found.explained:.0%} explained at {found.time_s[0]:g} s.", *found.repairs]
