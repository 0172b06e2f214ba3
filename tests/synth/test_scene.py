"""Whole samples: the same seed the same volume, eager, compiled, in any order and on JAX; real images augmented."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from zoo.synth import acquisition, contrast, geometry, lesion_shapes, scene
from zoo.synth.anatomy import labels
from zoo.synth.scene import Recipe, augment, synthesise, synthesise_lesions

SHAPE = (16, 24, 32)
RECIPE = Recipe(shape=SHAPE)
PIPE = """
import sys, numpy as np
from keras import ops
import jax
from zoo.synth.scene import Recipe, synthesise
recipe = Recipe(shape=(16, 24, 32))
source = np.load(sys.argv[1])
image, labels = jax.jit(lambda seed: synthesise(ops.convert_to_tensor(source), seed, recipe))(np.array([5, 7], "int32"))
np.savez(sys.argv[2], image=image, labels=labels)
"""


def anatomy(shape=(28, 32, 36)):
    """Nested boxes: scalp, skull, fluid, left and right halves of cortex and white matter."""
    result = np.zeros(shape, np.int16)
    for depth, name in enumerate(("scalp", "skull", "csf")):
        result[tuple(slice(2 + 2 * depth, n - 2 - 2 * depth) for n in shape)] = labels.INDEX[name]
    for depth, name in enumerate(("cortex", "white")):
        inner = tuple(slice(8 + 2 * depth, n - 8 - 2 * depth) for n in shape)
        right = np.broadcast_to(np.arange(shape[0])[:, None, None] >= shape[0] // 2, shape)
        result[inner] = np.where(right[inner], *reversed(labels.sides(name)))
    return result


@pytest.fixture(scope="module")
def compiled():
    source = tf.constant(anatomy())
    return tf.function(lambda seed: synthesise(source, seed, RECIPE), jit_compile=True)


def test_shapes_types_and_range(compiled):
    image, moved = compiled(tf.constant([0, 1]))
    assert image.shape == moved.shape == (*SHAPE, 1)
    assert image.dtype == tf.float32 and moved.dtype == tf.int32
    assert float(tf.reduce_min(image)) == 0 and float(tf.reduce_max(image)) <= 1
    assert set(np.unique(moved)) <= set(np.unique(labels.PARTNERS[anatomy()])) | set(np.unique(anatomy()))


def agree(first, second):
    """Rounding may move a voxel that lies half-way between two; nothing else may differ."""
    different = np.asarray(first[1]) != np.asarray(second[1])
    assert different.mean() < 1e-3
    if not different.any():
        np.testing.assert_allclose(first[0], second[0], atol=2e-4)


def test_the_same_seed_gives_the_same_volume_eager_and_compiled(compiled):
    seed = tf.constant([5, 7])
    agree(compiled(seed), synthesise(tf.constant(anatomy()), seed, RECIPE))


def test_any_order_and_thread_gives_the_same_volume(compiled):
    numbers = tf.data.Dataset.from_tensor_slices(np.int32([[0, 3], [0, 1], [0, 2], [5, 7]]))
    made = numbers.map(lambda n: (n, *compiled(n)), num_parallel_calls=4, deterministic=False)
    made = list(made)
    volumes = [compiled(number) for number, _, _ in made]
    for (_, image, moved), (again, moved_again) in zip(made, volumes, strict=True):
        np.testing.assert_array_equal(image, again)
        np.testing.assert_array_equal(moved, moved_again)
    assert not np.array_equal(volumes[0][0], volumes[1][0])


def test_jax_gives_the_same_volume(tmp_path, compiled):
    np.save(tmp_path / "source.npy", anatomy())
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PIPE, str(tmp_path / "source.npy"), str(tmp_path / "jax.npz")]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    with np.load(tmp_path / "jax.npz") as theirs:
        agree(compiled(tf.constant([5, 7])), (theirs["image"], theirs["labels"]))


def test_identity_parameters_leave_labels_untouched():
    source = anatomy(SHAPE)
    recipe = Recipe(shape=SHAPE, geometry=geometry.IDENTITY, acquisition=acquisition.IDENTITY)
    _, moved = synthesise(ops.convert_to_tensor(source), 3, recipe)
    np.testing.assert_array_equal(moved[..., 0], source)


def test_a_plain_recipe_paints_each_class_with_its_mean():
    source = anatomy(SHAPE)
    plain = contrast.Contrast(sds=(0, 0), partial_volume=0, dark_background=0)
    recipe = Recipe(shape=SHAPE, geometry=geometry.IDENTITY, contrast=plain, acquisition=acquisition.IDENTITY)
    image = np.asarray(synthesise(ops.convert_to_tensor(source), 1, recipe)[0])[..., 0]
    for index in np.unique(source):
        assert np.ptp(image[source == index]) < 1e-5


def test_skull_strip_darkens_the_scalp():
    recipe = Recipe(
        shape=SHAPE,
        geometry=geometry.IDENTITY,
        acquisition=acquisition.Acquisition(skull_strip=1.0, strip_error=0.1),
    )
    source = anatomy((32, 32, 32))[8:24, 4:28]
    image = np.asarray(synthesise(ops.convert_to_tensor(source), 1, recipe)[0])[..., 0]
    assert (image[:, :, 1:3] == 0).mean() > 0.95 and image[:, 8:16, 13:18].mean() > 0


def test_lesions_lie_where_allowed_and_change_the_image():
    source = anatomy()
    allowed = lesion_shapes.placement(source, inside=labels.sides("white"))
    still = Recipe(shape=SHAPE, geometry=geometry.IDENTITY)
    ranges = lesion_shapes.Lesions(count=(1, 1), radius_mm=(3, 3), elongation=1.0, intensity=(400, 400))
    arguments = ops.convert_to_tensor(source), ops.convert_to_tensor(allowed), 4, ranges, still
    image, moved, mask = (np.asarray(value) for value in synthesise_lesions(*arguments))
    plain, same = (np.asarray(value) for value in synthesise(ops.convert_to_tensor(source), 4, still))
    np.testing.assert_array_equal(moved, same)
    assert mask.shape == (*SHAPE, 1) and 50 < mask.sum() < 160
    centre = [round(float((places * mask).sum() / mask.sum())) for places in np.indices(mask.shape)[:3]]
    assert np.asarray(allowed)[tuple(c + (n - s) // 2 for c, n, s in zip(centre, source.shape, SHAPE, strict=True))]
    assert not np.allclose(image, plain)


def test_augment_moves_image_and_labels_together():
    random = np.random.default_rng(0)
    source = (random.uniform(size=(4, 6, 8)) > 0.5).repeat(4, 0).repeat(4, 1).repeat(4, 2)[..., None]
    image = np.concatenate([source, ~source], axis=-1).astype("f")
    clean = Recipe(shape=SHAPE, acquisition=acquisition.IDENTITY)
    moved, target = augment(
        ops.convert_to_tensor(image),
        ops.convert_to_tensor(source.astype("int32")),
        6,
        clean,
        partners=np.arange(2),
    )
    assert moved.shape == (*SHAPE, 2) and target.shape == (*SHAPE, 1)
    inside = np.asarray(target)[..., 0]
    assert ((np.asarray(moved)[..., 0] > 0.5) == inside).mean() > 0.9


def test_identity_augmentation_changes_nothing():
    image = np.random.default_rng(1).uniform(size=(*SHAPE, 1)).astype("f")
    image.flat[0], image.flat[1] = 0, 1
    source = anatomy(SHAPE)[..., None]
    same = Recipe(shape=SHAPE, geometry=geometry.IDENTITY, acquisition=acquisition.IDENTITY)
    moved, target = augment(ops.convert_to_tensor(image), ops.convert_to_tensor(source), 0, same)
    np.testing.assert_allclose(moved, image, atol=2e-6)
    np.testing.assert_array_equal(target, source)


def test_what_is_out_of_the_field_of_view_is_dark_background():
    cut = Recipe(shape=SHAPE, acquisition=acquisition.Acquisition(cut=1.0, cut_part=0.4))
    (image, moved), (_, whole) = (synthesise(ops.convert_to_tensor(anatomy()), 3, recipe) for recipe in (cut, RECIPE))
    image, moved, whole = (np.asarray(values) for values in (image, moved, whole))
    box = np.nonzero(image[..., 0])
    inside = np.zeros(SHAPE, bool)
    inside[tuple(slice(places.min(), places.max() + 1) for places in box)] = True
    assert 0.05 < inside.mean() < 0.95
    np.testing.assert_array_equal(moved[inside], whole[inside])
    assert not moved[~inside].any()


def test_another_volume_follows_the_labels():
    source, seed = ops.convert_to_tensor(anatomy()), np.array([2, 5])
    _, moved = synthesise(source, seed, RECIPE)
    white = np.isin(anatomy(), labels.sides("white")).astype(np.uint8)
    followed = np.asarray(scene.follow(ops.convert_to_tensor(white), seed, RECIPE))
    assert followed.dtype == np.uint8 and followed.any()
    np.testing.assert_array_equal(followed == 1, np.isin(moved, labels.sides("white")))


def test_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"3D \(x, y, z\), got shape \(1, 8, 8, 8\). Map over the batch"):
        synthesise(ops.zeros((1, 8, 8, 8), "int32"), 0, RECIPE)


def test_image_and_labels_on_two_grids_are_refused():
    with pytest.raises(ValueError, match=r"got \(8, 8, 8\) and \(8, 8, 9\). Resample the labels"):
        augment(ops.zeros((8, 8, 8, 1)), ops.zeros((8, 8, 9, 1), "int32"), 0, RECIPE)


def test_defaults_are_those_of_the_released_synthseg():
    recipe = scene.DEFAULT
    assert (recipe.geometry.rotation_deg, recipe.geometry.scaling, recipe.geometry.shear) == (
        15,
        (0.8, 1.2),
        0.012,
    )
    assert (recipe.geometry.velocity_scale, recipe.geometry.velocity_sd) == (0.04, 4)
    assert (recipe.contrast.means, recipe.contrast.sds) == ((0, 250), (0, 30))
    assert (recipe.acquisition.bias_scale, recipe.acquisition.bias_sd, recipe.acquisition.gamma_sd) == (
        0.025,
        0.7,
        0.5,
    )
    assert (recipe.acquisition.isotropic_mm, recipe.acquisition.anisotropic_mm) == ((1, 4), (1, 8))
    assert recipe.acquisition.blur == 0.75
