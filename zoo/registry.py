"""Finds builders by listing `zoo/models`, and checks that Keras is set to what they run on."""

import importlib
import inspect
import os
import pkgutil
from collections.abc import Callable, Mapping

from zoo.errors import unknown_choice

BACKENDS = ("tensorflow", "jax")
_used_by: list[int] = []  # the process that first built or ran a network


def require_backend() -> None:
    """Checks, before a network is built or run, that Keras runs in this process and as the builders need it.

    Raises:
        ImportError: the backend is not installed; what installs it is named.
        ValueError: a backend or a layout of images that zoo does not run on; what to set is named.
        RuntimeError: this process was forked from one that had used a network already.
    """
    if _used_by and _used_by[0] != os.getpid():
        raise RuntimeError(
            "This process was forked from one that had used a network already, and TensorFlow hangs in such a copy. "
            'Start processes anew (multiprocessing.get_context("spawn")), or load the model in the child alone.'
        )
    _check_backend(os.environ.get("KERAS_BACKEND") or BACKENDS[0])
    try:
        import keras
    except ModuleNotFoundError as error:
        raise missing_backend(error) from error
    _check_backend(keras.backend.backend())
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            f"Keras is set to the layout {keras.config.image_data_format()!r}, and zoo needs channels_last. Call "
            'keras.config.set_image_data_format("channels_last"), or correct ~/.keras/keras.json.'
        )
    _used_by[:] = _used_by or [os.getpid()]


def _check_backend(name: str) -> None:
    if name not in BACKENDS:
        raise ValueError(
            f"Keras is set to the backend {name!r}, and zoo runs on {' or '.join(BACKENDS)}. Set "
            "KERAS_BACKEND=tensorflow before Python starts, or correct ~/.keras/keras.json."
        )


def missing_backend(error: ModuleNotFoundError) -> ImportError:
    """Words the error for a framework that is not installed: what installs it, or what Keras should be set to.

    Example:
        >>> print(missing_backend(ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")))
        No module named 'tensorflow'. Install it: pip install 'zoo3d[cpu]' (or 'zoo3d[gpu]').
    """
    if error.name == "torch":
        return ImportError(
            f"{error}: Keras is set to the backend 'torch', and zoo runs on {' or '.join(BACKENDS)}. Set "
            "KERAS_BACKEND=tensorflow before Python starts, or correct ~/.keras/keras.json."
        )
    if error.name == "jax":
        return ImportError(f"{error}: Keras is set to the backend 'jax'. Install it, or set KERAS_BACKEND=tensorflow.")
    return ImportError(f"{error}. Install it: pip install 'zoo3d[cpu]' (or 'zoo3d[gpu]').")


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
        ValueError: there is no such builder; the nearest match is named. Also what `require_backend` raises.
    """
    if name not in builders():
        raise unknown_choice("builder", name, builders())
    require_backend()
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
