"""Stores the weights of an exported model: float32, or narrower on disk and widened when it runs."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from zoo.errors import unknown_choice
from zoo.inference.batch_norm_folding import fold_batch_norm

DTYPES = ("float32", "float16", "int8")


class StoredWeight(tf.Module):
    """Holds one weight: narrow as a variable, float32 when it is read.

    Args:
        values: the weight.
        dtype: "float32", "float16", or "int8": whole numbers from -127 to 127 times a scale for each output channel
            (the last axis; of a transposed convolution the last but one). Vectors and scalars stay float32.
        axis: the axis of output channels.

    Example:
        >>> float(StoredWeight(np.array([[0.5, -1.27]]), "int8").read()[0, 1])
        -1.2699999809265137
    """

    def __init__(self, values: np.ndarray, dtype: str, axis: int = -1) -> None:
        super().__init__()
        narrow = dtype if values.ndim > 1 else "float32"
        self.scale = None
        if narrow == "int8":
            others = tuple(other for other in range(values.ndim) if other != axis % values.ndim)
            scale = np.maximum(np.abs(values).max(others, keepdims=True), 1e-12) / 127
            values = np.rint(values / scale)
            self.scale = tf.Variable(scale.astype(np.float32), trainable=False)
        self.values = tf.Variable(values.astype(narrow), trainable=False)

    def read(self) -> tf.Tensor:
        """Returns the weight as float32."""
        wide = tf.cast(self.values, tf.float32)
        return wide if self.scale is None else wide * self.scale


class Network(tf.Module):
    """Runs a network on stored weights; what is saved holds nothing of Keras.

    Args:
        model: a functional Keras model; a copy of it is used, its batch norms folded.
        dtype: dtype of the weights, one of `DTYPES`.
        replace: returns an equal network without the operations that a format lacks.

    Raises:
        ValueError: another dtype; the nearest match is named.
    """

    def __init__(
        self,
        model: keras.Model,
        dtype: str = "float32",
        *,
        replace: Callable[[keras.Model], keras.Model] | None = None,
    ) -> None:
        super().__init__(name="network")
        if dtype not in DTYPES:
            raise unknown_choice("dtype of weights", dtype, DTYPES)
        copy = fold_batch_norm(model, precision="float32")
        copy = replace(copy) if replace else copy
        transposed = {
            id(weight)
            for layer in copy._flatten_layers()
            if isinstance(layer, keras.layers.Conv3DTranspose)
            for weight in layer.weights
        }
        self.num_classes = int(keras.tree.flatten(copy.outputs)[0].shape[-1])
        self.weights = [
            StoredWeight(keras.ops.convert_to_numpy(weight), dtype, -2 if id(weight) in transposed else -1)
            for weight in (*copy.trainable_variables, *copy.non_trainable_variables)
        ]
        self._run: Callable = _stateless_function(copy)

    def __call__(self, windows: tf.Tensor, conditioning: tf.Tensor | None = None) -> tf.Tensor:
        """Runs windows (batch, x, y, z, channels) and values (batch, n) to logits (batch, x, y, z, num_classes)."""
        inputs = windows if conditioning is None else [windows, conditioning]
        return self._run([weight.read() for weight in self.weights], inputs)


def _stateless_function(copy: keras.Model) -> Callable:
    """Returns a function of weights and inputs: a closure, so that a tf.Module does not track the Keras model."""
    num = len(copy.trainable_variables)

    def run(weights: Sequence[tf.Tensor], inputs: tf.Tensor | list[tf.Tensor]) -> tf.Tensor:
        outputs, _ = copy.stateless_call(weights[:num], weights[num:], inputs, training=False)
        return tf.cast(keras.tree.flatten(outputs)[0], tf.float32)

    return run
