"""Copies a network for inference: fewer passes over memory, narrower tensors, another precision."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers

from zoo.models.parts.wiring import source_layers

FOLDABLE = (layers.Conv3D, layers.Conv3DTranspose, layers.Dense)


@keras.saving.register_keras_serializable(package="zoo")
class Folded(layers.Layer):
    """Passes its input on, in place of a batch norm that was folded away."""

    def call(self, x, mask=None, training=None):
        """Returns `x`."""
        return x


def fold_batch_norm(model: keras.Model, *, precision: str | None = None) -> keras.Model:
    """Copies a network for inference: batch norms folded into convolutions, concatenations taken apart.

    Folding spares each convolution a pass over memory, and lets the kernel library fuse bias and activation.
    With s = gamma / sqrt(variance + epsilon) the kernel becomes kernel * s and the bias
    (bias - mean) * s + beta. A convolution of concatenated volumes becomes the sum of a convolution of each:
    the widest tensor of a U-Net is never made, which took a third off the peak memory of a window. The copy
    must not be trained: its norms are gone.

    Args:
        model: a functional model; any other is returned as it is. It is not changed.
        precision: a Keras dtype policy for the copy ("mixed_bfloat16"); None keeps each layer's own. What
            gives an output stays in its own precision: float32 logits stay float32.

    Returns:
        A functional model of the same inputs and outputs (to 1e-5 in float32). A batch norm stays where its
        convolution has an activation, is used twice, has other readers or is not there; a concatenation where
        anything but such convolutions reads it.

    Example:
        >>> inputs = keras.Input((8, 8, 8, 1))
        >>> model = keras.Model(inputs, layers.BatchNormalization()(layers.Conv3D(2, 3)(inputs)))
        >>> fold_batch_norm(model).layers[-1].__class__.__name__
        'Folded'
    """
    if not _is_functional(model):
        return model
    wiring = _read_wiring(model)
    plan = _FoldingPlan(precision, wiring.outputs, _find_pairs(model, wiring), _find_splits(model, wiring))
    folded = keras.models.clone_model(model, clone_function=plan.copy, call_function=plan.call)
    _carry_weights(model, folded, plan)
    return folded


@dataclass
class _FoldingPlan:
    """Maps convolutions to their norm (`pairs`) and to the concatenation they read (`splits`)."""

    precision: str | None
    outputs: set[str]
    pairs: dict[str, str]
    splits: dict[str, str]
    joined: dict[int, tuple[Any, Any]] = field(default_factory=dict)  # holds the tensor, so that its id stays its own

    def copy(self, layer: layers.Layer) -> layers.Layer:
        """Copies a layer without its weights."""
        if _is_functional(layer):
            return fold_batch_norm(layer, precision=self.precision)
        config = layer.get_config()
        if self.precision and layer.name not in self.outputs and not isinstance(layer, layers.InputLayer):
            config["dtype"] = self.precision
        if layer.name in self.pairs.values():
            return Folded(name=layer.name, dtype=config["dtype"])
        if layer.name in self.pairs:
            config["use_bias"] = True
        return layer.__class__.from_config(config)

    def call(self, layer: layers.Layer, *inputs: Any, **options: Any) -> Any:
        """Calls the copy; where it reads a concatenation, calls its parts instead."""
        if layer.name in self.splits:
            return _sum_of_parts(layer, self.joined[id(inputs[0])][1])
        result = layer(*inputs, **options)
        if layer.name in self.splits.values():
            self.joined[id(result)] = (result, inputs[0])
        return result


def _sum_of_parts(layer: layers.Conv3D, parts: Sequence[Any]) -> Any:
    """Replaces the convolution of a concatenation by one convolution of each part; the first has the bias."""
    config, sums = layer.get_config(), []
    for index, part in enumerate(parts):
        changes = {"name": f"{layer.name}_part_{index}", "use_bias": config["use_bias"] and index == 0}
        sums.append(layers.Conv3D.from_config(config | changes)(part))
    return layers.Add(name=f"{layer.name}_sum", dtype=config["dtype"])(sums)


def _carry_weights(model: keras.Model, folded: keras.Model, plan: _FoldingPlan) -> None:
    for layer in model.layers:
        if _is_functional(layer) or not layer.weights or layer.name in plan.pairs.values():
            continue
        norm = model.get_layer(plan.pairs[layer.name]) if layer.name in plan.pairs else None
        values = _fold_weights(layer, norm) if norm else layer.get_weights()
        if layer.name not in plan.splits:
            folded.get_layer(layer.name).set_weights(values)
            continue
        widths = [tensor.shape[-1] for tensor in model.get_layer(plan.splits[layer.name]).input]
        for index, kernel in enumerate(np.split(values[0], np.cumsum(widths)[:-1], axis=3)):
            part = folded.get_layer(f"{layer.name}_part_{index}")
            part.set_weights([kernel, *values[1:]] if index == 0 else [kernel])


@dataclass
class _Wiring:
    """How layers are connected, by name: calls, readers of each layer's output, layers that give an output."""

    calls: dict[str, int] = field(default_factory=dict)
    readers: dict[str, list[str]] = field(default_factory=dict)
    outputs: set[str] = field(default_factory=set)


