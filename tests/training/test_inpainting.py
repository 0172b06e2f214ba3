"""Patches with their surroundings, and volumes read by a contextual GAN: against the same done patch by patch."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import gans

from zoo.models.parts.layers import Paste
from zoo.training.adversarial import coarse_context
from zoo.training.adversarial.inpainting import Reader, Visibility, complete, fill, grid_shifts

VOLUME = (20, 23, 26)


def volume(seed=0, channels=1):
    return np.random.default_rng(seed).normal(size=(*VOLUME, channels)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(4)
    return gans.network("contextual")


def test_coarse_voxels_are_means_of_cubes_about_the_centre():
    fine = volume()
    result = coarse_context.coarse(fine, 2, (8, 12, 14))
    padded = np.zeros((16, 24, 28, 1), np.float32)
    padded[:, :23, 1:27] = fine[2:18]
    expected = [[[padded[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, 2 * k : 2 * k + 2, 0].mean() for k in range(14)]
               for j in range(12)] for i in range(8)]  # fmt: skip
    np.testing.assert_allclose(result[..., 0], expected, atol=1e-6)


def test_a_patch_pasted_where_it_was_cut_changes_nothing_on_a_ramp():
    """Which holds coarse grid, position and pasting together."""
    x, y, z = np.meshgrid(*(np.arange(size) for size in (24, 30, 36)), indexing="ij")
    ramp = (x + 2 * y - z)[..., None].astype(np.float32)
    context = coarse_context.coarse(ramp, 2, (12, 15, 18))
    corner, patch = np.array([7, 10, 13]), (10, 12, 14)
    cut = ramp[7:17, 10:22, 13:27]
    position = coarse_context.positions(corner, patch, ramp.shape[:3], 2, (12, 15, 18))
    pasted = np.asarray(Paste(2.0)([cut[None], context[None], position[None]]))[0]
    inner = (slice(5, 7), slice(7, 9), slice(8, 12))  # coarse voxels whose triangle lies within the patch
    np.testing.assert_allclose(pasted[inner], context[inner], atol=1e-3)
    moved = np.asarray(Paste(2.0)([cut[None] + 1, context[None], position[None]]))[0]
    assert np.abs(moved - context)[inner].min() > 0.9 and np.abs(moved - context)[0].max() == 0


def test_batches_are_cut_where_they_say_and_neighbours_share_a_place():
    images = np.stack([volume(seed).astype(np.float16) for seed in range(3)])
    inside = np.zeros(VOLUME, bool)
    inside[0, 11:14, 12] = inside[10, 10, 5:9] = True
    sample = coarse_context.sampler(images, inside, size=6, patch=gans.PATCH, ratio=2, shape=gans.CONTEXT)
    (context, position), patch = keras.tree.map_structure(np.asarray, sample(tf.constant([0, 3])))
    for n in range(6):
        middle = [(size - 1) / 2 - (edge - 1) / 2 for size, edge in zip(VOLUME, gans.PATCH, strict=True)]
        start = np.round(position[n] * (np.array(gans.CONTEXT) - 1) + middle).astype(int)
        box = tuple(slice(first, first + size) for first, size in zip(start, gans.PATCH, strict=True))
        person = [number for number in range(3) if np.array_equal(images[number][box].astype(np.float32), patch[n])]
        assert len(person) == 1
        expected = coarse_context.coarse(images[person[0]], 2, gans.CONTEXT)
        np.testing.assert_allclose(context[n], expected, atol=2e-3)
    np.testing.assert_array_equal(position[0::2], position[1::2])
    assert all((patch[n] != patch[n + 1]).any() for n in (0, 2, 4))
    with pytest.raises(ValueError, match="its size is even .* got 3 patches of 3 people"):
        coarse_context.sampler(images, inside, size=3, patch=gans.PATCH, ratio=2, shape=gans.CONTEXT)
    with pytest.raises(ValueError, match=r"fits into its volume of \(20, 23, 26\), got \(21, 2, 2\)"):
        coarse_context.corners(inside, (21, 2, 2))


@pytest.mark.slow
def test_batches_are_the_same_when_compiled():
    images = np.stack([volume(seed).astype(np.float16) for seed in range(2)])
    sample = coarse_context.sampler(
        images, np.ones(VOLUME, bool), size=4, patch=gans.PATCH, ratio=2, shape=gans.CONTEXT
    )
    eager, compiled = (draw(tf.constant([0, 3])) for draw in (sample, tf.function(sample, jit_compile=True)))
    keras.tree.map_structure(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), eager, compiled)


@pytest.mark.parametrize("sight", [Visibility(), Visibility(context=False)])
def test_codes_are_those_of_single_patches(network, sight):
    reader, image = Reader(network, (4, 6, 8), sight=sight, batch_size=4), volume(1)
    places = np.array([[10, 11, 12], [0, 0, 0], [19, 22, 25], [4, 6, 8], [5, 6, 8]])
    seen = []
    codes = reader.codes(image, places, progress=lambda done, every: seen.append((done, every)))
    padded = np.pad(image, [(16, 16)] * 3 + [(0, 0)])
    context = coarse_context.coarse(image, 2, gans.CONTEXT)[None] * sight.context
    for place, code in zip(places, codes, strict=True):
        box = tuple(slice(p + 16 - n // 2, p + 16 - n // 2 + n) for p, n in zip(place, gans.PATCH, strict=True))
        inputs = np.concatenate([padded[box], np.zeros((*gans.PATCH, 1), np.float32)], axis=-1)[None]
        np.testing.assert_allclose(network.get_layer("encoder")([inputs, context])[0], code, atol=1e-5)
    assert seen == [(4, 5), (5, 5)]
    region = np.zeros(VOLUME, bool)
    region[9, 12, 3] = region[9, 12, 4] = True
    grid = reader.on_grid(image, region, 3)
    assert grid.shape == (7, 8, 9, gans.CODE)
    assert np.argwhere(np.any(grid != 0, axis=-1)).tolist() == [[3, 4, 1]]
    np.testing.assert_allclose(grid[3, 4, 1], reader.codes(image, np.array([[9, 12, 3]]))[0], atol=1e-6)


def test_residuals_of_one_hole_are_those_of_its_patch(network):
    reader, image = Reader(network, (4, 6, 8), batch_size=2), volume(2)
    inside = np.zeros(VOLUME, bool)
    inside[9, 7, 9] = True  # in the hole that begins at (8, 6, 8)
    corner = np.array([8, 6, 8]) - [2, 3, 4]
    patch = image[6:14, 3:15, 4:20][None]
    context = coarse_context.coarse(image, 2, gans.CONTEXT)[None]
    position = coarse_context.positions(corner, gans.PATCH, VOLUME, 2, gans.CONTEXT)[None].astype(np.float32)
    hole = np.zeros((1, *gans.PATCH, 1), np.float32)
    hole[:, 2:6, 3:9, 4:12] = 1
    around = tf.constant(context), tf.constant(position)
    filled, _ = fill(network, tf.constant(patch), around, tf.constant(hole))
    done = complete(tf.constant(patch), filled, tf.constant(hole))
    distances = []
    for name, real, fake in (
        ("critic_local", patch, done),
        ("critic_global", *(network.get_layer("paste")([each, *around]) for each in (tf.constant(patch), done))),
    ):
        critic = network.get_layer(name)
        features = keras.Model(critic.input, critic.get_layer(f"{name}_features").output)
        distances.append(np.abs(np.asarray(features(real)) - np.asarray(features(fake))).mean())
    expected = np.abs(patch - filled)[0, 3, 4, 5, 0] + 2.0 * np.mean(distances)
    residuals = reader.residuals(image, inside, shifts=1, kappa=2.0)
    assert residuals[9, 7, 9] == pytest.approx(expected, rel=1e-4) and (residuals != 0).sum() == 1


def test_every_voxel_gets_a_score_from_every_grid_and_a_spot_stands_out(network):
    reader, image = Reader(network, (4, 6, 8), batch_size=16), 0.1 * volume(3)
    image[9:11, 10:13, 11:14] += 9.0
    inside = np.ones(VOLUME, bool)
    residuals = reader.residuals(image, inside, shifts=8, kappa=0.0)
    assert (residuals > 0).mean() > 0.99
    assert residuals[9:11, 10:13, 11:14].mean() > 5 * np.median(residuals)
    np.testing.assert_array_equal(grid_shifts(8, (4, 6, 8))[[0, 1, 7]], [[0, 0, 0], [0, 0, 4], [2, 3, 4]])
    assert len({tuple(shift) for shift in grid_shifts(30, (16, 16, 16))}) == 30
    with pytest.raises(ValueError, match="a voxel inside and a shift, got 0 and 8"):
        reader.residuals(image, np.zeros(VOLUME, bool))
    with pytest.raises(ValueError, match=r"in the middle of the patch of \(8, 12, 16\).* got \(3, 6, 8\)"):
        Reader(network, (3, 6, 8))
