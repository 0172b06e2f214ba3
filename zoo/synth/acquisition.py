"""Simulates a scanner: bias, slices, blur, ghosts, noise, and the preprocessing that follows."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from keras import ops

from zoo.synth import fields, seeds

Tensor = Any
Params = dict[str, Tensor]
Shape = Sequence[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Acquisition:
    """Ranges of the acquisition; the defaults are those of the released SynthSeg where it has them.

    Attributes:
        bias_scale: control points of the bias grid per voxel.
        bias_sd: largest SD of the logarithm of the bias; each sample draws its own.
        isotropic_mm: least and largest resolution when it is equal along all axes.
        anisotropic_mm: least and largest slice spacing when one axis is worse than the others.
        anisotropic: probability of the latter.
        blur: SD of the blur over the resolution in voxels; varied by a factor in `blur_range`.
        blur_range: least factor on the blur, its inverse the largest.
        noise: SD of the noise in the receiver's two channels over the brightest voxel, drawn up to this.
        ghost: probability of a ghost.
        ghost_strength: largest relative intensity of the ghost.
        gamma_sd: SD of the logarithm of gamma.
        skull_strip: probability that all but the brain is removed.
        strip_error: largest error of its border, as the mask's smoothed value off 1/2.
        cut: probability, for each face of the volume, that the field of view ends before it.
        cut_part: largest part of an axis that is cut off at a face.
        spacing_mm: voxel size of the sample.

    Source: Billot et al., SynthSeg, Medical Image Analysis 2023, doi:10.1016/j.media.2023.102789.
    """

    bias_scale: float = 0.025
    bias_sd: float = 0.7
    isotropic_mm: tuple[float, float] = (1.0, 4.0)
    anisotropic_mm: tuple[float, float] = (1.0, 8.0)
    anisotropic: float = 0.5
    blur: float = 0.75
    blur_range: float = 1.15
    noise: float = 0.05
    ghost: float = 0.1
    ghost_strength: float = 0.1
    gamma_sd: float = 0.5
    skull_strip: float = 0.0
    strip_error: float = 0.35
    cut: float = 0.0
    cut_part: float = 0.3
    spacing_mm: float = 1.0


IDENTITY = Acquisition(
    bias_sd=0, isotropic_mm=(1, 1), anisotropic_mm=(1, 1), blur=0, noise=0, ghost=0, gamma_sd=0, skull_strip=0
)


def draw(seed: Tensor, shape: Shape, acquisition: Acquisition = Acquisition()) -> Params:
    """Draws one acquisition.

    Args:
        seed: an int or an integer tensor.
        shape: voxels (x, y, z) of the sample.
        acquisition: the ranges.

    Returns:
        `bias_sd` (), `bias` (grid), `resolution_mm` (3,), `blur` (3,) SD in voxels, `noise` (), `ghost` (3,)
        strength along each axis, `ghost_shift` () voxels, `log_gamma` (), `strip` () 0 or 1, `strip_field` (grid),
        `cut` (2, 3) part of each axis that is cut off at its start and at its end, `seed` () of the noise.
    """
    grid = fields.coarse_shape(shape, acquisition.bias_scale)
    sd = acquisition.bias_sd * seeds.uniform(seed, (), 41)
    resolution = _draw_resolution(seed, acquisition)
    factor = acquisition.blur_range ** seeds.uniform(seed, (3,), 45, low=-1.0)
    axis = ops.cast(ops.floor(3 * seeds.uniform(seed, (), 46)), "int32")
    ghosted = ops.cast(seeds.uniform(seed, (), 47) < acquisition.ghost, "float32")
    strength = ghosted * acquisition.ghost_strength * seeds.uniform(seed, (), 48)
    return {
        "bias_sd": sd,
        "bias": sd * seeds.normal(seed, grid, 49),
        "resolution_mm": resolution,
        "blur": acquisition.blur * factor * resolution / acquisition.spacing_mm,
        "noise": acquisition.noise * seeds.uniform(seed, (), 50),
        "ghost": strength * ops.cast(ops.arange(3) == axis, "float32"),
        "ghost_shift": seeds.uniform(seed, (), 51, low=0.2, high=0.8),
        "log_gamma": acquisition.gamma_sd * seeds.normal(seed, (), 52),
        "strip": ops.cast(seeds.uniform(seed, (), 53) < acquisition.skull_strip, "float32"),
        "strip_field": acquisition.strip_error * seeds.uniform(seed, (6, 6, 6), 54, low=-1.0),
        "cut": _draw_cuts(seed, acquisition),
        "seed": seeds.fold(seed, 55),
    }


def _draw_resolution(seed: Tensor, acquisition: Acquisition) -> Tensor:
    """Draws the resolution in mm, (3,): equal along all axes, or coarser along one axis."""
    low, high = acquisition.isotropic_mm
    same = ops.ones((3,)) * seeds.uniform(seed, (), 42, low=low, high=high)
    axis = ops.cast(ops.floor(3 * seeds.uniform(seed, (), 43)), "int32")
    best, worst = acquisition.anisotropic_mm
    slices = seeds.uniform(seed, (), 44, low=best, high=worst)
    one_axis = ops.where(ops.arange(3) == axis, slices, best)
    return ops.where(seeds.uniform(seed, (), 56) < acquisition.anisotropic, one_axis, same)


def _draw_cuts(seed: Tensor, acquisition: Acquisition) -> Tensor:
    parts = acquisition.cut_part * seeds.uniform(seed, (2, 3), 57)
    return parts * ops.cast(seeds.uniform(seed, (2, 3), 58) < acquisition.cut, "float32")


def field_of_view(cut: Tensor, shape: Shape) -> Tensor:
    """Marks the voxels of a volume that were scanned.

    Args:
        cut: (2, 3), part of each axis that is cut off at its start and at its end.
        shape: voxels (x, y, z).

    Returns:
        `shape` bool.
    """
    inside: Tensor = True
    for axis, size in enumerate(shape):
        place = (ops.arange(size, dtype="float32") + 0.5) / size
        scanned = (place > cut[0, axis]) & (place < 1 - cut[1, axis])
        inside = ops.reshape(scanned, [-1 if axis == k else 1 for k in range(3)]) & inside
    return inside


def apply(
    image: Tensor, params: Mapping[str, Tensor], *, brain: Tensor | None = None, spacing_mm: float = 1.0
) -> Tensor:
    """Acquires an image: applies bias, blur with slices and ghost, noise, skull strip, range and gamma.

    Args:
        image: (x, y, z) float32, any range.
        params: what `draw` returned.
        brain: (x, y, z) float32, 1 in the brain; without it there is no skull stripping.
        spacing_mm: voxel size.

    Returns:
        (x, y, z) float32 in 0 to 1.
    """
    image = ops.maximum(image, 0.0) * bias_field(params["bias"], image.shape)
    image = blurred(image, params, spacing_mm)
    image = rician(image, params["noise"] * ops.max(image), params["seed"])
    if brain is not None:
        image = stripped(image, brain, params)
    return gamma(unit_range(image), params["log_gamma"])


def bias_field(log_bias: Tensor, shape: Shape) -> Tensor:
    """Returns the exponential of a smooth field, `shape` float32, positive."""
    return ops.exp(fields.upsample(log_bias, shape))


def blurred(image: Tensor, params: Mapping[str, Tensor], spacing_mm: float = 1.0) -> Tensor:
    """Applies blur, slice profile, sampling at the drawn resolution, interpolation back and ghost: one matrix an axis.

    Args:
        image: (x, y, z) float32.
        params: `resolution_mm` (3,), `blur` (3,) SD in voxels, `ghost` (3,), `ghost_shift` () in fields of view.
        spacing_mm: voxel size.

    Returns:
        (x, y, z) float32.
    """
    matrices = []
    for axis, size in enumerate(image.shape):
        matrix = slices(size, params["resolution_mm"][axis] / spacing_mm, params["blur"][axis])
        matrices.append(matrix + params["ghost"][axis] * _shift(size, params["ghost_shift"]))
    return fields.separable(image, matrices)


def slices(size: int, ratio: Tensor, sigma: Tensor) -> Tensor:
    """Returns the matrix that samples an axis by Gaussian slices `ratio` voxels apart, linear between their centres.

    Args:
        size: voxels along the axis.
        ratio: () voxels from slice to slice, at least 1.
        sigma: () SD of the slice profile in voxels; under 1/100 the profile is linear interpolation.

    Returns:
        (size, size) float32; each row sums to 1.
    """
    voxel = ops.arange(size, dtype="float32")
    # The middle voxel has a slice on it, so that a ratio of 1 is exact; slices beyond the volume repeat its border.
    middle = float(size // 2)
    place = middle + (voxel - middle) * ratio
    place = ops.clip(place, 0.0, float(size - 1))[:, None]
    wide = ops.exp(-0.5 * ops.square((place - voxel) / ops.maximum(sigma, 0.01)))
    sharp = ops.maximum(0.0, 1.0 - ops.abs(place - voxel))
    profile = ops.where(sigma > 0.25, wide, sharp)
    profile = profile / ops.sum(profile, axis=1, keepdims=True)
    position = (middle + (voxel - middle) / ratio)[:, None]
    back = ops.maximum(0.0, 1.0 - ops.abs(position - voxel))
    return ops.matmul(back / ops.maximum(ops.sum(back, axis=1, keepdims=True), 1e-6), profile)


def _shift(size: int, part: Tensor) -> Tensor:
    """Returns the matrix (size, size) that shifts an axis by a part of the field of view, around its end."""
    voxel = ops.arange(size, dtype="float32")
    source = ops.floor(voxel + part * size)
    source = source - ops.where(source >= size, float(size), 0.0)
    return ops.cast(ops.abs(source[:, None] - voxel) < 0.5, "float32")


def rician(image: Tensor, sd: Tensor, seed: Tensor) -> Tensor:
    """Returns the magnitude of a signal with Gaussian noise in both channels.

    Args:
        image: (x, y, z) float32, not negative.
        sd: () SD of each channel, in the image's unit.
        seed: an int or an integer tensor.

    Returns:
        (x, y, z) float32: `sqrt((image + a)^2 + b^2)`.

    Source: Gudbjartsson and Patz, MRM 1995, doi:10.1002/mrm.1910340618.
    """
    real = image + sd * seeds.normal(seed, image.shape, 1)
    return ops.sqrt(ops.square(real) + ops.square(sd * seeds.normal(seed, image.shape, 2)))


def stripped(image: Tensor, brain: Tensor, params: Mapping[str, Tensor]) -> Tensor:
    """Removes everything outside the brain, with a border that errs smoothly inwards and outwards.

    Args:
        image: (x, y, z) float32.
        brain: (x, y, z) float32, 1 in the brain.
        params: `strip` () and `strip_field` (grid).

    Returns:
        (x, y, z) float32.
    """
    unit = ops.ones(())
    smooth = fields.separable(brain, [slices(size, unit, 2.5 * unit) for size in brain.shape])
    keep = smooth > 0.5 + fields.upsample(params["strip_field"], brain.shape)
    return ops.where((params["strip"] > 0.5) & ops.logical_not(keep), 0.0, image)


def unit_range(image: Tensor) -> Tensor:
    """Scales the least and the largest value linearly to 0 and 1; a constant image becomes 0."""
    low, high = ops.min(image), ops.max(image)
    return (image - low) / ops.maximum(high - low, 1e-6)


def gamma(image: Tensor, log_gamma: Tensor) -> Tensor:
    """Returns `image ** exp(log_gamma)` of an image in 0 to 1."""
    power = ops.exp(ops.exp(log_gamma) * ops.log(ops.maximum(image, 1e-7)))
    return ops.where(image > 0, power, 0.0)  # keeps 0 at 0: a small power would make 1e-7 visible
