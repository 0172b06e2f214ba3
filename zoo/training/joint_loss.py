"""Trains a network by one loss of all its outputs, where no sum of losses of single outputs would do."""

from collections.abc import Sequence
from typing import Any, Protocol

import keras

from zoo.training.optimizers import optimizer
from zoo.training.task import Task


class JointLoss(Protocol):
    """A loss of all outputs at once; `terms` names the further numbers that it returns."""

    terms: Sequence[str]

    def __call__(self, target: Any, outputs: Any) -> tuple[Any, dict[str, Any]]:
        """Returns the loss of a batch and its terms, each a scalar."""
        ...


class Joint(keras.Model):
    """A network with a loss of all its outputs; each term is a metric of the log.

    Args:
        network: of several outputs.
        loss: a `JointLoss`.
    """

    def __init__(self, network: keras.Model, loss: JointLoss):
        super().__init__(name=network.name)
        self.network = network
        self.joint_loss = loss
        self.term_means = [keras.metrics.Mean(name=name) for name in loss.terms]
        self.built = True

    def call(self, inputs, training=False):
        """Returns the network's outputs."""
        return self.network(inputs, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Returns the loss of a batch and adds its terms to the log."""
        total, terms = self.joint_loss(y, y_pred)
        for mean in self.term_means:
            mean.update_state(terms[mean.name])
        return total

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Returns the loss and its terms, means since the last reset."""
        return self.get_metrics_result()


def learn(task: Task, network: keras.Model, steps: int, jit: bool) -> keras.Model:
    """Compiles the learner of a task whose loss is a `JointLoss`: `Fit(learner=learn)`.

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
