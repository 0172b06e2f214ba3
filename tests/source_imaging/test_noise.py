"""Noise: what is measured, whitened, and told from a signal, against noise of a known covariance."""

import numpy as np
import pytest

from zoo.source_imaging import noise

CHANNELS = 32


def coloured(times, *, seed=0, smooth=1):
    """Noise of six strong patterns over a white floor, correlated over `smooth` samples."""
    random = np.random.default_rng(seed)
    patterns = np.random.default_rng(9).standard_normal((CHANNELS, 6)) * [5, 4, 3, 2, 2, 1]
    data = patterns @ random.standard_normal((6, times + smooth)) + random.standard_normal((CHANNELS, times + smooth))
    data = np.apply_along_axis(np.convolve, 1, data, np.ones(smooth) / np.sqrt(smooth), "same")[:, :times]
    return 1e-6 * (data - data.mean(0))


def test_noise_that_it_was_not_measured_on_has_a_power_of_one():
    powers = []
    for seed in range(6):
        whitening = noise.measure_noise(coloured(60, seed=seed), "the baseline").whiten()
        powers.append(np.mean([whitening.power(one) for one in coloured(50, seed=100 + seed).T]))
    assert np.mean(powers) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("smooth", [1, 6])
def test_the_largest_of_many_topographies_of_noise_passes_seldom(smooth):
    passed = 0
    for seed in range(12):
        whitening = noise.measure_noise(coloured(120, seed=seed, smooth=smooth), "the baseline").whiten()
        searched = coloured(100, seed=200 + seed, smooth=smooth)
        looks = noise.independent_samples(searched, of_power=True)
        largest = searched[:, np.square(searched).sum(0).argmax()]
        passed += whitening.chance(largest, looks=looks) < noise.LEVEL
    assert passed <= 1


def test_a_signal_in_a_quiet_direction_stands_out_though_it_is_weaker_than_the_noise():
    whitening = noise.measure_noise(coloured(400), "the baseline").whiten()
    loud = np.random.default_rng(9).standard_normal((CHANNELS, 6))[:, 0]
    quiet = np.linalg.svd(coloured(400))[0][:, -2]
    loud = (loud - loud.mean()) / np.linalg.norm(loud - loud.mean())
    assert whitening.chance(12e-6 * quiet) < 1e-3 < 0.2 < whitening.chance(12e-6 * loud)


def test_independent_samples_follow_the_correlation():
    assert noise.independent_samples(coloured(600)) == pytest.approx(600, rel=0.25)
    assert noise.independent_samples(coloured(600, smooth=6)) == pytest.approx(100, rel=0.35)


def test_fewer_than_ten_samples_or_flat_ones_are_no_measure_of_noise():
    assert noise.measure_noise(coloured(9), "the baseline") is None
    assert noise.measure_noise(np.zeros((CHANNELS, 50)), "the baseline") is None
