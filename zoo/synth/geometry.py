"""Draws and applies the geometry of a synthetic sample: affine, diffeomorphism, mirror, crop."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from zoo.synth import fields, seeds
from zoo.synth.anatomy import labels

Tensor = Any
Params = dict[str, Tensor]
Shape = Sequence[int]
Where = Sequence[Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
    """Ranges of the geometry; the defaults are those of the released SynthSeg.

    Attributes:
        rotation_deg: largest angle about each axis.
        scaling: least and largest factor along each axis.
        shear: largest shear between two axes.
        translation_mm: largest shift along each axis.
        velocity_scale: control points of the velocity grid per voxel of the sample.
        velocity_sd: largest SD of the velocity, in mm; each sample draws its own.
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
        `velocity_sd` (), `velocity` (3, grid) in mm, `flip` () 0 or 1, all float32.
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
        "velocity": sd * seeds.normal(seed, (3, *grid), 6),
        "flip": ops.cast(seeds.uniform(seed, (), 7) < geometry.flip, "float32"),
        "crop": crop * seeds.uniform(seed, (3,), 8, low=-1.0),
    }


def affine(params: Mapping[str, Tensor]) -> Tensor:
    """Returns the matrix of mirror, rotation, shear and scaling, from sample to source, in mm, (3, 3) float32."""
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
    return mirror[:, None] * ops.matmul(ops.matmul(rotation, shear), _make_diagonal(params["scaling"]))


def _make_diagonal(values: Tensor) -> Tensor:
    return values[None, :] * ops.eye(3, dtype="float32")


def displacement(velocity: Tensor, shape: Shape) -> Tensor:
    """Integrates a stationary velocity for unit time, at half resolution, by scaling and squaring.

    Args:
        velocity: (3, grid) control points, in voxels of the sample.
        shape: voxels of the sample.

    Returns:
        (3, x, y, z) float32, in voxels.

    Source: Arsigny et al., MICCAI 2006, doi:10.1007/11866565_113.
    """
    half = tuple(max(2, (size + 1) // 2) for size in shape)
    stretch = np.array([(h - 1) / max(s - 1, 1) for h, s in zip(half, shape, strict=True)], np.float32)
    stretch = stretch[:, None, None, None]
    field = fields.upsample(velocity * (stretch / 2**SQUARINGS), half)
    # A loop, not five calls: XLA would fuse each squaring into the next and compute it again for every corner.
    field = ops.fori_loop(0, SQUARINGS, lambda _, inner: inner + _compose(inner), field)
    return fields.upsample_linear(field / stretch, shape)


def _compose(field: Tensor) -> Tensor:
    where = [axis + moved for axis, moved in zip(_make_grid(field.shape[1:]), ops.unstack(field, 3), strict=True)]
    return ops.stack([linear(component, where) for component in ops.unstack(field, 3)])


def coordinates(params: Mapping[str, Tensor], shape: Shape, source_shape: Shape, spacing: float = 1.0) -> Where:
    """Returns the place in the source of each voxel of the sample.

    Args:
        params: what `draw` returned.
        shape: voxels of the sample.
        source_shape: voxels of the source.
        spacing: voxel size of the sample over that of the source.

    Returns:
        Three of (x, y, z) float32, in voxels of the source.
    """
    moved = ops.unstack(displacement(params["velocity"] / spacing, shape), 3)
    local = [axis - (size - 1) / 2 + shift for axis, size, shift in zip(_make_grid(shape), shape, moved, strict=True)]
    matrix = affine(params) * spacing
    where = []
    for axis, (size, source) in enumerate(zip(shape, source_shape, strict=True)):
        room = max((source - size * spacing) / 2, 0.0)
        start = (source - 1) / 2 + params["crop"][axis] * room + params["translation_mm"][axis]
        where.append(matrix[axis, 0] * local[0] + matrix[axis, 1] * local[1] + matrix[axis, 2] * local[2] + start)
    return where


def nearest(volume: Tensor, where: Where, outside: int = 0) -> Tensor:
    """Samples the value of the nearest voxel.

    Args:
        volume: (x, y, z), any type.
        where: three of (...) float32 voxels.
        outside: value beyond the volume.

    Returns:
        (...) of the volume's type.
    """
    flat, inside = 0, True
    for place, size in zip(where, volume.shape, strict=True):
        index = ops.cast(ops.floor(place + 0.5), "int32")
        inside = (index >= 0) & (index < size) & inside
        flat = flat * size + ops.clip(index, 0, size - 1)
    values = ops.take(ops.reshape(volume, (-1,)), flat, axis=0)
    return ops.where(inside, values, ops.cast(outside, values.dtype))


def linear(volume: Tensor, where: Where) -> Tensor:
    """Samples trilinearly; beyond the volume the border values repeat.

    Args:
        volume: (x, y, z) float32.
        where: three of (...) float32 voxels.

    Returns:
        (...) float32.
    """
    _, y_size, z_size = volume.shape
    flat = ops.reshape(volume, (-1,))
    (x, dx), (y, dy), (z, dz) = (_split(place, size) for place, size in zip(where, volume.shape, strict=True))
    rows = [(i * y_size + j) * z_size for i in x for j in y]
    lines = [_mix(ops.take(flat, row + z[0], axis=0), ops.take(flat, row + z[1], axis=0), dz) for row in rows]
    return _mix(_mix(lines[0], lines[1], dy), _mix(lines[2], lines[3], dy), dx)


def _split(place: Tensor, size: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Returns the voxels below and above a place within an axis, and its distance from the lower."""
    place = ops.clip(place, 0.0, float(size - 1))
    floor = ops.floor(place)
    low = ops.cast(floor, "int32")
    return (low, ops.minimum(low + 1, size - 1)), place - floor


def _mix(first: Tensor, second: Tensor, part: Tensor) -> Tensor:
    return first + (second - first) * part


def _make_grid(shape: Shape) -> list[Tensor]:
    """Returns voxel indices along x, y and z, each of a shape that broadcasts."""
    sizes = [(-1, 1, 1), (1, -1, 1), (1, 1, -1)]
    return [ops.reshape(ops.arange(size, dtype="float32"), to) for size, to in zip(shape, sizes, strict=True)]


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