def _is_functional(model: Any) -> bool:
    return isinstance(model, keras.Model) and hasattr(model, "operations") and not isinstance(model, keras.Sequential)


def _read_wiring(model: keras.Model) -> _Wiring:
    config = model.get_config()
    wiring = _Wiring()
    for layer in config["layers"]:
        wiring.calls[layer["name"]] = len(layer["inbound_nodes"])
        for source in source_layers(layer["inbound_nodes"]):
            wiring.readers.setdefault(source, []).append(layer["name"])
    names = {layer.name for layer in model.layers}
    wiring.outputs = {name for name in _leaves(config["output_layers"]) if name in names}
    return wiring


def _leaves(nested: Any) -> Iterator[Any]:
    if isinstance(nested, dict):
        nested = list(nested.values())
    if isinstance(nested, list | tuple):
        for entry in nested:
            yield from _leaves(entry)
    else:
        yield nested


def _find_pairs(model: keras.Model, wiring: _Wiring) -> dict[str, str]:
    """Finds convolutions whose output a batch norm alone reads, each with that norm."""
    pairs = {}
    for layer in model.layers:
        readers = wiring.readers.get(layer.name, [])
        if not isinstance(layer, FOLDABLE) or layer.activation is not keras.activations.linear:
            continue
        if len(readers) != 1 or layer.name in wiring.outputs:
            continue
        norm = model.get_layer(readers[0])
        once = wiring.calls[layer.name] == wiring.calls[norm.name] == 1
        if once and isinstance(norm, layers.BatchNormalization) and norm.axis in (-1, len(norm.output.shape) - 1):
            pairs[layer.name] = norm.name
    return pairs


def _find_splits(model: keras.Model, wiring: _Wiring) -> dict[str, str]:
    """Finds convolutions that read a concatenation of channels, each with it, where only such read it."""
    splits: dict[str, str] = {}
    for join in model.layers:
        readers = [model.get_layer(name) for name in wiring.readers.get(join.name, [])]
        if not isinstance(join, layers.Concatenate) or join.axis not in (-1, 4) or wiring.calls[join.name] != 1:
            continue
        if join.name not in wiring.outputs and all(_is_splittable(reader, wiring) for reader in readers):
            splits |= {reader.name: join.name for reader in readers}
    return splits


def _is_splittable(layer: layers.Layer, wiring: _Wiring) -> bool:
    if type(layer) is not layers.Conv3D or layer.groups != 1 or layer.name in wiring.outputs:
        return False
    return layer.activation is keras.activations.linear and wiring.calls[layer.name] == 1


def _fold_weights(layer: layers.Layer, norm: layers.BatchNormalization) -> list[np.ndarray]:
    kernel, *bias = (np.asarray(weight, np.float64) for weight in layer.get_weights())
    by_name = {w.name: keras.ops.convert_to_numpy(w).astype(np.float64) for w in norm.weights}
    scale = by_name.get("gamma", 1.0) / np.sqrt(by_name["moving_variance"] + norm.epsilon)
    shift = (sum(bias) - by_name["moving_mean"]) * scale + by_name.get("beta", 0.0)
    spread = scale[:, None] if isinstance(layer, layers.Conv3DTranspose) else scale  # its kernel ends in (out, in)
    return [(kernel * spread).astype(np.float32), shift.astype(np.float32)]
