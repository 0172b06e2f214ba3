"""Writes a finished run as a release: the trained model, with what was measured of it on its card."""

import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import keras

from zoo.hub import card as cards
from zoo.hub import card_file, save, trained_models
from zoo.training.run import model_card, run_folder
from zoo.training.task import Task

PRETRAINED = pathlib.Path("pretrained")
Rows = Mapping[str, Mapping[str, float]]


def release(
    run: str | pathlib.Path,
    task: Task,
    metrics: Rows,
    *,
    command: str,
    pretrained: str | pathlib.Path = PRETRAINED,
    model: keras.Model | None = None,
    changes: Mapping[str, Any] | None = None,
    attachments: Mapping[str, Callable[[pathlib.Path], Any]] | None = None,
) -> pathlib.Path:
    """Writes the trained model of a finished run into `pretrained/<builder.tag>`, at once in place of an earlier one.

    The card is the run's, with the task's limits of today, the commit and the command that made the release, and the
    metrics, which are printed to stderr as well.

    Args:
        run: the run folder; `pretrained` itself ships a model again, measured anew.
        task: what the run learned.
        metrics: data set -> metric -> value; a value that is not finite is left out, since a card cannot hold it.
        command: what makes this release again, for the card.
        pretrained: the folder of trained models.
        model: the network to ship; None takes the run's.
        changes: further fields of the card, such as `postprocessing`; a `training` mapping changes its fields.
        attachments: file name -> function that writes this file, to ship beside the weights.

    Returns:
        The folder of the release.

    Raises:
        FileNotFoundError: the run has no trained model yet.
        ValueError: the card would have faults; all are named.

    Example:
        >>> release("runs/lacunes", task, rows, command="zoo train lacunes --release")  # doctest: +SKIP
        PosixPath('pretrained/unet3d.lacunes')
    """
    folder = pathlib.Path(run) / task.model_name
    if not (folder / card_file.FILE).exists():
        raise FileNotFoundError(f"{run} holds no finished {task.model_name}. Let the training finish, then release it.")
    card = _release_card(card_file.read(folder), task, metrics, command=command, changes=changes or {})
    print(json.dumps(card.metrics, indent=1), file=sys.stderr)
    model = trained_models.load(folder) if model is None else model
    home = pathlib.Path(pretrained) / task.model_name
    return save.save(model, home, card, overwrite=True, attachments=attachments)


def _release_card(
    card: cards.Card, task: Task, metrics: Rows, *, command: str, changes: Mapping[str, Any]
) -> cards.Card:
    """Returns the card of a run with metrics, commit, command and further changes; arguments as in `release`."""
    training: dict[str, Any] = {"command": command, "commit": run_folder.commit().removesuffix("+changes") or None}
    fields = {"limits": model_card.limits(task), "metrics": finite(metrics)} | dict(changes)
    fields["training"] = dataclasses.replace(card.training, **training | dict(changes.get("training", {})))
    return dataclasses.replace(card, **fields)


def next_minor(card: cards.Card, change: str) -> dict[str, Any]:
    """Returns what changes on the card of a trained model that ships again: the next minor version, and why.

    Args:
        card: of the model that ships now.
        change: one sentence for the changelog.

    Returns:
        `version` and `changelog`, for the `changes` of `release`.

    Example:
        >>> changes = next_minor(trained_models.card("unet3d.lacunes"), "Finds smaller ones.")  # doctest: +SKIP
        >>> changes["version"]  # doctest: +SKIP
        '1.2.0'
    """
    major, minor, _ = card.version.split(".")
    version = f"{major}.{int(minor) + 1}.0"
    return {"version": version, "changelog": dict(card.changelog) | {version: change}}


def finite(rows: Rows) -> dict[str, dict[str, float]]:
    """Returns the rows without the values that are not finite.

    Example:
        >>> finite({"held-out cases": {"n": 3, "dice": 0.5, "hd95_mm": float("nan")}})
        {'held-out cases': {'n': 3, 'dice': 0.5}}
    """
    return {data: {name: v for name, v in row.items() if math.isfinite(v)} for data, row in rows.items()}
