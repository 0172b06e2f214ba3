"""The five criteria of the task `stroke_outcome`, and its losses side by side; `tools/study` runs them.

Small networks on small patches, all seeds and settings on the same data, measured on held-out brains: what is compared
is the recipe, not the shipped model. `python studies/stroke_outcome.py` alone measures memory (gate 5).
"""

import functools
import itertools
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from zoo.training.experiments.study import (
    Criterion,
    StudyResult,
    format_spread,
    load_or_measure,
    measure_settings,
    train_on,
)

MOST_GB, LEAST_GAIN, LEAST_RANK, LEAST_ROUND_TRIP = 20.0, 0.10, 0.8, 0.97
STEPS, PATCH, FILTERS, BATCH = 250, (48, 48, 8), (8, 16, 32), 2
TEST_PATCH, NUM_TEST, SWEPT = (96, 96, 16), 24, 8
HOURS = (0.5, 2.0, 4.0, 6.0, 9.0, 12.0, 16.0, 20.0, 24.0)
SOURCES_OWN = {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9}
AS_SOURCE = "as the source trained: "
EARLY = "reperfused within 8 h: "
# Ranges of the synthesis that differ for some of the settings: few patches near the lesion, as the source drew them;
# and patients of an acute treatment trial, where there is more to save.
RANGES: dict[str, dict[str, Any]] = {AS_SOURCE: {"centred": 0.25}, EARLY: {"time_h": (0.5, 8.0)}}


def small_task(**changes: Any) -> Any:
    """Returns the task with the small network."""
    from zoo.models.parts.sizes import divisor, strides_by_spacing
    from zoo.tasks import stroke_outcome as stroke

    strides = strides_by_spacing(stroke.SPACING_MM, len(FILTERS) - 1)
    small = {**stroke.TASK.network.arguments, "filters": FILTERS, "strides": strides}
    return stroke.TASK.replace(
        **{"arguments": small, "divisor": divisor(strides), "patch": PATCH, "batch_size": BATCH} | changes
    )


def settings() -> dict[str, Callable[[], Any]]:
    """Name -> the task that it trains."""
    from zoo.losses import Combined, dice_cross_entropy
    from zoo.training.optimizers import NNUNET

    alone = {"CE + Dice": {}, "CE alone": {"dice": 0.0}, "Dice alone": {"cross_entropy": 0.0}}
    peer = {
        "filters": FILTERS,
        "norm": "instance",
        "activation": "leaky_relu",
        "strides": small_task().network.arguments["strides"],
    }
    nnunet = {"builder": "unet3d", "arguments": peer, "optimizer": NNUNET, "loss_arguments": {}}
    tasks = {name: functools.partial(small_task, loss_arguments=weights) for name, weights in alone.items()}
    tasks["CE + Dice, image alone"] = functools.partial(small_task, tabular=())
    tasks["nnU-Net's recipe"] = functools.partial(
        small_task, **nnunet, loss=lambda: Combined([(1.0, dice_cross_entropy)], maps=("mask",))
    )
    for name, weights in alone.items():
        own = {"optimizer": SOURCES_OWN, "tabular": ()}
        tasks[f"{AS_SOURCE}{name}"] = functools.partial(small_task, loss_arguments={**weights, "epsilon": 0.0}, **own)
    for name in ("CE + Dice", "CE + Dice, image alone"):
        tasks[f"{EARLY}{name}"] = tasks[name]
    return tasks


def drawn_from(name: str) -> str:
    """Key into `RANGES` of a setting; "" is the task's own."""
    return next((start for start in RANGES if name.startswith(start)), "")


@functools.cache
def compile_painter(population: str) -> Callable[[Any], Any]:
    """Compiles the synthesis of training patches once for all networks."""
    import tensorflow as tf

    from zoo.synth.anatomy.sources import names
    from zoo.synth.stroke import Perfusion
    from zoo.tasks import stroke_outcome as stroke

    ranges = Perfusion(**RANGES.get(population, {}))
    return tf.function(stroke.samples(small_task(), names("train"), ranges), jit_compile=True)


