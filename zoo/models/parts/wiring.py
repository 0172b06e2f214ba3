"""Reads from the configuration of a Keras model which layer feeds which."""

from collections.abc import Iterator
from typing import Any


def source_layers(arguments: Any) -> Iterator[str]:
    """Yields the names of the layers whose outputs a layer is called with, in order.

    Args:
        arguments: `inbound_nodes` of a layer's configuration, or any part of it.

    Example:
        >>> tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": ["encoder", 0, 0]}}
        >>> list(source_layers([{"args": [[tensor]], "kwargs": {}}]))
        ['encoder']
    """
    if isinstance(arguments, dict):
        if "keras_history" in arguments:
            yield arguments["keras_history"][0]
            return
        arguments = list(arguments.values())
    if isinstance(arguments, list | tuple):
        for argument in arguments:
            yield from source_layers(argument)
