"""Acquisition: draws in their ranges, identity untouched, blur, slices, noise and ghosts against hand arithmetic."""

import dataclasses

import numpy as np
import pytest
from keras import ops
from scipy import ndimage, stats

from zoo.synth import acquisition

SHAPE = (16, 24, 32)


def image(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).uniform(0, 200, shape).astype("f")


def acquired(volume, ranges, seed=0, **arguments):
    params = acquisition.draw(seed, volume.shape, ranges)
    return np.asarray(acquisition.apply(ops.convert_to_tensor(volume), params, **arguments))


def quiet(**changes):
    return dataclasses.replace(acquisition.IDENTITY, **changes)


@pytest.fixture(scope="module")
def draws():
    drawn = ops.vectorized_map(lambda seed: acquisition.draw(seed, SHAPE), ops.arange(10_000))
    return {name: np.asarray(value) for name, value in drawn.items()}


@pytest.mark.parametrize(("name", "low", "high"), [("bias_sd", 0, 0.7), ("noise", 0, 0.05), ("ghost_shift", 0.2, 0.8)])
def test_draws_follow_their_range(draws, name, low, high):
    assert stats.kstest(draws[name], stats.uniform(low, high - low).cdf).pvalue > 1e-4


def test_gamma_and_bias_are_log_normal(draws):
    assert stats.kstest(draws["log_gamma"], stats.norm(0, 0.5).cdf).pvalue > 1e-4
    assert stats.kstest((draws["bias"][:, 0, 0, 0] / draws["bias_sd"]), "norm").pvalue > 1e-4


def test_resolution_is_isotropic_to_4_mm_or_one_axis_to_8_mm(draws):
    resolution = draws["resolution_mm"]
    same = (resolution == resolution[:, :1]).all(axis=1)
    assert abs(same.mean() - 0.5) < 0.03
    assert stats.kstest(resolution[same][:, 0], stats.uniform(1, 3).cdf).pvalue > 1e-4
    sliced = resolution[~same]
    assert ((sliced > 1).sum(axis=1) == 1).all()
    assert stats.kstest(sliced.max(axis=1), stats.uniform(1, 7).cdf).pvalue > 1e-4
    for axis in range(3):
        assert abs((sliced.argmax(axis=1) == axis).mean() - 1 / 3) < 0.03


def test_blur_is_three_quarters_of_the_ratio(draws):
    ratio = draws["blur"] / draws["resolution_mm"]
    assert ratio.min() > 0.75 / 1.15 - 1e-4 and ratio.max() < 0.75 * 1.15 + 1e-4


def test_ghosts_are_rare_and_along_one_axis(draws):
    ghosted = draws["ghost"].max(axis=1) > 0
    assert abs(ghosted.mean() - 0.1) < 0.015
    assert ((draws["ghost"] > 0).sum(axis=1) <= 1).all()


def test_identity_only_scales_to_the_unit_range():
    volume = image()
    expected = (volume - volume.min()) / (volume.max() - volume.min())
    np.testing.assert_allclose(acquired(volume, acquisition.IDENTITY), expected, atol=2e-6)


def test_slices_of_ratio_one_and_no_blur_are_the_identity():
    unit = ops.ones(())
    np.testing.assert_allclose(acquisition.slices(24, unit, 0 * unit), np.eye(24), atol=1e-6)


@pytest.mark.parametrize("sigma", [0.75, 1.5, 2.0])
def test_blur_agrees_with_scipy(sigma):
    volume = image(1, (24, 32, 40))
    params = {
        "resolution_mm": ops.ones(3),
        "blur": sigma * ops.ones(3),
        "ghost": ops.zeros(3),
        "ghost_shift": 0.5,
    }
    ours = np.asarray(acquisition.blurred(ops.convert_to_tensor(volume), params))
    expected = ndimage.gaussian_filter(volume, sigma, truncate=8)
    inside = tuple(slice(10, -10) for _ in range(3))
    np.testing.assert_allclose(ours[inside], expected[inside], rtol=1e-3)


@pytest.mark.parametrize("ratio", [2.0, 3.5, 8.0])
def test_slices_keep_constants_and_ramps(ratio):
    matrix = np.asarray(acquisition.slices(64, ops.convert_to_tensor(ratio), ops.convert_to_tensor(0.75 * ratio)))
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5)
    ramp = matrix @ np.arange(64)
    np.testing.assert_allclose(ramp[24:40], np.arange(24, 40), atol=0.02)


