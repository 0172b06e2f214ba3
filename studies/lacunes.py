"""The four gates of the task `lacunes`, and an ablation that answers its source's questions; `tools/study` runs them.

Small networks on small patches; all settings of a seed see the same batches and are measured on the same blocks of the
two held-out brains, by both scanners. What is compared is the recipe, not the shipped model, whose own scores on whole
scans stand for the last criterion.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo.training.experiments.study import Criterion, StudyResult, format_spread, measure_settings, train_on

STEPS, PATCH, BATCH, FILTERS, CONTEXT = 260, 32, 4, (8, 16, 32), 4
BLOCK, NUM_TEST, OVERLAP = 96, 10, 0.25
BASE = "BCE + Dice"
SHIPPED = "unet3d.lacunes"
PLAIN_MOST, CURED_LEAST = 0.1, 0.5
FEWER_FP, LOST_SENSITIVITY = 0.3, 0.1
FEWER_IMPOSSIBLE, OTHER_CHANGE = 0.7, 0.1
IN_DOMAIN, ABROAD = 0.7, 0.5
# Name -> arguments of `zoo.tasks.lacunes.variant`.
BOTH = {"cross_entropy": 5.0, "dice": 1.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain BCE": {"loss": {"cross_entropy": 1.0}},
    "weighted BCE": {"loss": {"weighted_cross_entropy": 1.0}},
    "two-class Dice": {"loss": {"two_class_dice": 1.0}},
    BASE: {"loss": BOTH},
    "+ size of components": {"loss": {**BOTH, "component": 0.1}},
    "+ location": {"loss": {**BOTH, "location": 10.0}},
    "weighted BCE + Dice": {"loss": {"weighted_cross_entropy": 1.0, "dice": 1.0}},
    "Dice, epsilon 1000": {"loss": {"two_class_dice": 1.0, "epsilon": 1000.0}},
    "Dice of batches that have lacunes": {"loss": {"dice": 1.0}},
    "focal": {"loss": {"focal": 1.0}},
    "Tversky": {"loss": {"tversky": 1.0}},
    "Dice + blob": {"loss": {"dice": 2.0, "blob": 1.0}},
    "+ size and elongation of components": {"loss": {**BOTH, "elongation": 0.1}},
    "+ size of all (Kervadec)": {"loss": {**BOTH, "size": 0.01}},
    "+ boundary": {"loss": {**BOTH, "boundary": 0.01}},
    "+ location channels": {"loss": BOTH, "location_channels": True},
    "ELU, Adam": {"loss": BOTH, "activation": "elu"},
    "leaky ReLU, Adadelta": {"loss": BOTH, "optimizer": "adadelta"},
    "ELU, Adadelta": {"loss": BOTH, "activation": "elu", "optimizer": "adadelta"},
}
# Trained and measured where the surroundings are painted, too, which takes sixteen times as long: `tools/study
# lacunes_scales` runs them.
SURROUNDED: dict[str, dict[str, Any]] = {
    "two-scale input": {"loss": BOTH, "context": CONTEXT},
    "one scale, same samples": {"loss": BOTH},
}
ON_EVERY_SEED = tuple(SETTINGS)[:6]  # the others, which no criterion asks of, on the first alone
# A penalty from the first step on teaches a network that finds nothing yet to be silent. Here the base is trained
# first, and goes on for half as many steps with and without the term.
LATE_STEPS = STEPS // 2
LATE: dict[str, dict[str, Any]] = {
    "BCE + Dice, then on": {"loss": BOTH},
    "BCE + Dice, then size of components": {"loss": {**BOTH, "component": 0.3}},
    "BCE + Dice, then location": {"loss": {**BOTH, "location": 30.0}},
}


def small_task(name: str) -> Any:
    """Returns the task of a setting, with the small network."""
    from zoo.tasks import lacunes

    task = lacunes.variant(**{"patch": PATCH} | (SETTINGS | LATE | SURROUNDED)[name])
    return task.replace(arguments={**task.network.arguments, "filters": FILTERS}, batch_size=BATCH)


@functools.cache
def compile_painter(which: str, *, surrounded: bool = False) -> Any:
    """Compiles a synthesis once for all networks: "train", or the scanner of a test.

    Every sample has the location channels and the map of impossible places; a network is given what its setting says.
    With surroundings there is a second scale in place of the location channels, and blocks have as much around them.
    """
    import tensorflow as tf

    from zoo.synth.anatomy.sources import names
    from zoo.synth.lacunes.scan import FIRST, SCANNERS, Vascular
    from zoo.tasks import lacunes

    task = lacunes.variant(patch=PATCH, loss={**BOTH, "location": 1.0}, location_channels=not surrounded)
    if which == "train":
        task = task.replace(context=CONTEXT) if surrounded else task
        return tf.function(lacunes.painter(task, names("train"), scanner=FIRST), jit_compile=True)
    ranges = Vascular(lacunes=(0, 4), positive=1.0, perivascular=(3, 9), sulcal=(1, 4), hyperintensities=(1, 4),
                      impossible=(1, 4), deep=1.0)  # fmt: skip
    task, margin = task.replace(patch=(BLOCK,) * 3), (CONTEXT - 1) * PATCH // 2 if surrounded else 0
    paint = lacunes.painter(task, lacunes.HELD_OUT, ranges, SCANNERS[which], margin=margin)
    return tf.function(paint, jit_compile=True)


@functools.lru_cache(maxsize=1)
def draw_batches(seed: int, surrounded: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns images with all channels, and lacunes with impossible places, of all training steps."""
    import tensorflow as tf

    from zoo.synth.lacunes.scan import LACUNE

    paint, samples = compile_painter("train", surrounded=surrounded), []
    for step in range(STEPS):
        drawn = [paint(tf.constant([seed, step * BATCH + n])) for n in range(BATCH)]
        images = np.stack([image for image, _, _ in drawn]).astype(np.float16)
        labels = [np.stack([kinds == LACUNE, impossible], -1) for _, kinds, impossible in drawn]
        samples.append((images, np.stack(labels).astype(np.uint8)))
    return samples


