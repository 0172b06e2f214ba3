"""What feeds a run: batches that are functions of the seed and of their own number, so it can go on at any step."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from zoo.training.task import Task

Shard = tuple[int, int]
Split = dict[str, list[str]]
SYNTHETIC = "synthetic"
SPLITS = {"train": 0, "validation": 1, "prior": 2}


@dataclasses.dataclass(frozen=True)
class Feed:
    """Batches of one run.

    Attributes:
        training: `(start, shard)` -> the endless training batches from a step on. Of `count` workers, shard
            `(index, count)` gets every `count`-th batch; shard None draws sample numbers from the clock, for
            asynchronous workers, whose order nothing can repeat.
        validation: the fixed validation batches.
        prior: gives the fraction of voxels of each class.
    """

    training: Callable[[int, Shard | None], tf.data.Dataset]
    validation: tf.data.Dataset
    prior: Callable[[], list[float]]


def feed(task: Task, source: str | pathlib.Path, *, seed: int, out: pathlib.Path, split: Split | None = None) -> Feed:
    """The batches of a task from a source.

    Args:
        task: what to learn.
        source: "synthetic", or a folder of real data.
        seed: seed of the run.
        out: the run folder, where the splits of real data are written.

        split: subjects to train on and to validate on; None draws one case in five for validation.

    Raises:
        ValueError: the task has no synthesis, or the folder does not fit the task.
    """
    if str(source) == SYNTHETIC:
        return _synthetic_feed(task, seed)
    return _folder_feed(task, pathlib.Path(source), seed, out)


def _synthetic_feed(task: Task, seed: int) -> Feed:
    validation = synthetic(task, split="validation", seed=seed, stop=task.validation_batches).cache()
    return Feed(
        lambda start, shard=(0, 1): synthetic(task, split="train", seed=seed, start=start, shard=shard),
        validation,
        lambda: prior(task, synthetic(task, split="prior", seed=seed, stop=task.validation_batches)),
    )


def synthetic(
    task: Task, *, split: str, seed: int, start: int = 0, stop: int | None = None, shard: Shard | None = (0, 1)
) -> tf.data.Dataset:
    """Batches from the task's own synthesis.

    Args:
        task: a task with a synthesis.
        split: "train", "validation" or "prior"; no two splits share a seed.
        seed: seed of the run.
        start: number of the first batch.
        stop: number of the batch to stop before; None goes on for ever.
        shard: as in `Feed.training`.

    Returns:
        A data set of ((batch, x, y, z, channels) float32, (batch, x, y, z, 1) int32).

    Raises:
        ValueError: the task has no synthesis.
    """
    if task.synthesis is None:
        raise ValueError(f"Task {task.name!r} has no synthesis: give a folder or a BIDS data set as its source.")
    sample = task.synthesis(task, split)
    size, base = task.batch_size, seed * len(SPLITS) + SPLITS[split]
    numbers = _numbers_by_clock() if shard is None else _numbers(size, start, stop, shard)
    samples = numbers.map(
        lambda number: sample(tf.cast(tf.stack([tf.cast(base, tf.int64), number]), tf.int32)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    batches = samples.batch(size, drop_remainder=True).prefetch(2)
    # Keras counts one batch too many when it cannot know where a data set ends.
    return batches if stop is None else batches.apply(tf.data.experimental.assert_cardinality(stop - start))


def _numbers(size: int, start: int, stop: int | None, shard: Shard) -> tf.data.Dataset:
    """Numbers of the samples of the batches start, start + 1, ... of one worker."""
    index, count = shard
    batches = tf.data.Dataset.range(start * count + index, tf.int64.max if stop is None else stop * count, count)
    return batches.flat_map(lambda batch: tf.data.Dataset.range(batch * size, (batch + 1) * size))


def _numbers_by_clock() -> tf.data.Dataset:
    microseconds = lambda _: tf.cast(tf.timestamp() * 1e6, tf.int64) % tf.int32.max  # noqa: E731
    return tf.data.Dataset.range(tf.int64.max).map(microseconds)


def prior(task: Task, batches: Any) -> list[float]:
    """Fraction of voxels of each class in some batches, each at least a millionth."""
    counts = sum(tf.math.bincount(tf.reshape(y, [-1]), minlength=task.num_classes).numpy() for _, y in batches)
    return [max(float(count) / counts.sum(), 1e-6) for count in counts]
