"""The progress bar's metrics against the evaluation's on the same arrays."""

import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo import losses, metrics
from zoo.evaluation import overlap

SHAPE = (2, 8, 10, 12)


def data(seed=0, num_classes=3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, (*SHAPE, 1))
    logits = rng.normal(size=(*SHAPE, num_classes)) + 2 * np.eye(num_classes)[labels[..., 0]]
    return labels, logits.astype(np.float32)


def by_evaluation(batches):
    """Mean over classes of the mean over samples of Dice."""
    scores = {1: [], 2: []}
    for labels, logits in batches:
        for sample, guess in zip(labels[..., 0], logits.argmax(-1), strict=True):
            for label, row in scores.items():
                row.append(overlap.dice(guess == label, sample == label))
    return np.mean([np.nanmean(row) for row in scores.values()])


def test_streams_to_the_dice_of_the_evaluation():
    batches = [data(0), data(1)]
    batches[1][0][0] = 1
    batches[1][1][0, ..., 2] = -99  # class 2 is neither there nor predicted: that sample is left out
    metric = metrics.MeanDice(3)
    for labels, logits in batches:
        metric.update_state(labels, logits)
    assert float(metric.result()) == pytest.approx(by_evaluation(batches), rel=1e-5)
    metric.reset_state()
    assert math.isnan(float(metric.result()))


def test_every_second_voxel():
    labels, logits = data()
    sparse, cut = metrics.MeanDice(3, every=2), metrics.MeanDice(3)
    sparse.update_state(labels, logits)
    cut.update_state(labels[:, ::2, ::2, ::2], logits[:, ::2, ::2, ::2])
    assert float(sparse.result()) == float(cut.result())
    assert metrics.MeanDice.from_config(sparse.get_config()).every == 2


def test_one_hot_targets_and_a_single_logit():
    labels, logits = data()
    first, second = metrics.MeanDice(3), metrics.MeanDice(3)
    first.update_state(labels, logits)
    second.update_state(np.eye(3)[labels[..., 0]], logits)
    assert float(first.result()) == pytest.approx(float(second.result()))
    single = metrics.MeanDice(1)
    mask, logit = labels > 0, logits[..., 1:2]
    single.update_state(mask, logit)
    expected = [overlap.dice(logit[i, ..., 0] > 0, mask[i, ..., 0]) for i in range(2)]
    assert float(single.result()) == pytest.approx(np.mean(expected), rel=1e-5)


def test_background_counts_on_request():
    labels, logits = data()
    with_it = metrics.MeanDice(3, include_background=True)
    with_it.update_state(labels, logits)
    guess = logits.argmax(-1)
    expected = [overlap.dice(guess[i] == c, labels[i, ..., 0] == c) for i in range(2) for c in range(3)]
    assert float(with_it.result()) == pytest.approx(np.mean(expected), rel=1e-5)


def test_masks_and_sample_weights():
    labels, logits = data()
    mask = np.zeros((*SHAPE, 1))
    mask[:, :5] = 1
    other = np.full((*SHAPE, 1), 7.0)
    masked, cropped = metrics.MeanDice(3, maps=("weight", "mask")), metrics.MeanDice(3)
    masked.update_state(np.concatenate([labels, other, mask], -1), logits)
    cropped.update_state(labels[:, :5], logits[:, :5])
    assert float(masked.result()) == pytest.approx(float(cropped.result()), rel=1e-6)
    weighted, alone = metrics.MeanDice(3), metrics.MeanDice(3)
    weighted.update_state(labels, logits, sample_weight=np.array([1.0, 0.0]))
    alone.update_state(labels[:1], logits[:1])
    assert float(weighted.result()) == pytest.approx(float(alone.result()), rel=1e-6)


def test_foreground_ratio():
    labels, logits = data()
    metric = metrics.ForegroundRatio()
    assert math.isnan(float(metric.result()))
    metric.update_state(labels, logits)
    metric.update_state(labels, logits)
    assert float(metric.result()) == pytest.approx((logits.argmax(-1) > 0).sum() / (labels > 0).sum(), rel=1e-5)


def test_in_compile_and_in_a_saved_configuration():
    inputs = keras.Input((8, 10, 12, 1))
    model = keras.Model(inputs, keras.layers.Conv3D(3, 1)(inputs))
    model.compile(loss=losses.dice, metrics=[metrics.MeanDice(3), metrics.ForegroundRatio()])
    history = model.fit(np.ones((*SHAPE, 1)), data()[0], epochs=1, verbose=0).history
    assert set(history) == {"loss", "dice", "foreground_ratio"}
    again = metrics.MeanDice.from_config(metrics.MeanDice(4, include_background=True, maps=("mask",)).get_config())
    assert (again.num_classes, again.include_background, again.maps) == (4, True, ("mask",))
    assert metrics.ForegroundRatio.from_config(metrics.ForegroundRatio(maps=("mask",)).get_config()).maps == ("mask",)


@pytest.mark.parametrize("xla", [False, True])
def test_compiled_equals_eager(xla):
    labels, logits = data()
    eager, graph = metrics.MeanDice(3), metrics.MeanDice(3)
    eager.update_state(labels, logits)
    tf.function(graph.update_state, jit_compile=xla)(tf.constant(labels), tf.constant(logits))
    assert float(graph.result()) == pytest.approx(float(eager.result()), rel=1e-6)


@pytest.mark.slow
def test_jax_gives_the_same():
    code = (
        "import numpy as np, test_metrics as t; m = t.metrics.MeanDice(3); m.update_state(*t.data()); "
        "print(float(m.result()))"
    )
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.path.dirname(__file__),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, env=environment, timeout=200, capture_output=True, text=True
    )
    ours = metrics.MeanDice(3)
    ours.update_state(*data())
    assert float(done.stdout.split()[-1]) == pytest.approx(float(ours.result()), rel=1e-6)
