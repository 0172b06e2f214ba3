"""Folds batch normalisation into convolutions, and copies a network at another precision, for inference."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers

FOLDABLE = (layers.Conv3D, layers.Conv3DTranspose, layers.Dense)


@keras.saving.register_keras_serializable(package="zoo")
class Folded(layers.Layer):
    """What is left of a batch norm that was folded away: it passes its input on."""

    def call(self, x, mask=None, training=None):
        """Returns `x`."""
        return x


def fold_batch_norm(model: keras.Model, *, precision: str | None = None) -> keras.Model:
    """Copies a network for inference, each batch norm that follows a convolution folded into it.

    It spares each convolution a pass over memory, and lets the kernel library fuse bias and activation.
    With s = gamma / sqrt(variance + epsilon) the kernel becomes kernel * s and the bias
    (bias - mean) * s + beta. The copy must not be trained: its norms are gone.

    Args:
        model: a functional model; any other is returned as it is. It is not changed.
        precision: a Keras dtype policy for the copy ("mixed_bfloat16"); None keeps each layer's own. What
            gives an output stays in its own precision: float32 logits stay float32.

    Returns:
        A functional model of the same layer names, inputs and outputs (to 1e-5 in float32). A batch norm
        stays where its convolution has an activation, is used twice, has other readers or is not there.
    """
    if not _is_functional(model):
        return model
    wiring = _wiring(model)
    pairs = _pairs(model, wiring)
    norms = set(pairs.values())

    def copy(layer: layers.Layer) -> layers.Layer:
        if _is_functional(layer):
            return fold_batch_norm(layer, precision=precision)
        config = layer.get_config()
        if precision and layer.name not in wiring.outputs and not isinstance(layer, layers.InputLayer):
            config["dtype"] = precision
        if layer.name in norms:
            return Folded(name=layer.name, dtype=config["dtype"])
        if layer.name in pairs:
            config["use_bias"] = True
        return layer.__class__.from_config(config)

    folded = keras.models.clone_model(model, clone_function=copy)
    _carry_weights(model, folded, pairs)
    return folded


def _carry_weights(model: keras.Model, folded: keras.Model, pairs: dict[str, str]) -> None:
    for layer in model.layers:
        if layer.name in pairs:
            values = _folded(layer, model.get_layer(pairs[layer.name]))
            folded.get_layer(layer.name).set_weights(values)
        elif layer.weights and layer.name not in pairs.values() and not _is_functional(layer):
            folded.get_layer(layer.name).set_weights(layer.get_weights())


@dataclass
class _Wiring:
    """Who calls whom, by layer name: number of calls, readers of what a layer gives, layers that give an output."""

    calls: dict[str, int] = field(default_factory=dict)
    readers: dict[str, list[str]] = field(default_factory=dict)
    outputs: set[str] = field(default_factory=set)


def _is_functional(model: Any) -> bool:
    return isinstance(model, keras.Model) and hasattr(model, "operations") and not isinstance(model, keras.Sequential)


def _wiring(model: keras.Model) -> _Wiring:
    config = model.get_config()
    found = _Wiring()
    for layer in config["layers"]:
        found.calls[layer["name"]] = len(layer["inbound_nodes"])
        for source in _sources(layer["inbound_nodes"]):
            found.readers.setdefault(source, []).append(layer["name"])
    names = {layer.name for layer in model.layers}
    found.outputs = {name for name in _leaves(config["output_layers"]) if name in names}
    return found


def _sources(nested: Any) -> Iterator[str]:
    """Names of the layers that made the tensors in the serialised arguments of calls."""
    if isinstance(nested, dict):
        if nested.get("class_name") == "__keras_tensor__":
            yield nested["config"]["keras_history"][0]
            return
        nested = list(nested.values())
    if isinstance(nested, list | tuple):
        for entry in nested:
            yield from _sources(entry)


def _leaves(nested: Any) -> Iterator[Any]:
    if isinstance(nested, dict):
        nested = list(nested.values())
    if isinstance(nested, list | tuple):
        for entry in nested:
            yield from _leaves(entry)
    else:
        yield nested


def _pairs(model: keras.Model, wiring: _Wiring) -> dict[str, str]:
    """Convolutions, each with the batch norm that alone reads what it gives."""
    found = {}
    for layer in model.layers:
        readers = wiring.readers.get(layer.name, [])
        if not isinstance(layer, FOLDABLE) or layer.activation is not keras.activations.linear:
            continue
        if len(readers) != 1 or layer.name in wiring.outputs:
            continue
        norm = model.get_layer(readers[0])
        once = wiring.calls[layer.name] == wiring.calls[norm.name] == 1
        if once and isinstance(norm, layers.BatchNormalization) and norm.axis in (-1, len(norm.output.shape) - 1):
            found[layer.name] = norm.name
    return found


def _folded(layer: layers.Layer, norm: layers.BatchNormalization) -> list[np.ndarray]:
    kernel, *bias = (np.asarray(weight, np.float64) for weight in layer.get_weights())
    read = {w.name: keras.ops.convert_to_numpy(w).astype(np.float64) for w in norm.weights}
    scale = read.get("gamma", 1.0) / np.sqrt(read["moving_variance"] + norm.epsilon)
    shift = (sum(bias) - read["moving_mean"]) * scale + read.get("beta", 0.0)
    spread = scale[:, None] if isinstance(layer, layers.Conv3DTranspose) else scale  # its kernel ends in (out, in)
    return [(kernel * spread).astype(np.float32), shift.astype(np.float32)]
