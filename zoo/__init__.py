"""A model zoo for 3D neuroimaging in Keras 3 on TensorFlow.

Importing `zoo` loads neither TensorFlow nor Keras; each public name is found when it is first used.
"""

import importlib
from typing import Any

_HOME = {
    "Card": "zoo.cards",
    "card": "zoo.weights",
    "demo": "zoo.inference.demonstration",
    "evaluate": "zoo.inference.assess",
    "export": "zoo.exporters.exporting",
    "lesions": "zoo.inference.lesion_tables",
    "list_models": "zoo.weights",
    "load": "zoo.weights",
    "predict": "zoo.inference.predict",
    "sample": "zoo.volumes.samples",
    "save": "zoo.weights",
    "task": "zoo.tasks",
    "train": "zoo.training.fit",
    "verify": "zoo.weights",
    "whatif": "zoo.inference.whatif",
}
__all__ = sorted(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "eeg":
        return importlib.import_module("zoo.eeg")
    if name not in _HOME:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
