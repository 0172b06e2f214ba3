"""The four gates of the task `lacunes`, and an ablation that answers its source's questions; `tools/study` runs them.

Small networks on small patches; all settings of a seed see the same batches and are measured on the same blocks of the
two held-out brains, by both scanners. What is compared is the recipe, not the shipped model, whose own scores on whole
scans stand for gate 4.
"""

import functools
import itertools
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo.training.experiments.study import Found, Gate, kept, spread

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
# Trained and measured where the surroundings are painted, too, which takes sixteen times as long: `gates.py
# lacunes_scales` runs them.
SURROUNDED: dict[str, dict[str, Any]] = {
    "two-scale input": {"loss": BOTH, "context": CONTEXT},
    "one scale, same samples": {"loss": BOTH},
}
GATED = tuple(SETTINGS)[:6]  # on every seed; the others, which no gate asks of, on the first
# A penalty from the first step on teaches a network that finds nothing yet to be silent. Here the base is trained
# first, and goes on for half as many steps with and without the term.
LATE_STEPS = STEPS // 2
LATE: dict[str, dict[str, Any]] = {
    "BCE + Dice, then on": {"loss": BOTH},
    "BCE + Dice, then size of components": {"loss": {**BOTH, "component": 0.3}},
    "BCE + Dice, then location": {"loss": {**BOTH, "location": 30.0}},
}


def task(name: str) -> Any:
    """The task of a setting, with the small network."""
    from zoo.tasks import lacunes

    chosen = lacunes.variant(**{"patch": PATCH} | (SETTINGS | LATE | SURROUNDED)[name])
    return chosen.replace(arguments={**chosen.network.arguments, "filters": FILTERS}, batch_size=BATCH)


@functools.cache
def painters(which: str, *, surrounded: bool = False) -> Any:
    """A synthesis, compiled once for all networks: "train", or the scanner of a test.

    Every sample has the location channels and the map of impossible places; a network is given what its setting says.
    With surroundings there is a second scale in place of the location channels, and blocks have as much around them.
    """
    import tensorflow as tf

    from zoo.synth.anatomy.sources import names
    from zoo.synth.lacunes.scan import FIRST, SCANNERS, Vascular
    from zoo.tasks import lacunes

    chosen = lacunes.variant(patch=PATCH, loss={**BOTH, "location": 1.0}, location_channels=not surrounded)
    if which == "train":
        chosen = chosen.replace(context=CONTEXT) if surrounded else chosen
        return tf.function(lacunes.painter(chosen, names("train"), scanner=FIRST), jit_compile=True)
    ranges = Vascular(lacunes=(0, 4), positive=1.0, perivascular=(3, 9), sulcal=(1, 4), hyperintensities=(1, 4),
                      impossible=(1, 4), deep=1.0)  # fmt: skip
    chosen, margin = chosen.replace(patch=(BLOCK,) * 3), (CONTEXT - 1) * PATCH // 2 if surrounded else 0
    paint = lacunes.painter(chosen, lacunes.HELD_OUT, ranges, SCANNERS[which], margin=margin)
    return tf.function(paint, jit_compile=True)


