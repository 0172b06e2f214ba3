"""Flat images: bias and scale go, what is small stays."""

import numpy as np
from scipy import ndimage

from zoo.volumes.local_normalisation import flatten


def brain(shape=(60, 56, 52)):
    noise = np.random.default_rng(0).normal(size=(*shape, 2))
    inside = ndimage.binary_erosion(np.ones(shape, bool), iterations=5)
    return (1 + 0.2 * ndimage.gaussian_filter(noise, (3, 3, 3, 0)) / 0.05) * inside[..., None], inside


def test_local_mean_and_sd_are_those_of_a_plain_gaussian():
    images, inside = brain()
    weight = ndimage.gaussian_filter(inside.astype(float), 20, mode="constant")
    mean = ndimage.gaussian_filter(images[..., 0], 20, mode="constant") / weight
    difference = np.where(inside, images[..., 0] - mean, 0)
    sd = np.sqrt(ndimage.gaussian_filter(difference**2, 20, mode="constant") / weight)
    np.testing.assert_allclose(flatten(images, inside)[..., 0][inside], (difference / sd)[inside], atol=0.05)


def test_scale_goes_and_a_slow_bias_almost():
    images, inside = brain()
    slow = np.exp(0.1 * np.linspace(-1, 1, images.shape[0]))[:, None, None, None]
    plain, flat = flatten(images, inside), flatten(1000 * images, inside)
    np.testing.assert_allclose(flat, plain, atol=1e-4)
    alike = lambda first, other: np.corrcoef(first[inside][:, 0], other[inside][:, 0])[0, 1]  # noqa: E731
    left, before = 1 - alike(plain, flatten(images * slow, inside)), 1 - alike(images, images * slow)
    assert left < before / 2 and left < 0.05


def test_outside_and_flat_channels_are_zero():
    images, inside = brain()
    images[..., 1] = 7
    result = flatten(images, inside)
    assert result.dtype == np.float32 and not result[~inside].any() and not result[..., 1].any()
