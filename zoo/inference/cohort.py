"""Predicts many cases with one network; a case that fails is reported and does not stop the others."""

import contextlib
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo.datasets.cases import Case
from zoo.errors import collect_warnings, to_line
from zoo.hub import result_record
from zoo.hub.card import Card
from zoo.hub.result_record import Origin
from zoo.hub.tabular import Value
from zoo.inference.inputs import SINGLE, Cases, Images, find_cases, select_images, select_tabular
from zoo.inference.predictor import Predictor
from zoo.inference.settings import Settings
from zoo.progress import progress_bar
from zoo.volumes import image, nifti
from zoo.volumes.scan_files import is_nifti, is_scan

Tabular = Mapping[str, Mapping[str, Value]]


class Writer:
    """Makes and writes the image that the predictor gives; subclasses write more beside it.

    Args:
        settings: what decides the results beside the predictor's settings, for their records.
        sources: case name -> the user's files by channel, where the images are converted copies of them.
        warned: case name -> what zoo warned of while it made these copies.
    """

    def __init__(
        self,
        *,
        settings: Mapping[str, Any] | None = None,
        sources: Mapping[str, Mapping[str, Any]] | None = None,
        warned: Mapping[str, list[Warning]] | None = None,
    ) -> None:
        self.settings, self.sources = dict(settings or {}), dict(sources or {})
        self.warned = {} if warned is None else warned  # filled while the copies are made

    @property
    def products(self) -> Mapping[str, Any]:
        """What is made beside the image, and its settings, for the record."""
        return {}

    def files_beside(self, target: Path) -> tuple[Path, ...]:
        """Returns the files that `write` leaves beside the image."""
        return ()

    def is_whole(self, target: Path) -> bool:
        """Returns whether everything that `write` leaves is there and can be read to its last byte."""
        try:
            nifti.load(target)
        except (OSError, ValueError):
            return False
        return True

    def make(self, predictor: Predictor, images: Images, **options: Any) -> Any:
        """Predicts a case.

        Args:
            predictor: built once for all cases.
            images: as `zoo.predict` takes them.
            **options: `tabular` and `progress`, as the predictor takes them.

        Returns:
            What `write` writes.
        """
        return predictor(images, **options)

    def write(self, made: Any, target: Path) -> None:
        """Writes what `make` returned: the image to the file `target`, whole or not at all."""
        image.write(target, np.asanyarray(made.dataobj), made)


