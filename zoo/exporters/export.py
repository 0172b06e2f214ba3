"""`zoo.export`: a trained model as a folder for those who have no zoo, written whole or not at all."""

import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

import zoo
from zoo import files
from zoo.errors import unknown_choice
from zoo.exporters import window_network
from zoo.exporters.monai import bundle
from zoo.exporters.saved_model import signatures
from zoo.hub import card_file, download, golden
from zoo.hub import trained_models as trained
from zoo.hub.card import Card
from zoo.inference import exported_network

RECORD = "export.json"


@dataclasses.dataclass(frozen=True)
class Choices:
    """How to export; `zoo.export` says what each means."""

    patch: tuple[int, int, int]
    overlap: float = 0.5
    mirror_axes: tuple[int, ...] = ()
    weights: str = "float32"


def export(
    name: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    format: str = "saved_model",
    patch: Sequence[int] | int | None = None,
    overlap: float = 0.5,
    mirror: bool | Sequence[int] = False,
    weights: str = "float32",
    overwrite: bool = False,
) -> Path:
    """Writes a trained model in a format that runs without zoo.

    - "saved_model": from a raw volume to labels and probabilities on its own grid, everything inside the graph; needs
      TensorFlow alone. `docs/export.md` has its signatures.
    - "onnx" (`network.onnx`), "openvino" (`network.xml`, `network.bin`), "litert" (`network.tflite`): the bare network
      at one window size; `zoo predict --runtime` does the rest, or your own code by the card beside it.
    - "monai_bundle": the network in PyTorch, with MONAI's transforms and inferer around it.

    What is written is run on one window and compared with the network it came from before the folder is there.

    Args:
        name: a trained model, or its folder.
        folder: made by this; it must not exist, unless `overwrite`.
        format: one of those above.
        patch: window in voxels, one number or three; None for the card's.
        overlap: least shared fraction of neighbouring windows, in [0, 1); of a SavedModel.
        mirror: average over mirror images, as `zoo.predict` takes it; of a SavedModel.
        weights: "float32"; "float16" or "int8" where the format holds them (SavedModel and LiteRT both, OpenVINO
            float16). They are widened when the model runs: the file shrinks, the arithmetic stays float32.
        overwrite: whether a folder that exists is replaced.

    Returns:
        The folder. `export.json` in it says what was made and how far it is from the network it came from.

    Raises:
        FileExistsError: the folder exists and `overwrite` is False.
        ImportError: a converter is not installed; the extra that has it is named.
        ValueError: an unknown format, model or setting, or what a format cannot hold, by name.
    """
    if format not in FORMATS:
        raise unknown_choice("format", format, FORMATS)
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder} exists. Pass overwrite=True to replace it, or name another folder.")
    choices = _choices(_card(name), patch, overlap, mirror, weights)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    part.mkdir()
    try:
        _write(name, part, format, choices)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def runtime_file(name: str | os.PathLike, runtime: str, patch: Sequence[int] | None = None) -> Path:
    """The exported network that a runtime reads, made on first use and kept in the user's cache.

    Args:
        name: a trained model, or its folder.
        runtime: "onnx", "openvino", "litert" or "tensorflow".
        patch: window in voxels; None for the card's.

    Raises:
        ValueError: there is no such runtime, or `export` refuses.
    """
    if runtime not in exported_network.RUNTIMES:
        raise unknown_choice("runtime", runtime, ["keras", *exported_network.RUNTIMES])
    card = _card(name)
    size = _choices(card, patch, 0.5, False, "float32").patch
    digest = card.weights.sha256[:12] if card.weights else "unsaved"
    key = "-".join([card.name, digest, "x".join(map(str, size)), zoo.__version__])
    folder = download.cache_folder() / ".exports" / key / runtime
    if not folder.exists():
        format = "saved_model" if runtime == "tensorflow" else runtime
        export(name, folder, format=format, patch=size)
    return folder if runtime == "tensorflow" else folder / exported_network.RUNTIMES[runtime]


def _card(name: str | os.PathLike) -> Card:
    return trained.card(name)


def _choices(
    card: Card, patch: Sequence[int] | int | None, overlap: float, mirror: bool | Sequence[int], dtype: str
) -> Choices:
    x, y, z = (int(n) for n in np.broadcast_to(card.input.patch if patch is None else patch, 3))
    if any(n < 1 or n % by for n, by in zip((x, y, z), card.input.divisor, strict=True)):
        raise ValueError(
            f"patch must be positive multiples of {card.input.divisor} for {card.name}, got {(x, y, z)}. "
            f"The card's own is {card.input.patch}."
        )
    axes = ((0,) if mirror else ()) if isinstance(mirror, bool) else tuple(mirror)
    return Choices((x, y, z), overlap, axes, dtype)


