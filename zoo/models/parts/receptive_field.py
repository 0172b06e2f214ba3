"""Computes the receptive field of a layer, the halo that a sliding window needs."""

from typing import Any

import keras

from zoo.models.parts.layers import Fold, Unfold
from zoo.models.parts.wiring import source_layers

Field = tuple[float, float]  # edge in input voxels, input voxels from one voxel to the next


def receptive_field(model: keras.Model, layer: str | None = None) -> tuple[int, int, int]:
    """Computes the edge of the receptive field of a layer's voxel, in voxels of the input.

    Counts as papers do: each convolution or pooling of edge k adds (k - 1) times the distance
    of its input's voxels, a stride multiplies that distance, a transposed convolution divides it first.

    Args:
        model: a functional model; its sub-models add nothing.
        layer: name of the layer; None for the model's last one.

    Returns:
        (x, y, z) in voxels.

    Raises:
        ValueError: the model has no such layer.
    """
    target = model.layers[-1].name if layer is None else layer
    model.get_layer(target)
    fields: dict[str, list[Field]] = {}
    sources = {entry["config"]["name"]: list(source_layers(entry["inbound_nodes"])) for entry in _layer_configs(model)}
    for each in model.layers:  # in the order of the graph
        seen = [fields[name] for name in sources[each.name]] or [[(1.0, 1.0)] * 3]
        widest = [max(options) for options in zip(*seen, strict=True)]
        fields[each.name] = [_propagate(each, axis, *widest[axis]) for axis in range(3)]
    x, y, z = (round(edge) for edge, _ in fields[target])
    return x, y, z


def _layer_configs(model: keras.Model) -> list[dict[str, Any]]:
    return model.get_config()["layers"]


def _propagate(layer: keras.layers.Layer, axis: int, edge: float, distance: float) -> Field:
    if isinstance(layer, Fold):
        return edge + (layer.factor - 1) * distance, distance * layer.factor
    if isinstance(layer, Unfold):
        return edge, distance / layer.factor
    if isinstance(layer, keras.layers.Conv3DTranspose):
        distance /= layer.strides[axis]
        return edge + (layer.kernel_size[axis] - 1) * distance, distance
    if isinstance(layer, keras.layers.Conv3D):
        reach = (layer.kernel_size[axis] - 1) * layer.dilation_rate[axis]
        return edge + reach * distance, distance * layer.strides[axis]
    if isinstance(layer, keras.layers.MaxPooling3D):
        return edge + (layer.pool_size[axis] - 1) * distance, distance * layer.strides[axis]
    if isinstance(layer, keras.layers.UpSampling3D):
        return edge, distance / layer.size[axis]
    return edge, distance
