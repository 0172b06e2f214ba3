"""Computes the field of a magnetic susceptibility and inverts it, by the dipole kernel in k-space.

Fields and susceptibilities are in ppm, relative to the main field. Volumes are (x, y, z); k-space arrays have the same
order and are pairs (real, imaginary), zero frequency first.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

Tensor = Any
Pair = tuple[Tensor, Tensor]
Shape = Sequence[int]
GAMMA_MHZ_PER_T = 42.577478518  # of the proton, over 2 pi; CODATA 2018


def fft3(volume: Pair) -> Pair:
    """Computes the three-dimensional Fourier transform.

    Args:
        volume: real and imaginary part, (x, y, z) float32 each.

    Returns:
        Real and imaginary part, (x, y, z) float32 each, as `numpy.fft.fftn` orders and scales them.
    """
    real, imaginary = ops.fft2(volume)
    real, imaginary = ops.fft((ops.transpose(real, (1, 2, 0)), ops.transpose(imaginary, (1, 2, 0))))
    return ops.transpose(real, (2, 0, 1)), ops.transpose(imaginary, (2, 0, 1))


def ifft3(spectrum: Pair) -> Pair:
    """Inverts `fft3`: conjugates, transforms, conjugates, and divides by the number of voxels."""
    real, imaginary = fft3((spectrum[0], -spectrum[1]))
    scale = 1.0 / math.prod(real.shape)
    return scale * real, -scale * imaginary


def filtered(volume: Tensor, gain: Tensor) -> Tensor:
    """Multiplies a real volume by a real gain in k-space.

    Args:
        volume: (x, y, z) float32.
        gain: (x, y, z) float32, even in k.

    Returns:
        (x, y, z) float32.
    """
    real, imaginary = fft3((volume, ops.zeros_like(volume)))
    return ifft3((real * gain, imaginary * gain))[0]


def frequencies(shape: Shape, spacing_mm: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns spatial frequencies in 1/mm along x, y and z, of shapes that broadcast to (x, y, z)."""
    grids = np.meshgrid(
        *(np.fft.fftfreq(n, d) for n, d in zip(shape, spacing_mm, strict=True)), indexing="ij", sparse=True
    )
    x, y, z = (ops.convert_to_tensor(grid, "float32") for grid in grids)
    return x, y, z


def kernel(shape: Shape, spacing_mm: Sequence[float], direction: Tensor) -> Tensor:
    """Returns the field of unit susceptibility in k-space, `D(k) = 1/3 - (k.b)^2 / k^2`, and `D(0) = 0`.

    Args:
        shape: voxels along x, y, z.
        spacing_mm: voxel size.
        direction: (3,) unit vector of the main field.

    Returns:
        `shape` float32, between -2/3 and 1/3.

    Source: Salomir et al., Concepts in MR B 2003, doi:10.1002/cmr.b.10083; Marques and Bowtell, Concepts in MR B 2005,
    doi:10.1002/cmr.b.20034.
    """
    x, y, z = frequencies(shape, spacing_mm)
    squared = ops.square(x) + ops.square(y) + ops.square(z)
    along = x * direction[0] + y * direction[1] + z * direction[2]
    value = 1 / 3 - ops.square(along) / ops.maximum(squared, 1e-12)
    return ops.where(squared > 0, value, 0.0)


def direction(tilt_deg: Tensor, turn_deg: Tensor) -> Tensor:
    """Returns the unit vector (3,) that leans by `tilt_deg` off z towards the azimuth `turn_deg` (from x to y)."""
    tilt, turn = tilt_deg * (math.pi / 180), turn_deg * (math.pi / 180)
    return ops.stack([ops.sin(tilt) * ops.cos(turn), ops.sin(tilt) * ops.sin(turn), ops.cos(tilt)])


def field(chi: Tensor, spacing_mm: Sequence[float], b: Tensor, *, padding: float = 2.0) -> Tensor:
    """Computes the field shift of a susceptibility distribution.

    Args:
        chi: (x, y, z) float32, ppm.
        spacing_mm: voxel size.
        b: (3,) unit vector of the main field.
        padding: size of the transform over that of the volume; below 2 the field wraps around from the far side.

    Returns:
        (x, y, z) float32, ppm of the main field.
    """
    padded = tuple(math.ceil(size * padding) for size in chi.shape)
    wide = ops.pad(chi, [(0, new - size) for new, size in zip(padded, chi.shape, strict=True)])
    x, y, z = chi.shape
    return filtered(wide, kernel(padded, spacing_mm, b))[:x, :y, :z]


def sphere_field(shape: Shape, spacing_mm: Sequence[float], radius_mm: float, b: Sequence[float]) -> np.ndarray:
    """Computes the analytic field of a sphere of 1 ppm about the middle voxel; tests compare `field` with it.

    `(a / r)^3 (3 cos^2 theta - 1) / 3` outside, 0 inside (the sphere of Lorentz taken out).

    Args:
        shape: voxels.
        spacing_mm: voxel size.
        radius_mm: of the sphere.
        b: (3,) unit vector of the main field.

    Returns:
        `shape` float64, ppm.

    Source: Schenck, Medical Physics 1996, doi:10.1118/1.597854, equation 6.
    """
    axes = [(np.arange(n) - n // 2) * d for n, d in zip(shape, spacing_mm, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    squared = x**2 + y**2 + z**2
    outside = squared > radius_mm**2
    squared = np.where(outside, squared, 1.0)
    cosine = (x * b[0] + y * b[1] + z * b[2]) ** 2 / squared
    return np.where(outside, radius_mm**3 / squared**1.5 * (3 * cosine - 1) / 3, 0.0)


def thresholded(dipole: Tensor, threshold: Tensor) -> Tensor:
    """Returns the gain of thresholded k-space division, scaled so that a point keeps its height.

    Args:
        dipole: what `kernel` returned.
        threshold: () least |D| that is divided by; below it the sign of D over the threshold.

    Returns:
        Gain from field to susceptibility, of the kernel's shape.

    Source: Shmueli et al., MRM 2009, doi:10.1002/mrm.22135; the correction for the point spread, Schweser et al., MRM
    2013, doi:10.1002/mrm.24405.
    """
    sign = ops.where(dipole < 0, -1.0, 1.0)
    gain = ops.where(ops.abs(dipole) > threshold, 1.0 / ops.where(dipole == 0, 1.0, dipole), sign / threshold)
    gain = ops.where(dipole == 0, 0.0, gain)
    return gain / ops.mean(gain * dipole)


def smooth_inverse(dipole: Tensor, weight: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """Returns the gain of the closed-form L2 inversion, `D / (D^2 + weight |E|^2)`, E the finite-difference gradient.

    Args:
        dipole: what `kernel` returned.
        weight: () of the smoothness, in mm^2.
        spacing_mm: voxel size.

    Returns:
        Gain from field to susceptibility, of the kernel's shape.

    Source: Bilgic et al., JMRI 2014, doi:10.1002/jmri.24365.
    """
    terms = [
        ops.square(2.0 * ops.sin(math.pi * k * d) / d)
        for k, d in zip(frequencies(dipole.shape, spacing_mm), spacing_mm, strict=True)
    ]
    rough = terms[0] + terms[1] + terms[2]
    return dipole / ops.maximum(ops.square(dipole) + weight * rough, 1e-9)


def radians_per_ppm(field_t: Tensor, echo_s: Tensor) -> Tensor:
    """Returns the phase in radians of a shift of 1 ppm at the echo: `2 pi 42.58 B0 TE`."""
    return 2 * math.pi * GAMMA_MHZ_PER_T * field_t * echo_s
