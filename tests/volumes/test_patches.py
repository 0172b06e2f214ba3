"""Tiling and blending, mostly as properties: everything is covered, and what agrees stays as it was."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.volumes.patches import blend, box_about, gaussian_weight, pad_to, starts

patch_sizes = st.tuples(*[st.integers(1, 9)] * 3)
excess = st.tuples(*[st.integers(0, 14)] * 3)
overlaps = st.floats(0, 0.9)


@settings(max_examples=150, deadline=None)
@given(patch=patch_sizes, more=excess, overlap=overlaps)
def test_every_voxel_is_covered_evenly(patch, more, overlap):
    shape = tuple(np.add(patch, more))
    first = starts(shape, patch, overlap)
    assert first.dtype == np.int64
    assert (first >= 0).all() and (first + patch <= shape).all()
    assert len(np.unique(first, axis=0)) == len(first)
    covered = np.zeros(shape, bool)
    for x, y, z in first:
        covered[x : x + patch[0], y : y + patch[1], z : z + patch[2]] = True
    assert covered.all()
    for axis in range(3):
        steps = np.diff(np.unique(first[:, axis]))
        if len(steps):
            assert steps.max() - steps.min() <= 1
            assert steps.max() <= max(1, patch[axis] * (1 - overlap) + 1e-6)


def test_starts_by_hand():
    assert starts((10, 4, 4), 4, 0.5)[:, 0].tolist() == [0, 2, 4, 6]
    assert starts((9, 4, 4), (4, 4, 4), 0.0).tolist() == [[0, 0, 0], [2, 0, 0], [5, 0, 0]]
    assert starts((4, 6, 4), 4, 0.5).tolist() == [[0, 0, 0], [0, 2, 0]]
    assert len(starts((181, 217, 181), 96)) == 3 * 4 * 3


def test_starts_refuses():
    with pytest.raises(ValueError, match=r"overlap must be in \[0, 1\).* got 1"):
        starts((16, 24, 32), 8, 1)
    with pytest.raises(
        ValueError, match=r"volume of \(16, 24, 32\) voxels is smaller than the patch \(8, 8, 64\)\. Pad it first"
    ):
        starts((16, 24, 32), (8, 8, 64))
    with pytest.raises(ValueError, match=r"patch must be one number or three, each at least 1; got \(8, 8\)"):
        starts((16, 24, 32), (8, 8))


def test_the_weight_is_the_formula():
    weight = gaussian_weight((16, 24, 32))
    assert weight.shape == (16, 24, 32)
    assert weight.dtype == np.float32
    x, y, z = 3 - 7.5, 20 - 11.5, 30 - 15.5
    at_centre = np.exp(-0.5 * ((0.5 / 2) ** 2 + (0.5 / 3) ** 2 + (0.5 / 4) ** 2))
    assert np.isclose(weight[3, 20, 30], np.exp(-0.5 * ((x / 2) ** 2 + (y / 3) ** 2 + (z / 4) ** 2)) / at_centre)
    assert weight.max() == 1
    assert weight.min() == np.float32(1e-6)
    for axis in range(3):
        assert np.array_equal(weight, np.flip(weight, axis))
    assert gaussian_weight(5, 100).min() > 0.99
    assert gaussian_weight(1).tolist() == [[[1]]]


def test_the_weight_refuses():
    with pytest.raises(ValueError, match="sigma_fraction must be positive, got 0"):
        gaussian_weight(8, 0)
    with pytest.raises(ValueError, match="patch must be one number or three, each at least 1; got 0"):
        gaussian_weight(0)


def blended(volume, patch, overlap, network=lambda x: x, sigma_fraction=1 / 8):
    weight = gaussian_weight(patch, sigma_fraction)
    mean = np.zeros(volume.shape, np.float32)
    total = np.zeros(volume.shape[:3], np.float32)
    for x, y, z in starts(volume.shape, patch, overlap):
        cut = volume[x : x + patch[0], y : y + patch[1], z : z + patch[2]]
        blend(mean, total, network(cut), start=(x, y, z), weight=weight)
    assert (total > 0).all()
    return mean


@settings(max_examples=60, deadline=None)
@given(patch=patch_sizes, more=excess, overlap=overlaps, seed=st.integers(0, 99), channels=st.sampled_from([(), (3,)]))
def test_an_identity_network_returns_its_input_bit_for_bit(patch, more, overlap, seed, channels):
    shape = (*np.add(patch, more), *channels)
    volume = (np.random.default_rng(seed).normal(size=shape) * 1e3).astype(np.float32)
    assert np.array_equal(blended(volume, patch, overlap), volume)


@pytest.mark.parametrize("sigma_fraction", [1 / 64, 1 / 8, 4])
def test_a_constant_stays_a_constant(sigma_fraction):
    volume = np.full((16, 24, 32), 0.1, np.float32)
    assert (blended(volume, (8, 12, 10), 0.3, sigma_fraction=sigma_fraction) == np.float32(0.1)).all()


def test_patches_that_disagree_are_averaged_by_weight():
    answers = iter([1.0, 3.0])
    volume = np.zeros((6, 4, 4), np.float32)
    mean = blended(volume, (4, 4, 4), 0.5, lambda x: np.full_like(x, next(answers)))
    weight = gaussian_weight(4)
    by_hand = (weight[2:] * 1 + weight[:2] * 3) / (weight[2:] + weight[:2])
    assert np.allclose(mean[2:4], by_hand)
    assert (mean[:2] == 1).all() and (mean[4:] == 3).all()


@settings(max_examples=100, deadline=None)
@given(shape=patch_sizes, divisor=st.tuples(*[st.integers(1, 5)] * 3), least=patch_sizes, channels=st.booleans())
def test_padding_is_undone_by_its_slices(shape, divisor, least, channels):
    volume = np.random.default_rng(0).normal(size=(*shape, 2) if channels else shape).astype(np.float32)
    padded, inside = pad_to(volume, divisor, min_shape=least, value=-7)
    assert np.array_equal(padded[inside], volume)
    assert padded.dtype == np.float32
    for n, m, d, smallest in zip(shape, padded.shape, divisor, least, strict=False):
        assert m % d == 0 and m >= smallest and m < max(n, smallest) + d
    assert np.isclose((padded == -7).sum(), padded.size - volume.size)


def test_padding_by_hand():
    padded, inside = pad_to(np.ones((5, 8, 3)), 4)
    assert padded.shape == (8, 8, 4)
    assert inside == (slice(1, 6), slice(0, 8), slice(0, 3))
    fits = np.ones((16, 24, 32))
    assert pad_to(fits, 8)[0] is fits
    assert pad_to(fits, min_shape=(20, 20, 20))[0].shape == (20, 24, 32)
    with pytest.raises(ValueError, match="divisor must be one number or three, each at least 1; got 0"):
        pad_to(fits, 0)


def test_the_box_about_a_foreground_has_it_in_the_middle():
    mask = np.zeros((60, 50, 40), bool)
    mask[30:40, 4:8, 10:40] = True
    x, y, z = box_about(mask, (20, 24, 16))
    assert (x.start, x.stop) == (25, 45)  # middle at 35
    assert (y.start, y.stop) == (0, 24)  # would begin before the volume
    assert (z.start, z.stop) == (6, 40)  # 30 voxels with 2 more on each side, moved into the volume


def test_specks_far_from_a_foreground_do_not_widen_its_box():
    mask = np.zeros((64, 32, 32), bool)
    mask[20:40, 6:26, 6:26] = True
    expected = box_about(mask, 24)
    mask[63, :6, :6] = True  # 36 of 8,036 voxels
    assert box_about(mask, 24) == expected
    assert box_about(np.zeros((64, 32, 32), bool), 24) == (slice(0, 64), slice(0, 32), slice(0, 32))
