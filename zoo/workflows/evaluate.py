"""`zoo.evaluate`: predicts labelled cases, measures them in mm on their own grids, writes tables and a report."""

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
from zoo.datasets.images import class_indices, picture, read_labels
from zoo.evaluation import aggregate
from zoo.evaluation.lesions import lesion_metrics
from zoo.evaluation.surfaces import segmentation_metrics
from zoo.hub import card_file
from zoo.inference import inputs
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
CALIBRATED = 2  # cases whose probabilities are looked at; they are large
BINS = 15
Scores = dict[int, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Assessment:
    """What an evaluation found.

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
    progress: bool | None = None,
) -> Assessment:
    """Measures a trained model on labelled cases.

    Every case is predicted on its own grid and compared with its label map there. A case that fails is reported and
    the rest are finished; a run that was stopped goes on with the cases that are missing.

    Args:
        task: what the model learned.
        run: a run folder, or the name or folder of a trained model.
        source: a folder of labelled cases in a layout that `zoo.data` reads, or "synthetic" for the task's own
            held-out test cases.
        out: folder of the results; None takes `evaluation` in the run folder.
        settings: how to predict.
        progress: show a bar on stderr; None when that is a terminal.

    Returns:
        What was found; `cases.csv`, `summary.csv`, `summary.json` and `report.html` are in its folder.

    Raises:
        ValueError: no labelled case, or the task has no test cases of its own.
    """
    model, home = _model(task, run)
    folder = Path(out) if out is not None else home / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    found = _labelled(task, source, folder)
    assessment = Assessment({}, {}, {}, folder)
    predictor = Predictor(model, settings=settings)
    with progress_bar(f"evaluating {predictor.card.name}", shown=progress) as tell:
        for number, case in enumerate(found):
            tell(number, len(found))
            _measure_one(predictor, case, assessment, task.output.lesions)
        tell(len(found), len(found))
    if not assessment.scores:
        raise ValueError(f"None of the {len(found)} cases could be measured: {next(iter(assessment.failed.values()))}")
    names = {label.value: label.name for label in predictor.card.output.labels.values()}
    summary = aggregate.summarise(assessment.scores, names=names, metrics=_columns(task))
    _write_tables(assessment, names, summary)
    _write_report(task, predictor, found, assessment, names, summary, home)
    return assessment


def _columns(task: "Task") -> tuple[str, ...]:
    """The metrics that tables show."""
    return SHOWN + tuple(f"lesion_{name}" for name in BY_LESION if task.output.lesions)


def _model(task: "Task", run: str | os.PathLike) -> tuple[str | Path, Path]:
    """The trained model, and the folder that results go to."""
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


def _labelled(task: "Task", source: str | os.PathLike, folder: Path) -> list[Case]:
    if str(source) == SYNTHETIC:
        if task.synthesis.test_cases is None:
            raise ValueError(f"Task {task.name!r} has no test cases of its own: give a folder of labelled cases.")
        return task.synthesis.test_cases(folder / "cases")
    found = fitting(Path(source), task.data.channels, reader=task.data.reader, patterns=task.data.patterns)
    labelled = [case for case in found if case.labels]
    if not labelled:
        raise ValueError(f"None of the {len(found)} cases in {source} has a label map to compare with.")
    return labelled


def _measure_one(predictor: Predictor, case: Case, assessment: Assessment, lesions: Sequence[str]) -> None:
    """Adds one case, from its file when an earlier run measured it."""
    path = assessment.folder / "predictions" / f"{case.id}.json"
    try:
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            files.write_whole(path, json.dumps(_measure(predictor, case, path, lesions)).encode())
        stored = json.loads(path.read_text())
    except (ValueError, OSError, MemoryError) as error:
        assessment.failed[case.id] = f"{type(error).__name__}: {error}"
        print(f"{case.id} is left out: {error}", file=sys.stderr)
        return
    assessment.scores[case.id] = {int(value): _numbers(metrics) for value, metrics in stored["scores"].items()}
    assessment.seconds[case.id] = stored["seconds"]


def _numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def _measure(predictor: Predictor, case: Case, path: Path, lesions: Sequence[str] = ()) -> dict[str, Any]:
    begin = time.monotonic()
    predicted, confidence = _predict_surely(predictor, case) if lesions else (_predict(predictor, case), None)
    seconds = time.monotonic() - begin
    reference = _truth(case)
    images.check_same_grid([predicted, reference], ["the prediction", str(case.labels)])
    images.write(path.with_suffix(".nii.gz"), np.asanyarray(predicted.dataobj), predicted)
    values = [label.value for label in predictor.card.output.labels.values() if label.value]
    known = {value: value for value in values}
    truth = class_indices(np.asanyarray(reference.dataobj), known, f"The label map of {case.id}")
    spacing = images.spacing_mm(predicted.affine).tolist()
    found = np.asanyarray(predicted.dataobj)
    scores = segmentation_metrics(found, truth, spacing, labels=values)
    for value in (label.value for label in predictor.card.output.labels.values() if label.name in lesions):
        pieces = lesion_metrics(found == value, truth == value, spacing)
        scores[value] = {**scores[value], **{f"lesion_{name}": pieces[name] for name in BY_LESION}}
    plain = {value: {k: None if math.isnan(v) else v for k, v in metrics.items()} for value, metrics in scores.items()}
    # With one label alone its probability is the confidence, and a FROC curve can be drawn.
    kept = evaluate_lesions.candidates(confidence, truth == values[0]) if confidence and len(values) == 1 else None
    return {"seconds": seconds, "scores": plain, "candidates": kept}


def _truth(case: Case) -> images.Image:
    if case.labels is None:
        raise ValueError(f"Case {case.id} has no label map to compare with.")
    return read_labels(case.labels)


def _predict(predictor: Predictor, case: Case) -> images.Image:
    card = predictor.card
    return predictor(inputs.select_images(case, card), tabular=inputs.select_tabular(case, card))


def _predict_surely(predictor: Predictor, case: Case) -> tuple[images.Image, images.Image]:
    """Labels and their probability."""
    card = predictor.card
    conditioning = predictor.encode_tabular(inputs.select_tabular(case, card))
    return predictor.predict_with_confidence(
        predictor.prepare(inputs.select_images(case, card)), conditioning=conditioning
    )


def _lesion_sections(
    task: "Task", predictor: Predictor, found: Sequence[Case], assessment: Assessment
) -> list[report.Section]:
    """What the report says of lesions; writes `lesions.csv`, a row each."""
    folder, known = assessment.folder / "predictions", {case.id: case for case in found if case.id in assessment.scores}
    sections: list[report.Section] = []
    rows: list[Mapping[str, Any]] = []
    for label in predictor.card.output.labels.values():
        if label.name not in task.output.lesions:
            continue
        cases = [
            evaluate_lesions.lesion_case(folder, case, (label.value, label.name), _stored(folder, name))
            for name, case in known.items()
        ]
        rows += lesion_report.rows(cases)
        sections += evaluate_lesions.sections(folder, known, cases, value=label.value, channels=task.data.channels)
    if task.output.lesions:
        files.write_whole(assessment.folder / "lesions.csv", files.csv_text(rows).encode())
    return sections


def _stored(folder: Path, case: str) -> Mapping[str, Any] | None:
    return json.loads((folder / f"{case}.json").read_text()).get("candidates")


def _write_tables(assessment: Assessment, names: Mapping[int, str], summary: Sequence[Mapping[str, Any]]) -> None:
    rows = aggregate.case_rows(assessment.scores, names=names)
    failed = [{"case": case, "label": "", "error": reason} for case, reason in assessment.failed.items()]
    files.write_whole(assessment.folder / "cases.csv", files.csv_text([*rows, *failed]).encode())
    files.write_whole(assessment.folder / "summary.csv", files.csv_text(summary).encode())
    plain = [{key: None if files.is_missing(value) else value for key, value in row.items()} for row in summary]
    content = {"cases": len(assessment.scores), "failed": assessment.failed, "summary": plain}
    files.write_whole(assessment.folder / "summary.json", json.dumps(content, indent=1).encode())


def _write_report(
    task: "Task",
    predictor: Predictor,
    found: Sequence[Case],
    assessment: Assessment,
    names: Mapping[int, str],
    summary: Sequence[Mapping[str, Any]],
    home: Path,
) -> None:
    card, scores = predictor.card, assessment.scores
    # One label's means are those over labels, too.
    means = [row for row in summary if len(names) > 1 or row["label"] not in aggregate.MEANS]
    by_label = {names[v]: [labels[v]["dice"] for labels in scores.values()] for v in next(iter(scores.values()))}
    facts = {"model": card.name, "cases": len(scores), "left out": len(assessment.failed)}
    facts |= {"mean Dice": f"{_mean_dice(scores):.3f}", "parameters": f"{card.parameters:,}"}
    facts |= {"median seconds a case": f"{np.median(list(assessment.seconds.values())):.1f}"}
    rows = aggregate.case_rows(scores, names=names)
    shown = [{key: row[key] for key in ("case", "label", *_columns(task), *FLAGS) if key in row} for row in rows]
    left_out = [{"case": case, "why": why} for case, why in assessment.failed.items()]
    runtime = [{"case": case, "seconds": seconds} for case, seconds in assessment.seconds.items()]
    distributions = report.draw_distributions(by_label, label="Dice", caption="Dice of every case, by structure.")
    sections = [
        report.Section(
            "Summary", "Means with bootstrap intervals over cases; counts say what a mean leaves out.", means
        ),
        *_lesion_sections(task, predictor, found, assessment),
        report.Section("Distributions", figures=[distributions]),
        report.Section("Worst, median and best case", figures=_three_cases(task, predictor, found, assessment)),
        report.Section("Calibration", figures=_calibration(predictor, found[:CALIBRATED])),
        report.Section("Learning curves", figures=_curves(home)),
        report.Section("Every case and structure", table=shown),
        report.Section("Left out", table=left_out),
        report.Section("Runtime", table=runtime),
    ]
    lead = f"{card.description} Measured in mm on the grid of each case."
    report.write_report(
        assessment.folder / "report.html", title=f"{card.name}: evaluation", lead=lead, facts=facts, sections=sections
    )


def _mean_dice(scores: Mapping[str, Scores]) -> float:
    return aggregate.mean(_case_dice(labels) for labels in scores.values())


def _case_dice(labels: Scores) -> float:
    return aggregate.mean(metrics["dice"] for metrics in labels.values())


def _three_cases(
    task: "Task", predictor: Predictor, found: Sequence[Case], assessment: Assessment
) -> list[report.Picture]:
    from zoo.reporting.planes import draw_planes

    by_id = {case.id: case for case in found}
    ranked = sorted(assessment.scores, key=lambda case: _case_dice(assessment.scores[case]))
    chosen = {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}
    names = {label.value: label.name for label in predictor.card.output.labels.values()}
    drawn = []
    for rank, case in chosen.items() if len(ranked) > 2 else [("only", ranked[0])]:
        scan = picture(by_id[case], _shown(predictor, by_id[case]))
        predicted = read_labels(assessment.folder / "predictions" / f"{case}.nii.gz")  # may be empty
        truth = _truth(by_id[case])
        at = evaluate_lesions.largest_mm([truth, predicted]) if task.output.lesions else None
        figure = draw_planes(scan, predicted, reference=truth, names=names, at_mm=at)
        dice = _case_dice(assessment.scores[case])
        drawn.append(report.Picture(report.png(figure), f"{rank.capitalize()} case, {case}: mean Dice {dice:.3f}."))
    return drawn


def _shown(predictor: Predictor, case: Case) -> str:
    """The channel of a case that pictures show: the model's first where the case has it."""
    first = predictor.card.input.channels[0].name
    return first if first in case.channels else next(iter(case.channels))


def _calibration(predictor: Predictor, some: Sequence[Case]) -> list[report.Picture]:
    """Confidence against accuracy, over voxels where either map is not background."""
    twin = Predictor(
        predictor.model, card=predictor.card, settings=dataclasses.replace(predictor.settings, probabilities=True)
    )
    if twin.card.output.activation != "softmax":
        return []
    edges, values = np.linspace(0, 1, BINS + 1), [label.value for label in twin.card.output.labels.values()]
    sums = np.zeros((3, BINS))
    for case in some:
        try:
            probabilities = np.asanyarray(_predict(twin, case).dataobj)
            truth = np.rint(images.array(_truth(case)))
        except (ValueError, OSError, MemoryError):
            continue  # named among those left out already
        best = probabilities.argmax(-1)
        right = np.take(values, best) == truth
        looked = (best > 0) | (truth > 0)
        sure = probabilities.max(-1)[looked]
        place = np.clip(np.digitize(sure, edges) - 1, 0, BINS - 1)
        sums += [np.bincount(place, weights, BINS) for weights in (np.ones_like(sure), sure, right[looked])]
    kept = sums[:, sums[0] > 0]
    return [report.draw_calibration(kept[1] / kept[0], kept[2] / kept[0], kept[0])] if kept.size else []


def _curves(home: Path) -> list[report.Picture]:
    path = home / "curves.png"
    return [report.Picture(path.read_bytes(), "Loss and metric in training and validation.")] if path.exists() else []
