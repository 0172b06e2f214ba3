"""Losses of single lesions. Components are labelled inside the graph, on any backend, compiled or not.

Labelling needs no precomputed map: each voxel starts with its own number, takes the largest of its neighbourhood, and
then the current number of the voxel that its number names, which doubles the reach in every round. Labels and
sizes carry no gradient; the gradient runs through the probabilities inside a component alone.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from zoo.losses.targets import Tensor, foreground

REDUCTIONS = ("sum", "mean")


@keras.saving.register_keras_serializable("zoo")
def component_penalty(
    y_true: Tensor,
    y_pred: Tensor,
    *,
    spacing_mm: Sequence[float],
    diameters_mm: Sequence[float] = (3.0, 15.0),
    largest_ratio: float | None = None,
    threshold: float = 0.5,
    reduction: str = "sum",
    mask: Tensor | None = None,
) -> Tensor:
    """Penalises each predicted component of implausible size: `(relu((a - d) / a) + relu((d - b) / b)) * mean p`.

    d is the diameter of the ball of the component's volume; [a, b] are `diameters_mm`. It tells perivascular spaces
    (under 3 mm) from lacunes. With `largest_ratio` r, `min(relu(e / r - 1), 1)` is added to the factor, e the ratio of
    the longest to the shortest principal axis: spaces along a vessel are elongated, lacunes are not.

    Args:
        y_true: label map or one-hot; its values are not used.
        y_pred: logits (batch, x, y, z, classes); all classes but the background are foreground.
        spacing_mm: voxel size along each axis, in mm.
        diameters_mm: the smallest and largest plausible diameter, in mm.
        largest_ratio: the largest plausible axis ratio (3 for lacunes), or None for any.
        threshold: a voxel with p above it belongs to a component; 26-connected.
        reduction: `"sum"` over the components of a sample, so that each false one counts alike however many there
            are; or `"mean"`.
        mask: 1 where a voxel counts, (batch, x, y, z, 1).

    Returns:
        (batch,), >= 0; 0 without gradient where nothing passes the threshold. Not continuous where a voxel crosses it.

    Raises:
        ValueError: a setting is out of range.

    Source:
        Wished for in Ooms' thesis; the formula is ours.
    """
    low, high = diameters_mm
    if not 0 < low <= high or reduction not in REDUCTIONS or min(spacing_mm) <= 0:
        raise ValueError(
            f"component_penalty needs 0 < smallest <= largest diameter, spacing > 0 and a reduction of {REDUCTIONS}, "
            f"got {(low, high)}, {tuple(spacing_mm)} and {reduction!r}."
        )
    p = ops.sigmoid(foreground(y_true, y_pred)[1])
    inside = p > threshold if mask is None else ops.logical_and(p > threshold, ops.cast(mask, "bool"))
    labels = label_components(ops.stop_gradient(inside))
    sums = _sum_components(ops.concatenate([ops.ones_like(p), p], axis=-1), labels)
    count, mass = sums[..., 0], sums[..., 1]
    diameter = (count * (6.0 * math.prod(spacing_mm) / math.pi)) ** (1 / 3)
    factor = ops.relu((low - diameter) / low) + ops.relu((diameter - high) / high)
    if largest_ratio is not None:
        factor = factor + ops.clip(_measure_axis_ratio(labels, count, spacing_mm) / largest_ratio - 1.0, 0.0, 1.0)
    there = ops.cast(count > 0, "float32")
    price = ops.sum(there * ops.stop_gradient(factor) * mass / ops.maximum(count, 1.0), axis=1)
    return price / ops.maximum(ops.sum(there, axis=1), 1.0) if reduction == "mean" else price


@keras.saving.register_keras_serializable("zoo")
def blob(
    y_true: Tensor,
    y_pred: Tensor,
    *,
    mask: Tensor | None = None,
    components: Tensor | None = None,
    smooth: float = 1e-5,
) -> Tensor:
    """Returns the blob loss: the mean over reference lesions of soft Dice loss with the other lesions masked out.

    A small lesion counts as much as a large one. Lesion n costs `1 - (2 I + s) / (V + I + B + s)` with `I = sum p` over
    it, V its voxels and `B = sum p` over all background. The source adds it to twice the loss of the whole patch:
    `Combined([(2, dice), (1, blob)])`.

    Args:
        y_true: label map or one-hot; all classes but the background are foreground.
        y_pred: logits (batch, x, y, z, classes).
        mask: 1 where a voxel counts, (batch, x, y, z, 1).
        components: lesion numbers as a target channel, (batch, x, y, z, 1), 0 for background, at most the number of
            voxels; else the 26-connected components of `y_true`, labelled in the graph.
        smooth: s.

    Returns:
        (batch,), 0 to 1; 0 without gradient where the reference has no lesion.

    Source:
        Kofler et al., IPMI 2023, arXiv 2205.08209, with soft Dice as the inner loss.
    """
    y, logit = foreground(y_true, y_pred)
    counts = ops.ones_like(y) if mask is None else ops.cast(mask, "float32")
    p = ops.sigmoid(logit) * counts
    inside = ops.logical_and(y > 0.5, counts > 0)
    labels = label_components(inside) if components is None else _number_uniquely(components, inside)
    sums = _sum_components(ops.concatenate([ops.ones_like(p), p], axis=-1), labels)
    volume, hit = sums[..., 0], sums[..., 1]
    false = ops.sum(ops.where(inside, 0.0, p), axis=(1, 2, 3))
    loss = 1.0 - (2.0 * hit + smooth) / (volume + hit + false + smooth)
    there = ops.cast(volume > 0, "float32")
    return ops.sum(there * loss, axis=1) / ops.maximum(ops.sum(there, axis=1), 1.0)


def label_components(mask: Tensor, *, rounds: int = 64) -> Tensor:
    """Labels the 26-connected components of a mask inside the graph.

    Args:
        mask: boolean (batch, x, y, z, 1).
        rounds: upper limit of the rounds, which end earlier when nothing changes. Compact lesions take under ten; a
            component that is not done by then stays in parts.

    Returns:
        int32 (batch, x, y, z, 1): 0 outside, inside one number a component (1 + the flat index, over the batch, of its
        last voxel).
    """
    mask = ops.cast(mask, "bool")
    shape = ops.shape(mask)
    numbers = ops.reshape(ops.arange(1, _multiply_sizes(shape) + 1, dtype="int32"), shape)
    start = ops.where(mask, numbers, 0)

    def one_round(labels: Tensor, changed: Tensor) -> tuple[Tensor, Tensor]:
        del changed
        spread = ops.where(mask, _take_largest_neighbour(labels), 0)
        table = ops.concatenate([ops.zeros((1,), dtype="int32"), ops.reshape(spread, (-1,))], axis=0)
        jumped = ops.take(table, ops.take(table, spread, axis=0), axis=0)
        return jumped, ops.any(jumped != labels)

    labels, _ = ops.while_loop(
        lambda labels, changed: changed, one_round, (start, ops.any(mask)), maximum_iterations=rounds
    )
    return labels


def _take_largest_neighbour(labels: Tensor) -> Tensor:
    """Returns the largest label in each 3x3x3 neighbourhood, one axis after another."""
    for axis in (1, 2, 3):
        length = ops.shape(labels)[axis]
        padded = ops.pad(labels, [(1, 1) if a == axis else (0, 0) for a in range(5)])
        for start in (0, 2):
            window = [slice(None)] * 5
            window[axis] = slice(start, start + length)
            labels = ops.maximum(labels, padded[tuple(window)])
    return labels


def _number_uniquely(components: Tensor, inside: Tensor) -> Tensor:
    """Makes the numbers of a target channel unique over the batch; voxels outside lesions are 0."""
    shape = ops.shape(inside)
    offsets = ops.reshape(ops.arange(shape[0], dtype="int32") * _multiply_sizes(shape[1:]), (-1, 1, 1, 1, 1))
    components = ops.cast(components, "int32")
    return ops.where(ops.logical_and(inside, components > 0), components + offsets, 0)


def _sum_components(values: Tensor, labels: Tensor) -> Tensor:
    """Sums each channel over each component, (batch, voxels, channels), at the component's number; else 0."""
    shape = ops.shape(values)
    flat = ops.reshape(values, (-1, values.shape[-1]))
    sums = ops.segment_sum(flat, ops.reshape(labels, (-1,)), num_segments=_multiply_sizes(shape[:4]) + 1)
    return ops.reshape(sums[1:], (-1, _multiply_sizes(shape[1:4]), values.shape[-1]))


