"""`zoo.train`: from a task and its data to a run folder that survives being killed."""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from zoo.datasets.splits import Split
from zoo.devices import policy, use_jit
from zoo.hub import safetensors_file, trained_models
from zoo.training import cluster, network
from zoo.training.batches import TrainingData, open_data
from zoo.training.optimizers import set_final_bias
from zoo.training.run import checkpoint, model_card, run_folder, run_lock
from zoo.training.run.run_callback import BEST, LAST, RunCallback
from zoo.training.run.run_config import TrainOptions, run_config
from zoo.training.task import Task
from zoo.training.trainer import EpochPlan, LocalTrainer, Run

Path = str | pathlib.Path


def train(
    task: Task,
    source: Path,
    out: Path,
    *,
    seed: int | None = None,
    steps: int | None = None,
    start_from: Path | None = None,
    options: TrainOptions | None = None,
) -> pathlib.Path:
    """Trains a task, or goes on with a run that was stopped.

    The run folder holds `config.json`, `versions.json`, `splits.json` (real data), `log.csv`, `tensorboard/`,
    `curves.png`, `last.safetensors` (the whole state), `best.safetensors`, and at the end `model/`, a trained-model
    folder. Run the same command again after a kill, and it goes on where it was; with `deterministic` the final
    weights then equal those of a run that was never stopped.

    Args:
        task: what to learn; `task.replace(...)` changes its settings.
        source: "synthetic", or a folder of real data in a layout that `zoo.datasets` reads.
        out: the run folder, made when missing.
        seed: seed, steps and start_from go before those of the options, which explain them.
        steps: optimiser steps.
        start_from: a trained model or finished run whose weights are the first ones.
        options: how the run is made: precision, compilation, determinism; None takes the defaults.

    Returns:
        The run folder.

    Raises:
        ValueError: the folder holds a run with other settings, or the source does not fit the task.
        RunInUseError: another process trains in the folder.
        DivergedError: a NaN or infinity appeared; names the step and the layer.

    Example:
        >>> run = zoo.train(zoo.task("unet3d.lacunes"), "synthetic", "runs/lacunes", steps=50)  # doctest: +SKIP
        >>> (run / "unet3d.lacunes" / "card.json").exists()  # doctest: +SKIP
        True
    """
    everyday = {"seed": seed, "steps": steps, "start_from": start_from}
    changes: dict[str, Any] = {name: value for name, value in everyday.items() if value is not None}
    return run(task, source, pathlib.Path(out), dataclasses.replace(options or TrainOptions(), **changes))


def run(
    task: Task,
    source: Path,
    out: pathlib.Path,
    options: TrainOptions,
    *,
    split: Split | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> pathlib.Path:
    """Trains like `train`, for callers that fix the split (folds) or add callbacks (searches)."""
    place = cluster.join(task)
    plan = EpochPlan.of(options.steps or task.fit.steps)
    config = run_config(task, source, options, steps=plan.steps)
    if model_card.is_published(out / task.model_name):
        return run_folder.open_run(out, config)
    with run_lock.hold(out) if place is None or place.writes else contextlib.nullcontext():
        run_folder.open_run(out, config)
        _seed_everything(options)
        strategy = cluster.strategy(place)  # before any operation: TensorFlow sets up a cluster at its start alone
        with network.dtype_policy(policy(options.precision)):
            data = open_data(task, source, seed=options.seed, out=out, split=split)
            trainer = _build_trainer(task, plan, place, strategy, options)
        callback = RunCallback(out, monitor=task.fit.monitor, writes=trainer.writes)
        _train_and_publish(task, trainer, Run(data, plan, callback, callbacks, mining=task.fit.mining), options)
    return out


def _train_and_publish(
    task: Task, trainer: LocalTrainer | cluster.ClusterTrainer, this: Run, options: TrainOptions
) -> None:
    callback, out = this.callback, this.out
    _resume_or_begin(task, trainer, this, options.start_from)
    watchers = task.fit.watchers(out, this.data.validation()) if task.fit.watchers else []
    with callback:
        trainer.fit(dataclasses.replace(this, watchers=watchers))
    if trainer.writes:
        checkpoint.restore_weights(trainer.network, out / BEST)
        model_card.publish(network.trained_part(trainer.network), task, out, progress=callback.progress())


def _seed_everything(options: TrainOptions) -> None:
    keras.utils.set_random_seed(options.seed)
    if options.deterministic:
        tf.config.experimental.enable_op_determinism()


def _build_trainer(
    task: Task,
    plan: EpochPlan,
    place: cluster.Cluster | None,
    strategy: tf.distribute.Strategy | None,
    options: TrainOptions,
) -> LocalTrainer | cluster.ClusterTrainer:
    """Builds the network in the scope of its strategy, if any, and returns what trains it."""
    with cluster.scope(strategy):
        model = network.build(task, plan.steps, jit=use_jit(options.jit), memory=options.memory)
    if place is None or strategy is None:
        return LocalTrainer(model)
    return cluster.ClusterTrainer(model, network.build(task, plan.steps), place, strategy)


def _resume_or_begin(
    task: Task, trainer: LocalTrainer | cluster.ClusterTrainer, this: Run, start_from: Path | None
) -> None:
    """Restores the last state where there is one; otherwise sets the first weights and writes them."""
    callback, last = this.callback, this.out / LAST
    callback.set_model(trainer.model)
    if last.exists():
        callback.resume_from(checkpoint.restore(trainer.model, last))
        print(f"Going on at step {callback.step} of {this.plan.steps} in {this.out}.", file=sys.stderr)
        return
    if start_from is None:
        _set_first_bias(task, trainer.model, this.data)
    else:
        _read_weights(task, trainer.model, start_from)
    trainer.estimate(this)
    callback.write()


def _set_first_bias(task: Task, model: keras.Model, data: TrainingData) -> None:
    """Sets the final bias of the task, or that of the (tempered) class prior; the other weights stay as drawn.

    Where there is a learner, no head has classes, and its bias stays as drawn.
    """
    if task.fit.learner is not None:
        return
    if task.fit.final_bias is not None:
        model.get_layer("logits").bias.assign(task.fit.final_bias)
        return
    set_final_bias(model, [share**task.fit.prior_power for share in data.class_prior()])


def _read_weights(task: Task, model: keras.Model, start_from: Path) -> None:
    """Reads the weights of a trained model, or of the one that a finished run holds."""
    inside = pathlib.Path(start_from) / task.model_name
    folder = inside if inside.is_dir() else start_from
    safetensors_file.read_weights(network.trained_part(model), trained_models.weights_file(folder))