@functools.lru_cache(maxsize=1)
def draw_batches(seed: int, population: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Images, conditioning and labels of all training steps: every network of a seed sees the same ones."""
    import tensorflow as tf

    numbers = tf.data.Dataset.range(STEPS * BATCH)
    paint = compile_painter(population)  # made here: a data set's own graph would end with its seed
    drawn = numbers.map(lambda n: paint(tf.stack([seed, tf.cast(n, tf.int32)])), num_parallel_calls=2)
    rng = np.random.default_rng(seed)
    samples = []
    for (image, vector), labels in drawn.batch(BATCH).as_numpy_iterator():
        unknown = rng.random((BATCH, 1)) < small_task().data.tabular_dropout
        samples.append((image, np.where(unknown, np.tile([0, 1], vector.shape[1] // 2), vector), labels))
    return samples


def train(task: Any, seed: int, population: str) -> Any:
    """Trains a network for `STEPS` steps; the weights are those of the last step."""
    drawn = draw_batches(seed, population)
    samples = [((image, vector) if task.data.tabular else image, labels) for image, vector, labels in drawn]
    return train_on(task, samples, seed=seed, precision="float32", averaged=False)


@functools.cache
def draw_held_out(population: str = "") -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Image, conditioning and labels of patches of the held-out brains, the same for every network."""
    import tensorflow as tf

    from zoo.synth.anatomy.sources import names
    from zoo.synth.stroke import Perfusion
    from zoo.tasks import stroke_outcome as stroke

    large = small_task(patch=TEST_PATCH)
    ranges = Perfusion(**{**RANGES.get(population, {}), "centred": 1.0})
    draw = tf.function(stroke.samples(large, names("test")[:2], ranges), jit_compile=True)
    drawn = [draw(tf.constant([stroke.TEST_SEED, number])) for number in range(NUM_TEST)]
    return [(image.numpy(), vector.numpy(), labels.numpy()) for (image, vector), labels in drawn]


def lesion(model: Any, image: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """(x, y, z) bool."""
    inputs = (image[None], vector[None]) if len(model.inputs) > 1 else image[None]
    logits = np.asarray(model(inputs, training=False), np.float32)[0]
    return logits[..., 1] > logits[..., 0]


def mean_dice(model: Any, population: str) -> float:
    """Mean Dice over the held-out patches that hold a lesion."""
    dice = []
    for image, vector, labels in draw_held_out(population):
        truth, predicted = labels[..., 0] > 0, lesion(model, image, vector)
        if truth.any():
            dice.append(2 * (truth & predicted).sum() / (truth.sum() + predicted.sum()))
    return float(np.mean(dice))


def ranks(model: Any) -> dict[str, float]:
    """Mean rank correlation over cases of the predicted volume with time (TICI 2b) and with TICI (4 h)."""
    from zoo.hub.tabular import encode
    from zoo.tasks import stroke_outcome as stroke

    known = {"age": 65.0, "nihss": 14.0}
    times = [encode(stroke.TABULAR, known | {"tici": "2b", "time_to_reperfusion_h": hour}) for hour in HOURS]
    grades = [encode(stroke.TABULAR, known | {"tici": grade, "time_to_reperfusion_h": 4.0}) for grade in stroke.TICI]
    sweeps = {"time": (times, HOURS), "tici": (grades, list(stroke.TICI.values()))}
    correlations: dict[str, list[float]] = {name: [] for name in sweeps}
    for image, _, _ in draw_held_out()[:SWEPT]:
        for name, (vectors, values) in sweeps.items():
            correlations[name].append(rank(values, [int(lesion(model, image, vector).sum()) for vector in vectors]))
    return {name: float(np.mean(each)) for name, each in correlations.items()}


def rank(values: Sequence[float], volumes: Sequence[int]) -> float:
    """Spearman's correlation; 0 where all volumes are equal: a constant answers nothing."""
    from scipy import stats

    return float(stats.spearmanr(values, volumes).statistic) if len(set(volumes)) > 1 else 0.0


def measure(name: str, seed: int) -> dict[str, float]:
    """Returns one network's row."""
    population = drawn_from(name)
    model = train(settings()[name](), seed, population)
    dice = mean_dice(model, population if population == EARLY else "")
    return {"dice": dice} | (ranks(model) if name == "CE + Dice" else {})


def round_trip(grid: Any, number: int) -> dict[str, float]:
    """Dice of a label map with itself through the whole prediction path, on a turned and an oblique grid."""
    import keras
    import nibabel as nib

    from zoo.hub import card as cards
    from zoo.inference.predictor import Predictor
    from zoo.synth.anatomy import territories
    from zoo.synth.anatomy.sources import names
    from zoo.synth.stroke import Brain, Perfusion, apply, draw
    from zoo.tasks import stroke_outcome as stroke
    from zoo.training.run import model_card

    ranges = Perfusion(grids=(grid,))
    codes, places = territories.coded((names("test")[number % 2],))
    brain = Brain(*(keras.ops.convert_to_tensor(each[0]) for each in (codes, places)))
    maps, truth, _ = (np.asarray(each) for each in apply(brain, draw(number, ranges), grid[0], ranges))
    shown = np.where(maps[..., 0] != 0, 1.0 + truth[..., 0], 0.0)[::-1].transpose(1, 0, 2).astype(np.float32)
    affine = np.diag([grid[1][1], -grid[1][0], grid[1][2], 1.0])[:, [1, 0, 2, 3]][:, [1, 0, 2, 3]]
    turn = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0.05, 0.08), [3, 4, 5])
    inputs = keras.Input((None, None, None, 1))
    oracle = keras.Model(inputs, keras.layers.Conv3D(2, 1, name="logits")(inputs))
    oracle.set_weights([np.array([0.0, 1.0], np.float32).reshape(1, 1, 1, 1, 2), np.array([0.0, -1.5], np.float32)])
    config = {"source": "synthetic", "seed": 0, "steps": 1}
    result = {}
    for name, native in (("native, as shipped", True), ("resampled to 1.2 x 1.2 x 6 mm", False)):
        task = stroke.TASK.replace(
            channels=("labels",), intensities={}, tabular=(), native_grid=native, arguments={}, preprocessing=()
        )
        card = model_card.describe(task, config, {"seconds": 1.0})
        predict = Predictor(oracle, card=card if isinstance(card, cards.Card) else None)
        back = np.asanyarray(predict(nib.nifti1.Nifti1Image(shown, turn @ affine)).dataobj) > 0
        right = shown > 1.5
        result[name] = float(2 * (back & right).sum() / (back.sum() + right.sum()))
    return result


