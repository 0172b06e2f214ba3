"""The gates of the task `qsm_nuclei`, the source's table beside ours, and what a T1 channel or a finer grid changes.

Both shipped networks are measured on held-out donors, each seed two new subjects, scans and reconstructions a donor.
The T1 channel is measured on two short trainings a seed that differ in it alone. `tools/study` runs all of it.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo.training.experiments.study import Criterion, StudyResult, format_spread, load_or_measure

GOALS = {
    "pallidum": 0.85, "putamen": 0.85, "caudate": 0.85, "thalamus": 0.85, "hippocampus": 0.82, "amygdala": 0.65,
    "mask": 0.97,
}  # fmt: skip
MOST_HD95_MM, LEAST_GAIN, MOST_DIFFERENCE, EXACT = 3.0, 0.05, 0.02, 1e-6
STEPS, PAIRS = 250, 1  # of each short training; seeds that train with and without the T1 channel
TEMPLATES = ("substantia_nigra", "red_nucleus")
# Test Dice and HD in mm of Abid and Saifullah, one U-Net a structure; Dice of a published network, alone and with T1w.
SOURCE = {
    "mask": (0.97, 0.04), "hippocampus": (0.82, 1.24), "putamen": (0.79, 1.48), "thalamus": (0.87, 1.46),
    "amygdala": (0.50, 0.94), "caudate": (0.81, 1.43),
}  # fmt: skip
PUBLISHED = {
    "caudate": (0.782, 0.802), "pallidum": (0.828, 0.840), "putamen": (0.819, 0.827), "thalamus": (0.827, 0.844),
    "substantia_nigra": (0.690, 0.719), "red_nucleus": (0.680, 0.763), "dentate": (0.714, 0.774),
}  # fmt: skip
Scores = dict[str, dict[str, float]]


def scores(prediction: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float], labels: Mapping[int, Any]) -> Scores:
    """Structure -> metrics, sides averaged, and the mask: whatever is not background."""
    from zoo.evaluation.surfaces import segmentation_metrics

    values = {value: name for name, value in labels.values() if name not in ("background", "brain")}
    each = segmentation_metrics(prediction, truth, spacing_mm, labels=list(values))
    table: dict[str, list[dict[str, float]]] = {}
    for value, metrics in each.items():
        table.setdefault(values[value].partition("_")[2], []).append(metrics)
    if any(name == "brain" for name, _ in labels.values()):
        pair = ((label_map != 0).astype(np.uint8) for label_map in (prediction, truth))
        table["mask"] = [segmentation_metrics(*pair, spacing_mm, labels=[1])[1]]
    return {
        name: {key: float(np.nanmean([label_map[key] for label_map in many])) for key in ("dice", "hd_mm", "hd95_mm")}
        for name, many in table.items()
    }


def measured(model: Any, task: Any, cases: Sequence[Any]) -> list[Scores]:
    """Scores of every case."""
    import nibabel

    from zoo.inference.inputs import select_images
    from zoo.inference.predictor import Predictor

    predict = Predictor(model)
    rows = []
    for case in cases:
        labels = nibabel.nifti1.load(case.labels)
        prediction = np.asanyarray(predict(select_images(case, predict.card)).dataobj)
        truth = np.asanyarray(labels.dataobj)
        rows.append(scores(prediction, truth, labels.header.get_zooms()[:3], dict(task.data.labels)))
    return rows


def mean(rows: Sequence[Scores], structure: str, metric: str = "dice") -> float:
    return float(np.mean([row[structure][metric] for row in rows]))


def shipped(seed: int, work: pathlib.Path) -> dict[str, list[Scores]]:
    """Both shipped networks on the cases of a seed."""
    from zoo.tasks import qsm_nuclei as task

    cases = task.test_cases(work / "cases", draws=(2 * seed, 2 * seed + 1))
    return {name: measured(task.variant(name).model_name, task.variant(name), cases) for name in task.NETWORKS}


def channels(seed: int, work: pathlib.Path) -> dict[str, list[Scores]]:
    """Short trainings with and without a T1 channel, on the cases of a seed."""
    import zoo
    from zoo.tasks import qsm_nuclei as task

    scores_by_input = {}
    for second in (False, True):
        variant = task.variant(second=second).replace(validation_batches=2)
        run = zoo.train(variant, "synthetic", work / f"{variant.name}_{seed}", seed=seed, steps=STEPS)
        cases = task.test_cases(work / "cases", draws=(2 * seed, 2 * seed + 1))
        scores_by_input["map and T1w" if second else "map alone"] = measured(run / variant.model_name, variant, cases)
    return scores_by_input


def grids(seed: int) -> dict[str, Scores]:
    """One held-out brain in 256^3 voxels of 1 mm and in 128^3 of 2 mm, the same subject in both."""
    import nibabel

    from zoo.inference.predictor import Predictor
    from zoo.synth.anatomy.midbrain import with_midbrain
    from zoo.synth.anatomy.sources import anatomy
    from zoo.tasks import qsm_nuclei as task
    from zoo.tasks.brain_structures import centred

    predict = Predictor(task.TASK.model_name)
    brain = centred(with_midbrain(anatomy(task.HELD_OUT[0], allow_test=True)).labels, (256, 256, 256))
    values = np.array([value for _, value in task.TASK.data.labels.values()])[
        task.class_table(dict(task.TASK.data.labels))
    ]
    scores_by_grid = {}
    for step in (1, 2):
        labels = brain[::step, ::step, ::step]
        chi, _ = task.scanned(labels, float(step), 100 + seed)
        image = nibabel.nifti1.Nifti1Image(chi, np.diag([step, step, step, 1.0]))
        predicted = np.asanyarray(predict(image).dataobj)
        scores_by_grid[f"{labels.shape[0]}^3"] = scores(
            predicted, values[labels], (step,) * 3, dict(task.TASK.data.labels)
        )
    return scores_by_grid


def windows() -> dict[str, float]:
    """How far sliding an identity changes a volume, and mirror averaging of a mirrored volume the mirrored result."""
    from zoo.hub import trained_models
    from zoo.inference.compiled_network import prepare
    from zoo.inference.left_right import partners
    from zoo.inference.sliding_window import sliding_window
    from zoo.tasks import qsm_nuclei as task

    volume = np.random.default_rng(0).normal(size=(80, 100, 72, 1)).astype(np.float32)
    same = sliding_window(lambda x: x, volume, patch=task.PATCH, activation="linear", batch_size=1)
    model = trained_models.load(task.TASK.model_name)
    swaps = partners(trained_models.card(task.TASK.model_name).output.labels)
    forward = prepare(model, precision="float32", jit="auto")
    options = {"patch": task.PATCH, "mirror_axes": (0,), "flip_labels": swaps, "batch_size": 1}
    straight = sliding_window(forward, 0.3 * volume, **options)
    turned = sliding_window(forward, 0.3 * volume[::-1].copy(), **options)[::-1][..., swaps]
    return {"identity": float(np.abs(same - volume).max()), "mirror": float(np.abs(straight - turned).max())}


def run(seeds: int, work: pathlib.Path) -> StudyResult:
    """All gates and tables."""
    pairs = [load_or_measure(work / f"shipped_{s}.json", lambda s=s: shipped(s, work)) for s in range(seeds)]
    second = [
        load_or_measure(work / f"channels_{s}.json", lambda s=s: channels(s, work)) for s in range(min(seeds, PAIRS))
    ]
    sizes = [load_or_measure(work / f"grids_{s}.json", lambda s=s: grids(s)) for s in range(seeds)]
    exact = load_or_measure(work / "windows.json", windows)
    gates = [gate for name in ("unet3d", "resunet") for gate in structure_gates(name, pairs)]
    gates += [matched_gate(pairs), channel_gate(second)]
    for what, name in (("identity", "sliding window of an identity"), ("mirror", "mirror averaging swaps the sides")):
        limit = EXACT if what == "identity" else 1e-4
        gates.append(Criterion(name, f"within {limit:g}", f"{exact[what]:.1e}", exact[what] <= limit))
    tables = {
        "The source's table beside ours (test Dice / HD mm)": comparison(pairs),
        "A published network (Dice)": published(pairs),
        "A T1 channel (Dice, short trainings)": [
            {
                "structure": name,
                **{key: format_spread([mean(of_seed[key], name) for of_seed in second]) for key in second[0]},
            }
            for name in GOALS
        ],
        "128^3 against 256^3 of one anatomy (Dice)": [
            {
                "structure": name,
                **{key: format_spread([of_seed[key][name]["dice"] for of_seed in sizes]) for key in sizes[0]},
            }
            for name in GOALS
        ],
    }
    settings = {"seeds": seeds, "cases a seed": 4, "steps of short trainings": STEPS, "seeds of short trainings": PAIRS}
    return StudyResult(gates, tables, settings)


def structure_gates(network: str, pairs: Sequence[Mapping[str, Sequence[Scores]]]) -> list[Criterion]:
    """Dice of each structure, and HD95 of all."""
    criteria = []
    for name, goal in GOALS.items():
        dice = [mean(of_seed[network], name) for of_seed in pairs]
        criteria.append(
            Criterion(f"{network}: Dice of {name}", f">= {goal}", format_spread(dice), float(np.mean(dice)) >= goal)
        )
    far = {name: [mean(of_seed[network], name, "hd95_mm") for of_seed in pairs] for name in GOALS}
    worst = max(far, key=lambda name: float(np.mean(far[name])))
    passed = float(np.mean(far[worst])) <= MOST_HD95_MM
    criteria.append(
        Criterion(f"{network}: HD95", f"<= {MOST_HD95_MM:g} mm", f"{format_spread(far[worst])} mm ({worst})", passed)
    )
    return criteria


def matched_gate(pairs: Sequence[Mapping[str, Sequence[Scores]]]) -> Criterion:
    """ResUNet against U-Net, mean over structures but the template shapes."""
    names = [name for name in GOALS if name != "mask"]
    differences = [
        np.mean([mean(of_seed["resunet"], n) - mean(of_seed["unet3d"], n) for n in names]) for of_seed in pairs
    ]
    within = abs(float(np.mean(differences))) <= MOST_DIFFERENCE
    return Criterion(
        "ResUNet minus U-Net, mean Dice",
        f"within {MOST_DIFFERENCE}",
        format_spread([float(a) for a in differences]),
        within,
    )


def channel_gate(second: Sequence[Mapping[str, Sequence[Scores]]]) -> Criterion:
    """What the T1 channel does for the amygdala."""
    gain = [mean(of_seed["map and T1w"], "amygdala") - mean(of_seed["map alone"], "amygdala") for of_seed in second]
    remark = "In the synthetic T1 the amygdala is grey matter: it differs from white matter and fluid alone."
    return Criterion(
        "T1 channel: gain in Dice of amygdala",
        f">= {LEAST_GAIN}",
        format_spread(gain),
        float(np.mean(gain)) >= LEAST_GAIN,
        remark,
    )


def comparison(pairs: Sequence[Mapping[str, Sequence[Scores]]]) -> list[dict[str, str]]:
    """Rows of the source's structures."""
    rows = []
    for name, (dice, far) in SOURCE.items():
        ours = {
            network: f"{np.mean([mean(of_seed[network], name) for of_seed in pairs]):.2f} / "
            f"{np.mean([mean(of_seed[network], name, 'hd_mm') for of_seed in pairs]):.2f}"
            for network in ("unet3d", "resunet")
        }
        rows.append({"structure": name, "source (measured maps)": f"{dice:.2f} / {far:.2f}", **ours})
    return rows


def published(pairs: Sequence[Mapping[str, Sequence[Scores]]]) -> list[dict[str, str]]:
    """Rows of the seven nuclei; ours has no dentate."""
    rows = []
    for name, (alone, with_t1) in PUBLISHED.items():
        ours = {
            network: f"{np.mean([mean(of_seed[network], name) for of_seed in pairs]):.3f}"
            if name != "dentate"
            else "none"
            for network in ("unet3d", "resunet")
        }
        shown = f"{name} (template shapes)" if name in TEMPLATES else name
        rows.append({"structure": shown, "QSM alone": f"{alone:.3f}", "with T1w": f"{with_t1:.3f}", **ours})
    return rows
