"""Light metrics for the progress bar, on tensors, from logits; `zoo.evaluation` holds the final ones, in mm."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from zoo.losses import targets
from zoo.losses.source_posterior import log_posterior

Tensor = Any


@keras.saving.register_keras_serializable("zoo")
class MeanDice(keras.metrics.Metric):
    """Mean over classes of the mean over samples of hard Dice (arg-max, or a logit above 0).

    A class that neither prediction nor reference has in a sample is left out there; where only one has it, Dice is 0.
    NaN until a class has been seen. On patches this is not the Dice of whole volumes.

    Args:
        num_classes: channels of the logits; 1 is a single logit.
        include_background: count class 0 as a class.
        maps: names of extra last channels of `y_true`, as in `zoo.losses.Combined`; `"mask"` is applied.
        every: uses every so-manieth voxel of each axis, where many classes make a metric of all voxels slow.
        name: name in the log.
        dtype: dtype of the sums.

    Example:
        >>> metric = MeanDice(1)
        >>> metric.update_state(ops.ones((1, 2, 3, 4, 1)), ops.ones((1, 2, 3, 4, 1)))
        >>> float(metric.result())
        1.0
    """

    def __init__(
        self,
        num_classes: int,
        *,
        include_background: bool = False,
        maps: Sequence[str] = (),
        every: int = 1,
        name: str = "dice",
        dtype: str | None = None,
    ):
        super().__init__(name=name, dtype=dtype)
        self.num_classes = num_classes
        self.include_background = include_background
        self.maps = tuple(maps)
        self.every = every
        counted = num_classes if include_background or num_classes == 1 else num_classes - 1
        self.total = self.add_variable(shape=(counted,), initializer="zeros", name="total")
        self.count = self.add_variable(shape=(counted,), initializer="zeros", name="count")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            y_true: label map or one-hot, then the maps.
            y_pred: logits (batch, x, y, z, classes).
            sample_weight: one weight a sample, (batch,).
        """
        by = slice(None, None, self.every)
        y_true, y_pred = y_true[:, by, by, by], y_pred[:, by, by, by]
        size, reference_size, common = _count_voxels(y_true, y_pred, self.maps)
        if not self.include_background and self.num_classes > 1:
            size, reference_size, common = size[:, 1:], reference_size[:, 1:], common[:, 1:]
        total = size + reference_size
        weight = ops.cast(total > 0, "float32")
        if sample_weight is not None:
            weight = weight * ops.reshape(ops.cast(sample_weight, "float32"), (-1, 1))
        self.total.assign_add(ops.sum(weight * 2.0 * common / ops.maximum(total, 1.0), axis=0))
        self.count.assign_add(ops.sum(weight, axis=0))

    def result(self) -> Tensor:
        """Returns the mean Dice so far, a scalar, 0 to 1 or NaN."""
        seen = ops.cast(self.count > 0, "float32")
        each = self.total / ops.maximum(self.count, 1e-12)
        num_seen = ops.sum(seen)
        return ops.where(num_seen > 0, ops.sum(each * seen) / ops.maximum(num_seen, 1.0), float("nan"))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        own = {"num_classes": self.num_classes, "include_background": self.include_background, "maps": list(self.maps)}
        return {**super().get_config(), **own, "every": self.every}


@keras.saving.register_keras_serializable("zoo")
class ForegroundRatio(keras.metrics.Metric):
    """Predicted over reference foreground voxels so far: near 0 or far above 1, a network has collapsed.

    Args:
        maps: names of extra last channels of `y_true`; `"mask"` is applied.
        name: name in the log.
        dtype: dtype of the sums.

    Example:
        >>> metric = ForegroundRatio()
        >>> metric.update_state(ops.reshape([1, 0], (1, 1, 1, 2, 1)), ops.ones((1, 1, 1, 2, 1)))
        >>> float(metric.result())
        2.0
    """

    def __init__(self, *, maps: Sequence[str] = (), name: str = "foreground_ratio", dtype: str | None = None):
        super().__init__(name=name, dtype=dtype)
        self.maps = tuple(maps)
        self.predicted = self.add_variable(shape=(), initializer="zeros", name="predicted")
        self.reference = self.add_variable(shape=(), initializer="zeros", name="reference")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        """Adds a batch; `sample_weight` is not used, a voxel is a voxel."""
        del sample_weight
        size, reference_size, _ = _count_voxels(y_true, y_pred, self.maps)
        first = 1 if y_pred.shape[-1] > 1 else 0
        self.predicted.assign_add(ops.sum(size[:, first:]))
        self.reference.assign_add(ops.sum(reference_size[:, first:]))

    def result(self) -> Tensor:
        """Returns the ratio, a scalar; NaN before the first reference voxel."""
        ratio = self.predicted / ops.maximum(self.reference, 1.0)
        return ops.where(self.reference > 0, ratio, float("nan"))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "maps": list(self.maps)}


