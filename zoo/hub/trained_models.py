"""Lists, loads and verifies trained models; weights are keyed by the path of their variable, never by position.

A trained model is a folder `builder.tag` with `card.json`, `weights.safetensors`, `golden.npz` and `README.md`.
Keras is imported inside the functions that need it: listing and reading cards stay quick.
"""

import fnmatch
import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import errors, registry
from zoo.hub import card as cards
from zoo.hub import card_file, golden, safetensors_file
from zoo.hub.card import Card, Golden, Stored, Weights
from zoo.hub.download import find, list_trained, sha256
from zoo.hub.safetensors_file import read_weights, write_weights

if TYPE_CHECKING:
    import keras

__all__ = ["card", "find", "list_models", "load", "read_weights", "verify", "write_weights"]
WEIGHTS = "weights.safetensors"
_FREE = ("input_shape", "dropout", "name")


def list_models(pattern: str = "*") -> list[str]:
    """Names of builders, then of the trained models on this machine; builds nothing, imports no Keras.

    Args:
        pattern: as of file names: `"*.lacunes"`, `"unet3d*"`.

    Returns:
        The names that match, each half sorted.
    """
    return fnmatch.filter([*registry.builders(), *list_trained()], pattern)


def card(name: str | os.PathLike) -> Card:
    """The card of a trained model, by name or folder.

    Raises:
        ValueError: no such trained model (the nearest is named), or its card has faults (all are named).
    """
    return card_file.read(find(name))


def weights_file(name: str | os.PathLike) -> Path:
    """The weights of a trained model, by name or folder.

    Raises:
        ValueError: no such trained model, or its card names no weights.
    """
    folder = find(name)
    return folder / _files(card_file.read(folder))[0].file


def load(
    name: str | os.PathLike,
    /,
    *,
    input_shape: tuple[int | None, ...] | None = None,
    num_classes: int | None = None,
    **arguments: Any,
) -> "keras.Model":
    """Builds a network: a builder's name gives fresh weights, a trained model's name gives trained ones.

    Args:
        name: a builder ("unet3d"), a trained model ("unet3d.brain_mask") or the path of a trained model's folder.
        input_shape: `(x, y, z, channels)` without batch, None where open; None leaves the builder's or card's own.
        num_classes: of a fresh network; a trained model has its own.
        **arguments: of the builder, by name. A trained model takes `input_shape` with its own number of channels,
            `dropout` and `name`; anything else would be another network.

    Returns:
        A plain Keras model that ends in float32 logits.

    Raises:
        ValueError: an unknown name or argument (the nearest match is named), an argument that differs from the
            trained model's, or a weight file whose size, sha256, names or shapes are not those of the card.
    """
    given = {"input_shape": input_shape, "num_classes": num_classes}
    arguments |= {key: value for key, value in given.items() if value is not None}
    if name in registry.builders():
        return build(str(name), arguments)
    if isinstance(name, str) and cards.NAME.fullmatch(name) is None and "/" not in name and os.sep not in name:
        raise errors.unknown_choice("model", name, list_models())
    folder = find(name)
    read = card_file.read(folder)
    model = build(read.builder, _merged(read, arguments))
    weights, _ = _files(read)
    read_weights(model, folder / weights.file, sha256=weights.sha256)
    return model


def build(name: str, arguments: dict[str, Any]) -> "keras.Model":
    function = registry.builder(name)
    registry.check_arguments(function, arguments)
    return function(**arguments)


def _merged(read: Card, arguments: dict[str, Any]) -> dict[str, Any]:
    function = registry.builder(read.builder)
    registry.check_arguments(function, arguments)
    for key, value in arguments.items():
        own = read.arguments.get(key, inspect.signature(function).parameters[key].default)
        if key not in _FREE and value != own:
            raise ValueError(
                f"{read.name} was trained with {key}={own!r}, got {key}={value!r}. Leave it out, or build fresh "
                f"weights with zoo.load({read.builder!r}, {key}={value!r}, ...)."
            )
    channels = read.input.num_channels
    if "input_shape" in arguments and arguments["input_shape"][-1] != channels:
        raise ValueError(
            f"{read.name} takes {channels} channel(s), got input_shape={arguments['input_shape']}. "
            f"End it in {channels}."
        )
    return {**read.arguments, **arguments}


def _files(read: Card) -> tuple[Weights, Golden]:
    if read.weights is None or read.golden is None:
        raise ValueError(f"card {read.name!r} names no files, got None. Save the model first (zoo.save).")
    return read.weights, read.golden


def _file_faults(folder: Path, wanted: Stored) -> list[str]:
    path = folder / wanted.file
    if not path.is_file():
        return [f"{wanted.file} is missing"]
    faults = []
    if path.stat().st_size != wanted.bytes:
        faults += [f"{wanted.file} has {path.stat().st_size} bytes, the card says {wanted.bytes}"]
    if (found := sha256(path)) != wanted.sha256:
        faults += [f"{wanted.file} has sha256 {found}, the card says {wanted.sha256}"]
    return faults


def verify(name: str | os.PathLike) -> None:
    """Checks a trained model whole: card, sizes, sha256, names, shapes, parameter count and the golden output.

    The golden output is computed in float32 on the CPU and must agree to 1e-4 of its largest value.

    Args:
        name: a trained model, or its folder.

    Raises:
        ValueError: something differs; everything that does is named.
    """
    folder = find(name)
    read = card_file.read(folder)
    files: tuple[Stored, ...] = (*_files(read), *read.attached)
    faults = [fault for file in files for fault in _file_faults(folder, file)]
    if folder.resolve().name != read.name:
        faults.append(f"the folder is called {folder.resolve().name!r}, its card {read.name!r}")
    with golden.float32_on_cpu():
        faults += _network_faults(folder, read)
    if faults:
        raise ValueError(f"{read.name} at {folder} does not verify: {'; '.join(faults)}. Fetch or save it anew.")


def _network_faults(folder: Path, read: Card) -> list[str]:
    weights, stored = _files(read)
    faults = []
    try:
        model = build(read.builder, read.arguments)
        counted = safetensors_file.count(model)
        if counted != read.parameters:
            faults.append(f"the network has {counted} parameters, the card says {read.parameters}")
        read_weights(model, folder / weights.file)
        inputs, wanted = golden.read(folder / stored.file)
        worst = golden.difference(golden.run(model, inputs), wanted)
    except (OSError, ValueError, TypeError) as error:
        return [*faults, str(error).rstrip(".")]
    if not worst <= golden.TOLERANCE:
        faults.append(f"the output differs from golden by {worst:.2g} of its largest value, over {golden.TOLERANCE:g}")
    return faults
