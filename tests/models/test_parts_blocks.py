"""Options that the segmentation networks share, tested on one of them or on all."""

import keras
import numpy as np
import pytest

from zoo.models.parts import blocks
from zoo.registry import builder

SEGMENTERS = ("unet3d", "vnet", "resunet")
every = pytest.mark.parametrize("name", SEGMENTERS)


def build(name, **options):
    return builder(name)((None, None, None, 1), **{"filters": (4, 6, 8), **options})


def volume(*sizes):
    return np.random.default_rng(0).normal(size=(2, *sizes, 1)).astype("float32")


@every
def test_conditioning_is_the_identity_at_start_and_then_changes_each_sample(name):
    plain, film = build(name), build(name, conditioning=3)
    names = {weight.path: weight for weight in film.weights}
    for weight in plain.weights:
        names[weight.path].assign(weight)
    images, values = volume(16, 24, 32), np.array([[1, 2, 3], [1, 2, 4]], "float32")
    np.testing.assert_allclose(film([images, values]), plain(images), atol=1e-5)
    film.get_layer("encoder_1_film").kernel.assign_add(np.full(names["encoder_1_film/kernel"].shape, 0.1))
    same = np.repeat(images[:1], 2, axis=0)
    first, second = np.asarray(film([same, values]))
    assert np.abs(first - second).max() > 1e-3


@every
def test_deep_supervision_has_a_head_a_level_full_resolution_first(name):
    model, plain = build(name, deep_supervision=True), build(name)
    first, second = model(volume(16, 24, 32))
    assert (first.shape, second.shape) == ((2, 16, 24, 32, 2), (2, 8, 12, 16, 2))
    assert "logits_1/kernel" in {weight.path for weight in model.weights}
    assert "logits_1/kernel" not in {weight.path for weight in plain.weights}


@every
def test_strides_spare_an_axis(name):
    model = build(name, strides=((2, 2, 1), (2, 2, 1)))
    images = volume(16, 24, 7)
    assert model(images).shape == (2, 16, 24, 7, 2)
    with pytest.raises(ValueError, match=r"divides the axes by \(4, 4, 1\): .* got \(16, 22, 7\)"):
        builder(name)((16, 22, 7, 1), filters=(4, 6, 8), strides=((2, 2, 1), (2, 2, 1)))


@every
@pytest.mark.parametrize("norm", blocks.NORMS)
def test_every_norm(name, norm):
    model = build(name, norm=norm, filters=(4, 6))
    kinds = {type(layer).__name__ for layer in model.layers}
    assert ("BatchNormalization" in kinds) == (norm == "batch")
    assert ("GroupNormalization" in kinds) == (norm in ("group", "instance"))
    assert np.isfinite(model(volume(16, 24, 32))).all()


@every
@pytest.mark.parametrize("activation", [name for name in blocks.ACTIVATIONS if name != "none"])
def test_every_activation(name, activation):
    model = build(name, activation=activation, filters=(4, 6))
    assert any(layer.name.endswith(f"_{activation}") for layer in model.layers)
    assert np.isfinite(model(volume(16, 24, 32))).all()


@pytest.mark.parametrize(
    ("activation", "below"), [("relu", 0.0), ("leaky_relu", -0.02), ("elu", np.expm1(-2)), ("prelu", -0.5)]
)
def test_activations_by_hand(activation, below):
    x = keras.Input((1, 1, 2, 1))
    model = keras.Model(x, blocks.activate(x, "a", activation))
    np.testing.assert_allclose(np.ravel(model(np.reshape([-2.0, 3.0], (1, 1, 1, 2, 1)))), [below, 3], atol=1e-6)


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_norms_of_one_sample_do_not_see_the_others(norm):
    x = keras.Input((16, 24, 32, 4))
    model = keras.Model(x, blocks.normalise(x, "n", norm))
    images = np.random.default_rng(0).normal(5, 2, (2, 16, 24, 32, 4)).astype("float32")
    found = np.asarray(model(images))
    axes = (1, 2, 3)
    by_hand = (images - images.mean(axes, keepdims=True)) / images.std(axes, keepdims=True)
    np.testing.assert_allclose(found, by_hand, atol=1e-3)  # four channels are four groups


@every
def test_dropout_works_in_training_only(name):
    model = build(name, dropout=0.5, filters=(4, 6))
    images = volume(16, 24, 32)
    np.testing.assert_array_equal(model(images), model(images))
    assert np.abs(np.asarray(model(images, training=True)) - np.asarray(model(images))).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "bach"}, "There is no norm 'bach'. Did you mean 'batch'[?]"),
        ({"activation": "leakyrelu"}, "no activation 'leakyrelu'. Did you mean 'leaky_relu'[?]"),
        ({"padding": "full"}, "no padding 'full'.* Choose from: same, valid"),
        ({"dropout": 1.0}, '"dropout" is the share of values set to zero, 0 <= dropout < 1, got 1.0. Pass 0'),
        ({"padding": "valid", "any_size": True}, 'got any_size=True with padding="valid". Pass padding="same"'),
    ],
)
@every
def test_a_bad_option_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)


@every
@pytest.mark.parametrize("shape", [(16, 24, 32), (16, 24, 32, None)])
def test_a_bad_input_shape_is_refused(name, shape):
    with pytest.raises(ValueError, match=r'"input_shape" is \(x, y, z, channels\) without the batch, got \(16,'):
        builder(name)(shape)


def test_resizing_replaces_the_transposed_convolutions():
    model = build("unet3d", upsampling="resize")
    assert not any(isinstance(layer, keras.layers.Conv3DTranspose) for layer in model.layers)
    with pytest.raises(ValueError, match="no upsampling 'resise'. Did you mean 'resize'"):
        build("unet3d", upsampling="resise")
