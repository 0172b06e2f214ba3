import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.models.gan3d import VARIANTS, gan3d
from zoo.models.parts.layers import FourierFeatures, Paste

PARTS = {
    "dcgan": {"generator", "critic"},
    "wgan_gp": {"generator", "critic"},
    "alpha_gan": {"generator", "encoder", "critic", "code_critic"},
    "f_anogan": {"generator", "encoder", "critic"},
    "contextual": {"generator", "encoder", "critic_local", "critic_global"},
}


def tiny(variant, **options):
    return gan3d((8, 12, 16, 1), 6, variant=variant, filters=(4, 6), **options)


def parts(model):
    return {layer.name: layer for layer in model.layers if isinstance(layer, keras.Model)}


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize("variant", VARIANTS)
def test_parts_are_models_and_no_critic_has_batch_norm(variant):
    found = parts(tiny(variant))
    assert set(found) == PARTS[variant]
    for name, part in found.items():
        batch_norms = [layer for layer in part.layers if isinstance(layer, keras.layers.BatchNormalization)]
        assert bool(batch_norms) == ("critic" not in name)


@pytest.mark.parametrize("variant", ["wgan_gp", "contextual"])
def test_a_critic_judges_each_sample_by_itself(variant):
    name = "critic" if variant == "wgan_gp" else "critic_local"
    critic = tiny(variant).get_layer(name)
    images = noise(3, 8, 12, 16, 1)
    np.testing.assert_allclose(critic(images)[1:2], critic(images[1:2]), atol=1e-5)


def test_a_critic_can_be_differentiated_twice():
    """A gradient penalty needs it."""
    critic = tiny("wgan_gp").get_layer("critic")
    image = tf.constant(noise(2, 8, 12, 16, 1))
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            inner.watch(image)
            logit = critic(image)
        slope = inner.gradient(logit, image)
        penalty = tf.reduce_mean((tf.norm(tf.reshape(slope, (2, -1)), axis=1) - 1) ** 2)
    kernels = [weight for weight in critic.trainable_variables if weight.path.endswith("kernel")]
    assert all(np.any(gradient) for gradient in outer.gradient(penalty, kernels))


def test_the_features_of_a_critic_can_be_reached():
    critic = tiny("f_anogan").get_layer("critic")
    features = keras.Model(critic.input, critic.get_layer("critic_features").output)
    assert features(noise(1, 8, 12, 16, 1)).shape == (1, 2 * 3 * 4 * 6)


def test_spectral_norms_come_to_one():
    model = tiny("dcgan", spectral_norm=True)
    critic = model.get_layer("critic")
    for _ in range(50):
        critic(noise(1, 8, 12, 16, 1), training=True)
    kernels = [weight for weight in critic.trainable_variables if weight.path.endswith("kernel")]
    assert len(kernels) == 3
    for kernel in kernels:
        matrix = np.reshape(kernel, (-1, kernel.shape[-1]))
        assert 0.95 < np.linalg.svd(matrix, compute_uv=False)[0] < 1.05


def test_only_the_contextual_critics_are_spectral_unless_asked():
    for variant, expected in [("contextual", True), ("wgan_gp", False)]:
        critics = [part for name, part in parts(tiny(variant)).items() if "critic" in name]
        for critic in critics:
            spectral = [layer for layer in critic.layers if isinstance(layer, keras.layers.SpectralNormalization)]
            assert bool(spectral) == expected


def test_the_position_changes_nothing_at_the_start():
    generator = tiny("contextual").get_layer("generator")
    code = noise(1, 6)
    here, there = generator([code, np.zeros((1, 3))]), generator([code, np.full((1, 3), 0.7)])
    np.testing.assert_array_equal(here, there)


def test_sizes():
    with pytest.raises(ValueError, match="gan3d with 2 levels halves each axis twice: .* multiple of 4, got"):
        gan3d((8, 12, 18, 1), filters=(4, 6))
    with pytest.raises(ValueError, match="the context of gan3d with 3 levels .* multiple of 8, got"):
        tiny("contextual", context_shape=(16, 20, 32))
    sizes = [tuple(t.shape[1:]) for t in tiny("contextual", context_shape=(16, 24, 40)).inputs]
    assert sizes == [(8, 12, 16, 2), (16, 24, 40, 1), (3,)]


def test_fourier_features_by_hand():
    features = np.asarray(FourierFeatures(2)(np.array([[0.0, 0.25, 0.5]], "float32")))
    phases = np.pi * np.array([0, 0, 0.25, 0.5, 0.5, 1.0])
    np.testing.assert_allclose(features[0], [*np.sin(phases), *np.cos(phases)], atol=1e-6)


def test_pasting_at_the_same_spacing_is_exact():
    patch, volume = noise(1, 4, 6, 8, 2), noise(1, 10, 12, 14, 2)
    start = (5, 1, 4)
    centre = [
        (s + (n - 1) / 2) / ((size - 1) / 2) - 1 for s, n, size in zip(start, (4, 6, 8), (10, 12, 14), strict=True)
    ]
    pasted = np.asarray(Paste(1.0)([patch, volume, np.array([centre], "float32")]))
    expected = volume.copy()
    expected[:, 5:9, 1:7, 4:12] = patch
    np.testing.assert_allclose(pasted, expected, atol=1e-5)


def test_pasting_into_coarser_voxels_keeps_a_constant_and_its_volume():
    patch, volume = np.full((2, 12, 12, 12, 1), 5.0, "float32"), np.zeros((2, 9, 11, 13, 1), "float32")
    pasted = np.asarray(Paste(3.0)([patch, volume, np.array([[0, 0, 0], [0.5, 0, -0.5]], "float32")]))
    np.testing.assert_allclose(np.unique(np.round(pasted, 4)), [0, 5])
    assert (pasted[0] > 0).sum() == 5 * 5 * 5  # centres within 2 coarse voxels of the middle one


def test_an_unknown_variant_answers_with_the_nearest():
    with pytest.raises(ValueError, match=r"no variant 'wgan'\. Did you mean 'wgan_gp'\?"):
        gan3d(variant="wgan")
