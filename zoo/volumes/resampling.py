"""Resamples volumes between grids whose centres coincide, and between any two grids.

The linear case is one small matrix an axis, multiplied by BLAS: on a 181 x 217 x 181 head this was two to
seven times as fast as `scipy.ndimage.zoom`, and a wider kernel against aliasing is only another matrix.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

Spacing = float | Sequence[float] | np.ndarray
# Sampling positions are rounded, in voxels, so that equal grids stay equal although spacings and affines are floats.
SPACING_DECIMALS, AFFINE_DECIMALS = 6, 5


def resampled_shape(shape: Sequence[int], spacing_in: Spacing, spacing_out: Spacing) -> tuple[int, int, int]:
    """Returns the voxels that cover the same field of view: n * spacing_in / spacing_out, halves rounded up.

    Args:
        shape: voxels along x, y, z (further axes are ignored).
        spacing_in: current voxel size in mm, one number or three.
        spacing_out: new voxel size in mm, one number or three.

    Returns:
        Three counts, each at least 1.
    """
    extent = np.asarray(shape[:3]) / _spacing_ratio(spacing_in, spacing_out)
    counts = np.floor(extent + 0.5 + 1e-6).astype(int).clip(1)
    return int(counts[0]), int(counts[1]), int(counts[2])


def resample_affine(
    affine: np.ndarray,
    shape: Sequence[int],
    spacing_out: Spacing,
    *,
    new_shape: Sequence[int] | None = None,
) -> np.ndarray:
    """Returns the affine of what `resample` returns: new voxel size, same directions, same centre in mm.

    Args:
        affine: (4, 4), voxel index to mm, of the image before resampling.
        shape: its voxels along x, y, z.
        spacing_out: new voxel size in mm, one number or three.
        new_shape: voxels after resampling; `resampled_shape` when None.

    Returns:
        (4, 4) float64.
    """
    affine = np.asarray(affine, np.float64)
    spacing_in = np.sqrt((affine[:3, :3] ** 2).sum(0))
    if new_shape is None:
        new_shape = resampled_shape(shape, spacing_in, spacing_out)
    result = affine.copy()
    result[:3, :3] = affine[:3, :3] * _spacing_ratio(spacing_in, spacing_out)
    old_centre, new_centre = (np.asarray(shape[:3]) - 1) / 2, (np.asarray(new_shape[:3]) - 1) / 2
    result[:3, 3] += affine[:3, :3] @ old_centre - result[:3, :3] @ new_centre
    return result


def resample(
    array: np.ndarray,
    spacing_in: Spacing,
    spacing_out: Spacing,
    *,
    order: int = 1,
    shape: Sequence[int] | None = None,
    antialias: bool = False,
) -> np.ndarray:
    """Samples a volume at another voxel size on a grid with the same centre; past the edge the edge repeats.

    Half-voxel alignment: output voxel j lies at input position (j - (m - 1) / 2) * spacing_out / spacing_in +
    (n - 1) / 2 for n voxels in and m out, so a volume neither drifts there nor back. To go back, swap the
    spacings and pass the first shape. `resample_affine` gives the affine.

    Args:
        array: (x, y, z) or (x, y, z, channels), finite.
        spacing_in: current voxel size in mm, one number or three.
        spacing_out: new voxel size in mm, one number or three.
        order: 1 linear, for images and probabilities; 0 nearest voxel, for label maps.
        shape: output voxels along x, y, z; `resampled_shape` when None.
        antialias: widen the linear kernel by the shrink factor along axes that shrink (it averages what falls
            into a voxel instead of picking two of its neighbours). Off by default, as networks are usually
            trained.

    Returns:
        (*shape[, channels]), C-contiguous, possibly `array` itself when nothing changes: float32 for order 1,
        the dtype of `array` for order 0. An axis whose spacing and size stay is passed through bit for bit.

    Raises:
        ValueError: a spacing that is not positive, an order other than 0 and 1, or an array not 3D or 4D.
    """
    array = _check_array(array, order)
    ratio = _spacing_ratio(spacing_in, spacing_out)
    shape = resampled_shape(array.shape, spacing_in, spacing_out) if shape is None else shape
    widths = np.maximum(ratio, 1.0) if antialias else np.ones(3)
    positions = [_sample_positions(n, m, r) for n, m, r in zip(array.shape, shape, ratio, strict=False)]
    return _resample_separable(array, positions, order, widths)


def resample_labels(
    labels: np.ndarray, spacing_in: Spacing, spacing_out: Spacing, *, shape: Sequence[int] | None = None
) -> np.ndarray:
    """Resamples a label map by majority: each voxel takes the label that covers most of it.

    Slower than order 0 (one pass a label) and better when shrinking, where the nearest voxel is one of many.

    Args:
        labels: (x, y, z) integers or booleans.
        spacing_in: current voxel size in mm, one number or three.
        spacing_out: new voxel size in mm, one number or three.
        shape: output voxels along x, y, z; `resampled_shape` when None.

    Returns:
        `shape`, dtype of `labels`; of labels with equal shares the smallest.
    """
    shape = resampled_shape(labels.shape, spacing_in, spacing_out) if shape is None else tuple(shape[:3])
    best, share = np.zeros(shape, labels.dtype), np.zeros(shape, np.float32)
    for label in np.unique(labels):
        fraction = (labels == label).astype(np.float32)
        fraction = resample(fraction, spacing_in, spacing_out, shape=shape, antialias=True)
        larger = fraction > share + 1e-6
        best[larger], share[larger] = label, fraction[larger]
    return best


def resample_like(
    array: np.ndarray,
    affine: np.ndarray,
    shape: Sequence[int],
    target_affine: np.ndarray,
    *,
    order: int = 1,
) -> np.ndarray:
    """Samples a volume on any other grid, oblique ones included; 0 where that grid leaves the volume.

    Grids with parallel axes are resampled axis by axis, which is fast; others by `scipy.ndimage.affine_transform`. The
    edge repeats over the outer half voxel, so a volume reaches as far as its voxels do.

    Args:
        array: (x, y, z) or (x, y, z, channels), finite.
        affine: (4, 4), voxel index to mm, of `array`.
        shape: voxels of the target grid along x, y, z.
        target_affine: (4, 4) of the target grid.
        order: 1 linear, for images and probabilities; 0 nearest voxel, for label maps.

    Returns:
        (*shape[, channels]): float32 for order 1, the dtype of `array` for order 0.

    Raises:
        ValueError: an order other than 0 and 1, or an array not 3D or 4D.
    """
    array = _check_array(array, order)
    matrix = np.linalg.solve(np.asarray(affine, np.float64), np.asarray(target_affine, np.float64))
    axes = np.abs(matrix[:3, :3]).argmax(0)  # for each target axis the axis of `array` that it runs along
    aligned = matrix[axes, range(3)]
    rest = matrix[:3, :3].copy()
    rest[axes, range(3)] = 0
    # Parallel when no target voxel would move by a thousandth of a voxel for it.
    if len(set(axes)) < 3 or np.abs(rest).sum(0) @ np.asarray(shape[:3]) > 1e-3:
        return _resample_oblique(array, matrix, tuple(shape[:3]), order)
    moved = array.transpose(*axes, *range(3, array.ndim))
    positions = [
        np.round(step * np.arange(m) + start, AFFINE_DECIMALS)
        for step, m, start in zip(aligned, shape, matrix[axes, 3], strict=False)
    ]
    return _zero_outside(_resample_separable(moved, positions, order, np.ones(3)), positions, moved.shape)


def _zero_outside(result: np.ndarray, positions: Sequence[np.ndarray], source_shape: Sequence[int]) -> np.ndarray:
    """Sets voxels to 0 that were sampled more than half a voxel outside the source."""
    inside = [(x >= -0.5) & (x <= n - 0.5) for x, n in zip(positions, source_shape, strict=False)]
    if all(each.all() for each in inside):
        return result
    box = np.ix_(*inside)
    framed = np.zeros_like(result)
    framed[box] = result[box]
    return framed


def _check_array(array: np.ndarray, order: int) -> np.ndarray:
    if order not in (0, 1):
        raise ValueError(f"order must be 0 (nearest, label maps) or 1 (linear, images), got {order!r}.")
    array = np.asarray(array)
    if array.ndim not in (3, 4):
        raise ValueError(
            f"Resampling takes (x, y, z) or (x, y, z, channels), got shape {array.shape}. "
            "Take batches apart and put channels last."
        )
    return array


def _spacing_ratio(spacing_in: Spacing, spacing_out: Spacing) -> np.ndarray:
    both = np.stack([np.broadcast_to(np.asarray(s, np.float64), 3) for s in (spacing_in, spacing_out)])
    if not (np.isfinite(both).all() and (both > 0).all()):
        raise ValueError(
            f"Spacings must be positive, in mm; got {spacing_in} and {spacing_out}. Take them from the "
            "affine with spacing_mm(affine)."
        )
    return both[1] / both[0]


def _sample_positions(num_in: int, num_out: int, ratio: float) -> np.ndarray:
    """Returns the positions of the output voxels on an input axis, symmetric about the common centre."""
    return np.round((np.arange(num_out) - (num_out - 1) / 2) * ratio, SPACING_DECIMALS) + (num_in - 1) / 2


def _resample_separable(
    array: np.ndarray, positions: Sequence[np.ndarray], order: int, widths: np.ndarray
) -> np.ndarray:
    """Samples at the outer product of three lists of positions, the axis that shrinks most first."""
    if order == 1:
        array = array.astype(np.float32, copy=False)
    for axis in sorted(range(3), key=lambda axis: len(positions[axis]) / array.shape[axis]):
        x, num = positions[axis], array.shape[axis]
        if len(x) == num and (x == np.arange(num)).all():
            continue
        if order == 0:
            array = array.take(_nearest_index(x, num), axis)
        else:
            array = _multiply_axis(_triangle_weights(x, num, widths[axis]), array, axis)
    return np.ascontiguousarray(array)


def _nearest_index(x: np.ndarray, num: int) -> np.ndarray:
    """Returns the nearest index; halves go towards the centre, so mirrored volumes give mirrored results."""
    index = np.where(x < (num - 1) / 2, np.floor(x + 0.5), np.ceil(x - 0.5))
    return index.clip(0, num - 1).astype(int)


def _triangle_weights(x: np.ndarray, num: int, width: float) -> np.ndarray:
    """Returns a matrix whose row i weighs the input voxels for x[i], a triangle of half-width `width` voxels."""
    distance = np.abs(x.clip(0, num - 1)[:, None] - np.arange(num))
    weights = (1 - distance / width).clip(0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _multiply_axis(matrix: np.ndarray, array: np.ndarray, axis: int) -> np.ndarray:
    """Multiplies `matrix` (m, n) onto one axis of length n without moving axes, which would copy the volume."""
    before, after = array.shape[:axis], array.shape[axis + 1 :]
    if not after:
        result = array.reshape(-1, array.shape[axis]) @ matrix.T
    else:
        batches = array.reshape(int(np.prod(before)), array.shape[axis], int(np.prod(after)))
        result = np.matmul(matrix, batches)
    return result.reshape(*before, len(matrix), *after)


def _resample_oblique(array: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    dtype = np.dtype(np.float32) if order == 1 else array.dtype
    result = np.empty((*shape, *array.shape[3:]), dtype)
    source, target = (a[..., None] if a.ndim == 3 else a for a in (array, result))
    outside = _find_outside(matrix, shape, array.shape)
    for channel in range(source.shape[3]):
        volume = source[..., channel].astype(np.uint8 if dtype.kind == "b" else dtype, copy=False)
        sampled = ndimage.affine_transform(
            volume, matrix[:3, :3], matrix[:3, 3], shape, order=order, mode="nearest", prefilter=False
        )
        sampled[outside] = 0
        target[..., channel] = sampled
    return result


def _find_outside(matrix: np.ndarray, shape: Sequence[int], source_shape: Sequence[int]) -> np.ndarray:
    """Returns a mask of the target voxels that lie more than half a voxel outside the source."""
    outside = np.zeros(tuple(shape), bool)
    i, j, k = np.ogrid[tuple(slice(n) for n in shape)]
    for row, num in zip(matrix[:3], source_shape[:3], strict=True):
        plane = (row[1] * j + row[2] * k + row[3])[0]
        for x in range(shape[0]):
            position = np.round(plane + row[0] * i[x, 0, 0], AFFINE_DECIMALS)
            outside[x] |= (position < -0.5) | (position > num - 0.5)
    return outside
