"""Voxel-wise losses: cross-entropy, its weighted binary form, and focal."""

from collections.abc import Sequence

import keras
from keras import ops

from zoo.losses.targets import Tensor, foreground, one_hot, voxel_count, voxel_mean, voxel_sum


@keras.saving.register_keras_serializable("zoo")
def cross_entropy(
    y_true: Tensor,
    y_pred: Tensor,
    *,
    mask: Tensor | None = None,
    class_weights: Sequence[float] | None = None,
    balance: float = 0.0,
) -> Tensor:
    """Returns the mean over voxels of `-sum_c w_c y_c log p_c`; binary cross-entropy for a single logit.

    Args:
        y_true: label map or one-hot.
        y_pred: logits (batch, x, y, z, classes).
        mask: 1 where a voxel counts, (batch, x, y, z, 1).
        class_weights: w, one a class (two for a single logit: background, foreground). The mean is over voxels, not
            over weights.
        balance: b, weighs each class by its share of the sample's voxels to the power -b, scaled to a mean weight of 1:
            0 counts voxels alike, 1 classes. With 0.5 a network soon finds nuclei of a few voxels among large tissues,
            without flooding them.

    Returns:
        (batch,), >= 0.

    Raises:
        ValueError: the weights do not fit the classes, or `balance` is not in [0, 1].

    Source:
        Equals Keras' `CategoricalCrossentropy(from_logits=True)` and PyTorch's `cross_entropy` without weights.

    Example:
        >>> labels, logits = ops.ones((1, 2, 3, 4, 1)), ops.zeros((1, 2, 3, 4, 2))
        >>> cross_entropy(labels, logits).numpy().round(3)
        array([0.693], dtype=float32)
    """
    y, logs = one_hot(y_true, y_pred), _log_probabilities(y_pred)
    if y_pred.shape[-1] == 1:
        y = ops.concatenate([1.0 - y, y], axis=-1)
    weighted = y * logs * _to_class_weights(class_weights, y.shape[-1]) * _balance_classes(y, balance, mask)
    return voxel_mean(-ops.sum(weighted, axis=-1, keepdims=True), mask)


def _balance_classes(y: Tensor, balance: float, mask: Tensor | None) -> Tensor:
    """Returns weights of each sample's classes, (batch, 1, 1, 1, classes) or 1; their mean over voxels is 1."""
    if not 0 <= balance <= 1:
        raise ValueError(f"balance must be 0 (count voxels) to 1 (count classes), got {balance}.")
    if not balance:
        return 1.0
    total = voxel_count(y, mask)
    share = voxel_sum(y, mask) / total
    weight = ops.power(ops.maximum(share, 1.0 / total), -balance)
    weight = weight / ops.maximum(ops.sum(weight * share, axis=-1, keepdims=True), 1e-12)
    return weight[:, None, None, None, :]


@keras.saving.register_keras_serializable("zoo")
def binary_cross_entropy(
    y_true: Tensor,
    y_pred: Tensor,
    *,
    mask: Tensor | None = None,
    positive_weight: float | None = 1.0,
    largest_weight: float = 1000.0,
) -> Tensor:
    """Returns the weighted binary cross-entropy of the foreground, `-mean(w y log p + (1 - y) log(1 - p))`.

    Args:
        y_true: label map or one-hot; all classes but the background are foreground.
        y_pred: logits (batch, x, y, z, classes).
        mask: 1 where a voxel counts, (batch, x, y, z, 1).
        positive_weight: w; None balances each sample by `N- / N+`.
        largest_weight: upper limit of a balanced w.

    Returns:
        (batch,), >= 0.

    Source:
        w = 1 equals Keras' `BinaryCrossentropy(from_logits=True)`; a fixed w, PyTorch's `pos_weight`.

    Example:
        >>> labels, logits = ops.ones((1, 2, 3, 4, 1)), ops.zeros((1, 2, 3, 4, 2))
        >>> binary_cross_entropy(labels, logits, positive_weight=2.0).numpy().round(3)
        array([1.386], dtype=float32)
    """
    y, logit = foreground(y_true, y_pred)
    if positive_weight is None:
        positive = voxel_sum(y, mask)
        balance = (voxel_count(y, mask) - positive) / ops.maximum(positive, 1e-6)
        weight = ops.reshape(ops.minimum(balance, largest_weight), (-1, 1, 1, 1, 1))
    else:
        weight = positive_weight
    return voxel_mean(weight * y * ops.softplus(-logit) + (1.0 - y) * ops.softplus(logit), mask)


@keras.saving.register_keras_serializable("zoo")
def focal(
    y_true: Tensor,
    y_pred: Tensor,
    *,
    mask: Tensor | None = None,
    gamma: float = 2.0,
    class_weights: Sequence[float] | None = None,
) -> Tensor:
    """Returns the focal loss, mean of `-sum_c w_c y_c (1 - p_c)^gamma log p_c`: easy voxels count little.

    Args:
        y_true: label map or one-hot.
        y_pred: logits (batch, x, y, z, classes).
        mask: 1 where a voxel counts, (batch, x, y, z, 1).
        gamma: focus, >= 0; 0 is `cross_entropy`.
        class_weights: w, one a class; for a single logit `(1 - alpha, alpha)` is the source's alpha.

    Returns:
        (batch,), >= 0.

    Raises:
        ValueError: the weights do not fit the classes.

    Source:
        Lin et al., ICCV 2017, arXiv 1708.02002. Equals Keras' `CategoricalFocalCrossentropy` and
        `BinaryFocalCrossentropy`; MONAI's `FocalLoss(use_softmax=True)` divides by the number of classes too.

    Example:
        >>> labels, logits = ops.ones((1, 2, 3, 4, 1)), ops.zeros((1, 2, 3, 4, 2))
        >>> focal(labels, logits).numpy().round(3)
        array([0.173], dtype=float32)
    """
    y, logs = one_hot(y_true, y_pred), _log_probabilities(y_pred)
    if y_pred.shape[-1] == 1:
        y = ops.concatenate([1.0 - y, y], axis=-1)
    # The floor keeps the gradient of a power below 1 finite at p = 1.
    focus = ops.power(ops.maximum(-ops.expm1(logs), 1e-7), gamma)
    weighted = y * focus * logs * _to_class_weights(class_weights, y.shape[-1])
    return voxel_mean(-ops.sum(weighted, axis=-1, keepdims=True), mask)


def _log_probabilities(y_pred: Tensor) -> Tensor:
    """Returns log-probabilities of all classes, background first, two for a single logit; float32."""
    y_pred = ops.cast(y_pred, "float32")
    if y_pred.shape[-1] > 1:
        return ops.log_softmax(y_pred, axis=-1)
    return ops.concatenate([-ops.softplus(y_pred), -ops.softplus(-y_pred)], axis=-1)


def _to_class_weights(class_weights: Sequence[float] | None, num_classes: int) -> Tensor:
    if class_weights is None:
        return 1.0
    if len(class_weights) != num_classes:
        raise ValueError(
            f"class_weights must hold one weight a class, background first: {num_classes}, got {tuple(class_weights)}."
        )
    return ops.convert_to_tensor(list(class_weights), dtype="float32")