@functools.cache
def draw_held_out(scanner: str, surrounded: bool) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns image, kinds of objects and impossible places of held-out blocks, and of what is around them."""
    import tensorflow as tf

    paint, blocks = compile_painter(scanner, surrounded=surrounded), []
    for number in range(NUM_TEST):
        image, kinds, places = (each.numpy() for each in paint(tf.constant([62000, number])))
        blocks.append((image.astype(np.float16), kinds.astype(np.uint8), places))
    return blocks


def train(task: Any, seed: int, *, start: Any = None, surrounded: bool = False) -> Any:
    """Trains for `STEPS` steps, or from the weights of `start` for `LATE_STEPS`; the weights are the averaged ones."""
    channels, maps = task.num_channels, 1 + len(task.synthesis.maps)
    steps = STEPS if start is None else LATE_STEPS
    samples = [(image[..., :channels], labels[..., :maps]) for image, labels in draw_batches(seed, surrounded)[:steps]]
    return train_on(task, samples, seed=seed, start=start, prior_batches=64)


@functools.lru_cache(maxsize=1)
def train_base(seed: int) -> Any:
    """Trains the network that the terms of `LATE` are added to."""
    return train(small_task(BASE), seed)


def measure(name: str, seed: int) -> dict[str, float]:
    """Returns one network's lesion-wise scores at a probability of one half, no filter, on both scanners."""
    task, surrounded = small_task(name), name in SURROUNDED
    model = train(task, seed, start=train_base(seed) if name in LATE else None, surrounded=surrounded)
    row: dict[str, float] = {}
    for prefix, scanner in {"": "first", "second_": "second"}.items():
        scores = score(model, task, draw_held_out(scanner, surrounded))
        row |= {prefix + key: value for key, value in scores.items()}
    return row


def score(model: Any, task: Any, blocks: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Returns sensitivity, precision, F1, and false positives a block: all, impossible and perivascular ones."""
    from zoo.evaluation.lesions import match_lesions, pool_scores
    from zoo.inference.compiled_network import prepare
    from zoo.inference.sliding_window import sliding_window
    from zoo.synth.lacunes.placement import KINDS
    from zoo.synth.lacunes.scan import LACUNE

    forward = prepare(model, precision="auto")
    matchings = []
    for image, all_kinds, places in blocks:
        volume, block = image[..., : len(task.data.channels)].astype(np.float32), _block(image.shape)
        inside = np.zeros(image.shape[:3], bool)
        inside[block] = True
        probability = sliding_window(
            forward, volume, patch=task.data.patch, overlap=OVERLAP, activation="sigmoid", batch_size=8, skip=inside,
            context=task.data.context,
        )[block]  # fmt: skip
        kinds, impossible = all_kinds[block], places[block]
        # What a false positive lies on: its mimic, or 10 more where no lacune can be.
        regions = kinds + 10 * impossible
        matchings.append(
            match_lesions(probability[..., 0] > 0.5, kinds == LACUNE, task.data.spacing_mm, regions=regions)
        )
    scores = pool_scores(matchings)
    false = [lesion.region for matching in matchings for lesion in matching.prediction if not lesion.matches]
    tube = 1 + KINDS.index("perivascular")
    return {
        **{key: scores[key] for key in ("sensitivity", "precision", "f1", "dice_of_hits")},
        "fp": scores["fp_per_image"],
        "fp_impossible": sum(region >= 10 for region in false) / NUM_TEST,
        "fp_elsewhere": sum(region < 10 for region in false) / NUM_TEST,
        "fp_perivascular": sum(region % 10 == tube for region in false) / NUM_TEST,
    }


def _block(shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice((size - BLOCK) // 2, (size + BLOCK) // 2) for size in shape[:3])


def shipped() -> dict[str, Mapping[str, float]]:
    """The shipped model's scores on whole scans of each scanner, from its card; empty where it is not there."""
    from zoo.hub import trained_models

    try:
        metrics = trained_models.card(SHIPPED).metrics
    except (OSError, ValueError):
        return {}
    return {scanner: metrics[f"held-out donors, {scanner} scanner"] for scanner in ("first", "second")}


def run(seeds: int, work: pathlib.Path) -> StudyResult:
    """Measures all criteria; settings that no criterion asks of on one seed."""
    once = set(SETTINGS) - set(ON_EVERY_SEED)
    rows = measure_settings(SETTINGS | LATE, seeds, work, measure, first_seed_only=once)
    return StudyResult(_criteria(rows), {"Ablation on the same data": table(rows)}, describe_settings(seeds))


def _of(rows: Sequence[Mapping[str, float]], key: str) -> list[float]:
    return [row[key] for row in rows]


def _fewer(base: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]], key: str) -> float:
    """Share of the false positives that are gone, of the means over seeds."""
    return float(1 - np.mean(_of(other, key)) / max(np.mean(_of(base, key)), 1e-9))


