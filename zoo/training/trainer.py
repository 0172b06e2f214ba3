"""Trains a network on one machine: Keras' own `fit`, with a pause wherever hard samples are searched."""

import dataclasses
import functools
import importlib.util
import math
import pathlib
import sys
from collections.abc import Sequence

import keras
import tensorflow as tf

from zoo.training import hard_mining
from zoo.training.batches import TrainingData
from zoo.training.run import checkpoint, divergence, run_estimate
from zoo.training.run.run_callback import LAST, NonFiniteLossError, RunCallback
from zoo.training.task import Mining


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """A run cut into epochs of equal length; the log gets a row and validation runs once an epoch."""

    epochs: int
    steps_per_epoch: int

    @classmethod
    def of(cls, steps: int) -> "EpochPlan":
        """Returns at most 40 epochs of at least 25 steps; the steps are rounded up to full epochs.

        Example:
            >>> EpochPlan.of(60)
            EpochPlan(epochs=3, steps_per_epoch=20)
        """
        epochs = max(1, min(math.ceil(steps / 25), 40))
        return cls(epochs, math.ceil(steps / epochs))

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.epochs * self.steps_per_epoch


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: its data, its length, and who follows it.

    Attributes:
        data: training and validation batches.
        plan: epochs and their steps.
        callback: writes the run folder, and knows at which step the run is.
        observers: further Keras callbacks of the caller.
        watchers: callbacks of the task, which run before weights are averaged.
        mining: how hard samples come back; None leaves that out.
    """

    data: TrainingData
    plan: EpochPlan
    callback: RunCallback
    observers: Sequence[keras.callbacks.Callback] = ()
    watchers: Sequence[keras.callbacks.Callback] = ()
    mining: Mining | None = None

    @property
    def out(self) -> pathlib.Path:
        """The run folder."""
        return self.callback.out


class LocalTrainer:
    """Trains on this machine.

    Args:
        model: compiled; on several GPUs, built in the scope of a mirrored strategy.
    """

    writes = True

    def __init__(self, model: keras.Model):
        self.model = self.network = model

    def estimate(self, run: Run) -> None:
        """Prints what the run will need, from two steps that are undone."""
        x, y = next(iter(run.data.training(0).take(1)))
        print(run_estimate.measure(self.model, x, y).sentence(run.plan.steps), file=sys.stderr)

    def fit(self, run: Run) -> None:
        """Trains from the callback's step to the end of the plan.

        Raises:
            DivergedError: a NaN or infinity appeared; names the step and the layer.
        """
        try:
            self._finish_epoch(run)
            for last in hard_mining.pauses(run.mining, run.plan.epochs):
                self._fit_until(run, last)
        except NonFiniteLossError:
            raise self._explain_divergence(run) from None

    def _fit_until(self, run: Run, last: int) -> None:
        """Trains with one list of hard samples, from the callback's step to the end of an epoch."""
        step, length = run.callback.step, run.plan.steps_per_epoch
        if step >= last * length:
            return
        self.model.fit(
            self._training_batches(run, step),
            epochs=last,
            initial_epoch=step // length,
            steps_per_epoch=length,
            validation_data=run.data.validation(),
            callbacks=[*self._callbacks(run), *run.observers],
            shuffle=False,
            verbose=1 if sys.stderr.isatty() else 2,
        )
        if last < run.plan.epochs:  # Keras leaves averaged weights behind; the last state holds the trained ones
            run.callback.resume_from(checkpoint.restore(self.model, run.out / LAST))

    def _training_batches(self, run: Run, step: int) -> tf.data.Dataset:
        """Returns the batches from a step on, with those hard samples that were found before it."""
        if run.mining is None:
            return run.data.training(step)
        every = run.mining.every * run.plan.steps_per_epoch
        find = functools.partial(run.data.find_hard, self.model, step)
        return run.data.training(step, hard=hard_mining.load_or_find(run.out, step, every_steps=every, find=find))

    def _callbacks(self, run: Run) -> list[keras.callbacks.Callback]:
        """Returns the run callback and watchers, then averaging (they must look first), then TensorBoard if any."""
        callbacks = [run.callback, *run.watchers, *self._averaging()]
        if importlib.util.find_spec("tensorboard"):
            callbacks.append(keras.callbacks.TensorBoard(run.out / "tensorboard", write_graph=False))
        return callbacks

    def _averaging(self) -> list[keras.callbacks.Callback]:
        return [keras.callbacks.SwapEMAWeights()] if self.model.optimizer.use_ema else []

    def _finish_epoch(self, run: Run) -> None:
        """Finishes an epoch that a stop cut: trains its last steps, validates, and logs as `fit` would have."""
        callback, length = run.callback, run.plan.steps_per_epoch
        left = -callback.step % length
        if not left:
            return
        logs: dict[str, float] = {}
        for number, (x, y) in enumerate(self._training_batches(run, callback.step).take(left)):
            logs = self.model.train_on_batch(x, y, return_dict=True)
            callback.on_train_batch_end(number, logs)
        validating = [callback, *run.watchers, *self._averaging()]
        metrics = self.model.evaluate(run.data.validation(), callbacks=validating, return_dict=True, verbose=0)
        logs = logs | {f"val_{key}": value for key, value in metrics.items()}
        for follower in (callback, *run.watchers):
            follower.on_epoch_end(callback.step // length - 1, logs)

    def _explain_divergence(self, run: Run) -> divergence.DivergedError:
        """Returns an error that names the layer, which a replay from the last state finds."""
        last = run.out / LAST
        good = checkpoint.restore(self.model, last)["step"]
        reason = divergence.explain(self.model, self._training_batches(run, good), good)
        checkpoint.restore(self.model, last)
        return divergence.DivergedError(
            f"Training met a value that is not finite: {reason}. The state of step {good} is kept in {last}. "
            "Lower the learning rate, clip gradients (global_clipnorm), or look at the data of that step."
        )
