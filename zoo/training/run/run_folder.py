"""Writes and reads a run folder: its settings, the versions that it ran on, its log and its curves."""

import csv
import importlib.metadata
import json
import pathlib
import platform
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.files import csv_text, replacing, write_whole
from zoo.training.run.run_config import differences

PACKAGES = ("zoo3d", "keras", "tensorflow", "tensorflow-cpu", "jax", "numpy", "nibabel")
# What a folder may differ in and still hold the same run: what decides how results are made and checked, not learned.
NOT_COMPARED = ("versions", "plausible", "centred", "mirrored")
CONFIG, LAST = "config.json", "last.safetensors"


def versions() -> dict[str, str]:
    """Returns the versions of the packages that decide the numbers, of Python and of the system."""
    version_of = {"python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            version_of[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return version_of


def commit() -> str:
    """Returns the commit that zoo runs from, followed by "+changes" if files differ; "" for an installed copy."""
    here = pathlib.Path(__file__).parent
    ask = lambda *words: subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True)  # noqa: E731
    try:
        head = ask("rev-parse", "--short=12", "HEAD")
    except FileNotFoundError:
        return ""
    if head.returncode:
        return ""
    changed = ask("status", "--porcelain", "--untracked-files=no").stdout.strip()
    return head.stdout.strip() + ("+changes" if changed else "")


def open_run(out: pathlib.Path, config: Mapping[str, Any]) -> pathlib.Path:
    """Makes a run folder, or opens that of the same run, and writes `config.json` and `versions.json`.

    Args:
        out: the run folder.
        config: every setting, as `run_config` returns them; all are compared with those of the folder.

    Returns:
        The run folder.

    Raises:
        ValueError: the folder belongs to a run with other settings, and every difference is named; or it holds a
            state or a trained model without the settings that it was trained with.
    """
    path = out / CONFIG
    if path.exists():
        _check_same_run(path, config)
        return out
    made = [LAST] if (out / LAST).exists() else [card.parent.name for card in out.glob("*/card.json")]
    if made:
        raise ValueError(
            f"{out} holds {made[0]} without {CONFIG}, so nothing tells which settings it was trained with. "
            f"Put {CONFIG} back to resume it, or choose a new folder."
        )
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "versions.json", json.dumps(versions() | {"commit": commit()}, indent=1).encode())
    write_whole(path, json.dumps(dict(config), indent=1).encode())
    return out


def _check_same_run(path: pathlib.Path, config: Mapping[str, Any]) -> None:
    try:
        before = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}). Put the file back, or choose a new folder.") from error
    stored, current = (
        {key: value for key, value in each.items() if key not in NOT_COMPARED} for each in (before, config)
    )
    phrases = differences(stored, current)
    if phrases:
        raise ValueError(
            f"{path.parent} holds another run: {'; '.join(phrases)}. Repeat its settings to resume it, or choose a new "
            "folder."
        )


def write_log(path: pathlib.Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Writes the whole log as CSV; each checkpoint writes it again, so it never runs ahead of the weights."""
    shown = [{key: None if value is None else f"{value:.8g}" for key, value in row.items()} for row in rows]
    write_whole(path, csv_text(shown).encode())


def read_log(path: pathlib.Path) -> list[dict[str, float]]:
    """Reads the log as a list of rows; empty cells are left out."""
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def draw_curves(rows: Sequence[Mapping[str, float]], path: pathlib.Path) -> None:
    """Draws training and validation curves against steps: one panel a metric, the loss first."""
    from matplotlib.figure import Figure

    names = sorted(
        {key.removeprefix("val_") for row in rows for key in row} - {"step", "epoch", "seconds", "learning_rate"}
    )
    names.sort(key=lambda name: name != "loss")
    figure = Figure(figsize=(4.2 * max(len(names), 1), 3.2), layout="constrained")
    for axis, name in zip(figure.subplots(1, max(len(names), 1), squeeze=False)[0], names, strict=False):
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            points = [(row["step"], row[key]) for row in rows if key in row]
            if points:
                axis.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 30 else None)
        axis.set(xlabel="step", title=name.replace("_", " "))
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