def peak_gib() -> dict[str, float]:
    """Peak memory of a training step at Monteiro's widths on one whole case of 256 x 256 x 24, in GiB."""
    import resource
    import time

    from zoo.devices import policy
    from zoo.models.parts.sizes import strides_by_spacing
    from zoo.tasks import stroke_outcome as stroke
    from zoo.training import network

    with network.dtype_policy(policy("auto")):
        strides = strides_by_spacing(stroke.SPACING_MM, 4)
        model = network.build(stroke.TASK.replace(arguments={**stroke.MONTEIRO, "strides": strides}), 10)
        draw = np.random.default_rng(0)
        image = draw.standard_normal((1, 256, 256, 24, 6)).astype(np.float32)
        labels = np.stack([draw.random((1, 256, 256, 24)) < 0.03, np.ones((1, 256, 256, 24), bool)], -1)
        begin = time.monotonic()
        model.train_on_batch((image, np.zeros((1, 8), np.float32)), labels.astype(np.int32))
    seconds = time.monotonic() - begin
    return {
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "seconds": seconds,
        "parameters": model.count_params(),
    }


def run(seeds: int, work: pathlib.Path) -> StudyResult:
    """Measures all criteria; the one that is only shown, as the source trained, on one seed."""
    once = {name for name in settings() if name.startswith(AS_SOURCE)}
    rows = measure_settings(settings(), seeds, work, measure, first_seed_only=once)
    trips = load_or_measure(work / "round_trip.json", lambda: [round_trip(*each) for each in _trips()])
    memory = load_or_measure(work / "memory.json", _memory_of_its_own)
    return StudyResult(_criteria(rows, trips, memory), _tables(rows, trips), _describe_settings(seeds))


