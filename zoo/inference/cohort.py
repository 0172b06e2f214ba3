"""Prediction for many cases: one network, one report, and no bad case that stops the others."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo.datasets.cases import Case
from zoo.hub.card import Card
from zoo.hub.tabular import Value
from zoo.inference.inputs import Images, of_case, tabular_of
from zoo.inference.predict import progress_bar
from zoo.inference.predictor import Predictor, Settings
from zoo.volumes import image, nifti

SUFFIXES = (".nii.gz", ".nii")
Cases = str | os.PathLike | Sequence[str | os.PathLike | Case] | Mapping[str, Images | Case]


class Writer:
    """Writes what becomes of one case: the image that the predictor gives; others write more."""

    def is_whole(self, target: Path) -> bool:
        """Whether everything that `write` leaves is there and can be read to its last byte."""
        try:
            nifti.load(target)
        except (OSError, ValueError):
            return False
        return True

    def write(self, predictor: Predictor, images: Images, target: Path, **given: Any) -> None:
        """Predicts a case and writes what comes out.

        Args:
            predictor: made ready once.
            images: as `zoo.predict` takes them.
            target: file of the image.
            **given: `tabular` and `progress`, as the predictor takes them.
        """
        result = predictor(images, **given)
        image.write(target, np.asanyarray(result.dataobj), result)


@dataclass
class Report:
    """What became of every case, by its name.

    Attributes:
        done: file written in this run.
        kept: file that was there and whole.
        failed: why there is none, in one line.
        seconds: wall time of each case done.
    """

    done: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return asdict(self)


def predict_many(  # noqa: PLR0913 - the choices a caller has, each by name
    model: str | os.PathLike | keras.Model,
    cases: Cases,
    out: str | os.PathLike,
    *,
    card: Card | None = None,
    settings: Settings | None = None,
    tabular: Mapping[str, Mapping[str, Value]] | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
    writer: Writer | None = None,
) -> Report:
    """Predicts every case and writes `out/<case>_<tag>.nii.gz`, tag as in `builder.tag`, or `..._probabilities.nii.gz`.

    The network is built and compiled once. A case that fails is reported and the rest are finished. A file is
    written whole or not at all, and a run that was stopped goes on where it was: whole results are kept.

    Args:
        model: name or folder of a trained model, or a Keras model with a card.
        cases: a folder of .nii and .nii.gz files; or their paths; or a dict from case name to what
            `zoo.predict` takes (several channels); or cases of a data set (`zoo.datasets.cases`), whose tables give the
            tabular values.
        out: folder for the results; made when it is not there.
        card: of a Keras model.
        settings: how to predict.
        tabular: case name -> values beside its images, as `zoo.predict` takes them; they pass those of a table.
        overwrite: predict again what is there already.
        progress: show a bar on stderr; None when that is a terminal.
        writer: what is written of each case; None for its image alone.

    Returns:
        The report; its dicts keep the order of the cases.

    Raises:
        FileNotFoundError: the folder of cases does not exist.
        ValueError: no cases, two of one name, or what `Predictor` refuses. Errors of one case are not raised.
    """
    predictor = Predictor(model, card=card, settings=settings)
    tag = predictor.card.name.split(".")[-1]
    named = find_cases(cases, ignore=f"_{tag}")
    tag += "_probabilities" if predictor.settings.probabilities else ""
    folder, report, writer = Path(out), Report(), writer or Writer()
    folder.mkdir(parents=True, exist_ok=True)
    with progress_bar(predictor.card.name, shown=progress) as tell:
        for number, (name, images) in enumerate(named.items()):
            tell(number, len(named))
            target = folder / f"{name}_{tag}.nii.gz"
            if not overwrite and writer.is_whole(target):
                report.kept[name] = str(target)
            else:
                _predict_one(predictor, (name, images, (tabular or {}).get(name, {})), target, report, writer)
        tell(len(named), len(named))
    return report


def find_cases(cases: Cases, *, ignore: str = "") -> dict[str, Images | Case]:
    """Cases by name: the file name without its suffix, the key of a dict, or the id of a case.

    Args:
        cases: as `predict_many` takes them.
        ignore: files in a folder whose name ends so are results, not cases.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: no cases, or two of one name.
    """
    if isinstance(cases, Mapping):
        return dict(cases)
    listed = _files(Path(cases), ignore) if isinstance(cases, str | os.PathLike) else cases
    found: dict[str, Images | Case] = {}
    for one in listed:
        path = one if isinstance(one, Case) else Path(one)
        name = path.id if isinstance(path, Case) else _stem(path)
        if name in found:
            raise ValueError(
                f"Two cases are called {name!r}: {found[name]} and {path}. Pass a dict from a name of your own to path."
            )
        found[name] = path
    if not found:
        raise ValueError(f"There are no cases in {cases!r}. Name .nii or .nii.gz files, or a folder that holds some.")
    return found


def _files(folder: Path, ignore: str) -> list[Path]:
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Name one that holds .nii or .nii.gz files.")
    names = [path for path in sorted(folder.iterdir()) if path.name.endswith(SUFFIXES) and path.is_file()]
    results = (ignore, f"{ignore}_probabilities")
    return [path for path in names if not path.name.startswith(".") and not (ignore and _stem(path).endswith(results))]


def _stem(path: Path) -> str:
    suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), "")
    return path.name.removesuffix(suffix)


def _predict_one(
    predictor: Predictor,
    given: tuple[str, Images | Case, Mapping[str, Value]],
    target: Path,
    report: Report,
    writer: Writer,
) -> None:
    start = time.perf_counter()
    name, images, tabular = given
    try:
        if isinstance(images, Case):
            tabular = {**tabular_of(images, predictor.card), **tabular}
            images = of_case(images, predictor.card)
        writer.write(predictor, images, target, tabular=tabular)
    except Exception as error:  # whatever it is, the other cases can still be done
        report.failed[name] = " ".join(f"{error or type(error).__name__}".split())
    else:
        report.done[name] = str(target)
        report.seconds[name] = round(time.perf_counter() - start, 3)