@functools.lru_cache(maxsize=1)
def batches(seed: int, surrounded: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images with all channels, and lacunes with impossible places, of all training steps."""
    import tensorflow as tf

    from zoo.synth.lacunes.scan import LACUNE

    paint, found = painters("train", surrounded=surrounded), []
    for step in range(STEPS):
        drawn = [paint(tf.constant([seed, step * BATCH + n])) for n in range(BATCH)]
        images = np.stack([image for image, _, _ in drawn]).astype(np.float16)
        labels = [np.stack([kinds == LACUNE, impossible], -1) for _, kinds, impossible in drawn]
        found.append((images, np.stack(labels).astype(np.uint8)))
    return found


@functools.cache
def held_out(scanner: str, surrounded: bool) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Image, kinds of objects, and impossible places of blocks of the held-out brains, and of what is around them."""
    import tensorflow as tf

    paint, found = painters(scanner, surrounded=surrounded), []
    for number in range(NUM_TEST):
        image, kinds, places = (each.numpy() for each in paint(tf.constant([62000, number])))
        found.append((image.astype(np.float16), kinds.astype(np.uint8), places))
    return found


def trained(chosen: Any, seed: int, *, after: Any = None, surrounded: bool = False) -> Any:
    """A network after `STEPS` steps, or after `LATE_STEPS` more than `after` had, with its averaged weights."""
    import keras

    from zoo.devices import policy
    from zoo.training import batches as sources
    from zoo.training import network
    from zoo.training.optimizers import set_final_bias

    keras.utils.set_random_seed(seed)
    channels, maps, fed = chosen.num_channels, 1 + len(chosen.synthesis.maps), batches(seed, surrounded)
    steps = STEPS if after is None else LATE_STEPS
    with network.dtype_policy(policy("auto")):
        model = network.build(chosen, steps)
    if after is None:
        prior = sources.prior(chosen, ((image, labels.astype(np.int32)) for image, labels in fed[:64]))
        set_final_bias(model, [share**chosen.fit.prior_power for share in prior])
    else:
        model.set_weights(after.get_weights())
    for image, labels in fed[:steps]:
        model.train_on_batch(image[..., :channels].astype(np.float32), labels[..., :maps].astype(np.int32))
    model.optimizer.finalize_variable_values(model.trainable_weights)
    return model


@functools.lru_cache(maxsize=1)
def base(seed: int) -> Any:
    """The network that the terms of `LATE` are added to."""
    return trained(task(BASE), seed)


def measured(name: str, seed: int) -> dict[str, float]:
    """One network's row: lesion-wise scores at a probability of one half, no filter, on both scanners."""
    chosen = task(name)
    surrounded = name in SURROUNDED
    model, row = trained(chosen, seed, after=base(seed) if name in LATE else None, surrounded=surrounded), {}
    for prefix, scanner in {"": "first", "second_": "second"}.items():
        found = scored(model, chosen, held_out(scanner, surrounded))
        row |= {prefix + key: value for key, value in found.items()}
    return row


def scored(model: Any, chosen: Any, blocks: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Sensitivity, precision, F1, and false positives a block: all, at impossible places, on perivascular spaces."""
    from zoo.evaluation.lesions import match_lesions, pool_scores
    from zoo.inference.compiled_network import prepare
    from zoo.inference.sliding_window import sliding_window
    from zoo.synth.lacunes.placement import KINDS
    from zoo.synth.lacunes.scan import LACUNE

    forward = prepare(model, precision="auto")
    matchings = []
    for image, all_kinds, places in blocks:
        volume, block = image[..., : len(chosen.data.channels)].astype(np.float32), _block(image.shape)
        asked = np.zeros(image.shape[:3], bool)
        asked[block] = True
        found = sliding_window(
            forward, volume, patch=chosen.data.patch, overlap=OVERLAP, activation="sigmoid", batch_size=8, skip=asked,
            context=chosen.data.context,
        )[block]  # fmt: skip
        kinds, impossible = all_kinds[block], places[block]
        # What a false positive lies on: its mimic, or 10 more where no lacune can be.
        regions = kinds + 10 * impossible
        matchings.append(match_lesions(found[..., 0] > 0.5, kinds == LACUNE, chosen.data.spacing_mm, regions=regions))
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


def run(seeds: int, work: pathlib.Path) -> Found:
    """All gates; settings that no gate asks of on one seed."""
    rows: dict[str, list[Mapping[str, float]]] = {name: [] for name in SETTINGS | LATE}
    for seed, name in itertools.product(range(seeds), rows):
        if seed == 0 or name in GATED or name in LATE:
            row = kept(work / f"{name}_{seed}.json", functools.partial(measured, name, seed))
            rows[name].append(row)
            print(name, seed, row, file=sys.stderr, flush=True)
    return Found(_gates(rows), {"Ablation on the same data": table(rows)}, told(seeds))


def _of(rows: Sequence[Mapping[str, float]], key: str) -> list[float]:
    return [row[key] for row in rows]


def _fewer(base: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]], key: str) -> float:
    """Share of the false positives that are gone, of the means over seeds."""
    return float(1 - np.mean(_of(other, key)) / max(np.mean(_of(base, key)), 1e-9))


def _gates(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Gate]:
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
        Gate(
            "plain BCE finds nothing, weighted BCE and Dice do",
            f"sensitivity < {PLAIN_MOST}, > {CURED_LEAST}, > {CURED_LEAST}",
            f"{spread(plain)}, {spread(weighted)}, {spread(dice)}",
            bool(learned),
        ),
        Gate(
            "the size term removes false positives",
            f">= {FEWER_FP:.0%} fewer an image, sensitivity at most {LOST_SENSITIVITY} lower",
            f"{gone:.0%} fewer ({spread(_of(base, 'fp'))} to {spread(_of(sized, 'fp'))}), {lost:+.3f} lower",
            gone >= FEWER_FP and lost <= LOST_SENSITIVITY,
            "Added to a trained network; from the first step on it costs sensitivity, see the table.",
        ),
        Gate(
            "the location term removes them where no lacune can be",
            f">= {FEWER_IMPOSSIBLE:.0%} fewer there, elsewhere within {OTHER_CHANGE:.0%}",
            f"{nowhere:.0%} fewer ({spread(_of(base, 'fp_impossible'))} to {spread(_of(placed, 'fp_impossible'))}), "
            f"elsewhere {other:+.0%}",
            nowhere >= FEWER_IMPOSSIBLE and abs(other) <= OTHER_CHANGE,
        ),
        Gate(
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
        {"setting": name} | {title: spread(_of(found, key)) for title, key in columns.items()} | {"seeds": len(found)}
        for name, found in rows.items()
    ]


def told(seeds: int) -> dict[str, Any]:
    return {
        "seeds": seeds, "steps": STEPS, "patch": PATCH, "batch": BATCH, "filters": FILTERS,
        "base": f"{BASE}, leaky ReLU, Adam; a setting with + adds to it, one with 'then' goes on from it for "
        f"{LATE_STEPS} steps",
        "test": f"{NUM_TEST} blocks of {BLOCK} mm a side in two held-out brains by each scanner (an image is such a "
        "block); a component above a probability of one half counts, no filter",
    }  # fmt: skip
