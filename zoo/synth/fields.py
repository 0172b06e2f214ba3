"""Makes smooth fields and resizes volumes by one small matrix per axis."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

Tensor = Any


def separable(volume: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiplies each of the last three axes of a volume by a matrix.

    Args:
        volume: (..., x, y, z) float32; components come first, so that rows of voxels stay contiguous.
        matrices: three of (new size, old size).

    Returns:
        (..., new x, new y, new z) float32.
    """
    leading, (x, y, z) = tuple(volume.shape[:-3]), volume.shape[-3:]
    volume = ops.matmul(matrices[0], ops.reshape(volume, (*leading, x, y * z)))
    volume = ops.matmul(matrices[1], ops.reshape(volume, (*leading, matrices[0].shape[0], y, z)))
    return ops.matmul(volume, ops.transpose(matrices[2]))


def coarse_shape(shape: Sequence[int], scale: float) -> tuple[int, int, int]:
    """Returns the control points along each axis: `scale` times the voxels, at least two."""
    x, y, z = (max(2, int(np.ceil(size * scale))) for size in shape)
    return x, y, z


def upsample(coarse: Tensor, shape: Sequence[int]) -> Tensor:
    """Evaluates a cubic B-spline of a coarse grid of control points; the result is smooth and stays in their range.

    Args:
        coarse: (..., x, y, z) float32.
        shape: voxels of the result along x, y, z; the outer control points sit on the outer voxels.

    Returns:
        `shape` after the leading axes, float32.
    """
    return separable(coarse, [_spline(old, new) for old, new in zip(coarse.shape[-3:], shape, strict=True)])


def _spline(old: int, new: int) -> Tensor:
    """Returns the weights (new, old) of the cubic B-spline, with the end points repeated outwards."""
    where = np.linspace(0, old - 1, new)[:, None, None]
    nodes = np.arange(-1, old + 1)[None, :, None]
    distance = np.abs(where - nodes)[..., 0]
    weights = np.where(distance < 1, 2 / 3 - distance**2 + distance**3 / 2, np.maximum(2 - distance, 0) ** 3 / 6)
    held = weights[:, 1:-1].copy()
    held[:, 0] += weights[:, 0]
    held[:, -1] += weights[:, -1]
    return ops.convert_to_tensor(held / held.sum(1, keepdims=True), dtype="float32")


def upsample_linear(field: Tensor, shape: Sequence[int]) -> Tensor:
    """Interpolates a grid linearly to a finer one with the same outer voxels.

    Args:
        field: (..., x, y, z) float32.
        shape: voxels of the result along x, y, z.

    Returns:
        `shape` after the leading axes, float32.
    """
    matrices = []
    for old, new in zip(field.shape[-3:], shape, strict=True):
        where = np.linspace(0, old - 1, new)[:, None]
        matrices.append(np.maximum(0, 1 - np.abs(where - np.arange(old))).astype(np.float32))
    return separable(field, [ops.convert_to_tensor(matrix) for matrix in matrices])
