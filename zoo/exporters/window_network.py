"""Writes the network alone, at one window size, as ONNX, OpenVINO or LiteRT, and compares it with its origin."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from zoo.errors import unknown_choice
from zoo.exporters.weights_on_disk import Network
from zoo.hub.card import Card

Run = Callable[[list[np.ndarray]], np.ndarray]
TOLERANCE = 1e-3  # of the largest logit: kernels sum in other orders, and instance norms hand that on
_NOISE_SEED = 20260101


class BlockMaximum(keras.layers.Layer):
    """Pools maxima of windows that are as wide as their stride, one axis after the other, in operations of rank 3.

    LiteRT has no 3D pooling of its own; this needs nothing but reshaping and a maximum.

    Args:
        size: voxels of the window along x, y, z.
    """

    def __init__(self, size: Sequence[int], **layer: Any) -> None:
        super().__init__(**layer)
        self.size = tuple(size)

    def call(self, x):
        """Pools (1, x, y, z, channels), whose static sizes are multiples of the window."""
        shape = list(x.shape)
        for axis, by in enumerate(self.size, 1):
            if by == 1:
                continue
            if shape[axis] % by:
                raise ValueError(f"LiteRT pools sizes that are multiples of {self.size}, got {tuple(shape[1:4])}.")
            shape[axis] //= by
            before, after = int(np.prod(shape[: axis + 1])), int(np.prod(shape[axis + 1 :]))
            x = keras.ops.reshape(keras.ops.max(keras.ops.reshape(x, (before, by, after)), axis=1), shape)
        return x

    def compute_output_shape(self, input_shape):
        """Returns the shape with each size divided by the window's."""
        sizes = [n and n // by for n, by in zip(input_shape[1:4], self.size, strict=True)]
        return (input_shape[0], *sizes, input_shape[4])


def replace_pooling(model: keras.Model) -> keras.Model:
    """Copies a model with `BlockMaximum` in place of 3D max pooling.

    Raises:
        ValueError: another kind of 3D pooling, or windows that overlap; the layer is named.
    """

    def copy_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
        if type(layer) is keras.layers.MaxPooling3D:
            if tuple(layer.pool_size) != tuple(layer.strides):
                raise ValueError(
                    f"LiteRT pools windows that do not overlap, and {layer.name!r} of {model.name!r} does."
                )
            return BlockMaximum(layer.pool_size, name=layer.name)
        if "Pooling3D" in type(layer).__name__ and "Global" not in type(layer).__name__:
            raise ValueError(f"LiteRT cannot hold {type(layer).__name__} ({layer.name!r} of {model.name!r}).")
        return layer.__class__.from_config(layer.get_config())

    twin = keras.models.clone_model(model, clone_function=copy_layer)
    twin.set_weights(model.get_weights())
    return twin


class BareModel(tf.Module):
    """Wraps a network at one window size as a module with one signature, from `windows` to `logits`.

    Args:
        network: the network on stored weights.
        card: its channels and tabular values.
        size: voxels of a window along x, y, z.
    """

    def __init__(self, network: Network, card: Card, size: Sequence[int]) -> None:
        super().__init__(name="bare_model")
        self.network = network
        specs = [tf.TensorSpec((1, *size, card.input.num_channels), tf.float32, name="windows")]
        if card.input.tabular:
            specs.append(tf.TensorSpec((1, 2 * len(card.input.tabular)), tf.float32, name="conditioning"))

        def run(windows, conditioning=None):
            return {"logits": self.network(windows, conditioning)}

        self.run = tf.function(run, input_signature=specs, autograph=False)


def measure_difference(run: Run, model: keras.Model, card: Card, size: Sequence[int]) -> float:
    """Compares an exported network with the one it came from, on seeded noise of one window.

    Args:
        run: the exported network, from the inputs of one window to its logits.
        model: the Keras network, whose own output `zoo.verify` compares with the golden one.
        card: its channels and tabular values.
        size: voxels of a window along x, y, z.

    Returns:
        The largest difference of a logit as a share of the largest logit.
    """
    inputs = draw_inputs(card, size)
    tensors = [keras.ops.convert_to_tensor(array) for array in inputs]
    outputs = model(tensors if len(tensors) > 1 else tensors[0], training=False)
    return relative_difference(run(inputs), keras.ops.convert_to_numpy(keras.tree.flatten(outputs)[0]))


def relative_difference(logits: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference as a share of the largest expected value.

    Example:
        >>> relative_difference(np.array([1.0, 3.0]), np.array([1.0, 4.0]))
        0.25
    """
    return float(np.abs(np.asarray(logits) - expected).max() / max(np.abs(expected).max(), 1e-12))


def draw_inputs(card: Card, size: Sequence[int]) -> list[np.ndarray]:
    """Returns seeded noise for one window, and for the tabular values where the network takes some."""
    random = np.random.default_rng(_NOISE_SEED)
    shapes = [(1, *size, card.input.num_channels)]
    shapes += [(1, 2 * len(card.input.tabular))] if card.input.tabular else []
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes]


def check_difference(difference: float, what: str, tolerance: float = TOLERANCE) -> None:
    """Raises where an export differs from its network.

    Raises:
        ValueError: the difference, and what is accepted.

    Example:
        >>> check_difference(2e-6, "unet3d.brain_mask in onnx")
    """
    if not difference <= tolerance:
        raise ValueError(
            f"{what} differs from the network it came from by {difference:.2g} of its largest value; at most "
            f"{tolerance:g} is accepted. Nothing was written."
        )


def _missing_converter(package: str, format: str) -> ImportError:
    return ImportError(f"The format {format!r} needs {package}, which is missing: pip install 'zoo3d[export]'.")


def write_onnx(model: keras.Model, card: Card, size: Sequence[int], path: Path, *, weights: str = "float32") -> None:
    """Writes the network as ONNX, operator set 17.

    Raises:
        ImportError: tf2onnx is missing.
        ValueError: weights other than float32.
    """
    _check_dtype(weights, ("float32",), "onnx")
    try:
        import tf2onnx
    except ImportError as error:
        raise _missing_converter("tf2onnx", "onnx") from error
    bare = BareModel(Network(model), card, size)
    tf2onnx.convert.from_function(bare.run, bare.run.input_signature, opset=17, output_path=str(path))


def write_openvino(
    model: keras.Model, card: Card, size: Sequence[int], path: Path, *, weights: str = "float32"
) -> None:
    """Writes the network as OpenVINO IR: an .xml and a .bin beside it.

    Raises:
        ImportError: openvino is missing.
        ValueError: weights other than float32 and float16.
    """
    _check_dtype(weights, ("float32", "float16"), "openvino")
    try:
        import openvino
    except ImportError as error:
        raise _missing_converter("openvino", "openvino") from error
    bare = BareModel(Network(model), card, size)
    source = path.with_name("source")
    tf.saved_model.save(bare, str(source), signatures={"serving_default": bare.run})
    converted = openvino.convert_model(str(source))
    openvino.save_model(converted, str(path), compress_to_fp16=weights == "float16")


def write_litert(model: keras.Model, card: Card, size: Sequence[int], path: Path, *, weights: str = "float32") -> None:
    """Writes the network as LiteRT (TensorFlow Lite), in its built-in operations alone.

    Raises:
        ValueError: an operation that LiteRT lacks, by name.
    """
    _check_dtype(weights, ("float32", "float16", "int8"), "litert")
    bare = BareModel(Network(model, replace=replace_pooling), card, size)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([bare.run.get_concrete_function()], bare)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if weights != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16] if weights == "float16" else []
    try:
        content = converter.convert()
    except Exception as error:  # the converter's own kind of error has no public name
        lacking = sorted(set(re.findall(r"error: '([\w.]+)' op", str(error))))
        raise ValueError(
            f"LiteRT cannot hold {card.name}: it lacks {', '.join(lacking) or str(error)[:300]}. Take another format."
        ) from error
    path.write_bytes(content)


def _check_dtype(weights: str, choices: Sequence[str], format: str) -> None:
    if weights not in choices:
        raise unknown_choice(f"dtype of weights in {format}", weights, choices)
