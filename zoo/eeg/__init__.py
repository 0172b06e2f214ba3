"""EEG source imaging: head models, lead fields, linear inverse maps and the classical methods, in mm on NumPy.

`zoo.eeg.locate` takes a recording to its sources; it lives with prediction, in `zoo.inference.locating`.
"""

import importlib
from typing import Any

__all__ = ["locate"]


def __getattr__(name: str) -> Any:
    if name != "locate":
        raise AttributeError(f"module 'zoo.eeg' has no attribute {name!r}; it has locate and its modules")
    return importlib.import_module("zoo.inference.locating").locate
