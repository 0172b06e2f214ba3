"""The Dice family: losses of overlap, independent of how rare a class is."""

import keras
from keras import ops

from zoo.losses.entropy import cross_entropy
from zoo.losses.targets import Tensor, foreground, one_hot, per_sample, probabilities, quotient, voxel_sum


@keras.saving.register_keras_serializable("zoo")
def dice(
    y_true: Tensor,
    y_pred: Tensor,
    *,
    mask: Tensor | None = None,
    include_background: bool = False,
    squared: bool = False,
    batch: bool = False,
    ignore_empty: bool = False,
    smooth: float = 1e-5,
) -> Tensor:
    """Returns the soft Dice loss, the mean over classes of `1 - (2 sum p y + s) / (D + s)`, `D = sum p + sum y`.

    Args:
        y_true: label map or one-hot.
        y_pred: logits (batch, x, y, z, classes).
        mask: 1 where a voxel counts, (batch, x, y, z, 1).
        include_background: count class 0 as a class (a single logit has no background).
        squared: `D = sum p^2 + sum y^2`, the V-Net's denominator, with steeper gradients at sure mistakes.
        batch: one Dice for all samples together, steadier where a patch often lacks a class.
        ignore_empty: a class without a reference voxel leaves the mean; where all do, the loss is 0 without gradient.
            Else such a class costs up to 1, falling to 0 when the prediction is empty too.
        smooth: s, added to numerator and denominator.

    Returns:
        (batch,), 0 to 1.

    Source:
        Milletari et al., 3DV 2016, arXiv 1606.04797. Equals MONAI 1.6 `DiceLoss` with the same settings.

    Example:
        >>> labels, logits = ops.ones((1, 2, 3, 4, 1)), ops.zeros((1, 2, 3, 4, 2))
        >>> dice(labels, logits).numpy().round(3)
        array([0.333], dtype=float32)
    """
    p, y = probabilities(y_pred), one_hot(y_true, y_pred)
    size = voxel_sum(y, mask, batch=batch)
    common = voxel_sum(p * y, mask, batch=batch)
    total = voxel_sum(p * p + y * y, mask, batch=batch) if squared else voxel_sum(p, mask, batch=batch) + size
    loss = 1.0 - quotient(2.0 * common + smooth, total + smooth)
    return per_sample(_average_classes(loss, size, include_background, ignore_empty), y_pred)


@keras.saving.register_keras_serializable("zoo")
def dice_cross_entropy(
    y_true: Tensor,
    y_pred: Tensor,
    *,
    mask: Tensor | None = None,
    dice_weight: float = 1.0,
    cross_entropy_weight: float = 1.0,
    include_background: bool = False,
    batch: bool = False,
    balance: float = 0.0,
) -> Tensor:
    """Returns `dice_weight * dice + cross_entropy_weight * cross_entropy`, the loss that rarely fails (nnU-Net's).

    For other options of its parts use `Combined`. Equals MONAI 1.6 `DiceCELoss`.

    Args:
        y_true: label map or one-hot.
        y_pred: logits (batch, x, y, z, classes).
        mask: 1 where a voxel counts, (batch, x, y, z, 1).
        dice_weight: weight of `dice`.
        cross_entropy_weight: weight of `cross_entropy`.
        include_background: whether Dice counts class 0; cross-entropy always does.
        batch: one Dice for all samples together.
        balance: of `cross_entropy`, towards rare classes.

    Returns:
        (batch,), >= 0.

    Source:
        Isensee et al., Nature Methods 2021, doi 10.1038/s41592-020-01008-z.

    Example:
        >>> labels, logits = ops.ones((1, 2, 3, 4, 1)), ops.zeros((1, 2, 3, 4, 2))
        >>> dice_cross_entropy(labels, logits).numpy().round(3)
        array([1.026], dtype=float32)
    """
    overlap = dice(y_true, y_pred, mask=mask, include_background=include_background, batch=batch)
    entropy = cross_entropy(y_true, y_pred, mask=mask, balance=balance)
    return dice_weight * overlap + cross_entropy_weight * entropy


