"""Losses of prior knowledge: how large a lesion is, where it cannot be, how far off the boundary a mistake lies."""

import math
from collections.abc import Sequence

import keras
from keras import ops

from zoo.losses.targets import VOXELS, Tensor, foreground, voxel_count, voxel_mean, voxel_sum


@keras.saving.register_keras_serializable("zoo")
def size_penalty(
    y_true: Tensor, y_pred: Tensor, *, bounds_voxels: Sequence[float], mask: Tensor | None = None
) -> Tensor:
    """Penalises a size `V = sum p` out of bounds: `(a - V)^2 / N` below a, `(V - b)^2 / N` above b, N voxels a patch.

    Gradient `2 (V - b) / N` on every voxel's p: start with a weight near 1e-2 beside a mean cross-entropy.

    Args:
        y_true: label map or one-hot; only whether there is any foreground counts. Without any, both bounds are 0
            (the source's image tags).
        y_pred: logits (batch, x, y, z, classes); all classes but the background are foreground.
        bounds_voxels: `(a, b)`, the smallest and largest plausible foreground of one patch, in voxels.
        mask: 1 where a voxel counts, (batch, x, y, z, 1).

    Returns:
        (batch,), >= 0, in voxels.

    Raises:
        ValueError: not `0 <= a <= b`.

    Source:
        Kervadec et al., MedIA 2019, arXiv 1805.04628.

    Example:
        >>> labels, logits = ops.ones((1, 2, 3, 4, 1)), ops.zeros((1, 2, 3, 4, 2))
        >>> size_penalty(labels, logits, bounds_voxels=(1, 6)).numpy().round(3)
        array([1.5], dtype=float32)
    """
    low, high = bounds_voxels
    if not 0 <= low <= high:
        raise ValueError(f"bounds_voxels must be (smallest, largest) with 0 <= smallest <= largest, got {(low, high)}.")
    y, logit = foreground(y_true, y_pred)
    tag = ops.cast(voxel_sum(y, mask) > 0, "float32")
    volume = voxel_sum(ops.sigmoid(logit), mask)
    excess = ops.relu(tag * low - volume) + ops.relu(volume - tag * high)
    return (ops.square(excess) / voxel_count(y, mask))[:, 0]