def _trips() -> list[tuple[Any, int]]:
    from zoo.synth.stroke import GRIDS

    return list(zip(GRIDS, itertools.count(), strict=False))


def _memory_of_its_own() -> dict[str, float]:
    ran = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"The step of the last criterion ended with {ran.returncode}: {ran.stderr[-500:]}")
    return json.loads(ran.stdout.strip().splitlines()[-1])


def _dice(rows: Sequence[Mapping[str, float]]) -> list[float]:
    return [row["dice"] for row in rows]


def _differences(numbers: Sequence[float], other: Sequence[float]) -> list[float]:
    return [first - second for first, second in zip(numbers, other, strict=True)]


def _criteria(
    rows: Mapping[str, Sequence[Mapping[str, float]]], trips: list, memory: Mapping[str, float]
) -> list[Criterion]:
    both, entropy, overlap = (_dice(rows[name]) for name in ("CE + Dice", "CE alone", "Dice alone"))
    image = _dice(rows["CE + Dice, image alone"])
    order = np.mean(both) > np.mean(entropy) > np.mean(overlap)
    least = min(trip["native, as shipped"] for trip in trips)
    early = [_dice(rows[f"{EARLY}{name}"]) for name in ("CE + Dice", "CE + Dice, image alone")]
    gain, early_gain = (_differences(*pair) for pair in ((both, image), early))
    time, grade = ([row[key] for row in rows["CE + Dice"]] for key in ("time", "tici"))
    enough = bool(np.mean(gain) >= LEAST_GAIN)
    losses = f"{format_spread(both)} > {format_spread(entropy)} > {format_spread(overlap)}"
    gigabytes = memory["gib"] * 2**30 / 1e9
    first_step = f"One step took {memory['seconds']:.0f} s with its compilation."
    own_grid = "The task works on each case's own grid; a fixed spacing is in the table."
    return [
        Criterion("CE + Dice beats CE alone beats Dice alone", "in this order", losses, bool(order)),
        Criterion(
            "image with treatment beats image alone",
            f">= {LEAST_GAIN} Dice",
            format_spread(gain),
            enough,
            f"Among patients reperfused within 8 h: {format_spread(early_gain)}.",
        ),
        Criterion(
            "what-if volume follows time and TICI",
            f"Spearman > {LEAST_RANK} and < -{LEAST_RANK}",
            f"{format_spread(time)} and {format_spread(grade)}",
            bool(np.mean(time) > LEAST_RANK and np.mean(grade) < -LEAST_RANK),
        ),
        Criterion(
            "oracle labels there and back",
            f">= {LEAST_ROUND_TRIP} Dice",
            f"{least:.4f} at least",
            least >= LEAST_ROUND_TRIP,
            own_grid,
        ),
        Criterion(
            "Monteiro's widths train on 256 x 256 x 24",
            f"< {MOST_GB:.0f} GB",
            f"{gigabytes:.1f} GB",
            gigabytes < MOST_GB,
            first_step,
        ),
    ]


def _tables(rows: Mapping[str, Sequence[Mapping[str, float]]], trips: list) -> dict[str, list[dict[str, Any]]]:
    dice = [
        {"setting": name, "Dice, held-out brains": format_spread(_dice(of_setting)), "seeds": len(of_setting)}
        for name, of_setting in rows.items()
    ]
    there = [
        {"grid": str(grid)} | {k: f"{v:.4f}" for k, v in trip.items()}
        for (grid, _), trip in zip(_trips(), trips, strict=True)
    ]
    return {"Losses and recipes on the same data": dice, "Oracle labels there and back": there}


def _describe_settings(seeds: int) -> dict[str, Any]:
    return {
        "seeds": seeds, "steps": STEPS, "patch": PATCH, "filters": FILTERS, "batch": BATCH,
        "test": f"{NUM_TEST} patches of {TEST_PATCH} in two held-out brains, centred near the lesion",
        "as the source trained": f"SGD with momentum, {RANGES[AS_SOURCE]['centred']:.0%} of patches near the "
        "lesion, no tabular data, Dice without epsilon",
        "reperfused within 8 h": "training and test patients alike; all others: 0.5 to 24 h",
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(peak_gib()))
