"""Turns a Keras model into a function from window to logits: folded, in the chosen precision, compiled once a shape."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import keras
import numpy as np

from zoo.devices import policy, use_jit
from zoo.inference.batch_norm_folding import fold_batch_norm
from zoo.registry import require_backend


class Forward(Protocol):
    """Turns windows into logits; tabular values go beside them where the network takes some."""

    def __call__(self, windows: np.ndarray, conditioning: Sequence[float] | None = None) -> np.ndarray:
        """(batch, x, y, z, channels) float32 to (batch, x, y, z, num_classes) float32."""
        ...


Windowed = Callable[[np.ndarray], np.ndarray]


def prepare(model: keras.Model, *, precision: str = "float32", jit: bool | str = "auto") -> Forward:
    """Compiles a network for many windows.

    Tabular values are an input of the compiled function, so that other values do not compile anew.

    Args:
        model: a Keras model whose first input is the volume; of several outputs the first counts.
        precision: "float32", "bfloat16" or "auto" (bfloat16 where the hardware has it).
        jit: "auto" (XLA on GPU and TPU, a plain graph on a CPU), True or False.

    Returns:
        A function from (batch, x, y, z, channels) float32, and the tabular values of a network that takes them, to
        (batch, x, y, z, num_classes) float32; each new shape compiles once. It raises what `check_conditioning` does.

    Raises:
        ValueError: an unknown precision or jit, or bfloat16 for a model that is not functional. Also what
            `zoo.registry.require_backend` raises, here and when a window is run.

    Example:
        >>> inputs = keras.Input((None, None, None, 1))
        >>> forward = prepare(keras.Model(inputs, keras.layers.ReLU()(inputs)))
        >>> forward(np.ones((1, 4, 4, 4, 1), np.float32)).shape
        (1, 4, 4, 4, 1)
    """
    require_backend()
    copy = fold_batch_norm(model, precision=policy(precision))
    if copy is model and policy(precision) != "float32":
        raise ValueError(
            f"{model.name!r} is no functional model, so it cannot be copied in {precision}. "
            'Build it so (keras.Model(inputs, outputs)), or pass precision="float32".'
        )

    def run(windows, *values):
        beside = [keras.ops.repeat(value, windows.shape[0], axis=0) for value in values]
        return keras.ops.cast(
            keras.tree.flatten(copy([windows, *beside] if beside else windows, training=False))[0], "float32"
        )

    compiled = _compile(run, use_jit(jit))

    def forward(windows: np.ndarray, conditioning: Sequence[float] | None = None) -> np.ndarray:
        require_backend()
        values = check_conditioning(model, conditioning)
        arrays = [windows] if values is None else [windows, values]
        return keras.ops.convert_to_numpy(compiled(*map(keras.ops.convert_to_tensor, arrays)))

    return forward


def check_conditioning(model: keras.Model, values: Sequence[float] | None) -> np.ndarray | None:
    """Returns the tabular values as (1, n) float32; None where the network takes none.

    Raises:
        ValueError: tabular values where the network takes none, or the reverse, or another number of them.
    """
    expected = [int(tensor.shape[-1]) for tensor in (getattr(model, "inputs", None) or [])[1:]]
    received = [] if values is None else [len(values)]
    if expected != received:
        raise ValueError(
            f"{model.name!r} takes {sum(expected)} tabular values beside the volume, got {sum(received)}. "
            f"Pass conditioning with {sum(expected)} numbers." if expected else
            f"{model.name!r} takes no tabular values, got {sum(received)}. Leave conditioning out."
        )  # fmt: skip
    return None if values is None else np.asarray([values], np.float32)


def first_bad_layer(model: keras.Model, windows: np.ndarray, conditioning: Sequence[float] | None = None) -> str | None:
    """Runs a network in float32 and names the first layer, in the order of the graph, whose output is not finite.

    Args:
        model: a functional model.
        windows: (batch, x, y, z, channels) float32.
        conditioning: the tabular values of a network that takes them.

    Returns:
        The layer's name; None where every output is finite, or the model is no graph of layers.

    Example:
        >>> inputs = keras.Input((None, None, None, 1))
        >>> outputs = keras.layers.Rescaling(1e30, name="much")(keras.layers.Rescaling(1e30, name="more")(inputs))
        >>> first_bad_layer(keras.Model(inputs, outputs), np.ones((1, 4, 4, 4, 1), np.float32))
        'much'
    """
    values = check_conditioning(model, conditioning)
    arrays = [windows] if values is None else [windows, np.repeat(values, len(windows), 0)]
    return find_bad_layer(model)(arrays)


def find_bad_layer(model: keras.Model) -> Callable[[Sequence[Any]], str | None]:
    """Compiles what `first_bad_layer` runs, for many batches of one shape; the weights are those of each call.

    Args:
        model: a functional model.

    Returns:
        A function from the network's inputs, in its order, to the layer's name or None, as `first_bad_layer` has it.

    Example:
        >>> inputs = keras.Input((1,))
        >>> check = find_bad_layer(keras.Model(inputs, keras.layers.Rescaling(1e30, name="much")(inputs)))
        >>> check([np.float32([[1]])]), check([np.float32([[1e30]])])
        (None, 'much')
    """
    if not getattr(model, "inputs", None):
        return lambda inputs: None
    layers = [layer for layer in _operations(model) if not isinstance(layer, keras.layers.InputLayer)]
    flags = {layer.name: _flag_finite(layer) for layer in layers}
    function = keras.Function(model.inputs, list(flags.values()))
    # Compiled, for a graph frees each tensor after its last reader; only the flags stay.
    compiled = _compile(lambda *tensors: function(list(tensors)), False)

    def check(inputs: Sequence[Any]) -> str | None:
        finite = compiled(*map(keras.ops.convert_to_tensor, inputs))
        return next((name for name, flag in zip(flags, finite, strict=True) if not bool(flag)), None)

    return check


def _operations(model: keras.Model) -> Sequence[keras.Operation]:
    """Returns layers, and the functions of `keras.ops` between them, in the order of the graph."""
    return getattr(model, "operations", model.layers)


def _flag_finite(layer: keras.Operation) -> keras.KerasTensor:
    """Returns, symbolically, whether every number that a layer gives is finite."""
    flags = [keras.ops.all(keras.ops.isfinite(tensor)) for tensor in keras.tree.flatten(layer.output)]
    return functools.reduce(keras.ops.logical_and, flags)


def _compile(run: Callable, jit: bool) -> Callable:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(run, jit_compile=jit, reduce_retracing=False)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(run)
    return run