@keras.saving.register_keras_serializable("zoo")
def tversky(
    y_true: Tensor,
    y_pred: Tensor,
    *,
    mask: Tensor | None = None,
    alpha: float = 0.3,
    beta: float = 0.7,
    include_background: bool = False,
    batch: bool = False,
    smooth: float = 1e-5,
) -> Tensor:
    """Returns the Tversky loss, the mean over classes of `1 - (TP + s) / (TP + alpha FP + beta FN + s)`.

    More `beta` than `alpha` finds more and invents more; one half each is Dice with `s / 2`.

    Args:
        y_true: label map or one-hot.
        y_pred: logits (batch, x, y, z, classes).
        mask: 1 where a voxel counts, (batch, x, y, z, 1).
        alpha: weight of false positives, `FP = sum p (1 - y)`.
        beta: weight of false negatives, `FN = sum (1 - p) y`.
        include_background: count class 0 as a class.
        batch: one value for all samples together.
        smooth: s; an empty reference with an empty prediction costs 0.

    Returns:
        (batch,), 0 to 1.

    Source:
        Salehi et al., MLMI 2017, arXiv 1706.05721. Equals MONAI 1.6 `TverskyLoss`.

    Example:
        >>> labels, logits = ops.ones((1, 2, 3, 4, 1)), ops.zeros((1, 2, 3, 4, 2))
        >>> tversky(labels, logits).numpy().round(3)
        array([0.412], dtype=float32)
    """
    p, y = probabilities(y_pred), one_hot(y_true, y_pred)
    hit = voxel_sum(p * y, mask, batch=batch)
    false_positive = voxel_sum(p * (1.0 - y), mask, batch=batch)
    false_negative = voxel_sum((1.0 - p) * y, mask, batch=batch)
    total = hit + alpha * false_positive + beta * false_negative
    loss = 1.0 - quotient(hit + smooth, total + smooth)
    return per_sample(_average_classes(loss, hit, include_background, ignore_empty=False), y_pred)


@keras.saving.register_keras_serializable("zoo")
def generalised_dice(
    y_true: Tensor,
    y_pred: Tensor,
    *,
    mask: Tensor | None = None,
    include_background: bool = True,
    batch: bool = False,
    smooth: float = 1e-5,
) -> Tensor:
    """Computes `1 - (2 sum_c w_c sum p y + s) / (sum_c w_c (sum p + sum y) + s)`, `w_c = 1 / (sum y)^2`.

    Small classes weigh as much as large ones inside one fraction. A class without reference gets the largest weight
    of the others (0 where no class has any), so that false positives of it still cost.

    Args:
        y_true: label map or one-hot.
        y_pred: logits (batch, x, y, z, classes).
        mask: 1 where a voxel counts, (batch, x, y, z, 1).
        include_background: count class 0 as a class.
        batch: one value for all samples together.
        smooth: s.

    Returns:
        (batch,), 0 to 1.

    Source:
        Sudre et al., DLMIA 2017, arXiv 1707.03237. Equals MONAI 1.6 `GeneralizedDiceLoss`.

    Example:
        >>> labels, logits = ops.ones((1, 2, 3, 4, 1)), ops.zeros((1, 2, 3, 4, 2))
        >>> generalised_dice(labels, logits).numpy().round(3)
        array([0.5], dtype=float32)
    """
    p, y = probabilities(y_pred), one_hot(y_true, y_pred)
    if not include_background and y_pred.shape[-1] > 1:
        p, y = p[..., 1:], y[..., 1:]
    size = voxel_sum(y, mask, batch=batch)
    present = ops.cast(size > 0, "float32")
    weight = present / ops.square(ops.maximum(size, 1e-6))
    weight = weight + (1.0 - present) * ops.max(weight, axis=-1, keepdims=True)
    common = ops.sum(weight * voxel_sum(p * y, mask, batch=batch), axis=-1)
    total = ops.sum(weight * (voxel_sum(p, mask, batch=batch) + size), axis=-1)
    return per_sample(1.0 - quotient(2.0 * common + smooth, total + smooth), y_pred)


