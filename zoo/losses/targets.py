"""Brings targets and logits into the form that a loss computes on, and sums over voxels that count."""

from typing import Any

from keras import ops

Tensor = Any
VOXELS = (1, 2, 3)


def probabilities(y_pred: Tensor) -> Tensor:
    """Returns the sigmoid of one logit, the softmax of more; float32."""
    y_pred = ops.cast(y_pred, "float32")
    return ops.sigmoid(y_pred) if y_pred.shape[-1] == 1 else ops.softmax(y_pred, axis=-1)


def one_hot(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Returns the target with as many channels as the logits, float32; a label outside the classes becomes all zeros.

    Raises:
        ValueError: the target has neither one channel nor those of the logits, or another number of voxels.
    """
    _check_shapes(y_true, y_pred)
    num_classes = y_pred.shape[-1]
    if num_classes == 1:
        return ops.minimum(ops.cast(y_true, "float32"), 1.0)
    if y_true.shape[-1] == num_classes:
        return ops.cast(y_true, "float32")
    return ops.one_hot(ops.cast(y_true[..., 0], "int32"), num_classes, dtype="float32")


def foreground(y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
    """Returns target and logit of "any class but the background", both (batch, x, y, z, 1), float32."""
    _check_shapes(y_true, y_pred)
    y_true, y_pred = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
    if y_true.shape[-1] > 1:
        y_true = 1.0 - y_true[..., :1]
    if y_pred.shape[-1] > 1:
        y_pred = ops.logsumexp(y_pred[..., 1:], axis=-1, keepdims=True) - y_pred[..., :1]
    return ops.minimum(y_true, 1.0), y_pred


def voxel_sum(values: Tensor, mask: Tensor | None, *, batch: bool = False) -> Tensor:
    """Sums over the voxels that count, (batch, channels); over the batch too where `batch`, (1, channels)."""
    if mask is not None:
        values = values * ops.cast(mask, "float32")
    return ops.sum(ops.sum(values, axis=VOXELS), axis=0, keepdims=True) if batch else ops.sum(values, axis=VOXELS)


def voxel_count(like: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the number of voxels that count, (batch, 1), float32, at least 1."""
    ones = ops.ones_like(like[..., :1]) if mask is None else ops.cast(mask, "float32")
    return ops.maximum(ops.sum(ones, axis=VOXELS), 1.0)


def voxel_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the mean over the voxels that count of a one-channel map, (batch,); 0 where none counts."""
    return (voxel_sum(values, mask) / voxel_count(values, mask))[:, 0]


def quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divides so that value and gradient stay finite where the denominator is 0."""
    return numerator / ops.maximum(denominator, 1e-12)


def per_sample(values: Tensor, y_pred: Tensor) -> Tensor:
    """Repeats one value of the whole batch for each sample, or returns the values of samples unchanged; (batch,)."""
    return values + ops.zeros_like(ops.sum(ops.cast(y_pred[:, 0, 0, 0, :], "float32"), axis=-1))


def _check_shapes(y_true: Tensor, y_pred: Tensor) -> None:
    true, pred = tuple(y_true.shape), tuple(y_pred.shape)
    if len(true) != 5 or len(pred) != 5 or true[-1] not in (1, pred[-1]):
        raise ValueError(
            f"y_true must be (batch, x, y, z, 1) or (batch, x, y, z, {pred[-1]}) for logits {pred}, got {true}. "
            'Name extra target channels in Combined(..., maps=("mask", ...)).'
        )
    if any(t != p for t, p in zip(true[:4], pred[:4], strict=True) if t is not None and p is not None):
        raise ValueError(
            f"y_true {true} and the logits {pred} must have the same batch and voxels. "
            "Wrap the loss in DeepSupervision where an output is coarser than its target."
        )
