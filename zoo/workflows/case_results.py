"""The result that every runner of `zoo predict` returns for a case, the options that it takes, and what it keeps."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from zoo.errors import collect_warnings, to_line
from zoo.hub import result_record
from zoo.hub.result_record import Origin
from zoo.hub.tabular import Value
from zoo.inference.settings import Settings


class OptionError(ValueError):
    """An option that does not fit the model or the cases; the command line ends with 2."""


@dataclass(frozen=True)
class CaseResult:
    """The result of one case.

    Attributes:
        case: its name.
        files: files written, the main one first; none where the case failed.
        message: one line for people.
        error: why the case failed, in one line; None where it did not.
        details: what JSON has beside case and files, by name.
        warnings: what zoo warned of, a line each.

    Example:
        >>> CaseResult("sub-01", ("mask.nii.gz",), "mask.nii.gz: 2.0 s", details={"seconds": 2.0}).as_dict()
        {'case': 'sub-01', 'out': 'mask.nii.gz', 'seconds': 2.0, 'warnings': []}
    """

    case: str
    files: tuple[str, ...] = ()
    message: str = ""
    error: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @classmethod
    def failed(cls, case: str, error: Exception | str, warnings: Iterable[Warning | str] = ()) -> "CaseResult":
        """Returns the result of a case that could not be used."""
        return cls(case, error=to_line(error), warnings=tuple(map(to_line, warnings)))

    def as_dict(self) -> dict[str, Any]:
        """Returns the result for JSON: "out" is one file, or a list of several."""
        if self.error is not None:
            return {"case": self.case, "error": self.error, "warnings": list(self.warnings)}
        out = self.files[0] if len(self.files) == 1 else list(self.files)
        return {"case": self.case, "out": out, **self.details, "warnings": list(self.warnings)}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of `zoo predict`; each runner reads those that it knows.

    Attributes:
        out: folder of the results, or a NIfTI file for one scan.
        settings: how to run the network.
        overwrite: predict again what is there already.
        tabular: values beside the images of every case; they pass those of a data set's tables.
        volumes: write a table of volumes beside each result.
        brain: write each scan with 0 outside its brain beside the mask.
        table: CSV of the structures of all cases.
        lesions: CSV of the lesions of all cases.
        lesion_labels: labels that are lesions; None for all but background, () where the model finds none.
        regions: label map that names the places of lesions, or "unet3d.brain_structures", or "none"; "" for the model's
            default (`lesion_tables.default_regions`).
        unit: of susceptibility maps; "" leaves them as they are.
        magnitude: image whose brain masks the susceptibility map of the only case.
        normative: file of a site's own normative model.
        show_stage: called with the name of each stage.
    """

    out: Path
    settings: Settings = field(default_factory=Settings)
    overwrite: bool = False
    tabular: Mapping[str, Value] = field(default_factory=dict)
    volumes: bool = False
    brain: bool = False
    table: Path | None = None
    lesions: Path | None = None
    lesion_labels: tuple[str, ...] | None = None
    regions: str = ""
    unit: str = ""
    magnitude: Path | None = None
    normative: Path | None = None
    show_stage: Callable[[str], None] = lambda _: None


class Made(NamedTuple):
    """The files that a case was written to, one line for people, and what JSON has beside them."""

    files: tuple[str, ...]
    message: str
    details: Mapping[str, Any]


class Steps(NamedTuple):
    """How a case is made: a function that computes, and one that writes what that returned and knows its seconds."""

    compute: Callable[[], Any]
    write: Callable[[Any, float], Made]


def keep_or_make(case: str, target: Path, origin: Origin, options: RunOptions, steps: Steps) -> CaseResult:
    """Keeps the result of a case that is there and was made in the same way, or makes it.

    Args:
        case: its name.
        target: its main file, beside which the record lies.
        origin: what decides the result.
        options: of `zoo predict`.
        steps: compute and write it.

    Returns:
        The result; also where the case failed, or a result of another way is there.
    """
    collected: list[Warning] = []
    try:
        made = None if options.overwrite or not target.exists() else _find_kept(target, origin, collected)
        kept = made is not None
        if made is None:
            result_record.check_replaceable(target)
            record, start = origin.as_record(), time.perf_counter()
            with collect_warnings(collected):
                computed = steps.compute()
                with result_record.writing(target, record):
                    made = steps.write(computed, round(time.perf_counter() - start, 1))
            files = [Path(file).name for file in made.files]
            result = {"Files": files, "Message": made.message, "Details": dict(made.details)}
            result_record.write(target, record | {"Result": result}, collected)
    except Exception as error:  # whatever it is, the other cases can still be done
        return CaseResult.failed(case, error, collected)
    details = {"kept": kept, **made.details}
    return CaseResult(case, made.files, made.message, details=details, warnings=tuple(map(to_line, collected)))


def _find_kept(target: Path, origin: Origin, collected: list[Warning]) -> Made | None:
    """Returns a result that is kept, as its record has it; None where it, or a file of it, is to be made again."""
    kept, warned = result_record.is_kept(target, origin)
    collected += warned
    stored = (result_record.read(target) or {}).get("Result", {})
    files = [target.with_name(name) for name in stored.get("Files", [])]
    if not kept or not files or not all(file.is_file() for file in files):
        return None
    message = f"{stored['Message']} It was there already (--overwrite replaces it)."
    return Made(tuple(map(str, files)), message, stored["Details"])
