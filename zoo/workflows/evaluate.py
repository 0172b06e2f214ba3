"""`zoo.evaluate`: predicts labelled cases, measures them in mm on their own grids, writes tables and a report."""

import contextlib
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import files
from zoo.datasets.cases import Case, fitting
from zoo.datasets.images import picture, read_labels
from zoo.datasets.label_values import Values, add_label_map
from zoo.datasets.left_out import only_labelled, tell_unused
from zoo.evaluation import aggregate
from zoo.evaluation.lesions import lesion_metrics
from zoo.evaluation.surfaces import segmentation_metrics
from zoo.hub import card_file, result_record
from zoo.hub.result_record import Origin, StaleResultError, Verdict
from zoo.inference import inputs
from zoo.inference.cohort import name_inputs
from zoo.inference.predictor import Predictor
from zoo.inference.settings import Settings
from zoo.progress import progress_bar
from zoo.reporting import lesion_report, report
from zoo.volumes import image as images
from zoo.workflows import evaluate_lesions

if TYPE_CHECKING:
    from zoo.training.task import Task

SYNTHETIC = "synthetic"
SHOWN = ("dice", "hd_mm", "hd95_mm", "assd_mm", "nsd", "volume_error_ml")
BY_LESION = ("lesions", "sensitivity", "precision", "f1", "false_positives", "dice_of_hits", "panoptic_quality")
FLAGS = ("both_empty", "false_alarm", "missed")
CALIBRATED = 2  # cases whose probabilities are compared; they are large
BINS = 15
Scores = dict[int, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        scores: case -> label value -> metric -> value.
        seconds: case -> wall time of its prediction.
        failed: case -> why it could not be measured, in one line.
        folder: where `cases.csv`, `summary.csv`, `summary.json` and `report.html` lie.
    """

    scores: dict[str, Scores]
    seconds: dict[str, float]
    failed: dict[str, str]
    folder: Path


def evaluate(
    task: "Task",
    run: str | os.PathLike,
    source: str | os.PathLike,
    *,
    out: str | os.PathLike | None = None,
    settings: Settings | None = None,
) -> Evaluation:
    """Measures a trained model on labelled cases.

    Every case is predicted on its own grid and compared with its label map there. A case that fails is reported and
    the rest are finished; a run that was stopped goes on with the cases that are missing. A case that was measured with
    other weights or settings, or on other files, is measured again.

    Args:
        task: of the model.
        run: a run folder, or the name or folder of a trained model.
        source: a folder of labelled cases in a layout that `zoo.datasets` reads, or "synthetic" for the task's own
            held-out test cases.
        out: folder of the results; None takes `evaluation` in the run folder.
        settings: how to predict.

    Returns:
        Scores, times and failures; `cases.csv`, `summary.csv`, `summary.json` and `report.html` are in its folder.

    Raises:
        ValueError: no labelled case, or the task has no test cases of its own.

    Example:
        >>> evaluation = evaluate(zoo.task("brain_mask"), "unet3d.brain_mask", "cases")  # doctest: +SKIP
        >>> evaluation.scores["sub-01"][1]["dice"]  # doctest: +SKIP
    """
    model, home = _find_model(task, run)
    folder = Path(out) if out is not None else home / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    cases = _list_labelled(task, source, folder)
    evaluation = Evaluation({}, {}, {}, folder)
    predictor = Predictor(model, settings=settings)
    with progress_bar(f"evaluating {predictor.card.name}", shown=predictor.settings.progress) as show:
        for index, case in enumerate(cases):
            show(index, len(cases))
            _measure_one(predictor, case, evaluation, task)
        show(len(cases), len(cases))
    if not evaluation.scores:
        raise ValueError(f"None of the {len(cases)} cases could be measured: {next(iter(evaluation.failed.values()))}")
    names = {label.value: label.name for label in predictor.card.output.labels.values()}
    summary = aggregate.summarise(evaluation.scores, names=names, metrics=_list_metrics(task))
    _write_tables(evaluation, names, summary)
    _write_report(task, predictor, cases, evaluation, names, summary, home)
    return evaluation


def _list_metrics(task: "Task") -> tuple[str, ...]:
    """Lists the metrics that tables show."""
    return SHOWN + tuple(f"lesion_{name}" for name in BY_LESION if task.output.lesions)


def _find_model(task: "Task", run: str | os.PathLike) -> tuple[str | Path, Path]:
    """Returns the trained model, and the folder that results go to."""
    folder = Path(run)
    if (folder / task.model_name / card_file.FILE).exists():
        return folder / task.model_name, folder
    if (folder / card_file.FILE).exists():
        return folder, folder.parent
    if folder.is_dir():
        raise ValueError(
            f"{folder} holds no finished {task.model_name}. Let zoo.train finish, or name a trained model."
        )
    return str(run), Path.cwd() / f"{run}-evaluation"


def _list_labelled(task: "Task", source: str | os.PathLike, folder: Path) -> list[Case]:
    if str(source) == SYNTHETIC:
        if task.synthesis.test_cases is None:
            raise ValueError(f"Task {task.name!r} has no test cases of its own: give a folder of labelled cases.")
        return task.synthesis.test_cases(folder / "cases")
    cases = fitting(Path(source), task.data.channels, reader=task.data.reader, patterns=task.data.patterns)
    labelled = only_labelled(cases, source)
    if not labelled:
        raise ValueError(f"None of the {len(cases)} cases in {source} has a label map to compare with.")
    tell_unused(Path(source), cases)
    return labelled


def _measure_one(predictor: Predictor, case: Case, evaluation: Evaluation, task: "Task") -> None:
    """Adds the scores of a case, from its file where an earlier run measured the same network on the same files."""
    path = evaluation.folder / "predictions" / f"{case.id}.json"
    try:
        origin = _describe_case(predictor, case, task)
        stored = result_record.read(path) or {}
        if not (stored.get("scores") and _is_current(origin, stored, case)):
            path.parent.mkdir(exist_ok=True)
            stored = {**origin.as_record(), **_measure(predictor, case, path, task)}
            files.write_whole(path, json.dumps(stored).encode())
            stored = json.loads(path.read_text())
    except (ValueError, OSError, MemoryError) as error:
        evaluation.failed[case.id] = f"{type(error).__name__}: {error}"
        print(f"{case.id} is left out: {error}", file=sys.stderr)
        return
    evaluation.scores[case.id] = {int(value): _read_numbers(metrics) for value, metrics in stored["scores"].items()}
    evaluation.seconds[case.id] = stored["seconds"]


def _describe_case(predictor: Predictor, case: Case, task: "Task") -> Origin:
    """Returns what decides the scores of a case."""
    card = predictor.card
    settings = predictor.settings.as_record()
    settings["LabelMap"] = {str(value): becomes for value, becomes in (task.data.label_map or {}).items()}
    settings["Lesions"] = list(task.output.lesions)
    of_case = name_inputs(case, card) | ({} if case.labels is None else {"labels": case.labels})
    return Origin(result_record.describe_model(card), settings, of_case, inputs.select_tabular(case, card))


def _is_current(origin: Origin, stored: Mapping[str, Any], case: Case) -> bool:
    """Returns whether scores were measured so; says on stderr that others are measured again."""
    with contextlib.suppress(StaleResultError):
        if origin.judge(dict(stored), case.id) is Verdict.CURRENT:
            return True
    print(f"{case.id} was measured with other weights, settings or files, and is measured again.", file=sys.stderr)
    return False


def _read_numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def _measure(predictor: Predictor, case: Case, path: Path, task: "Task") -> dict[str, Any]:
    reference = evaluate_lesions.read_truth(case, _list_values(predictor, task))  # first: it may be refused
    start, lesions = time.monotonic(), task.output.lesions
    predicted, confidence = (
        _predict_with_confidence(predictor, case) if lesions else (_predict_case(predictor, case), None)
    )
    seconds = time.monotonic() - start
    images.check_same_grid([predicted, reference], ["the prediction", str(case.labels)])
    images.write(path.with_suffix(".nii.gz"), np.asanyarray(predicted.dataobj), predicted)
    values = [label.value for label in predictor.card.output.labels.values() if label.value]
    truth = np.asanyarray(reference.dataobj)
    spacing = images.spacing_mm(predicted.affine).tolist()
    labels = np.asanyarray(predicted.dataobj)
    scores = segmentation_metrics(labels, truth, spacing, labels=values)
    for value in (label.value for label in predictor.card.output.labels.values() if label.name in lesions):
        measured = lesion_metrics(labels == value, truth == value, spacing)
        scores[value] = {**scores[value], **{f"lesion_{name}": measured[name] for name in BY_LESION}}
    plain = {value: {k: None if math.isnan(v) else v for k, v in metrics.items()} for value, metrics in scores.items()}
    # With one label alone its probability is the confidence, and a FROC curve can be drawn.
    candidates = None
    if confidence is not None and len(values) == 1:
        candidates = evaluate_lesions.score_candidates(confidence, truth == values[0])
    return {"seconds": seconds, "scores": plain, "candidates": candidates}


def _list_values(predictor: Predictor, task: "Task") -> Values:
    """Returns value in a label file -> value of the model."""
    values = [label.value for label in predictor.card.output.labels.values() if label.value]
    return add_label_map({value: value for value in values}, task.data.label_map)


def _predict_case(predictor: Predictor, case: Case) -> images.Image:
    card = predictor.card
    return predictor(inputs.select_images(case, card), tabular=inputs.select_tabular(case, card))


def _predict_with_confidence(predictor: Predictor, case: Case) -> tuple[images.Image, images.Image]:
    """Returns labels and their probability."""
    card = predictor.card
    conditioning = predictor.encode_tabular(inputs.select_tabular(case, card))
    return predictor.predict_with_confidence(
        predictor.prepare(inputs.select_images(case, card)), conditioning=conditioning
    )


def _make_lesion_sections(
    task: "Task", predictor: Predictor, cases: Sequence[Case], evaluation: Evaluation
) -> list[report.Section]:
    """Makes the report's sections about lesions; writes `lesions.csv`, a row each."""
    folder, values = evaluation.folder / "predictions", _list_values(predictor, task)
    measured = {case.id: case for case in cases if case.id in evaluation.scores}
    sections: list[report.Section] = []
    rows: list[Mapping[str, Any]] = []
    for label in predictor.card.output.labels.values():
        if label.name not in task.output.lesions:
            continue
        lesion_cases = [
            evaluate_lesions.match_case(folder, case, (label.value, label.name), _read_candidates(folder, name), values)
            for name, case in measured.items()
        ]
        rows += lesion_report.rows(lesion_cases)
        sections += evaluate_lesions.make_sections(
            folder, measured, lesion_cases, value=label.value, channels=task.data.channels, values=values
        )
    if task.output.lesions:
        files.write_whole(evaluation.folder / "lesions.csv", files.csv_text(rows).encode())
    return sections


def _read_candidates(folder: Path, case: str) -> Mapping[str, Any] | None:
    return json.loads((folder / f"{case}.json").read_text()).get("candidates")


def _write_tables(evaluation: Evaluation, names: Mapping[int, str], summary: Sequence[Mapping[str, Any]]) -> None:
    rows = aggregate.case_rows(evaluation.scores, names=names)
    failed = [{"case": case, "label": "", "error": reason} for case, reason in evaluation.failed.items()]
    files.write_whole(evaluation.folder / "cases.csv", files.csv_text([*rows, *failed]).encode())
    files.write_whole(evaluation.folder / "summary.csv", files.csv_text(summary).encode())
    plain = [{key: None if files.is_missing(value) else value for key, value in row.items()} for row in summary]
    content = {"cases": len(evaluation.scores), "failed": evaluation.failed, "summary": plain}
    files.write_whole(evaluation.folder / "summary.json", json.dumps(content, indent=1).encode())


def _write_report(
    task: "Task",
    predictor: Predictor,
    cases: Sequence[Case],
    evaluation: Evaluation,
    names: Mapping[int, str],
    summary: Sequence[Mapping[str, Any]],
    home: Path,
) -> None:
    card, scores = predictor.card, evaluation.scores
    # One label's means are those over labels, too.
    means = [row for row in summary if len(names) > 1 or row["label"] not in aggregate.MEANS]
    by_label = {names[v]: [labels[v]["dice"] for labels in scores.values()] for v in next(iter(scores.values()))}
    facts = {"model": card.name, "cases": len(scores), "left out": len(evaluation.failed)}
    facts |= {"mean Dice": f"{_average_dice(scores):.3f}", "parameters": f"{card.parameters:,}"}
    facts |= {"median seconds a case": f"{np.median(list(evaluation.seconds.values())):.1f}"}
    rows = aggregate.case_rows(scores, names=names)
    shown = [{key: row[key] for key in ("case", "label", *_list_metrics(task), *FLAGS) if key in row} for row in rows]
    left_out = [{"case": case, "why": why} for case, why in evaluation.failed.items()]
    runtime = [{"case": case, "seconds": seconds} for case, seconds in evaluation.seconds.items()]
    distributions = report.draw_distributions(by_label, label="Dice", caption="Dice of every case, by structure.")
    sections = [
        report.Section(
            "Summary", "Means with bootstrap intervals over cases; counts say what a mean leaves out.", means
        ),
        *_make_lesion_sections(task, predictor, cases, evaluation),
        report.Section("Distributions", figures=[distributions]),
        report.Section("Worst, median and best case", figures=_draw_three_cases(task, predictor, cases, evaluation)),
        report.Section("Calibration", figures=_draw_calibration(predictor, cases[:CALIBRATED], task)),
        report.Section("Learning curves", figures=_read_curves(home)),
        report.Section("Every case and structure", table=shown),
        report.Section("Left out", table=left_out),
        report.Section("Runtime", table=runtime),
    ]
    lead = f"{card.description} Measured in mm on the grid of each case."
    report.write_report(
        evaluation.folder / "report.html", title=f"{card.name}: evaluation", lead=lead, facts=facts, sections=sections
    )


def _average_dice(scores: Mapping[str, Scores]) -> float:
    return aggregate.mean(_average_case_dice(labels) for labels in scores.values())


def _average_case_dice(labels: Scores) -> float:
    return aggregate.mean(metrics["dice"] for metrics in labels.values())


def _draw_three_cases(
    task: "Task", predictor: Predictor, cases: Sequence[Case], evaluation: Evaluation
) -> list[report.Picture]:
    from zoo.reporting.planes import draw_planes

    by_id = {case.id: case for case in cases}
    ranked = sorted(evaluation.scores, key=lambda case: _average_case_dice(evaluation.scores[case]))
    ranks = {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}
    names = {label.value: label.name for label in predictor.card.output.labels.values()}
    drawn = []
    for rank, case in ranks.items() if len(ranked) > 2 else [("only", ranked[0])]:
        scan = picture(by_id[case], _choose_channel(predictor, by_id[case]))
        predicted = read_labels(evaluation.folder / "predictions" / f"{case}.nii.gz")  # may be empty
        truth = evaluate_lesions.read_truth(by_id[case], _list_values(predictor, task))
        at = evaluate_lesions.find_largest_mm([truth, predicted]) if task.output.lesions else None
        figure = draw_planes(scan, predicted, reference=truth, names=names, at_mm=at)
        dice = _average_case_dice(evaluation.scores[case])
        drawn.append(report.Picture(report.png(figure), f"{rank.capitalize()} case, {case}: mean Dice {dice:.3f}."))
    return drawn


def _choose_channel(predictor: Predictor, case: Case) -> str:
    """Returns the channel of a case that pictures show: the model's first where the case has it."""
    first = predictor.card.input.channels[0].name
    return first if first in case.channels else next(iter(case.channels))


def _draw_calibration(predictor: Predictor, cases: Sequence[Case], task: "Task") -> list[report.Picture]:
    """Draws confidence against accuracy, over voxels where either map is not background."""
    twin = Predictor(
        predictor.model, card=predictor.card, settings=dataclasses.replace(predictor.settings, probabilities=True)
    )
    if twin.card.output.activation != "softmax":
        return []
    edges, values = np.linspace(0, 1, BINS + 1), [label.value for label in twin.card.output.labels.values()]
    sums = np.zeros((3, BINS))
    for case in cases:
        try:
            probabilities = np.asanyarray(_predict_case(twin, case).dataobj)
            truth = np.asanyarray(evaluate_lesions.read_truth(case, _list_values(predictor, task)).dataobj)
        except (ValueError, OSError, MemoryError):
            continue  # it is listed among those left out
        best = probabilities.argmax(-1)
        right = np.take(values, best) == truth
        foreground = (best > 0) | (truth > 0)
        confidence = probabilities.max(-1)[foreground]
        bins = np.clip(np.digitize(confidence, edges) - 1, 0, BINS - 1)
        sums += [np.bincount(bins, w, BINS) for w in (np.ones_like(confidence), confidence, right[foreground])]
    count, confidences, correct = sums[:, sums[0] > 0]
    return [report.draw_calibration(confidences / count, correct / count, count)] if count.size else []


def _read_curves(home: Path) -> list[report.Picture]:
    path = home / "curves.png"
    return [report.Picture(path.read_bytes(), "Loss and metric in training and validation.")] if path.exists() else []