def _write(name: str | os.PathLike, part: Path, format: str, choices: Choices) -> None:
    """Writes everything and checks it, in float32 on the CPU."""
    card = _card(name)
    with golden.float32_on_cpu():
        model = trained.load(name)
        apart = FORMATS[format](model, card, part, choices)
    card_file.write(card, _room(part, format) / card_file.FILE)
    bytes_ = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
    told: dict[str, Any] = {"model": card.name, "version": card.version, "format": format, "zoo": zoo.__version__}
    told |= {"patch": choices.patch, "weights": choices.weights, "bytes": bytes_, "difference": apart}
    if format == "saved_model":
        told |= {"overlap": choices.overlap, "mirror_axes": choices.mirror_axes}
    files.write_whole(_room(part, format) / RECORD, (json.dumps(told, indent=1) + "\n").encode())


def _room(part: Path, format: str) -> Path:
    """Where the card goes: beside the network, and where a format's own rules want such files."""
    room = part / {"saved_model": "assets.extra", "monai_bundle": "docs"}.get(format, ".")
    room.mkdir(exist_ok=True)
    return room


def _saved_model(model: keras.Model, card: Card, part: Path, choices: Choices) -> float | None:
    _no_context(card, "saved_model")
    module = signatures.VolumeModel(
        model,
        card,
        patch=choices.patch,
        overlap=choices.overlap,
        mirror_axes=choices.mirror_axes,
        weights=choices.weights,
    )
    signatures.write(module, part)
    return _compared(model, card, part, choices, "tensorflow")


def _network(runtime: str, writer: Callable[..., None]) -> Callable[..., float | None]:
    def write(model: keras.Model, card: Card, part: Path, choices: Choices) -> float | None:
        _no_windows(choices, runtime)
        path = part / exported_network.RUNTIMES[runtime]
        writer(model, card, choices.patch, path, weights=choices.weights)
        shutil.rmtree(part / "source", ignore_errors=True)
        return _compared(model, card, path, choices, runtime)

    return write


def _compared(model: keras.Model, card: Card, path: Path, choices: Choices, runtime: str) -> float | None:
    """How far the export is from the network; narrower weights are another network, and are only measured."""
    apart = window_network.agree(exported_network.opened(runtime, path), model, card, choices.patch)
    return window_network.held(apart, f"{card.name} in {runtime}") if choices.weights == "float32" else apart


def _monai(model: keras.Model, card: Card, part: Path, choices: Choices) -> None:
    _no_windows(choices, "monai_bundle")
    _no_context(card, "monai_bundle")
    if choices.weights != "float32":
        raise unknown_choice("dtype of weights in monai_bundle", choices.weights, ["float32"])
    bundle.write(model, card, choices.patch, part)


def _no_windows(choices: Choices, format: str) -> None:
    if choices.mirror_axes or choices.overlap != Choices.overlap:
        raise ValueError(
            f"The format {format!r} holds the network alone: overlap and mirror belong to who runs it. Leave them "
            'out, or take format="saved_model".'
        )


def _no_context(card: Card, format: str) -> None:
    if card.input.context:
        raise ValueError(
            f"{card.name} sees surroundings {card.input.context} times as wide beside each window, which "
            f'{format!r} does not cut. Export the network alone: format="onnx", "openvino" or "litert".'
        )


FORMATS: dict[str, Callable[..., float | None]] = {
    "saved_model": _saved_model,
    "onnx": _network("onnx", window_network.onnx_file),
    "openvino": _network("openvino", window_network.openvino_file),
    "litert": _network("litert", window_network.litert_file),
    "monai_bundle": _monai,
}


def signature_facts(folder: Path) -> dict[str, Any]:
    """What a server reads of a SavedModel: signature -> inputs and outputs with their dtypes and shapes, -1 where open.

    Args:
        folder: of the SavedModel.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    content = saved_model_pb2.SavedModel()
    content.ParseFromString((folder / "saved_model.pb").read_bytes())
    facts = {}
    for key, definition in content.meta_graphs[0].signature_def.items():
        if key.startswith("__"):
            continue
        facts[key] = {
            "inputs": {name: _fact(one) for name, one in sorted(definition.inputs.items())},
            "outputs": {name: _fact(one) for name, one in sorted(definition.outputs.items())},
            "method": definition.method_name,
            "defaults": sorted(definition.defaults),
        }
    return facts


def _fact(info: Any) -> tuple[str, tuple[int, ...]]:
    from tensorflow.core.framework import types_pb2

    shape = () if info.tensor_shape.unknown_rank else tuple(one.size for one in info.tensor_shape.dim)
    return types_pb2.DataType.Name(info.dtype).removeprefix("DT_").lower(), shape
