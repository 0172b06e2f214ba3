"""Training by one loss that sees all outputs of a network together, as no number a single output gives would do."""

from collections.abc import Sequence
from typing import Any, Protocol

import keras

from zoo.training.optimizers import optimizer
from zoo.training.task import Task


class Together(Protocol):
    """A loss of all outputs at once; `terms` names what it tells beside the loss itself."""

    terms: Sequence[str]

    def __call__(self, wanted: Any, outputs: Any) -> tuple[Any, dict[str, Any]]:
        """The loss of a batch and its terms, each a scalar."""
        ...


class Joint(keras.Model):
    """A network with a loss of all its outputs; each term is a metric of the log.

    Args:
        network: of several outputs.
        loss: see `Together`.
    """

    def __init__(self, network: keras.Model, loss: Together):
        super().__init__(name=network.name)
        self.network = network
        self.together = loss
        self.term_means = [keras.metrics.Mean(name=name) for name in loss.terms]
        self.built = True

    def call(self, inputs, training=False):
        """The network's outputs."""
        return self.network(inputs, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss of a batch; keeps its terms for the log."""
        total, found = self.together(y, y_pred)
        for mean in self.term_means:
            mean.update_state(found[mean.name])
        return total

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """The loss and its terms, means since the last reset."""
        return self.get_metrics_result()


def learn(task: Task, network: keras.Model, steps: int, jit: bool) -> keras.Model:
    """The learner of a task whose loss is a `Together`: `Task(learner=learn)`.

    Args:
        task: its loss and optimiser are used.
        network: with fresh weights.
        steps: optimiser steps of the whole training.
        jit: whether XLA compiles the step.

    Returns:
        The compiled model.
    """
    model = Joint(network, task.fit.loss(**task.fit.loss_arguments))
    model.compile(optimizer=optimizer(task.fit.optimizer, steps), jit_compile=jit, auto_scale_loss=False)
    model.optimizer.build(model.trainable_variables)
    return model
