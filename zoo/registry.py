"""Finds builders by listing `zoo/models`, and words every bad choice of a name."""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping

NOT_BUILDERS = {"blocks", "layers", "receptive", "sizes"}


def unknown(kind: str, value: object, choices: Iterable[str]) -> ValueError:
    """Words a bad choice: what was received, the nearest match, and what there is.

    Args:
        kind: what was chosen, a noun ("model", "activation").
        value: what was received.
        choices: every valid choice.

    Returns:
        The error, for the caller to raise.
    """
    names = sorted(choices)
    begun = [name for name in names if len(str(value)) > 2 and name.startswith(str(value))]
    near = begun if len(begun) == 1 else difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"There is no {kind} {value!r}.{hint} Choose from: {', '.join(names)}.")


def builders() -> list[str]:
    """Names of all builders, without importing any of them."""
    package = importlib.import_module("zoo.models")
    found = {module.name for module in pkgutil.iter_modules(package.__path__)}
    return sorted(found - NOT_BUILDERS)


def builder(name: str) -> Callable:
    """The builder function `name`: the function of that name in the file of that name.

    Raises:
        ValueError: there is no such builder; the nearest match is named.
    """
    if name not in builders():
        raise unknown("builder", name, builders())
    return getattr(importlib.import_module(f"zoo.models.{name}"), name)


def check_arguments(function: Callable, arguments: Mapping[str, object]) -> None:
    """Refuses an argument that a builder does not take, before Python words it less kindly.

    Args:
        function: a builder.
        arguments: what the caller means to pass, by name.

    Raises:
        ValueError: the function has no argument of that name; the nearest match is named.
    """
    known = inspect.signature(function).parameters
    for name in arguments:
        if name not in known:
            raise unknown(f"argument of {function.__name__}", name, known)
