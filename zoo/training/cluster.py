"""Several machines: one short loop around `strategy.run(model.train_step)` that drives the same Keras callbacks.

`fit` of Keras 3 cannot run under multi-worker strategies, so this loop stands in for it. Which strategy follows from
`TF_CONFIG`, TensorFlow's own description of a cluster:

- workers only: synchronous, `MultiWorkerMirroredStrategy`; a step's gradient is the mean over all workers' batches;
- with parameter servers ("ps") and a "chief": asynchronous, `ParameterServerStrategy` with a `ClusterCoordinator`;
  each worker applies its own gradient as soon as it has it (the chief only hands out steps).

Source: Abadi et al., TensorFlow, OSDI 2016, arXiv 1605.08695; asynchronous SGD as in Dean et al., NIPS 2012.
"""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from zoo.training.batches import Feed
from zoo.training.run.run_callback import Keeper, NonFiniteLossError

SERVERS = ("worker", "ps")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """This process' place in a cluster.

    Attributes:
        role: "chief", "worker" or "ps".
        index: number of this process among those of its role.
        num_workers: processes that compute gradients.
        asynchronous: whether there are parameter servers.
    """

    role: str
    index: int
    num_workers: int
    asynchronous: bool

    @property
    def writes(self) -> bool:
        """Whether this process keeps the run folder: the chief, or the first worker where there is none."""
        return self.role == "chief" or (not self.asynchronous and self.role == "worker" and self.index == 0)

    @property
    def serves(self) -> bool:
        """Whether this process only executes what a coordinator sends."""
        return self.asynchronous and self.role in SERVERS


def here(environment: str | None = None) -> Cluster | None:
    """Reads `TF_CONFIG`; None outside a cluster or in one of a single process.

    Args:
        environment: the JSON text; None reads the environment variable.

    Raises:
        ValueError: the text is no JSON, or describes a cluster that cannot run.
    """
    text = os.environ.get("TF_CONFIG", "") if environment is None else environment
    if not text:
        return None
    try:
        config = json.loads(text)
        spec, task = config["cluster"], config["task"]
        role, index = str(task["type"]), int(task["index"])
        inside = index < len(spec[role])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'TF_CONFIG must be JSON like {{"cluster": {{"worker": ["host:port", ...]}}, "task": {{"type": "worker", '
            f'"index": 0}}}}, got {text[:120]!r} ({type(error).__name__}: {error}).'
        ) from error
    asynchronous = "ps" in spec
    if not inside or (asynchronous and not ("chief" in spec and "worker" in spec)):
        raise ValueError(
            f"TF_CONFIG describes { ({key: len(value) for key, value in spec.items()}) } and this process as "
            f"{role} {index}: "
            "an asynchronous cluster needs one chief, a worker and a ps, and the index must exist."
        )
    num_workers = len(spec.get("worker", [])) + (0 if asynchronous else len(spec.get("chief", [])))
    return Cluster(role, index, num_workers, asynchronous) if asynchronous or num_workers > 1 else None


def serve() -> None:
    """Runs a worker or parameter server of an asynchronous cluster; never returns."""
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver(rpc_layer="grpc")
    server = tf.distribute.Server(
        resolver.cluster_spec(), job_name=resolver.task_type, task_index=resolver.task_id, protocol="grpc", start=True
    )
    server.join()


def strategy(cluster: Cluster | None) -> tf.distribute.Strategy | None:
    """The strategy for this process: by cluster, else mirrored over several GPUs, else None."""
    if cluster and cluster.asynchronous:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver(rpc_layer="grpc")
        return tf.distribute.ParameterServerStrategy(resolver)
    if cluster:
        options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=120.0)
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    return tf.distribute.MirroredStrategy() if len(tf.config.list_physical_devices("GPU")) > 1 else None


def scope(chosen: tf.distribute.Strategy | None) -> contextlib.AbstractContextManager:
    """The strategy's scope, or nothing where there is no strategy."""
    return chosen.scope() if chosen else contextlib.nullcontext()


