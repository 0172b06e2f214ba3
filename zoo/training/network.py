"""Builds and compiles the network of a task."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from zoo import registry
from zoo.metrics import MeanDice
from zoo.training.optimizers import compile_model, optimizer
from zoo.training.rematerialised import rematerialise
from zoo.training.task import Task


def trained_part(model: keras.Model) -> keras.Model:
    """Returns the network that a learner trains, or the model itself, which learns by one loss."""
    return getattr(model, "network", model)


@contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Sets the Keras dtype policy for a block of code."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def build(task: Task, steps: int, *, jit: bool = False, memory: str = "normal") -> keras.Model:
    """Builds the task's network with fresh weights, and compiles it.

    Args:
        task: its builder, arguments, loss, metrics and optimiser are used.
        steps: optimiser steps of the whole training, for the schedule.
        jit: whether XLA compiles the step.
        memory: "normal", or "low" to compute stages again for their gradient instead of keeping what is inside.

    Returns:
        The compiled model, or the learner of the task.

    Raises:
        ValueError: an argument that the builder does not take; the nearest match is named. Or `memory="low"` for a task
            with a learner.
    """
    builder = registry.builder(task.network.builder)
    registry.check_arguments(builder, task.builder_arguments)
    model = builder(**task.builder_arguments)
    if memory == "low" and task.fit.learner:
        raise ValueError(f'memory="low" is for networks with one loss, and {task.name} has a learner. Leave it out.')
    if memory == "low":
        model = rematerialise(model)
    if task.fit.learner:
        return task.fit.learner(task, model, steps, jit)
    compile_model(
        model,
        task.fit.loss(**task.fit.loss_arguments),
        optimizer(task.fit.optimizer, steps),
        metrics=_make_metrics(task),
        jit=jit,
    )
    model.optimizer.build(model.trainable_variables)
    return model


def _make_metrics(task: Task) -> list[Any]:
    """Returns the task's metrics, or the mean Dice of a segmentation that names none and is chosen by it."""
    if task.fit.metrics is not list or task.fit.monitor != "dice" or task.output.kind != "segmentation":
        return task.fit.metrics()
    return [MeanDice(task.num_logits, maps=(*(("mask",) if task.data.masked else ()), *task.synthesis.maps))]
