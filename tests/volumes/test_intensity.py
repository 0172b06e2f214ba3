"""Intensity lines against NumPy's own arithmetic."""

import numpy as np
import pytest

from zoo.volumes.intensity import measure

VOLUME = np.random.default_rng(0).normal(300, 60, (16, 24, 32)).astype(np.int16)
VOLUME[:4] = 0


def applied(*steps):
    return measure(VOLUME, steps).apply(VOLUME)


def test_no_step_changes_nothing():
    np.testing.assert_array_equal(applied(), VOLUME.astype(np.float32))


def test_z_score_of_the_volume_and_of_its_head():
    plain = applied({"name": "z_score"})
    np.testing.assert_allclose(plain, (VOLUME - VOLUME.mean()) / VOLUME.std(), atol=1e-5)
    masked, head = applied({"name": "z_score", "mask": "nonzero"}), VOLUME[VOLUME != 0]
    np.testing.assert_allclose(masked[VOLUME != 0], (head - head.mean()) / head.std(), atol=1e-5)
    assert (masked[:4] == 0).all()


def test_z_score_is_exact_far_from_zero():
    volume = (VOLUME.astype(np.float32) - 300) * 1e-3 + 1e4
    line = measure(volume, [{"name": "z_score"}])
    assert line.offset == pytest.approx(volume.mean(dtype=np.float64), rel=1e-9)
    assert 1 / line.scale == pytest.approx(volume.std(dtype=np.float64), rel=1e-4)


def test_clips_come_before_the_line():
    low, high = np.percentile(VOLUME[VOLUME != 0], (1, 99))
    clipped = np.clip(VOLUME, low, high)
    steps = ({"name": "clip_percentiles", "low": 1, "high": 99, "mask": "nonzero"}, {"name": "z_score"})
    np.testing.assert_allclose(applied(*steps), (clipped - clipped.mean()) / clipped.std(), atol=1e-5)
    steps = ({"name": "clip", "low": 100, "high": 400}, {"name": "range"})
    np.testing.assert_allclose(applied(*steps), (np.clip(VOLUME, 100, 400) - 100) / 300, atol=1e-6)


def test_range_and_maximum():
    np.testing.assert_allclose(applied({"name": "range", "low": -100, "high": 100}), (VOLUME + 100) / 200, atol=1e-5)
    assert applied({"name": "maximum"}).max() == 1
    constant = np.full((16, 24, 32), 7, np.int16)
    for name in ("z_score", "range"):
        assert (measure(constant, [{"name": name}]).apply(constant) == 0).all()


def test_unknown_steps_and_settings():
    with pytest.raises(ValueError, match=r"no intensity step 'zscore'\. Did you mean 'z_score'\?"):
        applied({"name": "zscore"})
    with pytest.raises(ValueError, match=r"setting of the intensity step 'clip': 'lower'\. Did you mean 'low'"):
        applied({"name": "clip", "lower": 1})


def head(background):
    """A ball of 100 to 200 in even air."""
    x, y, z = np.ogrid[:32, :32, :32]
    ball = (x - 16) ** 2 + (y - 16) ** 2 + (z - 16) ** 2 < 12**2
    return np.where(ball, np.random.default_rng(0).uniform(100, 200, ball.shape), background)


def test_the_maximum_step_is_that_of_the_head_without_spikes_and_from_its_own_air():
    clean = head(0.0)
    usual = measure(clean, [{"name": "maximum"}]).apply(clean)
    np.testing.assert_allclose(usual, clean / clean.max(), rtol=1e-6)
    hot = clean.copy()
    hot[1, 2, 3] = hot[9, 9, 9] = 1e6
    difference = np.abs(measure(hot, [{"name": "maximum"}]).apply(hot) * 1.5 - usual)
    assert np.sort(difference.ravel())[-3] < 0.01  # a factor of 1.5, wherever the spikes are
    low = np.where(clean == 0, -1000.0, clean)
    shifted = measure(low, [{"name": "maximum"}]).apply(low)
    np.testing.assert_allclose(shifted, (low + 1000) / (low.max() + 1000), rtol=1e-6)