@dataclasses.dataclass(frozen=True)
class Loop:
    """What the loop needs besides the model.

    Attributes:
        strategy: of this process.
        cluster: its place.
        feed: training and validation batches.
        twin: the same network outside the strategy; validates on the chief.
        epochs: epochs of the run.
        steps_per_epoch: optimiser steps of one.
    """

    strategy: tf.distribute.Strategy
    cluster: Cluster
    feed: Feed
    twin: keras.Model
    epochs: int
    steps_per_epoch: int


def fit(model: keras.Model, loop: Loop, keeper: Keeper, callbacks: Sequence[keras.callbacks.Callback] = ()) -> None:
    """Trains a model that was built in the strategy's scope from the keeper's step to the end.

    Args:
        model: compiled; its own `train_step` runs on every worker.
        loop: strategy, data and length.
        keeper: keeps the run folder; on the chief alone it writes.
        callbacks: further Keras callbacks, called on the chief alone.

    Raises:
        ValueError: the optimiser averages weights (`use_ema`), which this loop does not validate.
    """
    if model.optimizer.use_ema:
        raise ValueError("use_ema=True is for one machine: leave it out of the optimiser's settings on a cluster.")
    epoch_of = _asynchronous_epoch if loop.cluster.asynchronous else _synchronous_epoch
    run_epoch = epoch_of(model, loop, keeper)
    driven = keras.callbacks.CallbackList([keeper, *callbacks] if loop.cluster.writes else [keeper], model=model)
    total = loop.epochs * loop.steps_per_epoch
    while keeper.step < total:
        epoch = keeper.step // loop.steps_per_epoch
        driven.on_epoch_begin(epoch)
        logs = run_epoch(loop.steps_per_epoch - keeper.step % loop.steps_per_epoch)
        if loop.cluster.writes:
            logs |= validate(model, loop, keeper)
        driven.on_epoch_end(epoch, logs)


def validate(model: keras.Model, loop: Loop, keeper: Keeper) -> dict[str, float]:
    """Copies the weights into the twin and validates it here; no other process takes part."""
    loop.twin.set_weights([keras.ops.convert_to_numpy(weight) for weight in model.weights])
    found = loop.twin.evaluate(loop.feed.validation, return_dict=True, verbose=0)
    keeper.keep_best(loop.twin, found)
    return {f"val_{key}": value for key, value in found.items()}


def _compiled_step(model: keras.Model, chosen: tf.distribute.Strategy) -> Callable[[Any], Any]:
    # No XLA here: collectives and remote variables cannot be compiled into one program.
    return tf.function(lambda iterator: chosen.run(model.train_step, args=(next(iterator),)))


def _synchronous_epoch(model: keras.Model, loop: Loop, keeper: Keeper) -> Callable[[int], dict[str, float]]:
    place = (loop.cluster.index, loop.cluster.num_workers)
    data = loop.strategy.distribute_datasets_from_function(lambda _: loop.feed.training(keeper.step, place))
    iterator, step = iter(data), _compiled_step(model, loop.strategy)

    def run_epoch(steps: int) -> dict[str, float]:
        model.reset_metrics()
        logs: dict[str, float] = {}
        for number in range(steps):
            values = step(iterator)
            logs = {key: _mean(loop.strategy.experimental_local_results(value)) for key, value in values.items()}
            keeper.on_train_batch_end(number, logs)
        return logs

    return run_epoch


def _asynchronous_epoch(model: keras.Model, loop: Loop, keeper: Keeper) -> Callable[[int], dict[str, float]]:
    coordinator = tf.distribute.coordinator.ClusterCoordinator(loop.strategy)
    make = lambda: loop.strategy.distribute_datasets_from_function(lambda _: loop.feed.training(0, None))  # noqa: E731
    iterator, step = iter(coordinator.create_per_worker_dataset(make)), _compiled_step(model, loop.strategy)

    def run_epoch(steps: int) -> dict[str, float]:
        model.reset_metrics()
        values = [coordinator.schedule(step, args=(iterator,)) for _ in range(steps)]
        coordinator.join()
        losses = [float(value.fetch()["loss"]) for value in values]
        if not math.isfinite(losses[-1]):
            raise NonFiniteLossError
        keeper.add_steps(steps)
        return {key: float(value) for key, value in values[-1].fetch().items()}

    return run_epoch


def _mean(values: Sequence[Any]) -> float:
    return float(sum(float(value) for value in values) / len(values))