@dataclass
class Report:
    """Lists the outcome of every case by its name.

    Attributes:
        done: file written in this run.
        kept: file that was there, whole, and made in the same way from the same input.
        failed: why there is none, in one line.
        seconds: wall time of each case done.
        warnings: what zoo warned of, of each case that it warned of.
    """

    done: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)

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
    written whole or not at all, and beside it `out/<case>_<tag>.json` records the weights, settings and input that it
    was made from, and the warnings of its case. A run that was stopped goes on where it was: whole results whose record
    names the same are kept. One whose input changed is made again. One of other weights or settings, or without a
    record, is a failure of its case that says what differs.

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
        overwrite: predict again what is there already, however it was made.
        writer: makes and writes the result of each case; None writes its image alone.

    Returns:
        The report; its dicts keep the order of the cases.

    Raises:
        FileNotFoundError: the folder of cases does not exist.
        ValueError: no cases, two of one name, several for one file, or what `Predictor` refuses. Errors of one case
            are not raised.

    Warns:
        zoo.volumes.header.GeometryWarning and others: each once a case, which the text names.

    Example:
        >>> report = predict_many("unet3d.brain_mask", "scans", "masks")  # doctest: +SKIP
        >>> report.done, report.failed  # doctest: +SKIP
    """
    predictor, writer, report = Predictor(model, card=card, settings=settings), writer or Writer(), Report()
    tag = predictor.card.name.split(".")[-1]
    named = find_cases(cases, ignore=f"_{tag}")
    targets = name_results(named, Path(out), tag + "_probabilities" * predictor.settings.probabilities)
    own = result_record.hash_weights(model) if isinstance(model, keras.Model) else None
    identity = result_record.describe_model(predictor.card, own)
    run = _Run(predictor, writer, report, identity, overwrite or Path(out) in targets.values())
    with progress_bar(predictor.card.name, shown=predictor.settings.progress) as show:
        for index, (name, target) in enumerate(targets.items()):
            if len(targets) > 1:
                show(index, len(targets))
            options = {"tabular": (tabular or {}).get(name, {}), "progress": show if len(targets) == 1 else None}
            run(name, named[name], target, options)
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


def name_inputs(images: Images | Case, card: Card) -> dict[str, Any]:
    """Returns the files or images that a model reads of a case, by channel.

    Example:
        >>> name_inputs("t1.nii.gz", zoo.card("unet3d.brain_mask"))  # doctest: +SKIP
        {'image': 't1.nii.gz'}
    """
    names = [channel.name for channel in card.input.channels]
    if isinstance(images, Case):
        own = {name: path for name, path in images.channels.items() if name in names} or images.channels
        return dict(own)
    if isinstance(images, Mapping):
        return dict(images)
    several = [images] if isinstance(images, SINGLE) else list(images)
    return dict(zip([*names, *map(str, range(len(names), len(several)))], several, strict=False))


@dataclass(frozen=True)
class _Run:
    """Makes the result of one case after another, or keeps it."""

    predictor: Predictor
    writer: Writer
    report: Report
    model: Mapping[str, Any]
    overwrite: bool

    def __call__(self, name: str, case: Images | Case, target: Path, options: dict[str, Any]) -> None:
        """Adds the outcome of a case to the report; its warnings are raised again with its name."""
        start, collected = time.perf_counter(), list(self.writer.warned.get(name, []))
        try:
            self._finish(name, case, target, options, collected)
        except Exception as error:  # whatever it is, the other cases can still be done
            self.report.failed[name] = to_line(error)
        if name in self.report.done:
            self.report.seconds[name] = round(time.perf_counter() - start, 3)
        if collected:
            self.report.warnings[name] = list(map(str, collected))
        for warning in collected:
            warnings.warn(type(warning)(f"{name}: {warning}"), stacklevel=3)

    def _finish(
        self, name: str, case: Images | Case, target: Path, options: dict[str, Any], collected: list[Warning]
    ) -> None:
        card = self.predictor.card
        if isinstance(case, Case):
            options = {**options, "tabular": {**select_tabular(case, card), **options["tabular"]}}
        origin = self._find_origin(name, case, options["tabular"])
        if not self.overwrite and self._is_current(origin, target, collected):
            self.report.kept[name] = str(target)
            return
        result_record.check_replaceable(target)
        if not self.overwrite:
            self._check_beside(target)
        record = origin.as_record()
        record["Files"] = [file.name for file in (target, *self.writer.files_beside(target))]
        with self._collect(name, case, collected):
            images = select_images(case, card) if isinstance(case, Case) else case
            made = self.writer.make(self.predictor, images, **options)
            with result_record.writing(target, record):
                self.writer.write(made, target)
        result_record.write(target, record, collected)
        self.report.done[name] = str(target)

    @contextlib.contextmanager
    def _collect(self, name: str, case: Images | Case, collected: list[Warning]) -> Iterator[None]:
        """Collects warnings; those of a converted copy name the user's file."""
        fresh: list[Warning] = []
        try:
            with collect_warnings(fresh):
                yield
        finally:
            known, sources = set(map(str, collected)), self.writer.sources.get(name, {})
            copies = name_inputs(case, self.predictor.card) if sources else {}
            for warning in fresh:
                text = str(warning)
                for channel, path in copies.items():
                    text = text.replace(str(path), str(sources.get(channel, path)))
                if text not in known:
                    collected.append(type(warning)(text))

    def _find_origin(self, name: str, case: Images | Case, tabular: Mapping[str, Value]) -> Origin:
        inputs = self.writer.sources.get(name) or name_inputs(case, self.predictor.card)
        settings = self.predictor.settings.as_record() | self.writer.settings
        return Origin(self.model, settings, inputs, tabular, self.writer.products)

    def _is_current(self, origin: Origin, target: Path, collected: list[Warning]) -> bool:
        """Returns whether a result is kept; adds what zoo warned of when it was made, or that its input changed."""
        with collect_warnings():  # of the result, whose header is that of its scan
            whole = self.writer.is_whole(target)
            if not whole and not Writer.is_whole(self.writer, target):
                return False
        kept, warned = result_record.is_kept(target, origin)  # also of an image that lacks what belongs beside it
        collected += warned if whole or not kept else []
        return kept and whole

    def _check_beside(self, target: Path) -> None:
        """Refuses to replace a file beside the image that is not of an earlier result."""
        known = (result_record.read(target) or {}).get("Files", [])
        for file in self.writer.files_beside(target):
            if file.exists() and file.name not in known:
                raise FileExistsError(
                    f"{file} is there, and no {result_record.sidecar(target).name} says that zoo wrote it. Pass "
                    "--overwrite to replace it, or name another folder."
                )
