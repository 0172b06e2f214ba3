"""`zoo.train`: from a task and its data to a run folder that survives being killed."""

import dataclasses
import functools
import importlib.util
import math
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from zoo.devices import policy, use_jit
from zoo.hub import safetensors_file, trained_models
from zoo.training import batches, cluster, hard_mining, network
from zoo.training.optimizers import set_final_bias
from zoo.training.run import checkpoint, divergence, model_card, run_estimate, run_folder
from zoo.training.run.run_callback import BEST, LAST, Keeper, NonFiniteLossError
from zoo.training.task import Mining, Task

Begin = Callable[[keras.Model, batches.Feed], None]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run cut into epochs of equal length; the log gets a row and validation runs once an epoch."""

    epochs: int
    steps_per_epoch: int

    @classmethod
    def of(cls, steps: int) -> "Plan":
        """At most 40 epochs of at least 25 steps; the steps are rounded up to whole epochs."""
        epochs = max(1, min(math.ceil(steps / 25), 40))
        return cls(epochs, math.ceil(steps / epochs))

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.epochs * self.steps_per_epoch


def train(  # noqa: PLR0913 - the choices of a command, each an option
    task: Task,
    source: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    precision: str = "auto",
    jit: str | bool = "auto",
    deterministic: bool = False,
    start_from: str | pathlib.Path | None = None,
) -> pathlib.Path:
    """Trains a task, or goes on with a run that was stopped.

    The run folder holds `config.json`, `versions.json`, `splits.json` (real data), `log.csv`, `tensorboard/`,
    `curves.png`, `last.safetensors` (the whole state), `best.safetensors`, and at the end `model/`, a trained-model
    folder. Run the same command again after a kill, and it goes on where it was; with `deterministic` the final
    weights then equal those of a run that was never stopped.

    Args:
        task: what to learn; `task.replace(...)` changes its settings.
        source: "synthetic", or a folder of real data in a layout that `zoo.data` reads.
        out: the run folder, made when missing.
        seed: decides the initial weights, the splits, and every sample.
        steps: optimiser steps; None takes the task's.
        precision: "auto", "float32" or "bfloat16" (see `zoo.devices.policy`).
        jit: True, False or "auto": XLA on a GPU, oneDNN graph on a CPU.
        deterministic: bit-equal results from equal runs, at some cost in speed.
        start_from: name or folder of a trained model, or a finished run of the same network, whose weights are the
            first ones: to fine-tune on a site's own data, or to go on at a finer spacing. None draws them.

    Returns:
        The run folder.

    Raises:
        ValueError: the folder holds a run with other settings, or the source does not fit the task.
        DivergedError: a NaN or infinity appeared; names the step and the layer.
    """
    options = Options(
        seed=seed, steps=steps, precision=precision, jit=jit, deterministic=deterministic, start_from=start_from
    )
    return run(task, source, pathlib.Path(out), options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How a run is made, whatever the task; the arguments of `train`, which explains them."""

    seed: int = 0
    steps: int | None = None
    precision: str = "auto"
    jit: str | bool = "auto"
    deterministic: bool = False
    start_from: str | pathlib.Path | None = None


