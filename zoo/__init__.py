"""A model zoo for 3D neuroimaging in Keras 3 on TensorFlow.

Importing `zoo` loads neither TensorFlow nor Keras; each public name is found when it is first used. Keras then knows
the layers of zoo, so that `keras.saving.load_model` reads what `model.save` of a model of zoo wrote.
"""

import importlib
from typing import Any

from zoo.hub.keras_objects import register_with_keras

_HOME = {
    "Card": "zoo.hub.card",
    "Settings": "zoo.inference.settings",
    "card": "zoo.hub.trained_models",
    "check": "zoo.datasets.check",
    "demo": "zoo.workflows.demo",
    "evaluate": "zoo.workflows.evaluate",
    "export": "zoo.exporters.export",
    "lesions": "zoo.workflows.lesion_tables",
    "list_models": "zoo.hub.trained_models",
    "load": "zoo.hub.trained_models",
    "locate_sources": "zoo.source_imaging.locate",
    "predict": "zoo.inference.predict",
    "sample": "zoo.samples",
    "save": "zoo.hub.save",
    "task": "zoo.tasks",
    "train": "zoo.training.fit",
    "verify": "zoo.hub.trained_models",
    "whatif": "zoo.workflows.whatif",
}
__all__ = sorted(_HOME)
__version__ = "0.1.0"

register_with_keras()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}; it has {', '.join(__all__)}")
    try:
        return getattr(importlib.import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        if error.name in ("tensorflow", "jax", "torch"):
            from zoo.registry import missing_backend

            raise missing_backend(error) from error
        raise


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
