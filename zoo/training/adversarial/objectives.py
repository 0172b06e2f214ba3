"""Losses of critic and generator, and the penalty on a critic's slope."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops

from zoo.errors import unknown_choice

Tensor = Any
TINY = 1e-12  # keeps the root differentiable where the slope is zero; far below what float32 adds to a norm of 1


class Objective(NamedTuple):
    """Two losses of logits: `critic(real, fake)` and `generator(fake)`, each () float32."""

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


# Goodfellow et al. 2014, arXiv 1406.2661 (the form that does not saturate); Lim and Ye 2017, arXiv 1705.02894;
# Arjovsky et al. 2017, arXiv 1701.07875.
OBJECTIVES = {
    "nonsaturating": Objective(
        lambda real, fake: ops.mean(ops.softplus(-real)) + ops.mean(ops.softplus(fake)),
        lambda fake: ops.mean(ops.softplus(-fake)),
    ),
    "hinge": Objective(
        lambda real, fake: ops.mean(ops.relu(1.0 - real)) + ops.mean(ops.relu(1.0 + fake)),
        lambda fake: -ops.mean(fake),
    ),
    "wasserstein": Objective(
        lambda real, fake: ops.mean(fake) - ops.mean(real),
        lambda fake: -ops.mean(fake),
    ),
}


def objective(name: str) -> Objective:
    """Returns an objective by name.

    Raises:
        ValueError: there is no such objective; the nearest is named.

    Example:
        >>> objective("hinge") is OBJECTIVES["hinge"]
        True
    """
    if name not in OBJECTIVES:
        raise unknown_choice("objective", name, OBJECTIVES)
    return OBJECTIVES[name]


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """Returns how far the critic's slope is from 1 between real and fake images: `mean (|grad critic(x)| - 1)^2`.

    Args:
        critic: from images to logits (batch, 1); a sample's logit depends on that sample alone.
        real: (batch, ...) float32.
        fake: the same shape.
        mix: (batch, 1, ...) float32 in 0 to 1, 0 for x at the real and 1 at the fake image.

    Returns:
        () float32.

    Source: Gulrajani et al. 2017, arXiv 1704.00028.
    """
    between = ops.cast(real, "float32") + ops.cast(mix, "float32") * ops.cast(fake - real, "float32")
    with tf.GradientTape() as tape:
        tape.watch(between)
        logits = ops.sum(critic(between))
    slope = ops.reshape(tape.gradient(logits, between), (ops.shape(between)[0], -1))
    norm = ops.sqrt(ops.sum(ops.square(slope), axis=-1) + TINY)
    return ops.mean(ops.square(norm - 1.0))


def check_precision(critics: list[keras.Model]) -> None:
    """Raises for critics that compute in less than float32: the slope of a slope drowns in their rounding.

    Raises:
        ValueError: names the first such layer.
    """
    for layer in (layer for critic in critics for layer in critic.layers):
        if layer.compute_dtype != "float32" and not isinstance(layer, keras.layers.InputLayer):
            raise ValueError(
                f"A gradient penalty needs critics that compute in float32, got {layer.compute_dtype} in "
                f'{layer.name!r}. Train with precision="float32", or with penalty=0.'
            )