def run(
    task: Task,
    source: str | pathlib.Path,
    out: pathlib.Path,
    options: Options,
    *,
    split: batches.Split | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> pathlib.Path:
    """What `train` does, for callers that fix the split (folds) or look on (searches)."""
    place = cluster.here()
    if place and place.serves:
        cluster.serve()
    if place and task.fit.mining:
        raise ValueError(
            f"Task {task.name!r} mines hard samples, which one process does: set mining=None in a cluster."
        )
    plan = Plan.of(options.steps or task.fit.steps)
    run_folder.open_run(out, _config(task, source, options, plan))
    if (out / task.model_name).exists():
        return out
    _seed_everything(options)
    strategy = cluster.strategy(place)
    with network.dtype_policy(policy(options.precision)):
        feed = batches.feed(task, source, seed=options.seed, out=out, split=split)
        with cluster.scope(strategy):
            model = network.build(task, plan.steps, jit=use_jit(options.jit))
        twin = network.build(task, plan.steps) if place else None
    keeper = Keeper(out, monitor=task.fit.monitor, writes=not place or place.writes)
    begin = functools.partial(_first_weights, task, options.start_from)
    _resume_or_begin(model, feed, plan, keeper, begin=begin, alone=place is None)
    watchers = task.fit.watchers(out, feed.validation) if task.fit.watchers else []
    work = Work(model, feed, plan, keeper, callbacks, watchers, task.fit.mining)
    with keeper, _divergence_explained(work, twin):
        if place:
            cluster.fit(
                model, cluster.Loop(strategy, place, feed, twin, plan.epochs, plan.steps_per_epoch), keeper, callbacks
            )
        else:
            _fit(work)
    if keeper.writes:
        checkpoint.restore_weights(twin or model, out / BEST)
        model_card.publish(network.trained_part(twin or model), task, out, progress=keeper.progress())
    return out


def _config(task: Task, source: Any, options: Options, plan: Plan) -> dict[str, Any]:
    kept = ("batch_size", "patch", "spacing_mm", "channels", "optimizer", "arguments", "builder")
    settings = {key: value for key, value in task.settings().items() if key in kept}
    chosen = {"task": task.name, "source": str(source), "seed": options.seed, "steps": plan.steps}
    if task.fit.mining is not None:
        chosen["mining"] = dataclasses.asdict(task.fit.mining)
    if task.data.context is not None:
        chosen["context"] = task.data.context
    if options.start_from is not None:
        chosen["start_from"] = str(options.start_from)
    return chosen | {"precision": policy(options.precision), "deterministic": options.deterministic} | settings


def _seed_everything(options: Options) -> None:
    keras.utils.set_random_seed(options.seed)
    if options.deterministic:
        tf.config.experimental.enable_op_determinism()


@dataclasses.dataclass(frozen=True)
class Work:
    """What one run consists of."""

    model: keras.Model
    feed: batches.Feed
    plan: Plan
    keeper: Keeper
    callbacks: Sequence[keras.callbacks.Callback]
    watchers: Sequence[keras.callbacks.Callback] = ()
    again: Mining | None = None


def _resume_or_begin(
    model: keras.Model, feed: batches.Feed, plan: Plan, keeper: Keeper, *, begin: Begin, alone: bool
) -> None:
    """Restores the last state where there is one; otherwise sets the first weights and tells what the run will need."""
    keeper.set_model(model)
    last = keeper.out / LAST
    if last.exists():
        keeper.go_on(checkpoint.restore(model, last))
        print(f"Going on at step {keeper.step} of {plan.steps} in {keeper.out}.", file=sys.stderr)
        return
    begin(model, feed)
    if alone:  # in a cluster a step is everybody's
        x, y = next(iter(feed.training(0).take(1)))
        print(run_estimate.measure(model, x, y).sentence(plan.steps), file=sys.stderr)
    keeper.write()


def _first_weights(task: Task, start_from: str | pathlib.Path | None, model: keras.Model, feed: batches.Feed) -> None:
    """Those of another model, or drawn ones with the final bias of the task or of the (tempered) prior of classes.

    Where there is a learner, no head has classes, and drawn weights stay as they are.
    """
    if start_from is None and task.fit.learner is not None:
        return
    if start_from is None and task.fit.final_bias is not None:
        model.get_layer("logits").bias.assign(task.fit.final_bias)
        return
    if start_from is None:
        set_final_bias(model, [share**task.fit.prior_power for share in feed.prior()])
        return
    inside = pathlib.Path(start_from) / task.model_name
    source = inside if inside.is_dir() else start_from
    safetensors_file.read_weights(network.trained_part(model), trained_models.weights_file(source))


def _fit(work: Work) -> None:
    """Keras' own `fit`, from the keeper's step to the end, with a pause wherever hard samples are looked for."""
    _finish_epoch(work)
    plan, keeper = work.plan, work.keeper
    for last in hard_mining.pauses(work.again, plan.epochs):
        if keeper.step >= last * plan.steps_per_epoch:
            continue
        work.model.fit(
            _mined(work, keeper.step).training(keeper.step),
            epochs=last,
            initial_epoch=keeper.step // plan.steps_per_epoch,
            steps_per_epoch=plan.steps_per_epoch,
            validation_data=work.feed.validation,
            callbacks=[*_callbacks(work), *work.callbacks],
            shuffle=False,
            verbose=1 if sys.stderr.isatty() else 2,
        )
        if last < plan.epochs:  # Keras leaves averaged weights behind; the last state holds the trained ones
            keeper.go_on(checkpoint.restore(work.model, keeper.out / LAST))


def _mined(work: Work, step: int) -> batches.Feed:
    """The batches of a step's round: those that return to what was found hard before it."""
    if work.again is None:
        return work.feed
    every = work.again.every * work.plan.steps_per_epoch
    find = functools.partial(work.feed.find, work.model, step)
    return dataclasses.replace(work.feed, hard=hard_mining.kept(work.keeper.out, step, every_steps=every, find=find))


def _callbacks(work: Work) -> list[keras.callbacks.Callback]:
    """The keeper and who looks on, then averaging (they must look first), then TensorBoard where it is installed."""
    chosen: list[keras.callbacks.Callback] = [work.keeper, *work.watchers]
    if work.model.optimizer.use_ema:
        chosen.append(keras.callbacks.SwapEMAWeights())
    if importlib.util.find_spec("tensorboard"):
        chosen.append(keras.callbacks.TensorBoard(work.keeper.out / "tensorboard", write_graph=False))
    return chosen


def _finish_epoch(work: Work) -> None:
    """After a stop within an epoch: takes what is left of it, validates, and logs as `fit` would have."""
    model, keeper, length = work.model, work.keeper, work.plan.steps_per_epoch
    left = -keeper.step % length
    if not left:
        return
    logs: dict[str, float] = {}
    for number, (x, y) in enumerate(_mined(work, keeper.step).training(keeper.step).take(left)):
        logs = model.train_on_batch(x, y, return_dict=True)
        keeper.on_train_batch_end(number, logs)
    averaging = [keras.callbacks.SwapEMAWeights()] if model.optimizer.use_ema else []
    watchers = [keeper, *work.watchers, *averaging]
    found = model.evaluate(work.feed.validation, callbacks=watchers, return_dict=True, verbose=0)
    logs = logs | {f"val_{key}": value for key, value in found.items()}
    for one in (keeper, *work.watchers):
        one.on_epoch_end(keeper.step // length - 1, logs)


@contextmanager
def _divergence_explained(work: Work, twin: keras.Model | None) -> Iterator[None]:
    """Turns a loss that is not finite into an error that names the layer, found by replaying from the last state."""
    try:
        yield
    except NonFiniteLossError:
        last = work.keeper.out / LAST
        if twin:
            raise divergence.DivergedError(f"The loss is no longer finite; the last good state is in {last}.") from None
        good = checkpoint.restore(work.model, last)["step"]
        reason = divergence.explain(work.model, _mined(work, good).training(good), good)
        checkpoint.restore(work.model, last)
        raise divergence.DivergedError(
            f"Training met a value that is not finite: {reason}. The state of step {good} is kept in {last}. "
            "Lower the learning rate, clip gradients (global_clipnorm), or look at the data of that step."
        ) from None