def _count_voxels(y_true: Tensor, y_pred: Tensor, maps: tuple[str, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Counts voxels of each class predicted, in the reference and in both, each (batch, classes)."""
    y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
    first = y_true.shape[-1] - len(maps)
    mask = y_true[..., first + maps.index("mask") :][..., :1] if "mask" in maps else None
    y = targets.one_hot(y_true[..., :first], y_pred)
    if y_pred.shape[-1] == 1:
        p = ops.cast(y_pred > 0, "float32")
    else:
        p = ops.one_hot(ops.argmax(y_pred, axis=-1), y_pred.shape[-1], dtype="float32")
    sums = (targets.voxel_sum(value, mask) for value in (p, y, p * y))
    size, reference_size, common = sums
    return size, reference_size, common


@keras.saving.register_keras_serializable("zoo")
class SourceMass(keras.metrics.Metric):
    """Posterior mass near true sources, averaged over samples with sources (channels: `zoo.losses.source_posterior`).

    Near is where the target's density is above a twentieth of its largest value: within 17 mm for bumps of 7 mm SD.

    Args:
        name: name in the log.
        dtype: dtype of the sums.
    """

    def __init__(self, *, name: str = "mass", dtype: str | None = None):
        super().__init__(name=name, dtype=dtype)
        self.total = self.add_variable(shape=(), initializer="zeros", name="total")
        self.count = self.add_variable(shape=(), initializer="zeros", name="count")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        """Adds a batch; `sample_weight` is not used."""
        del sample_weight
        density = ops.cast(ops.convert_to_tensor(y_true)[..., :1], "float32")
        mask = ops.convert_to_tensor(y_true)[..., 4:5]
        logit = ops.cast(ops.convert_to_tensor(y_pred)[..., :1], "float32")
        highest = ops.max(density, axis=(1, 2, 3, 4), keepdims=True)
        near = ops.cast(density > 0.05 * highest, "float32")
        has = ops.cast(highest[:, 0, 0, 0, 0] > 0, "float32")
        self.total.assign_add(ops.sum(self._score(near, log_posterior(logit, mask)) * has))
        self.count.assign_add(ops.sum(has))

    def _score(self, near: Tensor, logs: Tensor) -> Tensor:
        """Returns (batch,) from the places near sources, (batch, x, y, z, 1) of 0 and 1, and the log posterior."""
        return ops.sum(near * ops.exp(logs), axis=(1, 2, 3, 4))

    def result(self) -> Tensor:
        """Returns the mean so far, a scalar, 0 to 1; NaN before the first sample with a source."""
        return ops.where(self.count > 0, self.total / ops.maximum(self.count, 1.0), float("nan"))


@keras.saving.register_keras_serializable("zoo")
class SourceHit(SourceMass):
    """Share of samples whose largest place lies near a true source; only the order of places counts.

    So it compares networks trained towards probabilities with those trained towards heights. Near is as in
    `SourceMass`; samples without a source are left out.

    Args:
        name: name in the log.
        dtype: dtype of the sums.
    """

    def __init__(self, *, name: str = "hit", dtype: str | None = None):
        super().__init__(name=name, dtype=dtype)

    def _score(self, near: Tensor, logs: Tensor) -> Tensor:
        flat = ops.reshape(logs, (ops.shape(logs)[0], -1))
        largest = ops.argmax(flat, axis=1)[:, None]
        return ops.take_along_axis(ops.reshape(near, ops.shape(flat)), largest, axis=1)[:, 0]
