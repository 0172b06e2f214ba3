"""Loads, verifies and saves trained models; weights are keyed by the path of their variable, never by position.

A trained model is a folder `builder.tag` with `card.json`, `weights.safetensors`, `golden.npz` and `README.md`.
Keras is imported inside the functions that need it: listing and reading cards stay quick.
"""

import dataclasses
import fnmatch
import inspect
import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import cards, golden, keyed, registry
from zoo.cards import Attached, Card, Golden, Stored, Weights
from zoo.fetching import find, sha256, trained_models
from zoo.keyed import read_weights, write_weights
from zoo.readme import readme
from zoo.records import write_whole

if TYPE_CHECKING:
    import keras

__all__ = ["card", "find", "list_models", "load", "read_weights", "save", "verify", "write_weights"]
WEIGHTS = "weights.safetensors"
_FREE = ("input_shape", "dropout", "name")


def list_models(pattern: str = "*") -> list[str]:
    """Names of builders, then of the trained models on this machine; builds nothing, imports no Keras.

    Args:
        pattern: as of file names: `"*.lacunes"`, `"unet3d*"`.

    Returns:
        The names that match, each half sorted.
    """
    return fnmatch.filter([*registry.builders(), *trained_models()], pattern)


def card(name: str | os.PathLike) -> Card:
    """The card of a trained model, by name or folder.

    Raises:
        ValueError: no such trained model (the nearest is named), or its card has faults (all are named).
    """
    return cards.read(find(name))


def weights_file(name: str | os.PathLike) -> Path:
    """The weights of a trained model, by name or folder.

    Raises:
        ValueError: no such trained model, or its card names no weights.
    """
    folder = find(name)
    return folder / _files(cards.read(folder))[0].file


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
        return _build(str(name), arguments)
    if isinstance(name, str) and cards.NAME.fullmatch(name) is None and "/" not in name and os.sep not in name:
        raise registry.unknown("model", name, list_models())
    folder = find(name)
    read = cards.read(folder)
    model = _build(read.builder, _merged(read, arguments))
    weights, _ = _files(read)
    read_weights(model, folder / weights.file, sha256=weights.sha256)
    return model


def _build(name: str, arguments: dict[str, Any]) -> "keras.Model":
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
    read = cards.read(folder)
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
        model = _build(read.builder, read.arguments)
        counted = keyed.count(model)
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


def save(
    model: "keras.Model",
    folder: str | os.PathLike,
    card: Card,
    *,
    dtype: str = "auto",
    golden_input: "golden.Inputs | None" = None,
    overwrite: bool = False,
) -> Path:
    """Writes a trained-model folder, whole or not at all, and fills what is measured into its card.

    The network is built again from the card's builder and arguments, takes over the weights, and must give the
    output of `model`: what is saved can be loaded. Half-precision weights are kept when the output allows.

    Args:
        model: the trained network; left as it is.
        folder: ends in the card's name.
        card: without `parameters`, `weights` and `golden`, or with old ones that are replaced.
        dtype: on disk; "auto" takes float16 where the golden output moves by less than 1e-4 of its largest value.
        golden_input: float32 arrays `(1, x, y, z, channels)`, one for each input; None draws small seeded noise.
        overwrite: whether a folder that exists is replaced.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder exists and `overwrite` is False.
        ValueError: the card has faults, or does not describe `model`.
    """
    cards.check(card, complete=False)
    folder = Path(folder)
    if folder.name != card.name:
        raise ValueError(f"The folder must be called {card.name!r} as on the card, got {folder.name!r}. Rename one.")
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder} exists. Pass overwrite=True to replace it, or give the card another tag.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    part.mkdir()
    try:
        _write_all(model, part, card, dtype, golden_input)
        _replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def attach(folder: str | os.PathLike, file: str) -> Card:
    """Puts a file that lies in a trained-model folder on its card: it is then fetched and verified with the weights.

    Args:
        folder: of the trained model.
        file: plain name of a file in it, such as "normative.npz".

    Returns:
        The card as it is now.

    Raises:
        FileNotFoundError: there is no such file.
    """
    folder = Path(folder)
    path = folder / file
    if not path.is_file():
        raise FileNotFoundError(f"There is no {file} in {folder}. Write it first, then attach it.")
    card = cards.read(folder)
    others = tuple(one for one in card.attached if one.file != file)
    card = dataclasses.replace(card, attached=(*others, Attached(file, path.stat().st_size, sha256(path))))
    cards.write(card, folder)
    write_whole(folder / "README.md", readme(card).encode())
    return card


def _replace(part: Path, folder: Path) -> None:
    """Renames `part` to `folder`; what was there comes back if that fails."""
    if not folder.exists():
        part.rename(folder)
        return
    old = part.with_name(f"{part.name}.old")
    folder.rename(old)
    try:
        part.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write_all(model: Any, part: Path, card: Card, dtype: str, inputs: "golden.Inputs | None") -> None:
    path = part / WEIGHTS
    with golden.float32_on_cpu():
        twin = _twin(model, path, card)
        given = golden.draw_inputs(twin, card) if inputs is None else inputs
        golden.same_function(model, twin, given)
        weights = _write_smallest(twin, path, given) if dtype == "auto" else write_weights(twin, path, dtype)
        read_weights(twin, path, sha256=weights.sha256)
        stored = golden.write(part / golden.FILE, given, golden.run(twin, given))
    parameters = keyed.count(twin)
    filled = dataclasses.replace(card, parameters=parameters, weights=weights, golden=stored, attached=())
    cards.write(filled, part)
    (part / "README.md").write_text(readme(filled), encoding="utf-8")


def _twin(model: Any, path: Path, card: Card) -> "keras.Model":
    """The network of the card with the weights of `model`, carried over in the file `path`."""
    twin = _build(card.builder, card.arguments)
    try:
        write_weights(model, path)
        read_weights(twin, path)
    except ValueError as error:
        raise ValueError(f"builder and arguments of card {card.name!r} do not make this model: {error}") from error
    return twin


def _write_smallest(twin: Any, path: Path, inputs: "golden.Inputs") -> Weights:
    """Float16 where the output allows it, else float32."""
    exact, full = golden.run(twin, inputs), keyed.arrays(twin)
    half = write_weights(twin, path, "float16")
    read_weights(twin, path)
    if golden.difference(golden.run(twin, inputs), exact) < golden.TOLERANCE:
        return half
    for name, variable in keyed.variables(twin).items():
        variable.assign(full[name])
    return write_weights(twin, path)
