"""Makes Keras find the layers, losses and metrics of zoo in a saved `.keras` file, once `zoo` is imported.

Keras finds a class in its table of custom objects, and a class enters that table when its module is imported. Here
each name enters at once and its module is imported when a file needs it, so that `import zoo` loads no Keras.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

OBJECTS = {
    "zoo.models.parts.layers": (
        *("CropLike", "FiLM", "Fold", "FourierFeatures", "Half", "Paste", "SizeCheck", "Unfold"),
    ),
    "zoo.models.parts.norms": ("BatchNormalization", "GroupNormalization", "LeakyReLU"),
    "zoo.losses.composition": ("Combined", "DeepSupervision"),
    "zoo.losses.constraints": ("boundary", "location_penalty", "size_penalty"),
    "zoo.losses.entropy": ("binary_cross_entropy", "cross_entropy", "focal"),
    "zoo.losses.instances": ("blob", "component_penalty"),
    "zoo.losses.region": (
        *("dice", "dice_cross_entropy", "generalised_dice", "negative_dice", "tversky", "two_class_dice"),
    ),
    "zoo.losses.source_posterior": (
        *("count_entropy", "location_cross_entropy", "location_focal", "location_regression"),
        *("location_weighted_entropy", "moment_misalignment"),
    ),
    "zoo.metrics": ("ForegroundRatio", "MeanDice", "SourceHit", "SourceMass"),
    "zoo.training.optimizers": ("Polynomial",),
    "zoo.inference.batch_norm_folding": ("Folded",),
    "zoo.interop.addons": ("ContrastiveLoss", "SigmoidFocalCrossentropy", "gelu_tanh"),
}  # module -> what it registers with Keras


class DeferredClass:
    """Stands for a class in Keras' table until a file needs it; what it makes is of the class itself."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.__name__ = module, name

    def resolve(self) -> Any:
        """Imports the module, which puts the class itself in Keras' table, and returns the class."""
        return getattr(importlib.import_module(self.module), self.__name__)

    def from_config(self, config: dict[str, Any], *args: Any, **options: Any) -> Any:
        """Returns an instance from its configuration, as Keras asks for it."""
        return self.resolve().from_config(config, *args, **options)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Returns an instance."""
        return self.resolve()(*args, **options)


class KerasFinder:
    """Finds Keras as Python does, and fills Keras' table when it has been imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns where Keras is, with a loader that fills the table at its end; None for any other module."""
        if name != "keras":
            return None
        others = (getattr(finder, "find_spec", None) for finder in sys.meta_path if finder is not self)
        specs = (find(name, path, target) for find in others if find is not None)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_fill(module: ModuleType) -> None:
                execute(module)
                fill_table(module)

            spec.loader.exec_module = execute_and_fill
        return spec


def register_with_keras() -> None:
    """Fills Keras' table of custom objects: now, where Keras is imported already, else when it is."""
    if "keras" in sys.modules:
        fill_table(sys.modules["keras"])
    elif not any(isinstance(finder, KerasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, KerasFinder())


def fill_table(keras: ModuleType) -> None:
    """Adds every name of `OBJECTS` that is not in Keras' table yet."""
    table = keras.saving.get_custom_objects()
    for module, names in OBJECTS.items():
        for name in names:
            if f"zoo>{name}" not in table and name[0].isupper():
                table[f"zoo>{name}"] = DeferredClass(module, name)
            elif f"zoo>{name}" not in table:  # Keras takes functions for what they are, and no other callable
                keras.saving.register_keras_serializable("zoo", name)(_defer_function(module, name))


def _defer_function(module: str, name: str) -> Callable[..., Any]:
    def forward(*args: Any, **options: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*args, **options)

    forward.__name__ = name
    return forward
