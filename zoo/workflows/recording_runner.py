"""Runs a model that locates sources on EEG recordings for `zoo predict`, condition by condition."""

import dataclasses
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from zoo.errors import collect_warnings
from zoo.hub import card_file, result_record
from zoo.hub.result_record import Origin
from zoo.workflows.case_results import CaseResult, Made, OptionError, RunOptions, Steps, keep_or_make


@dataclasses.dataclass(frozen=True)
class SourceChoices:
    """What to locate in each recording, as `zoo.locate_sources` takes it; forward and covariance as files of mne.

    Attributes:
        times: a time or a window, s.
        condition: the only one to locate; None for each, or for continuous data.
        count: number of sources, if known, or "pair".
        forward: file of an `mne.Forward`.
        noise_cov: file of an `mne.Covariance`.
        method: "auto", "network" or "sparse_bayes".
        report: whether to write a page beside each table.
    """

    times: float | tuple[float, float] | None = None
    condition: str | None = None
    count: int | Literal["pair"] | None = None
    forward: Path | None = None
    noise_cov: Path | None = None
    method: str = "auto"
    report: bool = False

    def as_settings(self) -> dict[str, Any]:
        """Returns what decides a result, for its record.

        Example:
            >>> SourceChoices(times=0.1, count=2).as_settings()
            {'Times': 0.1, 'Condition': None, 'Count': 2}
        """
        settings = {"Times": self.times, "Condition": self.condition, "Count": self.count}
        window = isinstance(self.times, tuple) or self.count == "pair"
        sparse = self.method == "sparse_bayes" or (self.method == "auto" and window)
        return {**settings, "Method": "sparse_bayes"} if sparse else settings


def locate_recordings(
    model: Path, recordings: Mapping[str, Path], options: RunOptions, choices: SourceChoices | None = None
) -> list[CaseResult]:
    """Locates the sources of EEG files; each condition gives a table, a posterior and courses in the folder `out`.

    A recording in which nothing stands above the noise is a result, too: its status says so.

    Args:
        model: folder of the trained model.
        recordings: name -> file that MNE reads.
        options: of `zoo predict`.
        choices: what to locate; None for the largest field of each average.

    Returns:
        A result a condition, with `sources`, `status`, `repairs` and `text`.

    Raises:
        OptionError: mne cannot read the forward solution or the noise covariance.
    """
    choices = choices or SourceChoices()
    objects = _read_objects(choices)
    results = []
    for name, path in recordings.items():
        try:
            parts = _split_conditions(name, path, choices)
        except Exception as error:  # whatever it is, the other recordings can still be done
            results.append(CaseResult.failed(path.name, error))
            continue
        for part, (recording, condition) in parts.items():
            chosen = dataclasses.replace(choices, condition=condition)
            case = path.name if len(parts) == 1 else f"{path.name} {condition}"
            results.append(_locate_one(model, (case, part, path), recording, options, (chosen, objects)))
    return results


def _locate_one(
    model: Path,
    names: tuple[str, str, Path],
    recording: Any,
    options: RunOptions,
    chosen: tuple[SourceChoices, dict[str, Any]],
) -> CaseResult:
    """Locates one condition; `names` are those of the case, of its results, and the file."""
    from zoo.source_imaging import locate

    (case, name, path), (choices, objects) = names, chosen
    wanted: dict[str, Any] = {"times": choices.times, "condition": choices.condition, "count": choices.count}
    wanted["method"] = choices.method
    steps = Steps(
        partial(locate.locate_sources, recording, model=model, **wanted, **objects),
        partial(_write_sources, out=options.out, name=name, report=choices.report),
    )
    files = {"recording": path, "forward": choices.forward, "noise_cov": choices.noise_cov}
    inputs = {key: file for key, file in files.items() if file is not None}
    origin = Origin(result_record.describe_model(card_file.read(model)), choices.as_settings(), inputs)
    return keep_or_make(case, options.out / f"{name}_sources.csv", origin, options, steps)


def _split_conditions(name: str, path: Path, choices: SourceChoices) -> dict[str, tuple[Any, str | None]]:
    """Opens a file; returns what to locate by the name of its results: all conditions, or the one that was named."""
    from zoo.source_imaging.recording_files import is_continuous, list_conditions, open_recording

    with collect_warnings([]):
        recording = open_recording(path)
    conditions = list_conditions(recording)
    if choices.condition is not None:
        return {f"{name}_{_slug(choices.condition)}": (recording, choices.condition)}
    if is_continuous(recording) or len(conditions) < 2:
        return {name: (recording, None)}
    parts: dict[str, tuple[Any, str | None]] = {
        f"{name}_{_slug(condition)}": (recording, condition) for condition in conditions
    }
    if len(parts) < len(conditions):
        raise ValueError(f"Conditions {', '.join(conditions)} give files of one name: pass one with --condition.")
    return parts


def _slug(condition: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", condition).strip("-") or "condition"


def _read_objects(choices: SourceChoices) -> dict[str, Any]:
    """Reads the forward solution and the covariance of noise."""
    from zoo.eeg import head_surfaces

    objects: dict[str, Any] = {}
    readers = {"forward": "read_forward_solution", "noise_cov": "read_cov"}
    for key, reader in readers.items():
        path = getattr(choices, key)
        if path is None:
            continue
        mne = head_surfaces.require_mne()
        try:
            objects[key] = getattr(mne, reader)(path, verbose="ERROR")
        except Exception as error:  # mne raises whatever its parser stumbles over
            option = f"--{key.replace('_', '-')}"
            raise OptionError(f"{option}: mne.{reader} cannot read {path.name}: {error}.") from error
    return objects


def _write_sources(located: Any, _: float, out: Path, name: str, report: bool) -> Made:
    """Writes the sources of a recording, and words them."""
    from zoo.source_imaging import located_sources

    files = tuple(str(written) for written in located_sources.write(located, out, name))
    if report:
        files = (*files, str(located.report(out / f"{name}_report.html", title=name)))
    message = f"{files[0]}: {located.message}"
    return Made(files, message, {"sources": located.table(), **located.summary(), "text": message})