def test_thick_slices_are_linear_between_centres():
    matrix = np.asarray(acquisition.slices(33, ops.convert_to_tensor(4.0), ops.convert_to_tensor(3.0)))
    line = matrix @ np.random.default_rng(0).normal(size=33)
    bends = np.abs(np.diff(line, 2)) > 1e-5
    assert set(np.flatnonzero(bends) + 1) <= {4, 8, 12, 16, 20, 24, 28}


def test_bias_is_smooth_positive_and_one_without_variance():
    np.testing.assert_allclose(acquisition.bias_field(ops.zeros((2, 2, 2)), SHAPE), np.ones(SHAPE), atol=1e-6)
    log_bias = np.random.default_rng(0).normal(size=(2, 2, 2)).astype("f")
    bias = np.asarray(acquisition.bias_field(ops.convert_to_tensor(log_bias), SHAPE))
    assert bias.min() > 0 and np.abs(np.diff(np.log(bias), axis=0)).max() < 0.5


@pytest.mark.parametrize("level", [0.0, 3.0, 50.0])
def test_noise_is_rician(level):
    noisy = np.asarray(acquisition.rician(ops.full((40, 40, 40), level), 2.0, 3)).ravel()
    assert noisy.min() >= 0
    assert stats.kstest(noisy, stats.rice(level / 2.0, scale=2.0).cdf).pvalue > 1e-4


def test_a_ghost_is_a_shifted_copy_of_its_strength():
    volume = np.zeros(SHAPE, "f")
    volume[4, 10, 10] = 100
    params = {"resolution_mm": ops.ones(3), "blur": ops.zeros(3), "ghost_shift": ops.convert_to_tensor(0.25)}
    params["ghost"] = ops.convert_to_tensor(np.float32([0.1, 0, 0]))
    ghosted = np.asarray(acquisition.blurred(ops.convert_to_tensor(volume), params))
    assert ghosted[4, 10, 10] == pytest.approx(100) and ghosted[0, 10, 10] == pytest.approx(10)
    assert (ghosted > 1e-3).sum() == 2


def test_gamma_by_hand():
    values = np.asarray(acquisition.gamma(ops.convert_to_tensor(np.float32([0, 0.25, 0.5, 1])), np.float32(np.log(2))))
    np.testing.assert_allclose(values, [0, 0.0625, 0.25, 1], atol=1e-6)


def test_result_is_finite_and_in_the_unit_range():
    for seed in range(5):
        result = acquired(image(seed) - 50, acquisition.Acquisition(), seed)
        assert np.isfinite(result).all() and result.min() >= 0 and result.max() <= 1
    assert not acquired(np.zeros(SHAPE, "f"), quiet()).max() > 1e-6


def test_skull_strip_errs_at_the_border_only():
    brain = np.zeros((32, 32, 32), "f")
    brain[8:24, 8:24, 8:24] = 1
    volume = image(2, brain.shape) + 10
    stripped = acquired(volume, quiet(skull_strip=1.0, strip_error=0.35), brain=ops.convert_to_tensor(brain))
    assert not stripped[:4].any() and not stripped[:, :, 28:].any()
    assert (stripped[12:20, 12:20, 12:20] > 0).all()
    kept = stripped > 0
    assert 0 < (kept != (brain > 0)).sum() < 0.5 * brain.sum()
    np.testing.assert_array_equal(
        acquired(volume, quiet(), brain=ops.convert_to_tensor(brain)), acquired(volume, quiet())
    )


def test_the_field_of_view_ends_where_it_was_cut():
    cut = np.array([[0.25, 0, 0], [0, 0.5, 0]], np.float32)
    inside = np.asarray(acquisition.field_of_view(ops.convert_to_tensor(cut), (8, 12, 5)))
    expected = np.zeros((8, 12, 5), bool)
    expected[2:, :6] = True
    np.testing.assert_array_equal(inside, expected)


def test_faces_are_cut_as_often_and_as_deep_as_said():
    ranges = acquisition.Acquisition(cut=0.3, cut_part=0.2)
    cuts = np.asarray(
        ops.vectorized_map(lambda seed: acquisition.draw(seed, (8, 8, 8), ranges)["cut"], ops.arange(4000))
    )
    assert np.abs((cuts > 0).mean(0) - 0.3).max() < 0.04
    assert stats.kstest(cuts[cuts > 0], stats.uniform(0, 0.2).cdf).pvalue > 1e-4
    assert not np.asarray(acquisition.draw(0, (8, 8, 8))["cut"]).any()
