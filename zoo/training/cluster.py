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

from zoo.training.run.divergence import DivergedError
from zoo.training.run.run_callback import LAST, NonFiniteLossError
from zoo.training.task import Task
from zoo.training.trainer import Run

SERVERS = ("worker", "ps")
RunSteps = Callable[[int], dict[str, float]]  # number of steps -> logs


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


def join(task: Task) -> Cluster | None:
    """Returns this process' place in the cluster that `TF_CONFIG` describes; never returns where it only serves.

    Raises:
        ValueError: the task mines hard samples, which one process does.
    """
    place = here()
    if place and place.serves:
        serve()
    if place and task.fit.mining:
        raise ValueError(
            f"Task {task.name!r} mines hard samples, which one process does: set mining=None in a cluster."
        )
    return place


def serve() -> None:
    """Runs a worker or parameter server of an asynchronous cluster; never returns."""
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver(rpc_layer="grpc")
    server = tf.distribute.Server(
        resolver.cluster_spec(), job_name=resolver.task_type, task_index=resolver.task_id, protocol="grpc", start=True
    )
    server.join()


def strategy(cluster: Cluster | None) -> tf.distribute.Strategy | None:
    """Returns the strategy for this process: by cluster, else mirrored over several GPUs, else None."""
    if cluster and cluster.asynchronous:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver(rpc_layer="grpc")
        return tf.distribute.ParameterServerStrategy(resolver)
    if cluster:
        options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=120.0)
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    return tf.distribute.MirroredStrategy() if len(tf.config.list_physical_devices("GPU")) > 1 else None


def scope(strategy: tf.distribute.Strategy | None) -> contextlib.AbstractContextManager:
    """Returns the strategy's scope, or an empty context where there is no strategy."""
    return strategy.scope() if strategy else contextlib.nullcontext()


class ClusterTrainer:
    """Trains one member's share of a run; the chief, or the first worker, validates and writes.

    Args:
        model: compiled, built in the scope of the strategy; its own `train_step` runs on every worker.
        network: the same network outside the strategy, which validates and is shipped.
        place: this process' place in the cluster.
        strategy: of this process.
    """

    def __init__(self, model: keras.Model, network: keras.Model, place: Cluster, strategy: tf.distribute.Strategy):
        self.model, self.network, self.place, self.strategy = model, network, place, strategy

    @property
    def writes(self) -> bool:
        """Whether this process keeps the run folder."""
        return self.place.writes

    def estimate(self, run: Run) -> None:
        """Measures nothing: on a cluster every member would have to take the step."""

    def fit(self, run: Run) -> None:
        """Trains from the callback's step to the end of the plan.

        Raises:
            ValueError: the optimiser averages weights (`use_ema`), which this loop does not validate.
            DivergedError: the loss is no longer finite.
        """
        if self.model.optimizer.use_ema:
            raise ValueError("use_ema=True is for one machine: leave it out of the optimiser's settings on a cluster.")
        try:
            self._run_epochs(run)
        except NonFiniteLossError:
            last = run.out / LAST
            raise DivergedError(f"The loss is no longer finite; the last good state is in {last}.") from None

    def _run_epochs(self, run: Run) -> None:
        callback, length = run.callback, run.plan.steps_per_epoch
        run_steps = self._prepare_asynchronous(run) if self.place.asynchronous else self._prepare_synchronous(run)
        driven = [callback, *run.observers] if self.writes else [callback]
        callbacks = keras.callbacks.CallbackList(driven, model=self.model)
        while callback.step < run.plan.steps:
            epoch = callback.step // length
            callbacks.on_epoch_begin(epoch)
            logs = run_steps(length - callback.step % length)
            if self.writes:
                logs |= self._validate(run)
            callbacks.on_epoch_end(epoch, logs)

    def _validate(self, run: Run) -> dict[str, float]:
        """Copies the weights into the network and validates it here; no other process takes part."""
        self.network.set_weights([keras.ops.convert_to_numpy(weight) for weight in self.model.weights])
        metrics = self.network.evaluate(run.data.validation(), return_dict=True, verbose=0)
        run.callback.keep_best(self.network, metrics)
        return {f"val_{key}": value for key, value in metrics.items()}

    def _compile_step(self) -> Callable[[Any], Any]:
        # No XLA here: collectives and remote variables cannot be compiled into one program.
        return tf.function(lambda iterator: self.strategy.run(self.model.train_step, args=(next(iterator),)))

    def _prepare_synchronous(self, run: Run) -> RunSteps:
        shard = (self.place.index, self.place.num_workers)
        data = self.strategy.distribute_datasets_from_function(
            lambda _: run.data.training(run.callback.step, shard=shard)
        )
        iterator, step = iter(data), self._compile_step()

        def run_steps(steps: int) -> dict[str, float]:
            self.model.reset_metrics()
            logs: dict[str, float] = {}
            for number in range(steps):
                values = step(iterator)
                logs = {key: _average(self.strategy.experimental_local_results(value)) for key, value in values.items()}
                run.callback.on_train_batch_end(number, logs)
            return logs

        return run_steps

    def _prepare_asynchronous(self, run: Run) -> RunSteps:
        coordinator = tf.distribute.coordinator.ClusterCoordinator(self.strategy)
        make = lambda: self.strategy.distribute_datasets_from_function(  # noqa: E731 - read inside a worker
            lambda _: run.data.training(0, shard=None)
        )
        iterator, step = iter(coordinator.create_per_worker_dataset(make)), self._compile_step()

        def run_steps(steps: int) -> dict[str, float]:
            self.model.reset_metrics()
            values = [coordinator.schedule(step, args=(iterator,)) for _ in range(steps)]
            coordinator.join()
            losses = [float(value.fetch()["loss"]) for value in values]
            if not math.isfinite(losses[-1]):
                raise NonFiniteLossError
            run.callback.add_steps(steps)
            return {key: float(value) for key, value in values[-1].fetch().items()}

        return run_steps


def _average(values: Sequence[Any]) -> float:
    return float(sum(float(value) for value in values) / len(values))
