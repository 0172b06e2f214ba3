"""Composes losses: weighted sums with options and extra target channels, and deep supervision."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from zoo.errors import unknown_choice
from zoo.losses.targets import Tensor

Function = Callable[..., Tensor]


@keras.saving.register_keras_serializable("zoo")
class Combined(keras.losses.Loss):
    """A weighted sum of loss functions; extra channels of the target go by name to the functions that take them.

    `Combined([(1.0, dice), (1.0, cross_entropy, {"class_weights": (1, 5)})], maps=("mask",))` takes a `y_true` whose
    last channel is the mask of a padded batch. Other maps: `"weight"` (`location_penalty`), `"distance"` (`boundary`),
    `"components"` (`blob`).

    Args:
        terms: (weight, function) or (weight, function, options) each; functions of `(y_true, y_pred, ...)` that
            return one value a sample.
        maps: names of the last channels of `y_true`, in order; a term gets those that are arguments of its function.
        name: name of the loss.
        reduction: how samples are reduced, as in Keras.
        dtype: dtype of the sum; float32 unless Keras' `floatx` says otherwise.

    Raises:
        ValueError: no term, or a map that no term takes.

    Example:
        >>> from zoo.losses import cross_entropy, dice
        >>> loss = Combined([(1.0, dice), (0.5, cross_entropy)], maps=("mask",))
        >>> float(loss(ops.ones((1, 2, 3, 4, 2)), ops.zeros((1, 2, 3, 4, 2)))).__round__(3)
        0.68
    """

    def __init__(
        self,
        terms: Sequence[Sequence[Any]],
        *,
        maps: Sequence[str] = (),
        name: str = "combined",
        reduction: str = "sum_over_batch_size",
        dtype: str | None = None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if not terms:
            raise ValueError("Combined needs at least one term, got none. Pass [(1.0, dice), (1.0, cross_entropy)].")
        self.terms = [(float(term[0]), term[1], dict(term[2]) if len(term) > 2 else {}) for term in terms]
        self.maps = tuple(maps)
        accepted = {argument for _, function, _ in self.terms for argument in _list_arguments(function)}
        for name_of_map in self.maps:
            if name_of_map not in accepted:
                raise unknown_choice("map among the arguments of these losses:", name_of_map, accepted)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Returns one value for each sample, (batch,)."""
        first = y_true.shape[-1] - len(self.maps)
        named = {name: y_true[..., channel : channel + 1] for channel, name in enumerate(self.maps, start=first)}
        labels = y_true[..., :first]
        total = 0.0
        for weight, function, options in self.terms:
            accepted = {name: named[name] for name in self.maps if name in _list_arguments(function)}
            total = total + weight * function(labels, y_pred, **accepted, **options)
        return total

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments; functions by their registered names."""
        terms = [[weight, keras.saving.serialize_keras_object(f), options] for weight, f, options in self.terms]
        return {**super().get_config(), "terms": terms, "maps": list(self.maps)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Combined":
        """Builds the loss from its configuration."""
        terms = [
            (weight, f if callable(f) else keras.saving.deserialize_keras_object(f), options)
            for weight, f, options in config["terms"]
        ]
        return cls(**{**config, "terms": terms})


@keras.saving.register_keras_serializable("zoo")
class DeepSupervision(keras.losses.Loss):
    """The same loss on every output of a network, coarser ones counting less.

    Returns the weighted sum for a list of logits (finest first). In Keras' `compile`, which pairs outputs with targets,
    pass `loss=[deep] * n`, `loss_weights=supervision_weights(n)` and the same `y` n times: for a single output it
    brings the target to that output's grid and applies the loss unweighted.

    Takes the target at the voxel nearest to each coarse centre, for all channels alike, so labels stay whole numbers.

    Args:
        loss: a function or Loss of `(y_true, y_pred)`.
        weights: one for each output; by default 1, 1/2, 1/4 and so on, divided by their sum.
        name: name of the loss.
        reduction: how samples are reduced, as in Keras.
        dtype: dtype of the sum.

    Source:
        Weights as in nnU-Net (Isensee et al. 2021).

    Example:
        >>> from zoo.losses import dice
        >>> outputs = [ops.zeros((1, 4, 4, 4, 2)), ops.zeros((1, 2, 2, 2, 2))]
        >>> DeepSupervision(dice).call(ops.ones((1, 4, 4, 4, 1)), outputs).numpy().round(3)
        array([0.333], dtype=float32)
    """

    def __init__(
        self,
        loss: Function | keras.losses.Loss,
        *,
        weights: Sequence[float] | None = None,
        name: str = "deep_supervision",
        reduction: str = "sum_over_batch_size",
        dtype: str | None = None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.loss = loss
        self.weights = None if weights is None else tuple(weights)

    def call(self, y_true: Tensor, y_pred: Tensor | Sequence[Tensor]) -> Tensor:
        """Returns one value for each sample, (batch,)."""
        if not isinstance(y_pred, (list, tuple)):
            return self._apply(y_true, y_pred)
        weights = supervision_weights(len(y_pred)) if self.weights is None else self.weights
        if len(weights) != len(y_pred):
            raise ValueError(
                f"DeepSupervision has {len(weights)} weights and got {len(y_pred)} outputs. "
                "Give one weight for each output, or none for 1, 1/2, 1/4, ..."
            )
        return sum(weight * self._apply(y_true, output) for weight, output in zip(weights, y_pred, strict=True))

    def _apply(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        function = self.loss.call if isinstance(self.loss, keras.losses.Loss) else self.loss
        return function(_match_grid(y_true, y_pred), y_pred)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        loss = keras.saving.serialize_keras_object(self.loss)
        return {**super().get_config(), "loss": loss, "weights": self.weights}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "DeepSupervision":
        """Builds the loss from its configuration."""
        loss = config["loss"]
        return cls(**{**config, "loss": loss if callable(loss) else keras.saving.deserialize_keras_object(loss)})


def supervision_weights(num_outputs: int) -> tuple[float, ...]:
    """Returns 1, 1/2, 1/4, ... divided by their sum, for outputs finest first.

    Example:
        >>> supervision_weights(2)
        (0.6666666666666666, 0.3333333333333333)
    """
    total = 2.0 - 2.0 ** (1 - num_outputs)
    return tuple(2.0**-level / total for level in range(num_outputs))


def _match_grid(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Returns the target on the grid of a coarser output: the voxel nearest to the centre of each coarse voxel."""
    for axis in (1, 2, 3):
        if y_true.shape[axis] != y_pred.shape[axis] or y_true.shape[axis] is None:
            fine, coarse = ops.shape(y_true)[axis], ops.shape(y_pred)[axis]
            places = (2 * ops.arange(coarse, dtype="int32") + 1) * fine // (2 * coarse)
            y_true = ops.take(y_true, places, axis=axis)
    return y_true


def _list_arguments(function: Function) -> set[str]:
    return set(inspect.signature(function).parameters) - {"y_true", "y_pred"}
