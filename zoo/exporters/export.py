"""`zoo.export`: writes a trained model as a folder that runs without zoo."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo import __version__, files
from zoo.errors import unknown_choice
from zoo.exporters import window_network
from zoo.exporters.monai import bundle
from zoo.exporters.saved_model import signatures
from zoo.hub import card_file, download, golden, trained_models
from zoo.hub.card import Card
from zoo.inference import exported_network

RECORD = "export.json"
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@dataclass(frozen=True, kw_only=True)
class Windows:
    """How a SavedModel covers a volume with windows; the other formats hold the network alone.

    Attributes:
        overlap: least shared fraction of neighbouring windows, in [0, 1).
        mirror: average over mirror images: True for left/right, or the axes, some of 0, 1, 2.

    Example:
        >>> Windows(mirror=True).mirror_axes
        (0,)
    """

    overlap: float = 0.5
    mirror: bool | Sequence[int] = False

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """The axes that are mirrored."""
        if isinstance(self.mirror, bool):
            return (0,) if self.mirror else ()
        return tuple(self.mirror)


@dataclass(frozen=True)
class ExportPlan:
    """What every format's writer is given: the card, and the arguments of `export` checked against it."""

    card: Card
    patch: tuple[int, int, int]
    weights: str
    windows: Windows


Writer = Callable[[keras.Model, ExportPlan, Path], float | None]


def export(
    name: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    format: str = "saved_model",
    patch: Sequence[int] | int | None = None,
    weights: str = "float32",
    overwrite: bool = False,
    windows: Windows | None = None,
) -> Path:
    """Writes a trained model in a format that runs without zoo.

    - "saved_model": from a raw volume to labels and probabilities on its own grid, everything inside the graph; needs
      TensorFlow alone. `docs/export.md` has its signatures.
    - "onnx" (`network.onnx`), "openvino" (`network.xml`, `network.bin`), "litert" (`network.tflite`): the bare network
      at one window size; `zoo predict --runtime` does the rest, or your own code by the card beside it.
    - "monai_bundle": the network in PyTorch, with MONAI's transforms and inferer around it.

    The export is run on one window and compared with its network before the folder appears.

    Args:
        name: a trained model, or its folder.
        folder: made by this; it must not exist, unless `overwrite`.
        format: one of those above.
        patch: window in voxels, one number or three; None for the card's.
        weights: "float32"; "float16" or "int8" where the format holds them (SavedModel and LiteRT both, OpenVINO
            float16). They are widened when the model runs: the file shrinks, the arithmetic stays float32.
        overwrite: whether to replace a folder that exists.
        windows: overlap and mirror images of a SavedModel; None for the defaults of `Windows`.

    Returns:
        The folder. `export.json` in it says what was made and how much it differs from its network.

    Raises:
        FileExistsError: the folder exists and `overwrite` is False; also where another export made it meanwhile.
        OSError: the disk is full; what was there is kept.
        ImportError: a converter is not installed; the extra that has it is named.
        ValueError: an unknown format, model or setting, or what a format cannot hold, by name.

    Example:
        >>> folder = zoo.export("unet3d.brain_mask", "served/1")  # doctest: +SKIP
        >>> labels = tf.saved_model.load(folder).signatures["labels"]  # doctest: +SKIP
    """
    if format not in FORMATS:
        raise unknown_choice("format", format, FORMATS)
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder} exists. Pass overwrite=True to replace it, or name another folder.")
    card = trained_models.card(name)
    plan = ExportPlan(card, _patch_size(card, patch), weights, windows or Windows())
    with files.replacing_folder(folder, overwrite=overwrite) as temporary, _disk_faults():
        _write_format(name, temporary, format, plan)
    return folder


@contextlib.contextmanager
def _disk_faults() -> Iterator[None]:
    """Turns what TensorFlow and converters raise for a full disk and the like into OSError, as everything else does."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        code = next((code for code in DISK_FAULTS if os.strerror(code) in str(error)), None)
        if code is None:
            raise
        raise OSError(code, os.strerror(code)) from error


def runtime_file(name: str | os.PathLike, runtime: str, patch: Sequence[int] | None = None) -> Path:
    """Returns the exported network that a runtime reads; makes it on first use, in the user's cache.

    Args:
        name: a trained model, or its folder.
        runtime: "onnx", "openvino", "litert" or "tensorflow".
        patch: window in voxels; None for the card's.

    Returns:
        The file; of "tensorflow" the folder.

    Raises:
        ValueError: there is no such runtime, or `export` refuses.

    Example:
        >>> runtime_file("unet3d.brain_mask", "onnx").name  # doctest: +SKIP
        'network.onnx'
    """
    if runtime not in exported_network.RUNTIMES:
        raise unknown_choice("runtime", runtime, ["keras", *exported_network.RUNTIMES])
    card = trained_models.card(name)
    size = _patch_size(card, patch)
    digest = card.weights.sha256[:12] if card.weights else "unsaved"
    key = "-".join([card.name, digest, "x".join(map(str, size)), __version__])
    folder = download.cache_folder() / ".exports" / key / runtime
    if not _is_whole(folder):
        with contextlib.suppress(FileExistsError):  # another process made it meanwhile
            format = "saved_model" if runtime == "tensorflow" else runtime
            export(name, folder, format=format, patch=size, overwrite=folder.exists())
    return folder if runtime == "tensorflow" else folder / exported_network.RUNTIMES[runtime]


def _is_whole(folder: Path) -> bool:
    """Returns whether an export is there with the content that its record names."""
    try:
        record = json.loads(next(folder.rglob(RECORD)).read_bytes())
        return record["sha256"] == _hash_files(folder)
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return False


def _hash_files(folder: Path) -> str:
    """Returns one sha256 of the names and contents of all files of an export but its record."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != RECORD):
        digest.update(f"{path.relative_to(folder).as_posix()} {download.sha256(path)}\n".encode())
    return digest.hexdigest()


