"""Where each voxel of a synthetic sample comes from: affine, diffeomorphism, mirror, crop."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from zoo.synth import fields, labels, seeds

Tensor = Any
Params = dict[str, Tensor]
Shape = Sequence[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
    """Ranges of the geometry; the defaults are those of the released SynthSeg.

    Attributes:
        rotation_deg: largest angle about each axis.
        scaling: least and largest factor along each axis.
        shear: largest shear between two axes.
        translation_mm: largest shift along each axis.
        velocity_scale: control points of the velocity grid a voxel of the sample.
        velocity_sd: the velocity's own SD is drawn up to this, in mm.
        flip: probability of a left-right mirror.
        crop: "random" centres the sample anywhere it stays inside, "centre" in the middle.
        spacing_mm: voxel size of the sample.

    Source: Billot et al., SynthSeg, Medical Image Analysis 2023, doi:10.1016/j.media.2023.102789.
    """

    rotation_deg: float = 15.0
    scaling: tuple[float, float] = (0.8, 1.2)
    shear: float = 0.012
    translation_mm: float = 0.0
    velocity_scale: float = 0.04
    velocity_sd: float = 4.0
    flip: float = 0.5
    crop: str = "random"
    spacing_mm: float = 1.0


IDENTITY = Geometry(rotation_deg=0, scaling=(1, 1), shear=0, velocity_sd=0, flip=0, crop="centre")
SQUARINGS = 5  # the velocity is halved this often first, to steps well under a voxel


def draw(seed: Tensor, shape: Shape, geometry: Geometry = Geometry()) -> Params:
    """Draws one geometry.

    Args:
        seed: an int or an integer tensor.
        shape: voxels (x, y, z) of the sample.
        geometry: the ranges.

    Returns:
        `rotation_deg` (3,), `scaling` (3,), `shear` (6,), `translation_mm` (3,), `crop` (3,) in -1 to 1,
        `velocity_sd` (), `velocity` (grid, 3) in mm, `flip` () 0 or 1, all float32.
    """
    low, high = geometry.scaling
    grid = fields.coarse_shape(shape, geometry.velocity_scale)
    sd = seeds.uniform(seed, (), 5, low=0.0, high=geometry.velocity_sd)
    crop = float(geometry.crop == "random")
    return {
        "rotation_deg": geometry.rotation_deg * seeds.uniform(seed, (3,), 1, low=-1.0),
        "scaling": seeds.uniform(seed, (3,), 2, low=low, high=high),
        "shear": geometry.shear * seeds.uniform(seed, (6,), 3, low=-1.0),
        "translation_mm": geometry.translation_mm * seeds.uniform(seed, (3,), 4, low=-1.0),
        "velocity_sd": sd,
        "velocity": sd * seeds.normal(seed, (*grid, 3), 6),
        "flip": ops.cast(seeds.uniform(seed, (), 7) < geometry.flip, "float32"),
        "crop": crop * seeds.uniform(seed, (3,), 8, low=-1.0),
    }


def affine(params: Mapping[str, Tensor]) -> Tensor:
    """(3, 3) float32: mirror, then rotation, shear and scaling, from sample to source, in mm."""
    angles = params["rotation_deg"] * (math.pi / 180)
    c, s = ops.cos(angles), ops.sin(angles)
    one, zero = ops.ones_like(c[0]), ops.zeros_like(c[0])
    rows = [
        [one, zero, zero, zero, c[0], -s[0], zero, s[0], c[0]],
        [c[1], zero, s[1], zero, one, zero, -s[1], zero, c[1]],
        [c[2], -s[2], zero, s[2], c[2], zero, zero, zero, one],
    ]
    about_x, about_y, about_z = (ops.reshape(ops.stack(row), (3, 3)) for row in rows)
    h = params["shear"]
    shear = ops.reshape(ops.stack([one, h[0], h[1], h[2], one, h[3], h[4], h[5], one]), (3, 3))
    mirror = ops.stack([one - 2 * params["flip"], one, one])
    rotation = ops.matmul(ops.matmul(about_x, about_y), about_z)
    return mirror[:, None] * ops.matmul(ops.matmul(rotation, shear), _diagonal(params["scaling"]))


def _diagonal(values: Tensor) -> Tensor:
    return values[None, :] * ops.eye(3, dtype="float32")


def displacement(velocity: Tensor, shape: Shape) -> Tensor:
    """Integrates a stationary velocity for unit time, at half resolution, by scaling and squaring.

    Args:
        velocity: (grid, 3) control points, in voxels of the sample.
        shape: voxels of the sample.

    Returns:
        (x, y, z, 3) float32, in voxels.

    Source: Arsigny et al., MICCAI 2006, doi:10.1007/11866565_113.
    """
    half = tuple(max(2, (size + 1) // 2) for size in shape)
    stretch = np.array([(h - 1) / max(s - 1, 1) for h, s in zip(half, shape, strict=True)], np.float32)
    field = fields.upsample(velocity * (stretch / 2**SQUARINGS), half)
    grid = _grid(half)
    # A loop, not five calls: XLA would fuse each squaring into the next and compute it again for every corner.
    field = ops.fori_loop(0, SQUARINGS, lambda _, inner: inner + linear(inner, grid + inner), field)
    return fields.upsample_linear(field / stretch, shape)


def coordinates(
    params: Mapping[str, Tensor], shape: Shape, source_shape: Shape, spacing: float = 1.0
) -> Tensor:
    """Where in the source each voxel of the sample lies.

    Args:
        params: what `draw` returned.
        shape: voxels of the sample.
        source_shape: voxels of the source.
        spacing: voxel size of the sample over that of the source.

    Returns:
        (x, y, z, 3) float32, in voxels of the source.
    """
    centre = (np.asarray(shape, np.float32) - 1) / 2
    room = np.maximum((np.asarray(source_shape) - np.asarray(shape) * spacing) / 2, 0).astype(np.float32)
    middle = (np.asarray(source_shape, np.float32) - 1) / 2
    where = _grid(shape) - centre + displacement(params["velocity"] / spacing, shape)
    matrix = affine(params) * spacing
    moved = ops.sum(where[..., None, :] * matrix, axis=-1)
    return moved + (middle + params["crop"] * room + params["translation_mm"])


def nearest(volume: Tensor, where: Tensor, outside: int = 0) -> Tensor:
    """Value of the nearest voxel.

    Args:
        volume: (x, y, z), any type.
        where: (..., 3) float32 voxels.
        outside: value beyond the volume.

    Returns:
        (...) of the volume's type.
    """
    size = np.array(volume.shape, np.int32)
    index = ops.cast(ops.floor(where + 0.5), "int32")
    inside = ops.all((index >= 0) & (index < size), axis=-1)
    index = ops.clip(index, 0, size - 1)
    flat = (index[..., 0] * int(size[1]) + index[..., 1]) * int(size[2]) + index[..., 2]
    values = ops.take(ops.reshape(volume, (-1,)), flat, axis=0)
    return ops.where(inside, values, ops.cast(outside, values.dtype))


def linear(volume: Tensor, where: Tensor) -> Tensor:
    """Trilinear value, the border held beyond the volume.

    Args:
        volume: (x, y, z, channels) float32.
        where: (..., 3) float32 voxels.

    Returns:
        (..., channels) float32.
    """
    shape, channels = volume.shape[:3], volume.shape[3]
    flat = ops.reshape(volume, (-1, channels))
    low, high, part = [], [], []
    for axis, size in enumerate(shape):
        place = ops.clip(where[..., axis], 0.0, float(size - 1))
        floor = ops.floor(place)
        low.append(ops.cast(floor, "int32"))
        high.append(ops.minimum(low[-1] + 1, size - 1))
        part.append((place - floor)[..., None])
    rows = [(x * shape[1] + y) * shape[2] for x in (low[0], high[0]) for y in (low[1], high[1])]
    lines = [
        _mix(ops.take(flat, r + low[2], axis=0), ops.take(flat, r + high[2], axis=0), part[2]) for r in rows
    ]
    return _mix(_mix(lines[0], lines[1], part[1]), _mix(lines[2], lines[3], part[1]), part[0])


def _mix(first: Tensor, second: Tensor, part: Tensor) -> Tensor:
    return first + (second - first) * part


def _grid(shape: Shape) -> Tensor:
    axes = [ops.arange(size, dtype="float32") for size in shape]
    return ops.stack(ops.meshgrid(*axes, indexing="ij"), axis=-1)


def swap_sides(label_map: Tensor, flip: Tensor, partners: np.ndarray = labels.PARTNERS) -> Tensor:
    """Gives each label its partner's value where a mirror was drawn.

    Args:
        label_map: (...) integers.
        flip: () 0 or 1.
        partners: value of the mirrored structure at each value.

    Returns:
        (...) int32.
    """
    table = ops.convert_to_tensor(partners, dtype="int32")
    same = ops.arange(len(partners), dtype="int32")
    return ops.take(ops.where(flip > 0.5, table, same), ops.cast(label_map, "int32"), axis=0)
