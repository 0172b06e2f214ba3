"""The state of a training run in one file, written whole or not at all.

A checkpoint holds every variable of the model (weights, batch statistics, dropout seeds) and of the optimiser (slots,
averages, accumulators, step count) and the progress of the run, so that a resumed run equals one that never stopped.
"""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import safetensors
import safetensors.numpy

from zoo.files import write_whole

COUNTED = re.compile(r"^([a-z]+(?:_[a-z]+)*)_\d+/")


def variables(model: keras.Model) -> dict[str, Any]:
    """Returns every variable of a compiled model and its optimisers, keyed by owner, position and path.

    A model that has several optimisers names them in `optimizers`.
    """
    optimizers = getattr(model, "optimizers", None) or {"optimizer": model.optimizer}
    owned = {"model": lasting_variables(model), **{name: optimizer.variables for name, optimizer in optimizers.items()}}
    return {f"{owner}/{i:05d}/{uncounted(v.path)}": v for owner, group in owned.items() for i, v in enumerate(group)}


def uncounted(path: str) -> str:
    """Returns a path without the number that Keras gives the second and later optimisers and seeds of a process."""
    return COUNTED.sub(r"\1/", path)


def lasting_variables(model: keras.Model) -> list[Any]:
    """Returns weights and dropout seeds; not the metrics, which on a cluster cannot be read by one process alone."""
    metrics = {id(variable) for variable in model.metrics_variables}
    return [variable for variable in model.variables if id(variable) not in metrics]


def save(model: keras.Model, path: pathlib.Path, progress: Mapping[str, Any]) -> None:
    """Writes model, optimiser and progress to `path`."""
    arrays = {key: np.asarray(keras.ops.convert_to_numpy(v), order="C") for key, v in variables(model).items()}
    write_whole(path, safetensors.numpy.save(arrays, metadata={"progress": json.dumps(dict(progress))}))


def progress(path: pathlib.Path) -> dict[str, Any]:
    """Returns where the run was when `path` was written: step, log rows, best value, seconds."""
    with safetensors.safe_open(path, "numpy") as file:
        return json.loads((file.metadata() or {})["progress"])


def restore(model: keras.Model, path: pathlib.Path) -> dict[str, Any]:
    """Puts a checkpoint back into a model of the same task; returns its progress.

    Raises:
        ValueError: the checkpoint belongs to another network or optimiser.
    """
    arrays, expected = safetensors.numpy.load_file(path), variables(model)
    names = {key: key.split("/", 2) for key in expected}
    differing = [key for key in expected if key not in arrays or arrays[key].shape != tuple(expected[key].shape)]
    if differing or len(arrays) != len(expected):
        first = names[differing[0]][2] if differing else "the number of variables"
        raise ValueError(
            f"{path} was written by another network or optimiser: {first} differs. Use the run's own task and "
            "settings, or train into a new folder."
        )
    for key, variable in expected.items():
        variable.assign(arrays[key])
    return progress(path)


def save_weights(model: keras.Model, path: pathlib.Path) -> None:
    """Writes the model's variables alone."""
    arrays = {
        f"{i:05d}/{uncounted(v.path)}": np.asarray(keras.ops.convert_to_numpy(v), order="C")
        for i, v in enumerate(lasting_variables(model))
    }
    write_whole(path, safetensors.numpy.save(arrays))


def restore_weights(model: keras.Model, path: pathlib.Path) -> None:
    """Puts back what `save_weights` wrote."""
    arrays = safetensors.numpy.load_file(path)
    for i, variable in enumerate(lasting_variables(model)):
        variable.assign(arrays[f"{i:05d}/{uncounted(variable.path)}"])
