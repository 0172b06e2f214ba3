"""Tasks, one per file: each file defines one `TASK`."""

import importlib
import pkgutil

from zoo.errors import unknown_choice
from zoo.training.task import Task


def names() -> list[str]:
    """Names of all tasks, found by listing this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def task(name: str) -> Task:
    """The task `name`, or by the name of its model, as in "resunet.qsm_nuclei", one of the variants in its file.

    Raises:
        ValueError: there is no such task or variant; the nearest match is named.
    """
    tag = name.partition(".")[2] or name
    home = next((known for known in names() if tag == known or ("." in name and tag.startswith(f"{known}_"))), None)
    if home is None:
        raise unknown_choice("task", name, names())
    module = importlib.import_module(f"zoo.tasks.{home}")
    if name == home:
        return module.TASK
    every = {one.model_name: one for one in (module.TASK, *getattr(module, "VARIANTS", ()))}
    if name not in every:
        raise unknown_choice("variant", name, every)
    return every[name]
