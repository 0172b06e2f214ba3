"""What feeds a run: batches that are functions of the seed and of their own number, so it can go on at any step."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from zoo.datasets import splits
from zoo.datasets.cases import Case, fitting
from zoo.datasets.splits import Split
from zoo.hub.tabular import encode
from zoo.pipeline.cache import build as build_cache
from zoo.pipeline.dataset import Stream, dataset
from zoo.pipeline.prepare import Reading
from zoo.pipeline.sampler import Sampling
from zoo.training import hard_mining
from zoo.training.task import Mining, Task

Shard = tuple[int, int]
SYNTHETIC = "synthetic"
SPLITS = {"train": 0, "validation": 1, "prior": 2}


@dataclasses.dataclass(frozen=True)
class Feed:
    """Batches of one run.

    Attributes:
        batches: `(start, shard, hard)` -> the endless training batches from a step on, a share of which returns to what
            is hard. Of `count` workers, shard `(index, count)` gets every `count`-th batch; shard None draws sample
            numbers from the clock, for asynchronous workers, whose order nothing can repeat.
        validation: the fixed validation batches.
        prior: gives the fraction of voxels of each class.
        find: `(model, step)` -> the worst false positives of a network in the training data.
        hard: what was found, which the training batches return to.
    """

    batches: Callable[[int, Shard | None, hard_mining.Hard | None], tf.data.Dataset]
    validation: tf.data.Dataset
    prior: Callable[[], list[float]]
    find: Callable[[Any, int], hard_mining.Hard] = lambda model, step: []
    hard: hard_mining.Hard | None = None

    def training(self, start: int, shard: Shard | None = (0, 1)) -> tf.data.Dataset:
        """The training batches from a step on, of one worker or of the only one."""
        return self.batches(start, shard, self.hard)


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
    return _folder_feed(task, pathlib.Path(source), seed, out, split)


def _synthetic_feed(task: Task, seed: int) -> Feed:
    validation = synthetic(task, split="validation", seed=seed, stop=task.fit.validation_batches).cache()

    def find(model: Any, step: int) -> hard_mining.Hard:
        settings, sample = _mining(task), _sample(task, "train")
        number_of = lambda number: sample(tf.constant([_base(seed, "train"), number], tf.int32))  # noqa: E731
        looked_at = hard_mining.window(step, task.fit.batch_size, MINED * settings.num)
        return hard_mining.hard_numbers(model, settings, number_of, looked_at)

    return Feed(
        lambda start, shard, hard: _with_gaps(
            task, synthetic(task, split="train", seed=seed, start=start, shard=shard, hard=hard), seed, start, shard
        ),
        validation,
        lambda: prior(
            task, synthetic(task, split="prior", seed=seed, stop=math.ceil(PRIOR_SAMPLES / task.fit.batch_size))
        ),
        find,
    )


def _mining(task: Task) -> Mining:
    """The task's settings, which it has where anything is mined.

    Raises:
        ValueError: the network takes tabular values, too, or synthesis makes whole batches: nothing is mined there.
    """
    if task.fit.mining is None or task.data.tabular or task.synthesis.batched:
        raise ValueError(
            f"Task {task.name!r} mines hard samples with {task.fit.mining}: it needs settings, images alone, and a "
            "synthesis of single samples. Set mining=None."
        )
    return task.fit.mining


SPLIT_FILE, CACHE = "splits.json", "cache"
VALIDATE_ONE_IN, PRIOR_SAMPLES = 5, 16
MINED = 4  # samples of a synthesis looked at for each that is kept


def _folder_feed(task: Task, root: pathlib.Path, seed: int, out: pathlib.Path, split: Split | None) -> Feed:
    """Patches of real cases; which cases train is written to the run folder and kept when the run goes on."""
    if task.synthesis.maps:
        raise ValueError(
            f"Task {task.name!r} trains with maps of {', '.join(task.synthesis.maps)}, which only its synthesis draws, "
            f"and the source is {root}. Leave the term of the loss out that wants them, or train on synthetic samples."
        )
    found = labelled(task, root)
    chosen = split or _split(found, seed, out)
    training, validation = (
        build_cache([conditioned(task, case) for case in part], reading(task), out / CACHE / name)
        for part, name in zip(chosen.select(found), ("training", "validation"), strict=True)
    )

    def batches(cache: Any, hard: hard_mining.Hard | None = None, **stream: Any) -> tf.data.Dataset:
        sampling = Sampling(positive_fraction=task.data.positive_fraction)
        if hard and task.fit.mining and isinstance(hard, Mapping):
            sampling = dataclasses.replace(sampling, hard_fraction=task.fit.mining.fraction, hard_places=hard)
        found = dataset(
            cache,
            patch=task.data.patch,
            batch_size=task.fit.batch_size,
            sampling=sampling,
            augment=task.data.augment if cache is training else None,
            stream=Stream(masked=task.data.masked, context=task.data.context, **stream),
        )
        return found.map(lambda x, y: ((x["volume"], x["conditioning"]), y)) if task.data.tabular else found

    def train(start: int, shard: Shard | None, hard: hard_mining.Hard | None) -> tf.data.Dataset:
        if shard is None:
            return _with_gaps(task, batches(training, hard, seed=None), seed, start, None)
        # Every worker reads all cases and takes its turn, so that n workers see one worker's joined batch.
        found = batches(training, hard, seed=seed, start=start * shard[1], turn=shard)
        return _with_gaps(task, found, seed, start, shard)

    return Feed(
        train,
        batches(validation, seed=seed + 1, stop=task.fit.validation_batches).cache(),
        lambda: prior(task, batches(training, seed=seed + 2, stop=task.fit.validation_batches)),
        lambda model, _: hard_mining.hard_places(model, _mining(task), training, task.data.patch, task.data.context),
    )


def labelled(task: Task, root: pathlib.Path) -> list[Case]:
    """The cases of a folder that have every channel of the task and a label map.

    Raises:
        ValueError: no case has labels; or a channel is missing.
    """
    found = fitting(root, task.data.channels, reader=task.data.reader, patterns=task.data.patterns)
    having = [case for case in found if case.labels]
    if not having:
        raise ValueError(f"None of the {len(found)} cases in {root} has a label map: training needs them.")
    return having


def reading(task: Task) -> Reading:
    """How the task reads cases: its channels, spacing, intensity steps, and the values of its labels."""
    steps = tuple(step for step in task.data.preprocessing if step["name"] != "resample")
    values = {value: index for index, (_, value) in task.data.labels.items()}
    numbers = _entries(task)
    return Reading(
        channels=task.data.channels, spacing_mm=task.grid_mm, steps=steps, labels=values, tabular=tuple(numbers)
    )


def _entries(task: Task) -> list[str]:
    return [entry for one in task.data.tabular for entry in (one.name, f"{one.name} is missing")]


def conditioned(task: Task, case: Case) -> Case:
    """The case with the numbers that condition the network in place of its tabular values.

    Columns of a table that the task does not take are passed over.

    Raises:
        ValueError: a value that its field does not accept; the case is named.
    """
    known = {one.name: case.tabular[one.name] for one in task.data.tabular if one.name in case.tabular}
    try:
        numbers = encode(task.data.tabular, known).tolist()
    except ValueError as error:
        raise ValueError(f"Case {case.id}: {error}") from error
    return dataclasses.replace(case, tabular=dict(zip(_entries(task), numbers, strict=True)))


def _with_gaps(task: Task, batches: Any, seed: int, start: int, shard: Shard | None) -> Any:
    """Takes tabular values away, all or one by one, as a function of the seed and the number of the batch."""
    if not task.data.tabular:
        return batches
    index, count = shard or (0, 1)
    numbers = _numbers_by_clock() if shard is None else tf.data.Dataset.range(start, tf.int64.max)

    def taken(number: Any, batch: Any) -> Any:
        (volume, vector), labels = batch
        pairs = tf.reshape(vector, (-1, len(task.data.tabular), 2))
        key = tf.stack([tf.constant(seed, tf.int64), number * count + index])
        luck = tf.random.stateless_uniform((tf.shape(pairs)[0], 1 + len(task.data.tabular)), key)
        gone = (luck[:, :1] < task.data.tabular_dropout) | (luck[:, 1:] < task.data.tabular_dropout / 2)
        pairs = tf.where(gone[..., None], tf.constant([0.0, 1.0]), pairs)
        return (volume, tf.ensure_shape(tf.reshape(pairs, tf.shape(vector)), vector.shape)), labels

    return tf.data.Dataset.zip((numbers, batches)).map(taken)


def _split(found: list[Case], seed: int, out: pathlib.Path) -> Split:
    """One case in five for validation, by subject, written once."""
    path = out / SPLIT_FILE
    if not path.exists():
        subjects = len({case.subject for case in found})
        splits.write(splits.folds(found, min(VALIDATE_ONE_IN, subjects), seed=seed)[:1], path, seed=seed)
    return splits.read(path)[0]


def synthetic(
    task: Task,
    *,
    split: str,
    seed: int,
    start: int = 0,
    stop: int | None = None,
    shard: Shard | None = (0, 1),
    hard: hard_mining.Hard | None = None,
) -> tf.data.Dataset:
    """Batches from the task's own synthesis.

    Args:
        task: a task with a synthesis.
        split: "train", "validation" or "prior"; no two splits share a seed.
        seed: seed of the run.
        start: number of the first batch.
        stop: number of the batch to stop before; None goes on for ever.
        shard: as in `Feed.batches`.
        hard: numbers of samples that a share of the batches returns to; None for no such return.

    Returns:
        A data set of ((batch, x, y, z, channels) float32, (batch, x, y, z, 1) int32); of a task with tabular inputs
        the image is a pair with the conditioning vector, (batch, 2 x inputs), and a masked task has its mask as the
        last channel of the labels.

    Raises:
        ValueError: the task has no synthesis.
    """
    sample = _sample(task, split)
    size, base = 1 if task.synthesis.batched else task.fit.batch_size, _base(seed, split)
    numbers = _numbers_by_clock() if shard is None else _numbers(size, start, stop, shard)
    numbers = hard_mining.returning(numbers, hard, task.fit.mining.fraction) if task.fit.mining else numbers
    samples = numbers.map(
        lambda number: sample(tf.cast(tf.stack([tf.cast(base, tf.int64), number]), tf.int32)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    _check_context(task, samples)
    batches = (samples if task.synthesis.batched else samples.batch(size, drop_remainder=True)).prefetch(2)
    # Keras counts one batch too many when it cannot know where a data set ends.
    return batches if stop is None else batches.apply(tf.data.experimental.assert_cardinality(stop - start))


def _check_context(task: Task, samples: tf.data.Dataset) -> None:
    """Refuses a synthesis that gives patches without the surroundings that the task's network looks at."""
    image = samples.element_spec[0]
    if task.data.context and (isinstance(image, tuple) or image.shape[-1] != task.num_channels):
        raise ValueError(
            f"Task {task.name!r} has context={task.data.context}, and its synthesis does not give {task.num_channels} "
            "channels, those of the patch and of its surroundings. Set context=None, or train on real data."
        )


def _sample(task: Task, split: str) -> Callable[[Any], Any]:
    """The task's synthesis, compiled."""
    if task.synthesis.samples is None:
        raise ValueError(f"Task {task.name!r} has no synthesis: give a folder or a BIDS data set as its source.")
    # XLA makes synthesis quicker on every device, also inside a data set's map.
    return tf.function(task.synthesis.samples(task, split, **task.synthesis.sample_arguments), jit_compile=True)


def _base(seed: int, split: str) -> int:
    """First word of the seeds of a split's samples."""
    return seed * len(SPLITS) + SPLITS[split]


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
    # Voxels of padding count as one class more, which is left out.
    flat = (tf.where(y[..., 1] > 0, y[..., 0], task.num_classes) if task.data.masked else y[..., 0] for _, y in batches)
    counts = sum(tf.math.bincount(tf.reshape(y, [-1]), minlength=task.num_classes + 1).numpy() for y in flat)
    counts = counts[: task.num_classes]
    return [max(float(count) / counts.sum(), 1e-6) for count in counts]
