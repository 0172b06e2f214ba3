"""Writes the trained-model folder of a finished run, with its card."""

import dataclasses
import json
import math
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from zoo.devices import accelerators
from zoo.hub import card as cards
from zoo.hub import card_file, safetensors_file, save
from zoo.hub.download import sha256
from zoo.training.batches import SYNTHETIC
from zoo.training.run import run_folder
from zoo.training.task import Task

VERSION = "1.0.0"
HALF = 65504  # the largest number of float16


def publish(model: keras.Model, task: Task, out: pathlib.Path, *, progress: Mapping[str, Any]) -> pathlib.Path:
    """Writes `out/<builder>.<task>`, which `zoo.load` and `zoo.predict` take, from the weights in `model`.

    A folder of that name is replaced: the run ends in what it trained.

    Args:
        model: the trained network.
        task: what it learned.
        out: the run folder.
        progress: where the run stands: its `seconds` of training so far.

    Returns:
        The trained-model folder.
    """
    config = json.loads((out / "config.json").read_text())
    # Half precision from the start: what is measured afterwards is measured with the weights that ship.
    fits = all(np.abs(array).max(initial=0) < HALF for array in safetensors_file.arrays(model).values())
    card = describe(task, config, progress)
    return save.save(model, out / task.model_name, card, dtype="float16" if fits else "float32", overwrite=True)


def is_published(folder: pathlib.Path) -> bool:
    """Returns whether a folder holds a whole trained model: a card that can be read, and the files that it names."""
    try:
        card = card_file.read(folder)
        stored = [part for part in (card.weights, card.golden, *card.attached) if part is not None]
        return card.weights is not None and all(sha256(folder / part.file) == part.sha256 for part in stored)
    except (OSError, ValueError):
        return False


def describe(task: Task, config: Mapping[str, Any], progress: Mapping[str, Any]) -> cards.Card:
    """Returns the card of a run, without metrics: `release` adds what was measured on test data."""
    return cards.Card(
        name=task.model_name,
        version=VERSION,
        builder=task.network.builder,
        arguments=task.builder_arguments,
        task=task.name,
        description=task.card.description,
        input=_describe_input(task),
        output=_describe_output(task),
        training=_describe_training(task, config, progress),
        licence="Apache-2.0",
        intended_use=task.card.intended_use,
        limits=limits(task),
        changelog={VERSION: "First weights."},
        preprocessing=_convert_steps(task.data.preprocessing),
        postprocessing=_convert_steps(task.output.postprocessing),
        references=task.card.references,
        plausible=plausible(task, _describe_output(task)),
    )


def limits(task: Task) -> tuple[str, ...]:
    """Returns the limits that a card of the task states."""
    return task.card.limits or ("Not validated beyond the metrics on this card.",)


def _describe_input(task: Task) -> cards.Input:
    channels = tuple(cards.Channel(name, task.card.intensities.get(name, "any scale")) for name in task.data.channels)
    return cards.Input(
        channels,
        task.data.patch,
        task.network.divisor,
        task.grid_mm,
        tabular=task.data.tabular,
        context=task.data.context,
        centred=task.data.centred,
        mirrored=task.data.mirrored,
    )


def _describe_output(task: Task) -> cards.Output:
    labels = {index: cards.Label(name, value) for index, (name, value) in task.data.labels.items()}
    if task.num_logits == 1:
        labels = {0: labels[1]}
    return cards.Output(task.output.kind, task.output.activation, labels)


def plausible(task: Task, output: cards.Output) -> cards.Plausible | None:
    """Returns what the task's text says of images and results, of the labels that the output has: some have fewer."""
    if (says := task.card.plausible) is None:
        return None
    names = {label.name for label in output.labels.values()}
    volumes_ml = {name: bounds for name, bounds in says.volumes_ml.items() if name in names}
    return dataclasses.replace(says, volumes_ml=volumes_ml)


def _convert_steps(steps: tuple[Mapping[str, Any], ...]) -> tuple[cards.Step, ...]:
    return tuple(cards.Step(step["name"], {k: v for k, v in step.items() if k != "name"}) for step in steps)


def _describe_training(task: Task, config: Mapping[str, Any], progress: Mapping[str, Any]) -> cards.Training:
    synthetic = config["source"] == SYNTHETIC
    text = task.card.training_data if synthetic else {}
    device = ", ".join(accelerators()) or f"CPU ({platform.machine()})"
    return cards.Training(
        data=text.get("data", f"real data in {pathlib.Path(config['source']).name}"),
        data_licence=text.get("licence", "that of the data"),
        synthetic=synthetic,
        command=f"zoo train {task.name} --source {config['source']} --seed {config['seed']} --steps {config['steps']}",
        commit=run_folder.commit().removesuffix("+changes") or None,
        seed=config["seed"],
        device=device,
        steps=config["steps"],
        minutes=math.ceil(progress["seconds"] / 6) / 10,
    )
