"""Cross-validation by subject: a run a fold, out-of-fold predictions, and the folds together as an ensemble."""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo.datasets import splits
from zoo.datasets.images import class_indices, read_labels
from zoo.datasets.label_values import add_label_map
from zoo.evaluation import aggregate, surfaces
from zoo.hub.card import Card
from zoo.hub.tabular import Value
from zoo.inference.cohort import predict_many
from zoo.inference.predictor import Predictor
from zoo.inference.settings import Settings
from zoo.training import batches, fit
from zoo.training.task import Task
from zoo.volumes import image as images
from zoo.volumes.image import Image

OUT_OF_FOLD = "out_of_fold"


def cross_validate(
    task: Task,
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    folds: int = 5,
    options: fit.TrainOptions | None = None,
) -> list[dict[str, Any]]:
    """Trains one model a fold and predicts every case with the model that has not seen its subject.

    Each fold is an ordinary run folder, `out/fold_0` and so on; finished folds and predictions are kept when the
    command is repeated. `out/splits.json` holds the folds, `out/out_of_fold` the predictions.

    Args:
        task: what to learn.
        source: a folder of labelled cases.
        out: folder of the cross-validation.
        folds: number of folds; all cases of a subject are in one.
        options: seed, steps and precision of every fold.

    Returns:
        Rows of `zoo.evaluation.aggregate.summarise` over the out-of-fold predictions.

    Raises:
        ValueError: the source is synthetic, or has fewer subjects than folds.

    Example:
        >>> rows = cross_validate(task, "data", "runs/folds", folds=5)  # doctest: +SKIP
    """
    if str(source) == batches.SYNTHETIC:
        raise ValueError("Folds are cut by subject, and synthetic data have none: give a folder of labelled cases.")
    options, folder = options or fit.TrainOptions(), pathlib.Path(out)
    cases = batches.labelled(task, pathlib.Path(source))
    parts = _read_or_cut_folds(cases, folder, folds, options.seed)
    scores: dict[str, Any] = {}
    for number, part in enumerate(parts):
        print(f"Fold {number + 1} of {len(parts)}: {len(part.train)} cases train.", file=sys.stderr)
        run = fit.run(task, pathlib.Path(source), folder / f"fold_{number}", options, split=part)
        held_out = part.select(cases)[1]
        report = predict_many(run / task.model_name, held_out, folder / OUT_OF_FOLD, settings=Settings(progress=False))
        for name, reason in report.failed.items():
            print(f"{name} is left out: {reason}", file=sys.stderr)
        for case in held_out:
            if case.id not in report.failed:
                scores[case.id] = _score(task, folder / OUT_OF_FOLD / f"{case.id}_{task.name}.nii.gz", case)
    names = {value: name for name, value in task.data.labels.values()}
    return aggregate.summarise(scores, names=names)


def _read_or_cut_folds(cases: Sequence[Any], folder: pathlib.Path, num_folds: int, seed: int) -> list[splits.Split]:
    path = folder / batches.SPLIT_FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        splits.write(splits.folds(cases, num_folds, seed=seed), path, seed=seed)
    folds = splits.read(path)
    if len(folds) != num_folds:
        raise ValueError(f"{path} has {len(folds)} folds, asked for {num_folds}. Repeat that or use a new folder.")
    return folds


def _score(task: Task, path: pathlib.Path, case: Any) -> dict[int, dict[str, float]]:
    predicted, reference = read_labels(path), read_labels(case.labels)  # either may be empty
    values = [value for _, value in task.data.labels.values() if value]
    spacing = images.spacing_mm(predicted.affine).tolist()
    known = add_label_map({value: value for value in values}, task.data.label_map)
    truth = class_indices(np.asanyarray(reference.dataobj), known, f"The label map of {case.id}")
    return surfaces.segmentation_metrics(np.asanyarray(predicted.dataobj), truth, spacing, labels=values)


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """The models of all folds; called with what `zoo.predict` takes, it averages their probabilities.

    Attributes:
        members: one predictor a fold, made to give probabilities.
    """

    members: tuple[Predictor, ...]

    @classmethod
    def of(cls, out: str | os.PathLike, task: Task, *, settings: Settings | None = None) -> "Ensemble":
        """Reads the finished folds of a cross-validation.

        Raises:
            FileNotFoundError: no fold is finished.
        """
        folders = sorted(pathlib.Path(out).glob(f"fold_*/{task.model_name}"))
        if not folders:
            raise FileNotFoundError(f"No fold in {out} has a finished {task.model_name}. Let the cross-validation end.")
        settings = dataclasses.replace(settings or Settings(), probabilities=True)
        return cls(tuple(Predictor(folder, settings=settings) for folder in folders))

    @property
    def card(self) -> Card:
        """The card of the first fold; the folds differ in their weights alone."""
        return self.members[0].card

    def __call__(self, scan: Any, *, tabular: Mapping[str, Value] | None = None) -> Image:
        """Returns labels of the mean probabilities, in the card's source values, on the grid of the first channel."""
        first = self.members[0](scan, tabular=tabular)
        mean = np.asanyarray(first.dataobj) / len(self.members)
        for member in self.members[1:]:
            mean += np.asanyarray(member(scan, tabular=tabular).dataobj) / len(self.members)
        labels = self.card.output.labels
        values = np.array([labels[index].value for index in sorted(labels)], np.int32)
        best = values[mean.argmax(-1)] if len(values) > 1 else values[0] * (mean[..., 0] > 0.5)
        result = type(first)(best.astype(np.int32), first.affine)
        result.set_qform(first.affine, int(first.header["qform_code"]))
        result.set_sform(first.affine, int(first.header["sform_code"]))
        return result
