"""Predicts many cases with one network; a case that fails is reported and does not stop the others."""

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo.datasets.cases import Case
from zoo.hub.card import Card
from zoo.hub.tabular import Value
from zoo.inference.inputs import Cases, Images, find_cases, select_images, select_tabular
from zoo.inference.predictor import Predictor
from zoo.inference.settings import Settings
from zoo.progress import progress_bar
from zoo.volumes import image, nifti

Tabular = Mapping[str, Mapping[str, Value]]


class Writer:
from zoo.volumes.scan_files import is_nifti, is_scan
    """Writes the image that the predictor gives; subclasses write more beside it."""

    def is_whole(self, target: Path) -> bool:
        """Returns whether everything that `write` leaves is there and can be read to its last byte."""
        try:
            nifti.load(target)
        except (OSError, ValueError):
            return False
        return True

    def write(self, predictor: Predictor, images: Images, target: Path, **options: Any) -> None:
        """Predicts a case and writes the result.

        Args:
            predictor: built once for all cases.
            images: as `zoo.predict` takes them.
            target: file of the image.
            **options: `tabular` and `progress`, as the predictor takes them.
        """
        result = predictor(images, **options)
        image.write(target, np.asanyarray(result.dataobj), result)


@dataclass
class Report:
    """Lists the outcome of every case by its name.

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
        """Returns the report for JSON."""
        return asdict(self)


def predict_many(
    model: str | os.PathLike | keras.Model,
    cases: Cases,
    out: str | os.PathLike,
    *,
    card: Card | None = None,
    settings: Settings | None = None,
    tabular: Tabular | None = None,
    overwrite: bool = False,
    writer: Writer | None = None,
) -> Report:
    """Predicts every case and writes `out/<case>_<tag>.nii.gz`, tag as in `builder.tag`, or `..._probabilities.nii.gz`.

    The network is built and compiled once. A case that fails is reported and the rest are finished. A file is
    written whole or not at all, and a run that was stopped goes on where it was: whole results are kept.

    Args:
        model: name or folder of a trained model, or a Keras model with a card.
        cases: a folder of .nii, .nii.gz, .mgh and .mgz files (`zoo.inference.inputs.find_cases` also searches its
            sub-folders); or their paths; or a dict from case name to what `zoo.predict` takes (several channels); or
            cases of a data set (`zoo.datasets.cases`), whose tables give the tabular values.
        out: folder for the results, made when it is not there; or a .nii or .nii.gz file for a single case, which is
            replaced.
        card: of a Keras model.
        settings: how to predict.
        tabular: case name -> values beside its images, as `zoo.predict` takes them; they pass those of a table.
        overwrite: predict again what is there already.
        writer: writes the result of each case; None writes its image alone.

    Returns:
        The report; its dicts keep the order of the cases.

    Raises:
        FileNotFoundError: the folder of cases does not exist.
        ValueError: no cases, two of one name, several for one file, or what `Predictor` refuses. Errors of one case
            are not raised.

    Example:
        >>> report = predict_many("unet3d.brain_mask", "scans", "masks")  # doctest: +SKIP
        >>> report.done, report.failed  # doctest: +SKIP
    """
    predictor, writer, report = Predictor(model, card=card, settings=settings), writer or Writer(), Report()
    tag = predictor.card.name.split(".")[-1]
    named = find_cases(cases, ignore=f"_{tag}")
    targets = name_results(named, Path(out), tag + "_probabilities" * predictor.settings.probabilities)
    overwrite = overwrite or Path(out) in targets.values()
    with progress_bar(predictor.card.name, shown=predictor.settings.progress) as show:
        for index, (name, target) in enumerate(targets.items()):
            if len(targets) > 1:
                show(index, len(targets))
            if not overwrite and writer.is_whole(target):
                report.kept[name] = str(target)
                continue
            options = {"tabular": (tabular or {}).get(name, {}), "progress": show if len(targets) == 1 else None}
            _predict_one(predictor, (name, named[name]), target, report, writer, options)
        show(len(targets), len(targets))
    return report


def name_results(cases: Mapping[str, Any], out: Path, tag: str) -> dict[str, Path]:
    """Returns the file of each case: `out` itself where that is a NIfTI file, else `out/<case>_<tag>.nii.gz`.

    The folder is made, and in it those that the names of cases have: "site-1/sub-01" lies in `out/site-1`.

    Raises:
        ValueError: `out` is a file, and there are several cases, or it is the scan itself, or no NIfTI file.

    Example:
        >>> name_results({"sub-01": None}, Path("mask.nii.gz"), "brain_mask")["sub-01"].name
        'mask.nii.gz'
    """
    if is_scan(out) and not is_nifti(out):
        raise ValueError(f"out {out} is MGH, and results are written as NIfTI. Name a .nii.gz file, or a folder.")
    if not is_nifti(out):
        targets = {name: out / f"{name}_{tag}.nii.gz" for name in cases}
        for folder in {out, *(target.parent for target in targets.values())}:
            folder.mkdir(parents=True, exist_ok=True)
        return targets
    if len(cases) != 1:
        raise ValueError(f"out {out} is one file, got {len(cases)} scans. Name a folder.")
    ((name, images),) = cases.items()
    files = images.files if isinstance(images, Case) else images.values() if isinstance(images, Mapping) else [images]
    if out.resolve() in {Path(file).resolve() for file in files if isinstance(file, str | os.PathLike)}:
        raise ValueError(f"out {out} is the scan itself. Name another file.")
    return {name: out}


def _predict_one(
    predictor: Predictor,
    case: tuple[str, Images | Case],
    target: Path,
    report: Report,
    writer: Writer,
    options: dict[str, Any],
) -> None:
    start = time.perf_counter()
    name, images = case
    try:
        if isinstance(images, Case):
            options = {**options, "tabular": {**select_tabular(images, predictor.card), **options["tabular"]}}
            images = select_images(images, predictor.card)
        writer.write(predictor, images, target, **options)
    except Exception as error:  # whatever it is, the other cases can still be done
        report.failed[name] = " ".join(f"{error or type(error).__name__}".split())
    else:
        report.done[name] = str(target)
        report.seconds[name] = round(time.perf_counter() - start, 3)
