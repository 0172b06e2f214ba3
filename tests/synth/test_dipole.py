"""The dipole kernel and its inversions: the analytic sphere, and NumPy in double precision."""

import numpy as np
import pytest
from keras import ops

from zoo.synth import dipole


def sphere(shape, spacing, radius, fine=5):
    """A sphere of 1 ppm about the middle voxel, each voxel sampled `fine`^3 times."""
    steps = (np.arange(fine) - fine // 2) / fine
    axes = [
        ((np.arange(n) - n // 2)[:, None] + steps).ravel() * d for n, d in zip(shape, spacing, strict=True)
    ]  # samples of a voxel lie together
    x, y, z = np.meshgrid(*(a**2 for a in axes), indexing="ij", sparse=True)
    inside = (x + y + z <= radius**2).reshape(*(k for n in shape for k in (n, fine)))
    return inside.mean((1, 3, 5)).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "spacing", "radius", "tilt"),
    [((44, 44, 44), (1, 1, 1), 7.0, 0), ((64, 60, 64), (1, 1, 1), 8.5, 20), ((40, 48, 32), (1, 1, 1.2), 7.5, 10)],
)
def test_field_outside_a_sphere_is_the_analytic_one(shape, spacing, radius, tilt):
    b = np.array(dipole.direction(ops.convert_to_tensor(float(tilt)), ops.convert_to_tensor(30.0)))
    result = np.array(dipole.field(ops.convert_to_tensor(sphere(shape, spacing, radius)), spacing, b))
    expected = dipole.sphere_field(shape, spacing, radius, b)
    x, y, z = np.meshgrid(
        *((np.arange(n) - n // 2) * d for n, d in zip(shape, spacing, strict=True)), indexing="ij", sparse=True
    )
    r = np.sqrt(x**2 + y**2 + z**2)
    outside = r > radius + max(spacing)
    error = np.sqrt(np.mean((result - expected)[outside] ** 2) / np.mean(expected[outside] ** 2))
    assert error <= 0.03
    assert np.abs(result[r < radius - 1.5 * max(spacing)]).max() < 0.03


@pytest.mark.parametrize("shape", [(8, 10, 6), (7, 9, 12), (16, 4, 5)])
def test_transform_is_numpys(shape):
    volume = np.random.default_rng(1).normal(size=(2, *shape))
    real, imaginary = dipole.fft3(tuple(ops.convert_to_tensor(part, "float32") for part in volume))
    expected = np.fft.fftn(volume[0] + 1j * volume[1])
    np.testing.assert_allclose(np.array(real) + 1j * np.array(imaginary), expected, atol=2e-4)
    back = dipole.ifft3((real, imaginary))
    np.testing.assert_allclose(np.array(back[0]), volume[0], atol=1e-5)


def reference_kernel(shape, spacing, b):
    k = np.meshgrid(*(np.fft.fftfreq(n, d) for n, d in zip(shape, spacing, strict=True)), indexing="ij")
    squared = sum(axis**2 for axis in k)
    with np.errstate(invalid="ignore"):
        value = 1 / 3 - (k[0] * b[0] + k[1] * b[1] + k[2] * b[2]) ** 2 / squared
    value[0, 0, 0] = 0
    return value


@pytest.mark.parametrize(("shape", "spacing"), [((12, 10, 8), (1, 1, 2)), ((9, 11, 13), (0.6, 0.7, 3))])
def test_field_and_inversions_are_numpys_in_double_precision(shape, spacing):
    rng = np.random.default_rng(5)
    b = rng.normal(size=3)
    b /= np.linalg.norm(b)
    chi = rng.normal(scale=0.05, size=shape)
    wide = tuple(2 * n for n in shape)
    padded = np.pad(chi, [(0, n) for n in shape])
    spectrum = np.fft.fftn(padded) * reference_kernel(wide, spacing, b)
    expected = np.real(np.fft.ifftn(spectrum))[tuple(slice(n) for n in shape)]
    result = np.array(dipole.field(ops.convert_to_tensor(chi, "float32"), spacing, ops.convert_to_tensor(b, "float32")))
    np.testing.assert_allclose(result, expected, atol=1e-6)

    kernel = reference_kernel(shape, spacing, b)
    ours = dipole.kernel(shape, spacing, ops.convert_to_tensor(b, "float32"))
    np.testing.assert_allclose(np.array(ours), kernel, atol=1e-6)
    gain = np.where(np.abs(kernel) > 0.15, 1 / np.where(kernel == 0, 1, kernel), np.where(kernel < 0, -1, 1) / 0.15)
    gain[0, 0, 0] = 0
    # Where |D| is the threshold to rounding, either branch is right: both give almost the same.
    np.testing.assert_allclose(np.array(dipole.thresholded(ours, 0.15)), gain / np.mean(gain * kernel), rtol=1e-3)
    index = np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij")
    rough = sum((2 - 2 * np.cos(2 * np.pi * k)) / d**2 for k, d in zip(index, spacing, strict=True))
    closed = kernel / np.maximum(kernel**2 + 0.02 * rough, 1e-9)
    np.testing.assert_allclose(np.array(dipole.smooth_inverse(ours, 0.02, spacing)), closed, atol=2e-3, rtol=1e-3)


def test_thresholded_division_keeps_the_height_of_a_point():
    chi = np.zeros((16, 24, 32), np.float32)
    chi[8, 12, 16] = 1
    kernel = dipole.kernel(chi.shape, (1, 1, 1), ops.convert_to_tensor([0.0, 0.0, 1.0]))
    back = dipole.filtered(ops.convert_to_tensor(chi), kernel * dipole.thresholded(kernel, 0.2))
    assert np.array(back)[8, 12, 16] == pytest.approx(1, abs=1e-4)


def test_phase_of_one_ppm():
    assert dipole.radians_per_ppm(3.0, 0.02) == pytest.approx(2 * np.pi * 42.577478518 * 3 * 0.02)
