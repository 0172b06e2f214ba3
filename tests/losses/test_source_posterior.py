"""Losses and the metric for point-like sources, by hand."""

import keras
import numpy as np
import pytest

from zoo import losses
from zoo.losses import source_posterior
from zoo.metrics import SourceHit, SourceMass

SHAPE = (4, 5, 6)


@pytest.fixture
def case():
    """Two volumes: one with two sources of equal mass, one empty; a mask that leaves a plane out."""
    y = np.zeros((2, *SHAPE, 6), np.float32)
    y[0, 1, 2, 3, 0] = y[0, 2, 1, 0, 0] = 0.5
    y[0, 1, 2, 3, 1:4] = 0.5 * np.array([1, 0, 0])
    y[0, 2, 1, 0, 1:4] = 0.5 * np.array([0, 0.6, 0.8])
    y[:, 1:, ..., 4] = 1
    y[0, ..., 5] = 2
    logits = np.random.default_rng(1).normal(size=(2, *SHAPE, 10)).astype(np.float32)
    return y, logits


def test_location_cross_entropy_asks_for_one_voxel(case):
    y, logits = case
    result = losses.location_cross_entropy(y, logits, mask=y[..., 4:5])
    inside = logits[0, 1:, ..., 0]
    logs = inside - np.log(np.exp(inside).sum())
    expected = -0.5 * (logs[0, 2, 3] + logs[1, 1, 0])
    assert np.asarray(result) == pytest.approx([expected, 0], abs=1e-4)


def test_focal_is_cross_entropy_times_the_squared_error(case):
    y, logits = case
    result = np.asarray(losses.location_focal(y, logits, mask=y[..., 4:5], count=y[..., 5:6]))
    target = y[..., 0] / max(y[..., 0].max(), 1e-9)
    p = 1 / (1 + np.exp(-logits[..., 0].astype(float)))
    each = (target - p) ** 2 * -(target * np.log(p) + (1 - target) * np.log(1 - p)) * y[..., 4]
    assert result == pytest.approx([each[0].sum() / 2, each[1].sum()], rel=1e-4)


def test_the_weights_of_the_source_reward_sources_everywhere(case):
    y, logits = case
    everywhere, nowhere = np.full_like(logits, 12), np.full_like(logits, -12)
    right = np.where(y[..., :1] > 0, 12, -12) * np.ones(10, np.float32)
    values = [float(losses.location_weighted_entropy(y, x)[0]) for x in (everywhere, nowhere, right)]
    assert values[0] < 1e-5 < 1e-1 < values[1]  # saying "everywhere" costs next to nothing
    assert values[2] < values[0]


def test_regression_by_hand(case):
    y, logits = case
    result = np.asarray(losses.location_regression(y, logits, mask=y[..., 4:5], height=3.0))
    target = 3 * (y[..., 0] > 0)
    error = (logits[..., 0] - target) ** 2 * y[..., 4]
    assert result == pytest.approx(error.sum((1, 2, 3)) / 90, rel=1e-4)


def test_count_is_read_from_means_over_the_brain(case):
    y, logits = case
    result = np.asarray(losses.count_entropy(y, logits, mask=y[..., 4:5], count=y[..., 5:6]))
    means = logits[:, 1:, ..., 1:7].mean((1, 2, 3))
    p = np.exp(means) / np.exp(means).sum(1, keepdims=True)
    assert result == pytest.approx([-np.log(p[0, 2]), -np.log(p[1, 0])], rel=1e-4)
    with pytest.raises(ValueError, match="number of sources"):
        losses.count_entropy(y, logits)


def test_misalignment_is_one_minus_cosine(case):
    y, logits = case
    logits[0, 1, 2, 3, 7:] = (5, 0, 0)
    logits[0, 2, 1, 0, 7:] = (2, 0, 0)
    assert np.asarray(losses.moment_misalignment(y, logits)) == pytest.approx([0.5, 0], abs=1e-3)
    logits[0, 1, 2, 3, 7:] = (-5, 0, 0)
    assert float(losses.moment_misalignment(y, logits)[0]) == pytest.approx(1.5, abs=1e-3)


@pytest.mark.parametrize("name", ["location_cross_entropy", "location_focal", "location_weighted_entropy"])
def test_extreme_logits_and_empty_volumes_stay_finite(case, name):
    y, _ = case
    for value in (-80.0, 80.0):
        logits = np.full((2, *SHAPE, 10), value, np.float32)
        assert np.isfinite(np.asarray(getattr(losses, name)(y, logits, mask=y[..., 4:5]))).all()


def test_all_terms_combine_and_come_back_from_their_configuration(case):
    from zoo.tasks import eeg_sources

    y, logits = case
    loss = eeg_sources.loss()
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert float(loss(y, logits)) == pytest.approx(float(again(y, logits)))
    mask, count = y[..., 4:5], y[..., 5:6]
    parts = (
        losses.location_cross_entropy(y, logits, mask=mask),
        0.2 * losses.count_entropy(y, logits, mask=mask, count=count),
        0.1 * losses.moment_misalignment(y, logits),
    )
    assert float(loss(y, logits)) == pytest.approx(float(np.mean(sum(np.asarray(part) for part in parts))), rel=1e-5)


def test_mass_counts_what_is_near_and_skips_empty_volumes(case):
    y, logits = case
    logits[..., 0] = 0
    metric = SourceMass()
    metric.update_state(y, logits)
    assert float(metric.result()) == pytest.approx(2 / 90, rel=1e-4)
    metric.reset_state()
    metric.update_state(y[1:], logits[1:])
    assert np.isnan(float(metric.result()))
    assert source_posterior.MAX_SOURCES == 5


def test_a_hit_is_a_largest_place_near_a_source(case):
    y, logits = case
    near = np.argwhere(y[0, ..., 0] > 0.05 * y[0, ..., 0].max())[0]
    far = np.argwhere((y[0, ..., 0] == 0) & (y[0, ..., 4] > 0))[0]
    for places, expected in (((near, far), 1.0), ((far, near), 0.0)):
        values = logits.copy()
        values[..., 0] = 0
        values[(0, *places[0], 0)], values[(0, *places[1], 0)] = 3.0, 2.0
        metric = SourceHit()
        metric.update_state(y, values)  # the second volume has no source
        assert float(metric.result()) == expected


def test_the_task_asks_for_places_in_four_ways(case):
    from zoo.tasks import eeg_sources

    y, logits = case
    values = {name: float(eeg_sources.loss(name)(y, logits)) for name in eeg_sources.LOCATIONS}
    assert len(set(values.values())) == 4 and np.isfinite(list(values.values())).all()
    assert float(eeg_sources.loss("weighted_entropy", background=1.0)(y, logits)) > values["weighted_entropy"]
    with pytest.raises(ValueError, match="'softmaks'.*softmax"):
        eeg_sources.loss("softmaks")
