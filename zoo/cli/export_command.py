"""`zoo export`: writes a trained model in a format that runs without zoo."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.cli.terminal import Json, Model, UsageError, find_model, framework, tell
from zoo.errors import unknown_choice

RUNTIMES = ("keras", "onnx", "openvino", "litert", "tensorflow")


def export(  # noqa: PLR0913 - the choices of a command, each an option
    model: Model,
    folder: Annotated[Path, typer.Argument(help="Made by this; must not exist.")],
    format: Annotated[
        str, typer.Option(metavar="NAME", help="saved_model, onnx, openvino, litert or monai_bundle.")
    ] = "saved_model",
    patch: Annotated[str, typer.Option(metavar="N[,N,N]", help="Window in voxels; the card's if left out.")] = "",
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Average over left/right mirror images (SavedModel).")
    ] = False,
    overlap: Annotated[float, typer.Option(help="Shared part of neighbouring windows (SavedModel).")] = 0.5,
    weights: Annotated[str, typer.Option(metavar="DTYPE", help="float32, float16 or int8 on disk.")] = "float32",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write a model as SavedModel, ONNX, OpenVINO, LiteRT, MONAI.

    A SavedModel takes a raw volume and gives labels on its grid, with TensorFlow
    alone; ONNX, OpenVINO and LiteRT hold the network; a MONAI bundle is PyTorch.
    """
    home, size = find_model(model), _parse_patch(patch)
    if folder.exists() and not overwrite:
        raise UsageError(f"{folder} exists. Pass --overwrite to replace it, or name another folder.")
    with framework():
        from zoo.exporters import export as exporter

        windows = exporter.Windows(overlap=overlap, mirror=mirror)
        exporter.export(home, folder, format=format, patch=size, weights=weights, overwrite=overwrite, windows=windows)
    record = read_record(folder)
    exact = "" if record["difference"] is None else f", {record['difference']:.1g} of the largest logit from Keras"
    line = f"{folder}: {record['format']}, {record['bytes'] / 1e6:.1f} MB{exact}"
    tell({**record, "folder": str(folder)}, line, as_json)


def read_record(folder: Path) -> dict[str, Any]:
    """Reads the `export.json` of an export."""
    return json.loads(next(folder.rglob("export.json")).read_text())


def _parse_patch(text: str) -> tuple[int, ...] | None:
    if not text:
        return None
    try:
        sizes = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        sizes = ()
    if len(sizes) not in (1, 3):
        raise UsageError(f"--patch is one number or three, as 96 or 96,96,64; got {text!r}.")
    return sizes * 3 if len(sizes) == 1 else sizes


def choose_network(runtime: str, model: Path) -> dict[str, Any]:
    """Returns `runtime` and `network` of `zoo.inference.settings.Settings`; the network is exported on first use.

    Raises:
        UsageError: there is no such runtime.
    """
    if runtime not in RUNTIMES:
        raise UsageError(str(unknown_choice("runtime", runtime, RUNTIMES)))
    if runtime == "keras":
        return {}
    from zoo.exporters.export import runtime_file

    return {"runtime": runtime, "network": runtime_file(model, runtime)}