@keras.saving.register_keras_serializable("zoo")
def location_penalty(y_true: Tensor, y_pred: Tensor, *, weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """Penalises false positives by place, `mean(p (1 - y) w)`; a true lesion costs nothing anywhere.

    Args:
        y_true: label map or one-hot; all classes but the background are foreground.
        y_pred: logits (batch, x, y, z, classes).
        weight: w >= 0, (batch, x, y, z, 1): 1 where a lesion cannot be (ventricle, cortex, CSF), or
            `1 - prevalence / max(prevalence)`. Pass it as a target channel: `Combined(..., maps=("weight",))`.
        mask: 1 where a voxel counts, (batch, x, y, z, 1).

    Returns:
        (batch,), >= 0, also for an empty reference.

    Source:
        Wished for in Ooms' thesis; the formula is ours.

    Example:
        >>> labels, logits = ops.ones((1, 2, 3, 4, 1)), ops.zeros((1, 2, 3, 4, 2))
        >>> location_penalty(0 * labels, logits, weight=labels).numpy().round(3)
        array([0.5], dtype=float32)
    """
    y, logit = foreground(y_true, y_pred)
    return voxel_mean(ops.sigmoid(logit) * (1.0 - y) * ops.cast(weight, "float32"), mask)


@keras.saving.register_keras_serializable("zoo")
def boundary(
    y_true: Tensor,
    y_pred: Tensor,
    *,
    spacing_mm: Sequence[float],
    reach_mm: float = 20.0,
    distance: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Returns the boundary loss `mean(p phi)`, phi the signed distance in mm to the reference's boundary (inside < 0).

    It grows with the distance of a mistake, unlike overlaps; add it to one of them with a weight that grows from 0.01.

    Args:
        y_true: label map or one-hot; all classes but the background are foreground.
        y_pred: logits (batch, x, y, z, classes).
        spacing_mm: voxel size along each axis, in mm.
        reach_mm: where phi levels off; its computation takes `reach / spacing` steps along each axis.
        distance: phi (batch, x, y, z, 1) as a target channel, for the full range; else `signed_distance_mm` of
            `y_true`, in the graph. A map made before cropping is better: it includes lesions outside the patch.
        mask: 1 where a voxel counts, (batch, x, y, z, 1).

    Returns:
        (batch,), in mm, negative for good predictions; 0 without gradient where the reference is empty or full.

    Source:
        Kervadec et al., MedIA 2021, arXiv 1812.07032. With 1 mm voxels and a long reach equals MONAI 1.6
        `BoundaryLoss` of the foreground channel.

    Example:
        >>> labels = ops.reshape(ops.arange(4) > 1, (1, 1, 1, 4, 1))
        >>> boundary(labels, ops.zeros((1, 1, 1, 4, 2)), spacing_mm=(1, 1, 1)).numpy()
        array([0.25], dtype=float32)
    """
    y, logit = foreground(y_true, y_pred)
    phi = signed_distance_mm(y, spacing_mm, reach_mm=reach_mm) if distance is None else distance
    return voxel_mean(ops.sigmoid(logit) * ops.stop_gradient(ops.cast(phi, "float32")), mask)


def signed_distance_mm(mask: Tensor, spacing_mm: Sequence[float], *, reach_mm: float = 20.0) -> Tensor:
    """Computes the signed distance of voxel centres to a mask's boundary in the graph, exact up to `reach_mm`.

    Outside, the distance to the nearest voxel of the mask; inside, minus the distance to the nearest voxel beyond it
    plus the smallest voxel edge, so that the outermost voxels of the mask are 0.

    Args:
        mask: foreground where above 0.5, (batch, x, y, z, 1).
        spacing_mm: voxel size along each axis, in mm.
        reach_mm: largest distance, in mm.

    Returns:
        float32 (batch, x, y, z, 1), `-reach_mm` to `reach_mm`; 0 for an empty or full mask.

    Raises:
        ValueError: spacing or reach are not positive.

    Example:
        >>> mask = ops.reshape([0.0, 0.0, 1.0, 1.0], (1, 1, 1, 4, 1))
        >>> signed_distance_mm(mask, (1, 1, 2)).numpy().ravel()
        array([ 4.,  2., -1., -3.], dtype=float32)
    """
    spacing = [float(size) for size in spacing_mm]
    if len(spacing) != 3 or min(spacing) <= 0 or reach_mm <= 0:
        raise ValueError(
            f"spacing_mm must be three sizes > 0 and reach_mm > 0, got {tuple(spacing_mm)} and {reach_mm}."
        )
    inside = mask > 0.5
    outer = _capped_distance(inside, spacing, reach_mm)
    inner = _capped_distance(ops.logical_not(inside), spacing, reach_mm)
    signed = ops.where(inside, min(spacing) - inner, outer)
    share = ops.mean(ops.cast(inside, "float32"), axis=VOXELS, keepdims=True)
    return ops.where(ops.logical_and(share > 0, share < 1), signed, 0.0)


def _capped_distance(seeds: Tensor, spacing: list[float], reach_mm: float) -> Tensor:
    """Computes the distance to the nearest seed, capped: a lower envelope of parabolas, one axis after another."""
    squared = ops.where(seeds, 0.0, float(reach_mm) ** 2)
    for axis, size in enumerate(spacing, start=1):
        steps = min(math.ceil(reach_mm / size), (squared.shape[axis] or 2**31) - 1)
        padded = ops.pad(
            squared, [(steps, steps) if a == axis else (0, 0) for a in range(5)], constant_values=float(reach_mm) ** 2
        )
        length = ops.shape(squared)[axis]
        for step in range(-steps, steps + 1):
            window = [slice(None)] * 5
            window[axis] = slice(steps + step, steps + step + length)
            squared = ops.minimum(squared, padded[tuple(window)] + (step * size) ** 2)
    return ops.sqrt(squared)
