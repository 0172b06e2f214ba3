"""Saves trained models as folders, whole or not at all."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.files import replacing_folder, write_whole
from zoo.hub import card_file, golden, safetensors_file
from zoo.hub.card import Attached, Card, Weights
from zoo.hub.download import sha256
from zoo.hub.model_readme import readme
from zoo.hub.safetensors_file import read_weights, write_weights
from zoo.hub.trained_models import WEIGHTS, build

if TYPE_CHECKING:
    import keras


def save(
    model: "keras.Model",
    folder: str | os.PathLike,
    card: Card,
    *,
    dtype: str = "auto",
    golden_input: "golden.Inputs | None" = None,
    overwrite: bool = False,
    attachments: Mapping[str, Callable[[Path], Any]] | None = None,
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
        overwrite: whether a folder that exists is replaced; it stays until the new one is whole.
        attachments: file name -> function that writes this file, to be fetched and verified with the weights.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder exists and `overwrite` is False.
        ValueError: the card has faults, or does not describe `model`.

    Example:
        >>> card = dataclasses.replace(zoo.card("unet3d.lacunes"), name="unet3d.mine")  # doctest: +SKIP
        >>> zoo.save(model, "pretrained/unet3d.mine", card)  # doctest: +SKIP
        PosixPath('pretrained/unet3d.mine')
    """
    card_file.check(card, complete=False)
    folder = Path(folder)
    if folder.name != card.name:
        raise ValueError(f"The folder must be called {card.name!r} as on the card, got {folder.name!r}. Rename one.")
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder} exists. Pass overwrite=True to replace it, or give the card another tag.")
    with replacing_folder(folder, overwrite=overwrite) as temporary:
        _write_all(model, temporary, card, dtype, golden_input)
        for name, write in (attachments or {}).items():
            write(temporary / name)
            attach(temporary, name)
    return folder


def attach(folder: str | os.PathLike, file: str) -> Card:
    """Adds a file of a trained-model folder to its card, so that it is fetched and verified with the weights.

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
    card = card_file.read(folder)
    others = tuple(other for other in card.attached if other.file != file)
    card = dataclasses.replace(card, attached=(*others, Attached(file, path.stat().st_size, sha256(path))))
    card_file.write(card, folder)
    write_whole(folder / "README.md", readme(card).encode())
    return card


def _write_all(model: Any, part: Path, card: Card, dtype: str, inputs: "golden.Inputs | None") -> None:
    path = part / WEIGHTS
    with golden.float32_on_cpu():
        twin = _build_twin(model, path, card)
        inputs = golden.draw_inputs(twin, card) if inputs is None else inputs
        golden.check_same_function(model, twin, inputs)
        weights = _write_smallest(twin, path, inputs) if dtype == "auto" else write_weights(twin, path, dtype)
        read_weights(twin, path, sha256=weights.sha256)
        stored = golden.write(part / golden.FILE, inputs, golden.run(twin, inputs))
    parameters = safetensors_file.count_weights(twin)
    filled = dataclasses.replace(card, parameters=parameters, weights=weights, golden=stored, attached=())
    card_file.write(filled, part)
    (part / "README.md").write_text(readme(filled), encoding="utf-8")


def _build_twin(model: Any, path: Path, card: Card) -> "keras.Model":
    """Builds the network of the card with the weights of `model`, carried over in the file `path`."""
    twin = build(card.builder, card.arguments)
    try:
        write_weights(model, path)
        read_weights(twin, path)
    except ValueError as error:
        raise ValueError(f"builder and arguments of card {card.name!r} do not make this model: {error}") from error
    return twin


def _write_smallest(twin: Any, path: Path, inputs: "golden.Inputs") -> Weights:
    """Writes float16 where the output allows it, else float32."""
    exact, full = golden.run(twin, inputs), safetensors_file.arrays(twin)
    half = write_weights(twin, path, "float16")
    read_weights(twin, path, finite=False)  # what float16 cannot hold shows in the output
    if golden.largest_difference(golden.run(twin, inputs), exact) < golden.TOLERANCE:
        return half
    for name, variable in safetensors_file.variables(twin).items():
        variable.assign(full[name])
    return write_weights(twin, path)
