"""Lists, loads and verifies trained models; weights are keyed by the path of their variable, never by position.

A trained model is a folder `builder.tag` with `card.json`, `weights.safetensors`, `golden.npz` and `README.md`.
Keras is imported inside the functions that need it: listing and reading cards stay quick.
"""

import fnmatch
import inspect
import math
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
    """Lists builders, then the trained models on this machine; builds nothing, imports no Keras.

    Args:
        pattern: as of file names: `"*.lacunes"`, `"unet3d*"`.

    Returns:
        The names that match, each half sorted.

    Example:
        >>> list_models("unet*")[0]
        'unet3d'
    """
    return fnmatch.filter([*registry.builders(), *list_trained()], pattern)


def card(name: str | os.PathLike) -> Card:
    """Reads the card of a trained model, by name or folder.

    Raises:
        ValueError: no such trained model (the nearest is named), or its card has faults (all are named).

    Example:
        >>> [channel.name for channel in card("unet3d.lacunes").input.channels]
        ['T1', 'T2', 'FLAIR']
    """
    return card_file.read(find(name))


def weights_file(name: str | os.PathLike) -> Path:
    """Returns the weight file of a trained model, by name or folder.

    Raises:
        ValueError: no such trained model, or its card names no weights.
    """
    folder = find(name)
    return folder / _stored_files(card_file.read(folder))[0].file


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

    Example:
        >>> load("unet3d", input_shape=(16, 24, 32, 1), num_classes=2, filters=(4, 8)).output_shape
        (None, 16, 24, 32, 2)
        >>> model = load("unet3d.lacunes")  # doctest: +SKIP
    """
    shapes = {"input_shape": input_shape, "num_classes": num_classes}
    arguments |= {key: value for key, value in shapes.items() if value is not None}
    if name in registry.builders():
        return build(str(name), arguments)
    if isinstance(name, str) and cards.NAME.fullmatch(name) is None and "/" not in name and os.sep not in name:
        raise errors.unknown_choice("model", name, list_models())
    folder = find(name)
    model_card = card_file.read(folder)
    weights, _ = _stored_files(model_card)
    model = _build_to_fit(model_card, _merge_arguments(model_card, arguments), folder / weights.file)
    read_weights(model, folder / weights.file, sha256=weights.sha256)
    return model


def build(name: str, arguments: dict[str, Any]) -> "keras.Model":
    function = registry.builder(name)
    registry.check_arguments(function, arguments)
    return function(**arguments)


def _build_to_fit(model_card: Card, arguments: dict[str, Any], file: Path) -> "keras.Model":
    """Builds the network of a card once its shapes are known to be those of the weights: a card may ask for any size.

    Raises:
        ValueError: another size of file than on the card, other weights, or arguments that build nothing.
    """
    weights, _ = _stored_files(model_card)
    if file.is_file() and (size := file.stat().st_size) != weights.bytes:
        raise ValueError(
            f"{file} has {size} bytes, the card says {weights.bytes}. Delete the folder and fetch it anew."
        )
    try:
        shapes = safetensors_file.network_shapes(lambda: build(model_card.builder, arguments))
        safetensors_file.check_fit(file, str(arguments.get("name", model_card.builder)), shapes)
        return build(model_card.builder, arguments)
    except (OSError, ValueError, MemoryError, ImportError):
        raise
    except Exception as error:  # a builder meets arguments of any type here
        raise ValueError(
            f"{model_card.builder} cannot be built with the arguments on the card of {model_card.name}, {arguments} "
            f"({errors.to_line(error)}). Fetch or save the model anew."
        ) from error


def _merge_arguments(model_card: Card, arguments: dict[str, Any]) -> dict[str, Any]:
    function = registry.builder(model_card.builder)
    registry.check_arguments(function, arguments)
    for key, value in arguments.items():
        own = model_card.arguments.get(key, inspect.signature(function).parameters[key].default)
        if key not in _FREE and value != own:
            raise ValueError(
                f"{model_card.name} was trained with {key}={own!r}, got {key}={value!r}. Leave it out, or build fresh "
                f"weights with zoo.load({model_card.builder!r}, {key}={value!r}, ...)."
            )
    channels = model_card.input.num_channels
    if "input_shape" in arguments and arguments["input_shape"][-1] != channels:
        raise ValueError(
            f"{model_card.name} takes {channels} channel(s), got input_shape={arguments['input_shape']}. "
            f"End it in {channels}."
        )
    return {**model_card.arguments, **arguments}


def _stored_files(model_card: Card) -> tuple[Weights, Golden]:
    if model_card.weights is None or model_card.golden is None:
        raise ValueError(f"card {model_card.name!r} names no files, got None. Save the model first (zoo.save).")
    return model_card.weights, model_card.golden


def _find_file_faults(folder: Path, stored: Stored) -> list[str]:
    path = folder / stored.file
    if not path.is_file():
        return [f"{stored.file} is missing"]
    faults = []
    if path.stat().st_size != stored.bytes:
        faults += [f"{stored.file} has {path.stat().st_size} bytes, the card says {stored.bytes}"]
    if (digest := sha256(path)) != stored.sha256:
        faults += [f"{stored.file} has sha256 {digest}, the card says {stored.sha256}"]
    return faults


def verify(name: str | os.PathLike) -> None:
    """Checks a trained model whole: card, sizes, sha256, names, shapes, parameter count and the golden output.

    The golden output is computed in float32 on the CPU and must agree to 1e-4 of its largest value.

    Args:
        name: a trained model, or its folder.

    Raises:
        ValueError: something differs; everything that does is named.

    Example:
        >>> verify("unet3d.lacunes")  # doctest: +SKIP
    """
    folder = find(name)
    model_card = card_file.read(folder)
    files: tuple[Stored, ...] = (*_stored_files(model_card), *model_card.attached)
    faults = [fault for file in files for fault in _find_file_faults(folder, file)]
    if folder.resolve().name != model_card.name:
        faults.append(f"the folder is called {folder.resolve().name!r}, its card {model_card.name!r}")
    with golden.float32_on_cpu():
        faults += _find_network_faults(folder, model_card)
    if faults:
        raise ValueError(f"{model_card.name} at {folder} does not verify: {'; '.join(faults)}. Fetch or save it anew.")


def _find_network_faults(folder: Path, model_card: Card) -> list[str]:
    weights, stored = _stored_files(model_card)
    faults = []
    try:
        shapes = safetensors_file.network_shapes(lambda: build(model_card.builder, model_card.arguments))
        parameters = sum(math.prod(shape) for shape in shapes.values())
        if parameters != model_card.parameters:
            faults.append(f"the network has {parameters} parameters, the card says {model_card.parameters}")
        safetensors_file.check_fit(folder / weights.file, model_card.builder, shapes)
        model = build(model_card.builder, model_card.arguments)
        read_weights(model, folder / weights.file)
        inputs, expected = golden.read(folder / stored.file)
        worst = golden.largest_difference(golden.run(model, inputs), expected)
    except Exception as error:  # a builder meets arguments of any type here
        return [*faults, errors.to_line(error).rstrip(".")]
    if not worst <= golden.TOLERANCE:
        faults.append(f"the output differs from golden by {worst:.2g} of its largest value, over {golden.TOLERANCE:g}")
    return faults
