"""Resampling: SciPy, nibabel and JAX are the oracles for values, linear ramps in mm for the affines."""

import nibabel
import nibabel.processing
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from zoo.volumes import image as images

SHAPE = (16, 24, 32)
SPACING = (1.0, 1.5, 0.8)
OBLIQUE = Rotation.from_euler("xyz", (12, -17, 23), degrees=True).as_matrix()


def affine_of(spacing=SPACING, rotation=OBLIQUE, origin=(-40.25, 13.5, 7.75)):
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def values_of(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ramp(affine, shape):
    """x + 2 y - 3 z in mm at every voxel: linear interpolation anywhere inside must return it exactly."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), np.ones(1), indexing="ij"), -1)[..., 0, :]
    return (index @ affine.T)[..., :3] @ (1, 2, -3)


def inner(array, margin=3):
    return array[margin:-margin, margin:-margin, margin:-margin]


spacings = st.tuples(*[st.floats(0.5, 3.0)] * 3)


@settings(max_examples=40, deadline=None)
@given(spacing_out=spacings)
def test_values_move_nowhere_in_mm(spacing_out):
    affine = affine_of()
    result = images.resample(ramp(affine, SHAPE), SPACING, spacing_out)
    new_affine = images.resample_affine(affine, SHAPE, spacing_out)
    assert result.dtype == np.float32
    assert np.allclose(images.spacing_mm(new_affine), spacing_out)
    # the edge repeats over up to two of the finest voxels
    assert np.allclose(inner(result, 2), inner(ramp(new_affine, result.shape), 2), atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(spacing_out=spacings)
def test_there_and_back_is_the_same_grid_and_the_same_ramp(spacing_out):
    affine = affine_of()
    there = images.resample(ramp(affine, SHAPE), SPACING, spacing_out)
    back = images.resample(there, spacing_out, SPACING, shape=SHAPE)
    there_affine = images.resample_affine(affine, SHAPE, spacing_out)
    back_affine = images.resample_affine(there_affine, there.shape, SPACING, new_shape=SHAPE)
    assert back.shape == SHAPE
    assert np.allclose(back_affine, affine, atol=1e-9)
    assert np.allclose(inner(back, 6), inner(ramp(affine, SHAPE), 6), atol=1e-3)


@pytest.mark.parametrize("spacing_out", [(2.0, 1.5, 1.0), 1.3, (0.5, 3.0, 0.8)])
@pytest.mark.parametrize("order", [0, 1])
def test_values_against_scipy(spacing_out, order):
    values = values_of()
    result = images.resample(values, SPACING, spacing_out, order=order)
    ratio = np.broadcast_to(spacing_out, 3) / SPACING
    # Off the half by a hair, where nearest is a matter of taste.
    grids = [
        (np.arange(m) - (m - 1) / 2) * r * (1 - 1e-7) + (n - 1) / 2
        for n, m, r in zip(SHAPE, result.shape, ratio, strict=True)
    ]
    oracle = ndimage.map_coordinates(values, np.meshgrid(*grids, indexing="ij"), order=order, mode="nearest")
    assert np.allclose(result, oracle, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 16, 11), (32, 24, 64), (12, 36, 32)])
@pytest.mark.parametrize("antialias", [False, True])
def test_values_against_jax(shape, antialias):
    jax = pytest.importorskip("jax", reason="pip install zoo3d[test]")
    values = values_of()
    result = images.resample(values, 1, np.divide(SHAPE, shape), shape=shape, antialias=antialias)
    oracle = jax.image.resize(values, shape, "linear", antialias=antialias)
    assert np.allclose(result, oracle, atol=1e-5)


def test_half_a_voxel_by_hand():
    line = np.array([0, 1, 2, 3], np.float32).reshape(4, 1, 1)
    # 4 voxels of 1 mm are 2 of 2 mm, centred on the boundaries 0|1 and 2|3
    assert images.resample(line, 1, (2, 1, 1)).ravel().tolist() == [0.5, 2.5]
    # and 8 of 0.5 mm, a quarter off the centres; the edge repeats
    fine = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    assert images.resample(line, 1, (0.5, 1, 1)).ravel().tolist() == fine
    # triangles of half-width 2 over 0.5: weights 1/4 and 3/4, cut and rescaled at the edge: (0.75 + 0.5) / 1.75
    smooth = images.resample(line, 1, (2, 1, 1), antialias=True).ravel()
    assert np.allclose(smooth, [1.25 / 1.75, 3 - 1.25 / 1.75])
    assert images.resampled_shape((4, 5, 181), 1, (2, 2, 2)) == (2, 3, 91)
    assert images.resampled_shape((1, 1, 1), 1, 10) == (1, 1, 1)


def test_the_same_spacing_changes_nothing():
    values = values_of()
    assert np.array_equal(images.resample(values, SPACING, SPACING), values)
    labels = np.arange(np.prod(SHAPE), dtype=np.int64).reshape(SHAPE)
    same = images.resample(labels, SPACING, SPACING, order=0)
    assert same.dtype == np.int64
    assert np.array_equal(same, labels)
    assert np.allclose(images.resample_affine(affine_of(), SHAPE, SPACING), affine_of(), atol=1e-12)
    assert np.array_equal(images.resample_like(values, affine_of(), SHAPE, affine_of()), values)


def test_antialiasing_keeps_the_mean_where_picking_does_not():
    stripes = np.zeros((64, 16, 24), np.float32)
    stripes[::4] = 1
    picked = images.resample(stripes, 1, (4, 1, 1))
    averaged = images.resample(stripes, 1, (4, 1, 1), antialias=True)
    assert np.allclose(averaged[2:-2], 0.25)
    assert picked[2:-2].mean() < 0.1


@pytest.mark.parametrize("order", [0, 1])
def test_mirroring_commutes_with_resampling(order):
    values = values_of()
    for axis in range(3):
        mirrored = images.resample(np.flip(values, axis), 1, (2, 1.7, 0.5), order=order)
        straight = np.flip(images.resample(values, 1, (2, 1.7, 0.5), order=order), axis)
        # An even size at an odd ratio has its halves exactly at the centre, where no rule is symmetric.
        assert np.allclose(mirrored, straight, atol=1e-5)


@pytest.mark.parametrize("order", [0, 1])
def test_channels_are_resampled_one_by_one(order):
    values = values_of((*SHAPE, 3))
    result = images.resample(values, SPACING, (1.7, 1.0, 1.1), order=order)
    other = affine_of((1.1, 1.4, 1.0), np.eye(3))
    moved = images.resample_like(values, affine_of(), (10, 20, 15), other, order=order)
    for channel in range(3):
        alone = images.resample(values[..., channel], SPACING, (1.7, 1.0, 1.1), order=order)
        assert np.allclose(result[..., channel], alone, atol=1e-6)
        alone = images.resample_like(values[..., channel], affine_of(), (10, 20, 15), other, order=order)
        assert np.array_equal(moved[..., channel], alone)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("rotation", [OBLIQUE, np.eye(3)[[1, 2, 0]] * [[1], [-1], [1]]], ids=["oblique", "axes"])
def test_another_grid_against_nibabel(order, rotation):
    values = values_of()
    affine = affine_of(rotation=np.eye(3), origin=(-7, -17, -12))
    target = affine_of((1.1, 0.9, 1.3), rotation, origin=(0, 0, 0))
    target[:3, 3] = -target[:3, :3] @ (7, 9, 5) + 0.03
    result = images.resample_like(values, affine, (15, 19, 11), target, order=order)
    oracle = nibabel.processing.resample_from_to(
        nibabel.Nifti1Image(values, affine), ((15, 19, 11), target), order=order, mode="nearest"
    ).get_fdata()
    filled = nibabel.processing.resample_from_to(
        nibabel.Nifti1Image(np.ones_like(values), affine), ((15, 19, 11), target), order=0, cval=0
    ).get_fdata()
    inside = filled > 0
    assert inside.mean() > 0.5
    assert np.allclose(result[inside], oracle[inside], atol=1e-4)


def test_outside_is_zero_and_the_outer_half_voxel_is_not():
    ones = np.ones((4, 6, 8), np.float32)
    for turn in (0, 1e-2):  # parallel, then just oblique enough for the general way
        target = np.diag([0.5, 1.0, 1.0, 1.0])
        target[:3, :3] = Rotation.from_euler("z", turn).as_matrix() @ target[:3, :3]
        target[:3, 3] = (-1.2, 2, 3)
        line = images.resample_like(ones, np.eye(4), (12, 1, 1), target).ravel()
        # positions -1.2, -0.7, -0.2 ... 3.3, 3.8, 4.3 against the extent -0.5 to 3.5
        assert line.tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]


def test_masks_stay_masks():
    mask = values_of() > 0
    for target in (affine_of((2, 2, 2)), affine_of((2, 2, 2), np.eye(3))):
        moved = images.resample_like(mask, affine_of(), (8, 18, 13), target, order=0)
        assert moved.dtype == bool
    assert images.resample(mask, 1, 2, order=0).dtype == bool


def test_labels_by_majority():
    labels = np.zeros((4, 4, 4), np.int16)
    labels[:2, :2, :2] = 7
    labels[0, 0, 0] = 3
    labels[2:] = 5
    result = images.resample_labels(labels, 1, 2)
    assert result.dtype == np.int16
    assert result.tolist() == [[[7, 0], [0, 0]], [[5, 5], [5, 5]]]
    odd = np.full((5, 7, 3), 9, np.uint8)
    assert (images.resample_labels(odd, 1, 2) == 9).all()
    assert np.array_equal(images.resample_labels(labels, 1, 1), labels)


def test_majority_keeps_volume_better_than_nearest():
    grid = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in (33, 37, 41)], indexing="ij"))
    ball = ((grid**2).sum(0) < 12**2).astype(np.uint8)
    volume = int(ball.sum())
    coarse = images.resample_labels(ball, 1, 3)
    assert abs(int(coarse.sum()) * 27 - volume) < 0.05 * volume


def test_refusals():
    values = values_of()
    with pytest.raises(ValueError, match=r"order must be 0 .* or 1 .*, got 3"):
        images.resample(values, 1, 2, order=3)
    with pytest.raises(ValueError, match=r"order must be 0 .* or 1 .*, got 2"):
        images.resample_like(values, np.eye(4), SHAPE, np.eye(4), order=2)
    with pytest.raises(ValueError, match=r"Spacings must be positive, in mm; got 1 and 0"):
        images.resample(values, 1, 0)
    with pytest.raises(ValueError, match="Spacings must be positive"):
        images.resample(values, 1, (1, np.nan, 1))
    with pytest.raises(ValueError, match=r"takes \(x, y, z\) or \(x, y, z, channels\), got shape \(2, 16, 24, 32, 1\)"):
        images.resample(values_of((2, *SHAPE, 1)), 1, 2)
