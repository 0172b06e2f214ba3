"""The compiled training step: optimiser by name, schedule, clipping, accumulation, averaging, final bias."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from zoo.errors import unknown_choice
from zoo.models.parts.layers import Unfold

OPTIMIZERS = {
    "adadelta": keras.optimizers.Adadelta,
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": keras.optimizers.SGD,
}
# Isensee et al., nnU-Net, Nature Methods 2021, doi 10.1038/s41592-020-01008-z.
NNUNET = {
    "name": "sgd",
    "learning_rate": 0.01,
    "momentum": 0.99,
    "nesterov": True,
    "weight_decay": 3e-5,
    "schedule": "polynomial",
    "global_clipnorm": 12.0,
}
# What short trainings on one machine share: Adam that falls to zero, and averaged weights to validate and ship.
EMA_ADAM = {
    "name": "adam",
    "learning_rate": 2e-3,
    "schedule": "polynomial",
    "warmup": 50,
    "global_clipnorm": 5.0,
    "use_ema": True,
    "ema_momentum": 0.98,
}


@keras.saving.register_keras_serializable(package="zoo")
class Polynomial(keras.optimizers.schedules.LearningRateSchedule):
    """`initial * (1 - step / steps)^power`, after a linear warm-up; nnU-Net's schedule with power 0.9."""

    def __init__(self, initial: float, steps: int, *, power: float = 0.9, warmup: int = 0):
        self.initial, self.steps, self.power, self.warmup = initial, steps, power, warmup

    def __call__(self, step):
        """Returns the rate at a step."""
        step = keras.ops.cast(step, "float32")
        left = 1.0 - keras.ops.minimum(step, self.steps - 1) / self.steps
        warm = keras.ops.minimum(1.0, (step + 1.0) / max(self.warmup, 1))
        return self.initial * warm * left**self.power

    def get_config(self):
        """Returns the arguments of the schedule."""
        return {"initial": self.initial, "steps": self.steps, "power": self.power, "warmup": self.warmup}


def schedule(name: str | None, learning_rate: float, steps: int, warmup: int = 0) -> Any:
    """Returns a learning rate, constant or falling to zero at the last step.

    Args:
        name: None or "constant", "polynomial" (nnU-Net) or "cosine".
        learning_rate: the rate after warm-up.
        steps: optimiser steps of the whole training.
        warmup: steps of linear rise.

    Raises:
        ValueError: another name.

    Example:
        >>> float(schedule("polynomial", 0.1, 100)(0))
        0.10000000149011612
    """
    if name in (None, "constant"):
        return learning_rate
    if name == "polynomial":
        return Polynomial(learning_rate, steps, warmup=warmup)
    if name == "cosine":
        rise = {"warmup_target": learning_rate, "warmup_steps": warmup} if warmup else {}
        start = 0.0 if warmup else learning_rate
        return keras.optimizers.schedules.CosineDecay(start, max(steps - warmup, 1), **rise)
    raise unknown_choice("schedule", name, ["constant", "cosine", "polynomial"])


def optimizer(settings: Mapping[str, Any], steps: int) -> keras.optimizers.Optimizer:
    """Makes an optimiser from its settings.

    Args:
        settings: `name` ("adam", "adamw", "adadelta", "rmsprop", "sgd" or "nnunet"), `learning_rate`, `schedule`,
            `warmup` (steps), and anything the Keras optimiser takes: `global_clipnorm`, `weight_decay`,
            `use_ema`, `ema_momentum`, `gradient_accumulation_steps`, `momentum`, `nesterov`.
        steps: optimiser steps of the whole training, for the schedule.

    Raises:
        ValueError: an unknown optimiser, schedule or setting; the nearest match is named.

    Example:
        >>> optimizer(EMA_ADAM, 100).use_ema
        True
    """
    options: dict[str, Any] = dict(settings)
    if options.get("name") == "nnunet":
        options = NNUNET | {key: value for key, value in options.items() if key != "name"}
    name = options.pop("name", "adam")
    if name not in OPTIMIZERS:
        raise unknown_choice("optimiser", name, [*OPTIMIZERS, "nnunet"])
    kind, warmup = options.pop("schedule", None), options.pop("warmup", 0)
    rate = schedule(kind, options.pop("learning_rate", 1e-3), steps, warmup)
    accepted = set(inspect.signature(OPTIMIZERS[name].__init__).parameters) - {"self", "kwargs"}
    for key in options:
        if key not in accepted:
            raise unknown_choice(f"setting of {name}", key, accepted | {"schedule", "warmup"})
    return OPTIMIZERS[name](learning_rate=rate, **options)


def set_final_bias(model: keras.Model, prior: Sequence[float]) -> None:
    """Starts the logits at the classes' prior, so that the first steps are not spent on learning which class is rare.

    A softmax head gets `log(prior)`, centred; a one-logit head gets `log(p / (1 - p))` of the last entry.

    Args:
        model: a network whose last weighted layer is its head, with a bias.
        prior: fraction of voxels of each class, background first, all above 0.

    Raises:
        ValueError: the prior does not fit the head, or is not positive.
    """
    head = next(layer for layer in reversed(model.layers) if getattr(layer, "bias", None) is not None)
    logs = [math.log(p) if p > 0 else -math.inf for p in prior]
    size = int(head.bias.shape[0])
    if size == 1 and len(logs) == 2:
        logs = [logs[1] - logs[0]]
    elif size == len(logs) * _count_folded(model):
        logs = [value - sum(logs) / len(logs) for value in logs] * _count_folded(model)
    if len(logs) != size or not all(math.isfinite(value) for value in logs):
        raise ValueError(
            f"The head {head.name!r} has {size} logits and the prior {list(prior)}: give one positive fraction a class."
        )
    head.bias.assign(logs)


def _count_folded(model: keras.Model) -> int:
    """Counts the voxels that share a channel vector of the head: 1, or a cube of them where the network folds."""
    return max((layer.factor**3 for layer in model.layers if isinstance(layer, Unfold)), default=1)


def compile_model(
    model: keras.Model, loss: Any, optimizer: keras.optimizers.Optimizer, *, metrics=(), jit=False
) -> None:
    """Compiles the model's own `train_step`: one graph a (patch, channels, batch), XLA where `jit`."""
    model.compile(optimizer=optimizer, loss=loss, metrics=list(metrics), jit_compile=jit, auto_scale_loss=False)
