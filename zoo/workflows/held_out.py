"""Measures a trained run on the held-out cases of its task, for the card of a release."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from zoo.evaluation import aggregate
from zoo.workflows.evaluate import SYNTHETIC, evaluate

if TYPE_CHECKING:
    from zoo.training.task import Task

METRICS = ("dice", "hd95_mm", "assd_mm", "volume_error_ml")
TITLE = "held-out cases, synthetic"


def measure_held_out(task: "Task", run: str | os.PathLike) -> dict[str, dict[str, float]]:
    """Evaluates a run on the task's own held-out cases.

    Args:
        task: what the run learned.
        run: the run folder; the evaluation and its report go into it.

    Returns:
        One row of a card: title -> metric -> mean.

    Raises:
        ValueError: the task has no test cases of its own, or a case could not be measured.
    """
    evaluation = evaluate(task, run, SYNTHETIC)
    if evaluation.failed:
        case, reason = next(iter(evaluation.failed.items()))
        raise ValueError(
            f"{len(evaluation.failed)} held-out cases could not be measured, such as {case!r}: {reason}. A release "
            "states metrics of all of them: correct this and repeat."
        )
    names = {value: name for name, value in task.data.labels.values()}
    return {TITLE: average_scores(evaluation.scores, names)}


def average_scores(scores: aggregate.Cases, names: Mapping[int, str]) -> dict[str, float]:
    """Returns the number of cases, each metric averaged over labels and cases, and the Dice of each label.

    Values that are not defined are left out of a mean; the mean of none is NaN.

    Args:
        scores: case -> label value -> metric -> value.
        names: label value -> name.

    Example:
        >>> average_scores({"a": {7: {"dice": 0.5}}, "b": {7: {"dice": 1.0}}}, {7: "ball"})["dice"]
        0.75
    """
    labels = sorted({label for case in scores.values() for label in case})
    row: dict[str, float] = {"n": len(scores)}
    for metric in METRICS:
        of_cases = [[labelled[metric] for labelled in case.values() if metric in labelled] for case in scores.values()]
        if any(of_cases):
            row[metric] = aggregate.mean(aggregate.mean(values) for values in of_cases)
    if len(labels) > 1:
        for label in labels:
            row[f"dice_{names[label]}"] = aggregate.mean(
                case[label]["dice"] for case in scores.values() if label in case
            )
    return row
