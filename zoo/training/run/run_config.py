"""The settings of a run as one JSON record, so that a run folder goes on under its own settings alone."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from zoo.devices import policy
from zoo.errors import unknown_choice
from zoo.training.task import Task

MEMORY = ("low", "normal")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a run is made, whatever the task.

    Attributes:
        seed: decides the initial weights, the splits, and every sample.
        steps: optimiser steps; None takes the task's.
        precision: "auto", "float32" or "bfloat16" (see `zoo.devices.policy`).
        jit: True, False or "auto": XLA on a GPU, oneDNN graph on a CPU.
        deterministic: bit-equal results from equal runs, at some cost in speed.
        start_from: name or folder of a trained model, or a finished run of the same network, whose weights are the
            first ones: to fine-tune on a site's own data, or to go on at a finer spacing. None draws them.
        memory: "normal"; "low" computes stages of the network again for their gradient instead of keeping what is
            inside, which takes longer and gives the same gradients.

    Raises:
        ValueError: another kind of memory; the nearest match is named.

    Example:
        >>> TrainOptions(seed=1, deterministic=True).precision
        'auto'
    """

    seed: int = 0
    steps: int | None = None
    precision: str = "auto"
    jit: str | bool = "auto"
    deterministic: bool = False
    start_from: str | pathlib.Path | None = None
    memory: str = "normal"

    def __post_init__(self) -> None:
        if self.memory not in MEMORY:
            raise unknown_choice("memory", self.memory, MEMORY)


def run_config(task: Task, source: str | pathlib.Path, options: TrainOptions, *, steps: int) -> dict[str, Any]:
    """Returns every setting of a task and of the options, as JSON has it.

    Functions are their qualified names; the loss is its configuration, since two lambdas share one name.

    Args:
        task: what the run learns.
        source: "synthetic", or a folder of real data.
        options: how the run is made.
        steps: optimiser steps of the whole run, in full epochs.
    """
    settings = task.settings()
    settings["task"] = settings.pop("name")
    settings["loss"] = [task.fit.loss, task.fit.loss(**task.fit.loss_arguments)]
    made_by = dataclasses.asdict(options) | {"precision": policy(options.precision), "steps": steps}
    if options.start_from is not None:
        made_by["start_from"] = str(options.start_from)
    if options.memory == "normal":  # runs that were begun before there was a choice go on
        del made_by["memory"]
    return json.loads(json.dumps(_to_plain(settings | {"source": str(source)} | made_by)))


def _to_plain(value: Any) -> Any:
    """Returns a value as JSON can hold it, the same in every process."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, functools.partial):
        return {"partial": _to_plain([value.func, value.args, value.keywords])}
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return {"class": _to_plain(type(value)), **_configuration(value)}


def _configuration(value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        return {field.name: _to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    config = value.get_config() if hasattr(value, "get_config") else {}
    # Keras numbers the objects of a process; a name says nothing about what they compute.
    return {key: _to_plain(item) for key, item in config.items() if key != "name"}


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """Returns a phrase for each setting that differs, named by its path.

    Example:
        >>> differences({"seed": 0, "optimizer": {"name": "adam"}}, {"seed": 0, "optimizer": {"name": "sgd"}})
        ["optimizer.name was 'adam', now 'sgd'"]
    """
    if isinstance(before, dict) and isinstance(now, dict):
        keys = list(dict.fromkeys([*before, *now]))
        parts = [
            differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)
            for key in keys
            if before.get(key) != now.get(key)
        ]
        return [phrase for part in parts for phrase in part]
    return [] if before == now else [f"{path} was {_shorten(before)}, now {_shorten(now)}"]


def _shorten(value: Any, most: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."
