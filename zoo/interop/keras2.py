"""Reads models of Keras 2, H5 or SavedModel, as plain data: the configuration and each layer's weights by name."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arrays import first_not_finite
from zoo.errors import to_line
from zoo.interop import local_h5

Arrays = Mapping[str, np.ndarray]
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_MOST_METADATA = 1 << 26
_FIXED = {1: 8, 5: 4}  # bytes of the fields whose size their kind tells
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
        ValueError: it holds no Keras 2 model, or only its weights; it is corrupt, or its arrays are in other files.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}. Name an .h5 file or the folder of a SavedModel.")
    try:
        return _read_folder(path) if path.is_dir() else _read_h5(path)
    except (OSError, ValueError, MemoryError, ImportError):
        raise
    except Exception as error:  # files from anywhere meet the parsers of JSON, HDF5 and TensorFlow here
        raise ValueError(f"{path} is no whole model of Keras 2 ({to_line(error)}). Copy or save it anew.") from error


def _read_h5(path: Path) -> Saved:
    with local_h5.open_h5(path) as file:
        if "model_config" not in file.attrs:
            raise ValueError(f"{path} holds weights without a network. Save it whole: model.save.")
        config = _parse_json(local_h5.read_text(file, "model_config"), path)
        compiled = "training_config" in file.attrs
        training = _parse_json(local_h5.read_text(file, "training_config"), path) if compiled else {}
        groups = local_h5.get_group(file, "model_weights")
        weights = {name: _key_by_last_part(name, _read_h5_items(local_h5.get_group(groups, name))) for name in groups}
        return Saved(path, _to_plain(config), weights, _to_plain(training))


def _parse_json(text: str | bytes, path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError, TypeError) as error:
        raise ValueError(f"{path}: its configuration is not JSON ({to_line(error)}). Copy or save it anew.") from None
    if not isinstance(parsed, dict):
        raise ValueError(f"{path}: its configuration is {type(parsed).__name__}, no object. Copy or save it anew.")
    return parsed


def _read_h5_items(group: Any) -> Iterator[tuple[str, np.ndarray]]:
    for name in local_h5.read_names(group):
        yield name, local_h5.read_array(group, name)


def _read_folder(path: Path) -> Saved:
    metadata = path / "keras_metadata.pb"
    if not metadata.is_file():
        raise ValueError(f"{path} has no keras_metadata.pb, so no Keras 2 model was saved there. Name another folder.")
    if (size := metadata.stat().st_size) > _MOST_METADATA:
        raise ValueError(
            f"{metadata} has {size} bytes, and at most {_MOST_METADATA} are expected. Save the model anew."
        )
    nodes = [_parse_json(text, metadata) for text in _read_metadata(metadata.read_bytes(), metadata)]
    model = next((node for node in nodes if node.get("class_name") in _MODELS and node.get("config")), None)
    if model is None:
        raise ValueError(f"{path} holds a subclassed model: its graph is code. Only functional and Sequential load.")
    config = _to_plain({"class_name": model["class_name"], "config": model["config"]})
    layers: dict[int, list[tuple[str, np.ndarray]]] = {}
    for owner, name, array in _read_checkpoint(path / "variables"):
        if owner.startswith("layer_with_weights-"):
            layers.setdefault(int(owner.rpartition("-")[2]), []).append((name, array))
    return Saved(
        path, config, {str(place): _key_by_last_part(str(place), items) for place, items in layers.items()}, {}
    )


def _read_checkpoint(folder: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields owner, name and values of each variable, once their sizes are known to be those of the files."""
    import tensorflow as tf

    checkpoint = tf.train.load_checkpoint(str(folder / "variables"))
    shapes, dtypes = checkpoint.get_variable_to_shape_map(), checkpoint.get_variable_to_dtype_map()
    keys = sorted(key for key in shapes if key.endswith(_VALUE) and (dtypes[key].is_floating or dtypes[key].is_integer))
    announced = sum(math.prod(shapes[key]) * dtypes[key].size for key in keys)
    there = sum(file.stat().st_size for file in folder.glob("variables.data-*"))
    if announced > there:
        raise ValueError(f"{folder} announces weights of {announced} bytes and holds {there}. Copy or save it anew.")
    for key in keys:
        owner, _, rest = key.removesuffix(_VALUE).partition("/")
        array = checkpoint.get_tensor(key)
        if (place := first_not_finite(array)) is not None:
            raise ValueError(f"{folder}: {rest} of {owner} holds {array[place]} at {list(place)}. Train anew.")
        yield owner, rest, array


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


def _read_metadata(content: bytes, path: Path) -> Iterator[str]:
    """Yields field 5 (the JSON) of every node (field 1) of keras_metadata.pb."""
    try:
        for number, node in _read_fields(content):
            if number == 1:
                yield from (value.decode() for field, value in _read_fields(node) if field == 5)
    except (IndexError, ValueError) as error:
        raise ValueError(f"{path} is no whole protocol buffer ({to_line(error)}). Copy or save it anew.") from error


def _read_fields(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the length-delimited fields of a protocol buffer; skips numbers."""
    place = 0
    while place < len(content):
        tag, place = _read_varint(content, place)
        kind = tag & 7
        if kind == 0:
            _, place = _read_varint(content, place)
        elif kind in _FIXED:
            place += _FIXED[kind]
        elif kind == 2:
            size, place = _read_varint(content, place)
            if place + size > len(content):
                raise ValueError(f"a field of {size} bytes begins at byte {place} of {len(content)}")
            yield tag >> 3, content[place : place + size]
            place += size
        else:
            raise ValueError(f"byte {place} begins a field of the unknown kind {kind}")


def _read_varint(content: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):  # 64 bits at most
        byte = content[place]
        value |= (byte & 127) << shift
        place += 1
        if byte < 128:
            return value, place
    raise ValueError(f"a number has no end at byte {place}")


def _to_plain(value: Any) -> Any:
    """Returns a configuration with the tuples that Keras 2 wrote out as lists."""
    if isinstance(value, dict):
        return (
            _to_plain(value["items"])
            if value.get("class_name") == "__tuple__"
            else {k: _to_plain(v) for k, v in value.items()}
        )
    return [_to_plain(item) for item in value] if isinstance(value, list) else value