def _patch_size(card: Card, patch: Sequence[int] | int | None) -> tuple[int, int, int]:
    x, y, z = (int(n) for n in np.broadcast_to(card.input.patch if patch is None else patch, 3))
    if any(n < 1 or n % by for n, by in zip((x, y, z), card.input.divisor, strict=True)):
        raise ValueError(
            f"patch must be positive multiples of {card.input.divisor} for {card.name}, got {(x, y, z)}. "
            f"The card's own is {card.input.patch}."
        )
    return x, y, z


def _write_format(name: str | os.PathLike, folder: Path, format: str, plan: ExportPlan) -> None:
    """Writes the model in float32 on the CPU, checks it, and adds the card and `export.json`."""
    with golden.float32_on_cpu():
        difference = FORMATS[format](trained_models.load(name), plan, folder)
    home = _card_folder(folder, format)
    card_file.write(plan.card, home / card_file.FILE)
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    record: dict[str, Any] = {"model": plan.card.name, "version": plan.card.version, "format": format}
    record |= {"zoo": __version__, "patch": plan.patch, "weights": plan.weights}
    record |= {"bytes": num_bytes, "difference": difference, "sha256": _hash_files(folder)}
    if format == "saved_model":
        record |= {"overlap": plan.windows.overlap, "mirror_axes": plan.windows.mirror_axes}
    files.write_whole(home / RECORD, (json.dumps(record, indent=1) + "\n").encode())


def _card_folder(folder: Path, format: str) -> Path:
    """Returns where the card goes: beside the network, or where the format's own rules want such files."""
    home = folder / {"saved_model": "assets.extra", "monai_bundle": "docs"}.get(format, ".")
    home.mkdir(exist_ok=True)
    return home


def _write_saved_model(model: keras.Model, plan: ExportPlan, folder: Path) -> float | None:
    _refuse_context(plan.card, "saved_model")
    module = signatures.VolumeModel(
        model,
        plan.card,
        patch=plan.patch,
        overlap=plan.windows.overlap,
        mirror_axes=plan.windows.mirror_axes,
        weights=plan.weights,
    )
    signatures.write(module, folder)
    return _compare(model, plan, folder, "tensorflow")


def _network_writer(runtime: str, write_file: Callable[..., None]) -> Writer:
    def write(model: keras.Model, plan: ExportPlan, folder: Path) -> float | None:
        _refuse_windows(plan.windows, runtime)
        path = folder / exported_network.RUNTIMES[runtime]
        write_file(model, plan.card, plan.patch, path, weights=plan.weights)
        shutil.rmtree(folder / "source", ignore_errors=True)
        return _compare(model, plan, path, runtime)

    return write


def _compare(model: keras.Model, plan: ExportPlan, path: Path, runtime: str) -> float | None:
    """Measures the difference to the network; refuses it in float32 alone: narrower weights are another network."""
    run = exported_network.opened(runtime, path)
    difference = window_network.measure_difference(run, model, plan.card, plan.patch)
    if plan.weights == "float32":
        window_network.check_difference(difference, f"{plan.card.name} in {runtime}")
    return difference


def _write_monai(model: keras.Model, plan: ExportPlan, folder: Path) -> None:
    _refuse_windows(plan.windows, "monai_bundle")
    _refuse_context(plan.card, "monai_bundle")
    if plan.weights != "float32":
        raise unknown_choice("dtype of weights in monai_bundle", plan.weights, ["float32"])
    bundle.write(model, plan.card, plan.patch, folder)


def _refuse_windows(windows: Windows, format: str) -> None:
    if windows.mirror_axes or windows.overlap != Windows.overlap:
        raise ValueError(
            f"The format {format!r} holds the network alone: overlap and mirror belong to who runs it. Leave them "
            'out, or take format="saved_model".'
        )


def _refuse_context(card: Card, format: str) -> None:
    if card.input.context:
        raise ValueError(
            f"{card.name} sees surroundings {card.input.context} times as wide beside each window, which "
            f'{format!r} does not cut. Export the network alone: format="onnx", "openvino" or "litert".'
        )


FORMATS: dict[str, Writer] = {
    "saved_model": _write_saved_model,
    "onnx": _network_writer("onnx", window_network.write_onnx),
    "openvino": _network_writer("openvino", window_network.write_openvino),
    "litert": _network_writer("litert", window_network.write_litert),
    "monai_bundle": _write_monai,
}
