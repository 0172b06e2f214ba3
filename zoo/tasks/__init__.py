"""Lists and loads the tasks; each file of this folder defines one `TASK`."""

import importlib
import pkgutil

from zoo.errors import unknown_choice
from zoo.training.task import Task


def names() -> list[str]:
    """Returns the names of all tasks, by listing this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def task(name: str) -> Task:
    """Returns the task `name`, or, by a model name as "resunet.qsm_nuclei", the task or variant that makes this model.

    Raises:
        ValueError: there is no such task or variant; the message names the nearest match.

    Example:
        >>> task("lacunes").data.channels
        ('T1', 'T2', 'FLAIR')
    """
    tag = name.partition(".")[2] or name
    home = next((known for known in names() if tag == known or ("." in name and tag.startswith(f"{known}_"))), None)
    if home is None:
        raise unknown_choice("task", name, names())
    module = importlib.import_module(f"zoo.tasks.{home}")
    if name == home:
        return module.TASK
    by_model = {candidate.model_name: candidate for candidate in (module.TASK, *getattr(module, "VARIANTS", ()))}
    if name not in by_model:
        raise unknown_choice("variant", name, by_model)
    return by_model[name]
