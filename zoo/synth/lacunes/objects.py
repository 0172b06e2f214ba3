"""Computes the axis of each lacune or mimic in a patch, and how deep each voxel lies in it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from zoo.synth.lacunes.placement import KINDS, Brain

Tensor = Any


def axis_of(
    middle: Tensor, where: Sequence[Tensor], brain: Brain, turn: Tensor, lesion: Mapping[str, Tensor]
) -> Tensor:
    """Returns the direction of an object's axis: outwards from the middle of the brain for tubes, else as drawn.

    Args:
        middle: (3,) int32, voxel of its centre.
        where: place of each voxel in the anatomy, three of (x, y, z) float32.
        brain: the anatomy.
        turn: (3, 3), from the patch to the anatomy.
        lesion: the object's entries of what `zoo.synth.lacunes.scan.draw` returned.

    Returns:
        (3,) float32 of length 1.
    """
    _, y, z = where[0].shape
    flat = (middle[0] * y + middle[1]) * z + middle[2]
    source = ops.stack([ops.take(ops.reshape(axis, (-1,)), flat, axis=0) for axis in where])
    outwards = ops.sum(turn * (source - brain.middle)[:, None], axis=0)  # the inverse of a turn is its transpose
    outwards = outwards / ops.sqrt(ops.sum(ops.square(outwards)) + 1e-6) + 0.3 * lesion["direction"]
    along = ops.where(lesion["kind"] == KINDS.index("perivascular"), outwards, lesion["direction"])
    return along / ops.sqrt(ops.sum(ops.square(along)) + 1e-6)


def depth(axes: Sequence[Tensor], middle: Tensor, lesion: Mapping[str, Tensor], direction: Tensor) -> Tensor:
    """Returns the depth of each voxel under the surface of an object, a rod with ellipsoidal ends.

    Args:
        axes: number of each voxel along x, y and z.
        middle: (3,) float32, voxel of its centre.
        lesion: the object's entries of what `zoo.synth.lacunes.scan.draw` returned.
        direction: (3,) of its axis.

    Returns:
        (x, y, z) float32 in mm, negative outside.
    """
    # Householder's mirror of the first axis onto the direction gives the other two.
    first = ops.convert_to_tensor(np.array([1, 0, 0], np.float32))
    normal = direction - first
    frame = ops.eye(3) - 2 * normal[:, None] * normal[None] / ops.maximum(ops.sum(ops.square(normal)), 1e-6)
    x, y, z = (axis - middle[number] for number, axis in enumerate(axes))
    x, y, z = x[:, None, None], y[None, :, None], z[None, None, :]
    along, second, third = (frame[0, k] * x + frame[1, k] * y + frame[2, k] * z for k in range(3))
    along = ops.maximum(ops.abs(along) - lesion["half_mm"], 0.0)
    radii = lesion["axes_mm"]
    far = ops.sqrt(ops.square(along / radii[0]) + ops.square(second / radii[1]) + ops.square(third / radii[2]) + 1e-9)
    steep = ops.sqrt(
        ops.square(along / radii[0] ** 2)
        + ops.square(second / radii[1] ** 2)
        + ops.square(third / radii[2] ** 2)
        + 1e-9
    )
    # Off the surface by (far - 1) over the gradient: exact for balls, and to second order for ovoids.
    return (1.0 - far) * far / ops.maximum(steep, 1e-3)


def middle(shape: Sequence[int], inner: Sequence[int]) -> Tensor:
    """Marks the middle part of a grid, (x, y, z) bool.

    Args:
        shape: voxels.
        inner: voxels of the middle part.
    """
    mask = np.zeros(tuple(shape), bool)
    x, y, z = (slice((size - part) // 2, (size + part) // 2) for size, part in zip(shape, inner, strict=True))
    mask[x, y, z] = True
    return ops.convert_to_tensor(mask)