def _measure_axis_ratio(labels: Tensor, count: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """Returns longest over shortest principal axis of each component, (batch, voxels); 1 for one cubic voxel."""
    offsets = _compute_offsets_mm(labels, spacing_mm)
    squares = [offsets[i] * offsets[j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
    moments = _sum_components(ops.concatenate([*offsets, *squares], axis=-1), labels)
    mean = moments / ops.maximum(count, 1.0)[..., None]
    x, y, z = (mean[..., i] for i in range(3))
    # A voxel is a box, not a point: its own variance keeps flat components from a ratio of infinity.
    xx, yy, zz = (mean[..., 3 + i] - c * c + spacing_mm[i] ** 2 / 12 for i, c in enumerate((x, y, z)))
    xy, xz, yz = mean[..., 6] - x * y, mean[..., 7] - x * z, mean[..., 8] - y * z
    largest, smallest = _find_extreme_eigenvalues((xx, yy, zz), (xy, xz, yz))
    return ops.sqrt(ops.maximum(largest, 0.0) / ops.maximum(smallest, 1e-6))


def _compute_offsets_mm(labels: Tensor, spacing_mm: Sequence[float]) -> list[Tensor]:
    """Returns each voxel's offset from the voxel that numbers its component, along each axis (small, so exact)."""
    _, size_x, size_y, size_z, _ = ops.shape(labels)
    root = labels - 1
    roots = (root // (size_y * size_z)) % size_x, (root // size_z) % size_y, root % size_z
    offsets = []
    for axis, (size, place) in enumerate(zip((size_x, size_y, size_z), roots, strict=True)):
        shape = [1, 1, 1, 1, 1]
        shape[axis + 1] = -1
        here = ops.reshape(ops.arange(size, dtype="int32"), shape)
        offsets.append(ops.cast(here - place, "float32") * float(spacing_mm[axis]))
    return offsets


def _find_extreme_eigenvalues(diagonal: tuple[Tensor, ...], off: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Returns the largest and the smallest eigenvalue of symmetric 3x3 matrices in closed form (Smith 1961)."""
    middle = sum(diagonal) / 3.0
    a, b, c = (value - middle for value in diagonal)
    d, e, f = off
    scale = ops.sqrt(ops.maximum((a * a + b * b + c * c + 2.0 * (d * d + e * e + f * f)) / 6.0, 1e-12))
    determinant = a * (b * c - f * f) - d * (d * c - f * e) + e * (d * f - b * e)
    angle = ops.arccos(ops.clip(determinant / (2.0 * scale**3), -1.0, 1.0)) / 3.0
    return middle + 2.0 * scale * ops.cos(angle), middle + 2.0 * scale * ops.cos(angle + 2.0 * math.pi / 3.0)


def _multiply_sizes(shape: Any) -> Any:
    """Multiplies sizes: a number where all are known, which XLA needs; a tensor where TensorFlow leaves some open."""
    product = shape[0]
    for size in shape[1:]:
        product = product * size
    return product