def _of_both(base: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]], key: str) -> str:
    return f"{format_spread(_of(base, key))} to {format_spread(_of(other, key))}"


def _criteria(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Criterion]:
    plain, weighted, dice = (_of(rows[name], "sensitivity") for name in ("plain BCE", "weighted BCE", "two-class Dice"))
    base, sized, placed = (rows[name] for name in LATE)
    gone, lost = (
        _fewer(base, sized, "fp"),
        float(np.mean(_of(base, "sensitivity")) - np.mean(_of(sized, "sensitivity"))),
    )
    nowhere, other = _fewer(base, placed, "fp_impossible"), -_fewer(base, placed, "fp_elsewhere")
    learned = np.mean(plain) < PLAIN_MOST and min(np.mean(weighted), np.mean(dice)) > CURED_LEAST
    model = shipped()
    f1 = [model[scanner]["f1"] for scanner in ("first", "second")] if model else [0.0, 0.0]
    return [
        Criterion(
            "plain BCE finds nothing, weighted BCE and Dice do",
            f"sensitivity < {PLAIN_MOST}, > {CURED_LEAST}, > {CURED_LEAST}",
            f"{format_spread(plain)}, {format_spread(weighted)}, {format_spread(dice)}",
            bool(learned),
        ),
        Criterion(
            "the size term removes false positives",
            f">= {FEWER_FP:.0%} fewer an image, sensitivity at most {LOST_SENSITIVITY} lower",
            f"{gone:.0%} fewer ({_of_both(base, sized, 'fp')}), {lost:+.3f} lower",
            gone >= FEWER_FP and lost <= LOST_SENSITIVITY,
            "Added to a trained network; from the first step on it costs sensitivity, see the table.",
        ),
        Criterion(
            "the location term removes them where no lacune can be",
            f">= {FEWER_IMPOSSIBLE:.0%} fewer there, elsewhere within {OTHER_CHANGE:.0%}",
            f"{nowhere:.0%} fewer ({_of_both(base, placed, 'fp_impossible')}), elsewhere {other:+.0%}",
            nowhere >= FEWER_IMPOSSIBLE and abs(other) <= OTHER_CHANGE,
        ),
        Criterion(
            "F1 of the shipped model on whole scans",
            f">= {IN_DOMAIN} in domain, >= {ABROAD} on the second scanner",
            f"{f1[0]:.3f}, {f1[1]:.3f}" if model else "no shipped model",
            f1[0] >= IN_DOMAIN and f1[1] >= ABROAD,
        ),
    ]


def table(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> list[dict[str, Any]]:
    columns = {
        "sensitivity": "sensitivity", "F1": "f1", "FP an image": "fp", "FP on perivascular spaces": "fp_perivascular",
        "FP at impossible places": "fp_impossible", "Dice of hits": "dice_of_hits",
        "F1, second scanner": "second_f1", "FP an image, second scanner": "second_fp",
    }  # fmt: skip
    return [
        {"setting": name}
        | {title: format_spread(_of(of_setting, key)) for title, key in columns.items()}
        | {"seeds": len(of_setting)}
        for name, of_setting in rows.items()
    ]


def describe_settings(seeds: int) -> dict[str, Any]:
    return {
        "seeds": seeds, "steps": STEPS, "patch": PATCH, "batch": BATCH, "filters": FILTERS,
        "base": f"{BASE}, leaky ReLU, Adam; a setting with + adds to it, one with 'then' goes on from it for "
        f"{LATE_STEPS} steps",
        "test": f"{NUM_TEST} blocks of {BLOCK} mm a side in two held-out brains by each scanner (an image is such a "
        "block); a component above a probability of one half counts, no filter",
    }  # fmt: skip