@keras.saving.register_keras_serializable("zoo")
def two_class_dice(y_true: Tensor, y_pred: Tensor, *, mask: Tensor | None = None, epsilon: float = 1.0) -> Tensor:
    """Joins Dice of foreground and background, `1 - (sum p y + e) / (sum (p + y) + e) - (the same of 1 - p and 1 - y)`.

    The background's part keeps a gradient in patches without a lesion, where plain Dice has none.

    Args:
        y_true: label map or one-hot; all classes but the background are foreground.
        y_pred: logits (batch, x, y, z, classes).
        mask: 1 where a voxel counts, (batch, x, y, z, 1).
        epsilon: e, in voxels. An empty patch predicted empty gives -1/2, a perfect patch with both classes about 0.

    Returns:
        (batch,), -1/2 to 1.

    Source:
        Ooms, TU Delft thesis on lacunes in the Rotterdam Scan Study.

    Example:
        >>> labels, logits = ops.ones((1, 2, 3, 4, 1)), ops.zeros((1, 2, 3, 4, 2))
        >>> two_class_dice(labels, logits).numpy().round(3)
        array([0.572], dtype=float32)
    """
    y, logit = foreground(y_true, y_pred)
    p, q = ops.sigmoid(logit), ops.sigmoid(-logit)
    inside = quotient(voxel_sum(p * y, mask) + epsilon, voxel_sum(p + y, mask) + epsilon)
    outside = quotient(voxel_sum(q * (1.0 - y), mask) + epsilon, voxel_sum(q + 1.0 - y, mask) + epsilon)
    return (1.0 - inside - outside)[:, 0]


@keras.saving.register_keras_serializable("zoo")
def negative_dice(y_true: Tensor, y_pred: Tensor, *, mask: Tensor | None = None, epsilon: float = 1.0) -> Tensor:
    """Returns `-(2 sum y p + e) / (sum y + sum p + e)`, the stroke network's Dice term beside cross-entropy.

    Alone it collapses to a small constant p where patches are often empty; with cross-entropy it does not.

    Args:
        y_true: label map or one-hot; all classes but the background are foreground.
        y_pred: logits (batch, x, y, z, classes).
        mask: 1 where a voxel counts, (batch, x, y, z, 1).
        epsilon: e, in voxels; 0 is the source's formula. An empty patch predicted empty gives -1 (0 with e = 0).

    Returns:
        (batch,), -1 to 0.

    Source:
        Monteiro, ISLES 2017 (Winzeck et al., Frontiers in Neurology 2018, doi 10.3389/fneur.2018.00679), with e = 0.

    Example:
        >>> labels, logits = ops.ones((1, 2, 3, 4, 1)), ops.zeros((1, 2, 3, 4, 2))
        >>> negative_dice(labels, logits, epsilon=0).numpy().round(3)
        array([-0.667], dtype=float32)
    """
    y, logit = foreground(y_true, y_pred)
    p = ops.sigmoid(logit)
    return -quotient(2.0 * voxel_sum(y * p, mask) + epsilon, voxel_sum(y + p, mask) + epsilon)[:, 0]


def _average_classes(loss: Tensor, size: Tensor, include_background: bool, ignore_empty: bool) -> Tensor:
    if not include_background and loss.shape[-1] > 1:
        loss, size = loss[:, 1:], size[:, 1:]
    if not ignore_empty:
        return ops.mean(loss, axis=-1)
    present = ops.cast(size > 0, "float32")
    return ops.sum(loss * present, axis=-1) / ops.maximum(ops.sum(present, axis=-1), 1.0)
