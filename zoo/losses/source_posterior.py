"""Losses for a handful of point-like sources in a volume, where almost every voxel is empty.

The target is (batch, x, y, z, 4): a density that sums to 1 over a volume (0 where it has no source), then the x, y
and z of the moment's direction times that density. The logits are (batch, x, y, z, 10): location, the numbers of
sources 0 to 5 (their means over the brain are the logits of the count), and the moment's x, y and z. A network of one
logit serves where location alone is learned. Every loss looks at its own channels; `Combined` adds them up.
"""

from typing import Any

import keras
from keras import ops

from zoo.losses.targets import Tensor, voxel_count, voxel_sum

LOCATION, COUNTS, MOMENT = slice(0, 1), slice(1, 7), slice(7, 10)
MAX_SOURCES = 5
_FAR = -1e9


@keras.saving.register_keras_serializable("zoo")
def location_cross_entropy(y_true: Tensor, y_pred: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Returns the cross-entropy of a softmax over the voxels, `-sum_v t_v log p_v`.

    The network cannot collapse into an empty answer, however rare sources are.

    Args:
        y_true: channel 0 is the density t, summing to 1 or 0.
        y_pred: channel 0 is the logit.
        mask: 1 where a source can be, (batch, x, y, z, 1); all others get no probability.

    Returns:
        (batch,), >= 0; 0 for a volume without sources.

    Source:
        As for keypoints, e.g. Sun et al., Integral human pose regression, ECCV 2018, arXiv 1711.08229.
    """
    density, logit = _split_location(y_true, y_pred)
    logs = log_posterior(logit, mask)
    return -ops.sum(density * ops.where(density > 0, logs, 0.0), axis=(1, 2, 3, 4))


@keras.saving.register_keras_serializable("zoo")
def location_focal(
    y_true: Tensor, y_pred: Tensor, *, mask: Tensor | None = None, count: Tensor | None = None, gamma: float = 2.0
) -> Tensor:
    """Returns the focal loss towards bumps of height 1, `sum_v |y - p|^gamma BCE(y, p) / sources`.

    Start the location's bias at -4.6 (p = 0.01), or the empty voxels of the first steps drown everything.

    Args:
        y_true: channel 0 is the density; divided by its largest value it is y.
        y_pred: channel 0 is the logit.
        mask: 1 where a source can be, (batch, x, y, z, 1).
        count: the number of sources, the same in every voxel, (batch, x, y, z, 1); 1 without.
        gamma: focus, >= 0.

    Returns:
        (batch,), >= 0.

    Source:
        Lin et al., ICCV 2017, arXiv 1708.02002; for soft targets Li et al., NeurIPS 2020, arXiv 2006.04388.
    """
    density, logit = _split_location(y_true, y_pred)
    y = density / ops.maximum(ops.max(density, axis=(1, 2, 3, 4), keepdims=True), 1e-12)
    focus = ops.power(ops.maximum(ops.abs(y - ops.sigmoid(logit)), 1e-7), gamma)
    entropy = y * ops.softplus(-logit) + (1.0 - y) * ops.softplus(logit)
    total = voxel_sum(focus * entropy, mask)[:, 0]
    return total if count is None else total / ops.maximum(ops.cast(count[:, 0, 0, 0, 0], "float32"), 1.0)


@keras.saving.register_keras_serializable("zoo")
def location_weighted_entropy(
    y_true: Tensor, y_pred: Tensor, *, mask: Tensor | None = None, background: float = 1e-7, signal: float = 1.0
) -> Tensor:
    """Returns the binary cross-entropy with a weight for each kind of voxel, divided by the number of voxels.

    With the weights of the source, 1e-7 and 1, "everything is a source" costs next to nothing, and
    networks learn just that; it serves comparisons.

    Args:
        y_true: channel 0 is the density; above 0 is a source.
        y_pred: channel 0 is the logit.
        mask: 1 where a source can be, (batch, x, y, z, 1).
        background: weight of voxels without a source.
        signal: weight of voxels with one.

    Returns:
        (batch,), >= 0.

    Source:
        Kalinichenko, Kozhevnikov and Tikhonov, 3D CNNs for the EEG inverse problem (Skoltech).
    """
    density, logit = _split_location(y_true, y_pred)
    y = ops.cast(density > 0, "float32")
    entropy = signal * y * ops.softplus(-logit) + background * (1.0 - y) * ops.softplus(logit)
    return (voxel_sum(entropy, mask) / voxel_count(entropy, mask))[:, 0]


@keras.saving.register_keras_serializable("zoo")
def location_regression(y_true: Tensor, y_pred: Tensor, *, mask: Tensor | None = None, height: float = 1.0) -> Tensor:
    """Returns the mean squared error towards `height` at the sources and 0 elsewhere.

    Args:
        y_true: channel 0 is the density; divided by its largest value it is 1 at the strongest source.
        y_pred: channel 0 is the value.
        mask: 1 where a source can be, (batch, x, y, z, 1).
        height: the true value; larger ones were a cure for empty answers.

    Returns:
        (batch,), >= 0.
    """
    density, value = _split_location(y_true, y_pred)
    y = height * density / ops.maximum(ops.max(density, axis=(1, 2, 3, 4), keepdims=True), 1e-12)
    return (voxel_sum((value - y) ** 2, mask) / voxel_count(value, mask))[:, 0]


@keras.saving.register_keras_serializable("zoo")
def count_entropy(y_true: Tensor, y_pred: Tensor, *, mask: Tensor | None = None, count: Tensor | None = None) -> Tensor:
    """Returns the cross-entropy of the number of sources, 0 to 5, whose logits are means over the brain.

    Args:
        y_true: not used.
        y_pred: channels 1 to 6 are the maps whose means are the logits.
        mask: the voxels that the mean is taken over, (batch, x, y, z, 1).
        count: the number of sources, the same in every voxel, (batch, x, y, z, 1).

    Returns:
        (batch,), >= 0.

    Raises:
        ValueError: no `count`.
    """
    if count is None:
        raise ValueError('count_entropy needs the number of sources, got None. Pass Combined(..., maps=("count",)).')
    del y_true
    true = ops.cast(ops.round(count[:, 0, 0, 0, 0]), "int32")
    logs = ops.log_softmax(count_logits(y_pred, mask), axis=-1)
    return -ops.sum(ops.one_hot(true, MAX_SOURCES + 1, dtype="float32") * logs, axis=-1)


@keras.saving.register_keras_serializable("zoo")
def moment_misalignment(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Returns the mean of `1 - cos` between predicted and true direction of the moment, weighed by the density.

    Args:
        y_true: channels 1 to 3 are the direction times the density.
        y_pred: channels 7 to 9 are the direction, of any length.

    Returns:
        (batch,), 0 to 2; 0 for a volume without sources.
    """
    y_pred = ops.cast(y_pred[..., MOMENT], "float32")
    true = ops.cast(y_true[..., 1:4], "float32")
    length = ops.sqrt(ops.sum(y_pred**2, axis=-1, keepdims=True) + 1e-6)
    weight = ops.sqrt(ops.sum(true**2, axis=-1) + 1e-20)
    return ops.sum(weight - ops.sum(true * y_pred / length, axis=-1), axis=(1, 2, 3)) / ops.maximum(
        ops.sum(weight, axis=(1, 2, 3)), 1e-3
    )


def log_posterior(logit: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the log of the softmax over the voxels of (batch, x, y, z, 1), very negative outside the mask."""
    if mask is not None:
        logit = ops.where(ops.cast(mask, "float32") > 0, logit, _FAR)
    return logit - ops.logsumexp(logit, axis=(1, 2, 3, 4), keepdims=True)


def count_logits(y_pred: Tensor, mask: Tensor | None) -> Tensor:
    """Returns logits of 0 to 5 sources, (batch, 6), from the network's logits (batch, x, y, z, 10)."""
    maps = ops.cast(y_pred[..., COUNTS], "float32")
    return voxel_sum(maps, mask) / voxel_count(maps, mask)


def _split_location(y_true: Tensor, y_pred: Tensor) -> tuple[Any, Any]:
    return ops.cast(y_true[..., LOCATION], "float32"), ops.cast(y_pred[..., LOCATION], "float32")
