"""Tasks, one per file: each file defines one `TASK`."""

import importlib
import pkgutil

from zoo.registry import unknown
from zoo.training.task import Task


def names() -> list[str]:
    """Names of all tasks, found by listing this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def task(name: str) -> Task:
    """The task `name`.

    Raises:
        ValueError: there is no such task; the nearest match is named.
    """
    if name not in names():
        raise unknown("task", name, names())
    return importlib.import_module(f"zoo.tasks.{name}").TASK
