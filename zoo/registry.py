"""Finds builders by listing `zoo/models`."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping

from zoo.errors import unknown_choice


def builders() -> list[str]:
    """Lists the names of all builders, without importing any of them.

    Example:
        >>> "unet3d" in builders()
        True
    """
    package = importlib.import_module("zoo.models")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg)


def builder(name: str) -> Callable:
    """Returns the builder function `name`: the function of that name in the file of that name.

    Raises:
        ValueError: there is no such builder; the nearest match is named.
    """
    if name not in builders():
        raise unknown_choice("builder", name, builders())
    return getattr(importlib.import_module(f"zoo.models.{name}"), name)


def check_arguments(function: Callable, arguments: Mapping[str, object]) -> None:
    """Checks that a builder takes every argument, and names the nearest match for one that it does not.

    Args:
        function: a builder.
        arguments: what the caller means to pass, by name.

    Raises:
        ValueError: the function has no argument of that name; the nearest match is named.
    """
    known = inspect.signature(function).parameters
    for name in arguments:
        if name not in known:
            raise unknown_choice(f"argument of {function.__name__}", name, known)
