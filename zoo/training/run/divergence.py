"""Finds the layer that made the first NaN or infinity, by replaying the steps since the last good checkpoint."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from zoo.inference.compiled_network import find_bad_layer


class DivergedError(RuntimeError):
    """Training met a NaN or an infinity; the message names the step and the layer."""


def _is_finite(value: Any) -> bool:
    return bool(np.isfinite(keras.ops.convert_to_numpy(keras.ops.cast(value, "float32"))).all())


def first_bad_weight(model: keras.Model) -> str | None:
    """Returns the path of the first trainable weight that is not finite, or None."""
    return next((weight.path for weight in model.trainable_weights if not _is_finite(weight)), None)


def explain(model: keras.Model, batches: Iterable, start: int) -> str:
    """Returns a sentence on where the divergence began.

    Args:
        model: the compiled model, restored to the last good state.
        batches: the same (x, y) batches that were trained on from there.
        start: the step number of that state.
    """
    check_layers = find_bad_layer(model)
    for step, (x, y) in enumerate(batches, start):
        inputs = keras.tree.flatten(x)
        if not all(_is_finite(value) for value in inputs):
            return f"the input batch of step {step} holds NaN or infinity"
        layer = check_layers(inputs)
        if layer:
            return f"layer {layer!r} gave the first value that is not finite, at step {step}"
        loss = model.train_on_batch(x, y)
        weight = first_bad_weight(model)
        if weight:
            return f"the update of step {step} made {weight!r} non-finite first: its gradient overflowed"
        if not np.isfinite(np.min(loss)):
            return f"the loss of step {step} is not finite although every layer's output is"
    return "the replay from the last checkpoint stayed finite; the fault does not repeat"
