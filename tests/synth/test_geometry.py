"""Geometry: parameters in their ranges, identity untouched, folding nowhere, mirrors that swap sides."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from scipy import ndimage, stats

from zoo.synth import fields, geometry
from zoo.synth.anatomy import labels

SHAPE = (16, 24, 32)


def label_map(seed=0, shape=SHAPE):
    blocks = np.random.default_rng(seed).integers(0, labels.NUM_LABELS, [n // 4 for n in shape])
    return np.kron(blocks, np.ones((4, 4, 4), int)).astype(np.int16)


def identity(**changes):
    params = {name: np.asarray(value) for name, value in geometry.draw(0, SHAPE, geometry.IDENTITY).items()}
    return {name: ops.convert_to_tensor(value) for name, value in (params | changes).items()}


@pytest.fixture(scope="module")
def draws():
    ranges = geometry.Geometry(translation_mm=10.0)
    drawn = ops.vectorized_map(lambda seed: geometry.draw(seed, SHAPE, ranges), ops.arange(10_000))
    return {name: np.asarray(value) for name, value in drawn.items()}


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("rotation_deg", -15, 15),
        ("scaling", 0.8, 1.2),
        ("shear", -0.012, 0.012),
        ("translation_mm", -10, 10),
        ("velocity_sd", 0, 4),
        ("crop", -1, 1),
    ],
)
def test_draws_follow_their_range(draws, name, low, high):
    for values in draws[name].reshape(10_000, -1).T:
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-4


def test_velocity_is_normal_with_its_own_sd(draws):
    standard = draws["velocity"].reshape(10_000, -1) / draws["velocity_sd"][:, None]
    for values in standard.T[:8]:
        assert stats.kstest(values, "norm").pvalue > 1e-4


def test_half_of_the_draws_are_mirrored(draws):
    assert stats.binomtest(int(draws["flip"].sum()), 10_000, 0.5).pvalue > 1e-4


def test_velocity_grid_has_a_point_every_25_voxels():
    assert geometry.draw(0, (96, 160, 200))["velocity"].shape == (3, 4, 7, 8)


def test_identity_leaves_labels_and_images_untouched():
    source = label_map()
    where = geometry.coordinates(identity(), SHAPE, SHAPE)
    np.testing.assert_array_equal(geometry.nearest(ops.convert_to_tensor(source), where), source)
    image = np.random.default_rng(1).normal(size=SHAPE).astype("f")
    np.testing.assert_array_equal(geometry.linear(ops.convert_to_tensor(image), where), image)


def test_a_shift_of_one_voxel_moves_by_one_voxel():
    source = label_map()
    where = geometry.coordinates(identity(translation_mm=np.float32([1, -2, 3])), SHAPE, SHAPE)
    moved = np.asarray(geometry.nearest(ops.convert_to_tensor(source), where))
    np.testing.assert_array_equal(moved[:-1, 2:, :-3], source[1:, :-2, 3:])
    assert not moved[-1].any() and not moved[:, :2].any()


def test_a_quarter_turn_is_a_quarter_turn():
    cube = label_map(shape=(16, 16, 16))
    params = identity(rotation_deg=np.float32([0, 0, 90]))
    where = geometry.coordinates(params, cube.shape, cube.shape)
    turned = np.asarray(geometry.nearest(ops.convert_to_tensor(cube), where))
    np.testing.assert_array_equal(turned, np.rot90(cube, -1, (0, 1)))


def test_spacing_takes_every_second_voxel():
    source = np.arange(24 * 24 * 24).reshape(24, 24, 24).astype(np.int32)
    params = identity(translation_mm=np.float32([0.5, 0.5, 0.5]))
    sample = geometry.nearest(ops.convert_to_tensor(source), geometry.coordinates(params, (12,) * 3, (24,) * 3, 2.0))
    np.testing.assert_array_equal(sample, source[1::2, 1::2, 1::2])


def test_crops_reach_both_ends_of_the_source():
    source = np.broadcast_to(np.arange(40)[:, None, None], (40, 24, 32)).astype(np.int32)
    for crop, first in ((-1, 0), (0, 12), (1, 24)):
        params = identity(crop=np.float32([crop, 0, 0]))
        where = geometry.coordinates(params, SHAPE, source.shape)
        assert int(geometry.nearest(ops.convert_to_tensor(source), where)[0, 0, 0]) == first


def test_linear_agrees_with_scipy():
    random = np.random.default_rng(2)
    image = random.normal(size=SHAPE).astype("f")
    where = [random.uniform(-3, n + 3, 500).astype("f") for n in SHAPE]
    expected = ndimage.map_coordinates(image, where, order=1, mode="nearest")
    np.testing.assert_allclose(geometry.linear(ops.convert_to_tensor(image), where), expected, atol=1e-5)


def test_two_mirrors_are_none_and_one_swaps_sides():
    source = ops.convert_to_tensor(label_map())
    params = identity(flip=np.float32(1))
    where = geometry.coordinates(params, SHAPE, SHAPE)

    def mirror(volume):
        return geometry.swap_sides(geometry.nearest(volume, where), params["flip"])

    once = np.asarray(mirror(source))
    np.testing.assert_array_equal(once, labels.PARTNERS[np.asarray(source)[::-1]])
    np.testing.assert_array_equal(mirror(ops.convert_to_tensor(once)), source)


@pytest.mark.parametrize("seed", range(4))
def test_the_field_folds_in_fewer_than_one_voxel_in_a_thousand(seed):
    shape = (48, 64, 56)
    strongest = geometry.draw(seed, shape, geometry.Geometry(velocity_sd=0))
    velocity = 4.0 * np.random.default_rng(seed).normal(size=strongest["velocity"].shape).astype("f")
    where = geometry.coordinates(strongest | {"velocity": ops.convert_to_tensor(velocity)}, shape, (128, 128, 128))
    slopes = np.array([np.gradient(np.asarray(axis)) for axis in where])
    jacobian = np.linalg.det(np.moveaxis(slopes, (0, 1), (-2, -1)))
    assert abs(np.median(jacobian)) > 0.1
    assert (np.sign(jacobian) == np.sign(np.median(jacobian))).mean() >= 0.999


def test_integration_of_a_constant_velocity_is_that_shift():
    velocity = np.broadcast_to(np.float32([1.5, -2.0, 0.5])[:, None, None, None], (3, 2, 2, 2))
    moved = np.asarray(geometry.displacement(ops.convert_to_tensor(velocity.copy()), SHAPE))
    np.testing.assert_allclose(moved, np.broadcast_to(velocity[:, :1, :1, :1], moved.shape), atol=1e-4)


def test_inverse_velocity_undoes_the_displacement():
    shape = (32, 48, 40)
    velocity = ops.convert_to_tensor(2.0 * np.random.default_rng(3).normal(size=(3, 2, 2, 2)).astype("f"))
    forth, back = (np.asarray(geometry.displacement(sign * velocity, shape)) for sign in (1.0, -1.0))
    places = np.indices(shape) + forth
    round_trip = forth + np.array([ndimage.map_coordinates(axis, places, order=1, mode="nearest") for axis in back])
    middle = round_trip[:, 6:-6, 6:-6, 6:-6]
    assert np.abs(middle).max() < 0.15 and np.abs(forth).max() > 1


def test_upsampling_keeps_constants_and_linear_keeps_nodes():
    coarse = np.random.default_rng(0).normal(size=(4, 5, 6)).astype("f")
    np.testing.assert_allclose(fields.upsample(ops.ones((2, 3, 4)), SHAPE), np.ones(SHAPE), atol=1e-6)
    fine = np.asarray(fields.upsample_linear(ops.convert_to_tensor(coarse), (7, 9, 11)))
    np.testing.assert_allclose(fine[::2, ::2, ::2], coarse, atol=1e-6)


def test_compiled_gives_the_same_coordinates():
    def place(seed):
        return geometry.coordinates(geometry.draw(seed, SHAPE), SHAPE, (40, 40, 40))

    seed = tf.constant(4)
    np.testing.assert_allclose(tf.function(place, jit_compile=True)(seed), place(seed), atol=1e-4)
