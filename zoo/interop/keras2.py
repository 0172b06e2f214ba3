"""Reads models of Keras 2, H5 or SavedModel, as plain data: the configuration and each layer's weights by name."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_MODELS = ("Functional", "Model", "Sequential")


@dataclass(frozen=True)
class Saved:
    """A model as Keras 2 saved it.

    Attributes:
        path: file or folder.
        config: {"class_name": "Functional", "config": {...}}.
        weights: layer -> last part of a weight's name ("kernel") -> array.
        training: "optimizer_config" and "loss" of an H5 file that was compiled, else empty.
    """

    path: Path
    config: dict[str, Any]
    weights: Mapping[str, Arrays]
    training: dict[str, Any]


def read(path: str | os.PathLike) -> Saved:
    """Reads an .h5 file or a SavedModel folder without running code from it.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it holds no Keras 2 model, or only its weights.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}. Name an .h5 file or the folder of a SavedModel.")
    return _read_folder(path) if path.is_dir() else _read_h5(path)


def _read_h5(path: Path) -> Saved:
    import h5py

    if not h5py.is_hdf5(path):
        raise ValueError(f"{path} is no HDF5 file. Name an .h5 file or the folder of a SavedModel.")
    with h5py.File(path) as file:
        if "model_config" not in file.attrs:
            raise ValueError(f"{path} holds weights without a network. Save it whole: model.save.")
        training = json.loads(file.attrs.get("training_config", "{}"))
        weights = {
            name: _key_by_last_part(name, _read_h5_items(group)) for name, group in file["model_weights"].items()
        }
        return Saved(path, _to_plain(json.loads(file.attrs["model_config"])), weights, _to_plain(training))


def _read_h5_items(group: Any) -> Iterator[tuple[str, np.ndarray]]:
    for name in group.attrs.get("weight_names", ()):
        text = name.decode() if isinstance(name, bytes) else str(name)
        yield text, np.asarray(group[text])


def _read_folder(path: Path) -> Saved:
    import tensorflow as tf

    metadata = path / "keras_metadata.pb"
    if not metadata.is_file():
        raise ValueError(f"{path} has no keras_metadata.pb, so no Keras 2 model was saved there. Name another folder.")
    nodes = [json.loads(text) for text in _read_metadata(metadata.read_bytes())]
    model = next((node for node in nodes if node.get("class_name") in _MODELS and node.get("config")), None)
    if model is None:
        raise ValueError(f"{path} holds a subclassed model: its graph is code. Only functional and Sequential load.")
    config = _to_plain({"class_name": model["class_name"], "config": model["config"]})
    checkpoint = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    keys = [key for key in checkpoint.get_variable_to_shape_map() if key.endswith(_VALUE)]
    layers: dict[int, list[tuple[str, np.ndarray]]] = {}
    for key in sorted(keys):
        owner, _, rest = key.removesuffix(_VALUE).partition("/")
        if owner.startswith("layer_with_weights-"):
            layers.setdefault(int(owner.rpartition("-")[2]), []).append((rest, checkpoint.get_tensor(key)))
    return Saved(
        path, config, {str(place): _key_by_last_part(str(place), items) for place, items in layers.items()}, {}
    )


def _key_by_last_part(layer: str, items: Any) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, array in items:
        if "data_dep_init" in name or "_naked_clone_layer" in name:  # copies that weight normalisation keeps
            continue
        last = name.split("/")[-1].split(":")[0]
        if last in arrays:
            raise ValueError(f"Layer {layer} has two weights called {last!r} (a model or cell inside). Take it out.")
        arrays[last] = array
    return arrays


def _read_metadata(content: bytes) -> Iterator[str]:
    """Yields field 5 (the JSON) of every node (field 1) of keras_metadata.pb."""
    for number, node in _read_fields(content):
        if number == 1:
            yield from (value.decode() for field, value in _read_fields(node) if field == 5)


def _read_fields(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the length-delimited fields of a protocol buffer; skips whole numbers."""
    place = 0
    while place < len(content):
        tag, place = _read_varint(content, place)
        size, place = _read_varint(content, place)
        if tag & 7 == 2:
            yield tag >> 3, content[place : place + size]
            place += size


def _read_varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def _to_plain(value: Any) -> Any:
    """Returns a configuration with the tuples that Keras 2 wrote out as lists."""
    if isinstance(value, dict):
        return (
            _to_plain(value["items"])
            if value.get("class_name") == "__tuple__"
            else {k: _to_plain(v) for k, v in value.items()}
        )
    return [_to_plain(item) for item in value] if isinstance(value, list) else value
