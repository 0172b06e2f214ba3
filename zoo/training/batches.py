"""Training data: batches that are functions of the seed and of their own number, so a run can go on at any step."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import keras
import tensorflow as tf

from zoo.datasets import splits
from zoo.datasets.cases import Case, fitting
from zoo.datasets.label_values import add_label_map
from zoo.datasets.left_out import only_labelled, tell_unused
from zoo.datasets.splits import Split
from zoo.hub.tabular import encode
from zoo.pipeline.cache import Cache
from zoo.pipeline.cache import build as build_cache
from zoo.pipeline.dataset import Stream, dataset
from zoo.pipeline.prepare import Reading
from zoo.pipeline.sampler import Sampling
from zoo.training import hard_mining
from zoo.training.task import Mining, Task

Shard = tuple[int, int]
ALONE: Shard = (0, 1)
SYNTHETIC = "synthetic"
SPLITS = {"train": 0, "validation": 1, "prior": 2}
SPLIT_FILE, CACHE = "splits.json", "cache"
VALIDATE_ONE_IN, PRIOR_SAMPLES = 5, 16
MINED = 4  # samples of a synthesis looked at for each that is kept


class TrainingData(Protocol):
    """Batches of one run: what `FolderData` and `SyntheticData` have in common."""

    def training(self, start: int, *, shard: Shard | None = ALONE, hard: hard_mining.Hard | None = None) -> Any:
        """Returns the endless training batches from a step on.

        Args:
            start: number of the first batch.
            shard: of `count` workers, `(index, count)` gets every `count`-th batch; None draws sample numbers from the
                clock, for asynchronous workers, whose order nothing can repeat.
            hard: samples or places that a share of the batches returns to.
        """
        ...

    def validation(self) -> tf.data.Dataset:
        """Returns the fixed validation batches."""
        ...

    def class_prior(self) -> list[float]:
        """Returns the fraction of voxels of each class."""
        ...

    def find_hard(self, model: keras.Model, step: int) -> hard_mining.Hard:
        """Returns the worst false positives of a network in the training data."""
        ...


def open_data(
    task: Task, source: str | pathlib.Path, *, seed: int, out: pathlib.Path, split: Split | None = None
) -> TrainingData:
    """Opens the data of a task, synthetic or from a folder.

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
        return SyntheticData(task, seed)
    return FolderData(task, pathlib.Path(source), seed=seed, out=out, split=split)


class SyntheticData:
    """Batches that the task's own synthesis draws.

    Args:
        task: what to learn.
        seed: seed of the run.

    Raises:
        ValueError: the task has no synthesis.
    """

    def __init__(self, task: Task, seed: int):
        self.task, self.seed = task, seed
        self._validation = self._make_batches("validation", stop=task.fit.validation_batches).cache()

    def _make_batches(self, split: str, **stream: Any) -> tf.data.Dataset:
        return synthetic(self.task, split=split, seed=self.seed, **stream)

    def training(self, start: int, *, shard: Shard | None = ALONE, hard: hard_mining.Hard | None = None) -> Any:
        """Returns the endless training batches from a step on; arguments as in `TrainingData`."""
        batches = self._make_batches("train", start=start, shard=shard, hard=hard)
        return _drop_tabular(self.task, batches, self.seed, start, shard)

    def validation(self) -> tf.data.Dataset:
        """Returns the fixed validation batches."""
        return self._validation

    def class_prior(self) -> list[float]:
        """Returns the fraction of voxels of each class in samples that no other split sees."""
        stop = math.ceil(PRIOR_SAMPLES / self.task.fit.batch_size)
        return prior(self.task, self._make_batches("prior", stop=stop))

    def find_hard(self, model: keras.Model, step: int) -> hard_mining.Hard:
        """Returns the numbers of the samples before a step with the worst false positives."""
        mining, draw = _find_mining(self.task), _compile_samples(self.task, "train")
        base = _seed_base(self.seed, "train")
        draw_number = lambda number: draw(tf.constant([base, number], tf.int32))  # noqa: E731
        numbers = hard_mining.sample_window(step, self.task.fit.batch_size, MINED * mining.num)
        return hard_mining.hard_numbers(model, mining, draw_number, numbers)


class FolderData:
    """Patches of real cases; which cases train is written to the run folder and kept when the run goes on.

    Args:
        task: what to learn.
        root: the folder of cases.
        seed: seed of the run.
        out: the run folder.
        split: subjects to train on and to validate on; None draws one case in five for validation.

    Raises:
        ValueError: the folder does not fit the task.
    """

    def __init__(self, task: Task, root: pathlib.Path, *, seed: int, out: pathlib.Path, split: Split | None = None):
        _check_maps(task, root)
        self.task, self.seed = task, seed
        cases = labelled(task, root)
        split = split or _split(cases, seed, out)
        self.training_cases, self.validation_cases = (
            build_cache([conditioned(task, case) for case in part], reading(task), out / CACHE / name)
            for part, name in zip(split.select(cases), ("training", "validation"), strict=True)
        )
        stop = task.fit.validation_batches
        self._validation = self._make_batches(self.validation_cases, seed=seed + 1, stop=stop).cache()

    def _make_batches(self, cache: Cache, hard: hard_mining.Hard | None = None, **stream: Any) -> tf.data.Dataset:
        data, mining = self.task.data, self.task.fit.mining
        sampling = Sampling(positive_fraction=data.positive_fraction)
        if hard and mining and isinstance(hard, Mapping):
            sampling = dataclasses.replace(sampling, hard_fraction=mining.fraction, hard_places=hard)
        batches = dataset(
            cache,
            patch=data.patch,
            batch_size=self.task.fit.batch_size,
            sampling=sampling,
            augment=data.augment if cache is self.training_cases else None,
            stream=Stream(masked=data.masked, context=data.context, **stream),
        )
        return batches.map(lambda x, y: ((x["volume"], x["conditioning"]), y)) if data.tabular else batches

    def training(self, start: int, *, shard: Shard | None = ALONE, hard: hard_mining.Hard | None = None) -> Any:
        """Returns the endless training batches from a step on; arguments as in `TrainingData`."""
        if shard is None:
            batches = self._make_batches(self.training_cases, hard, seed=None)
        else:
            # Every worker reads all cases and takes its turn, so that n workers see one worker's joined batch.
            stream = {"seed": self.seed, "start": start * shard[1], "turn": shard}
            batches = self._make_batches(self.training_cases, hard, **stream)
        return _drop_tabular(self.task, batches, self.seed, start, shard)

    def validation(self) -> tf.data.Dataset:
        """Returns the fixed validation batches."""
        return self._validation

    def class_prior(self) -> list[float]:
        """Returns the fraction of voxels of each class in some training batches."""
        stop = self.task.fit.validation_batches
        return prior(self.task, self._make_batches(self.training_cases, seed=self.seed + 2, stop=stop))

    def find_hard(self, model: keras.Model, step: int) -> hard_mining.Hard:
        """Returns the places of the worst false positives in each training case."""
        data = self.task.data
        return hard_mining.hard_places(model, _find_mining(self.task), self.training_cases, data.patch, data.context)


def _check_maps(task: Task, root: pathlib.Path) -> None:
    """Raises where the loss wants maps that real data lack."""
    if task.synthesis.maps:
        raise ValueError(
            f"Task {task.name!r} trains with maps of {', '.join(task.synthesis.maps)}, which only its synthesis draws, "
            f"and the source is {root}. Leave the term of the loss out that wants them, or train on synthetic samples."
        )


def _find_mining(task: Task) -> Mining:
    """Returns the settings of mining.

    Raises:
        ValueError: the network takes tabular values, too, or synthesis makes whole batches: nothing is mined there.
    """
    if task.fit.mining is None or task.data.tabular or task.synthesis.batched:
        raise ValueError(
            f"Task {task.name!r} mines hard samples with {task.fit.mining}: it needs settings, images alone, and a "
            "synthesis of single samples. Set mining=None."
        )
    return task.fit.mining


def labelled(task: Task, root: pathlib.Path) -> list[Case]:
    """Returns the cases of a folder that have every channel of the task and a label map; tells what is left out.

    Raises:
        ValueError: no case has labels; or a channel is missing.
    """
    cases = fitting(root, task.data.channels, reader=task.data.reader, patterns=task.data.patterns)
    with_labels = only_labelled(cases, root)
    if not with_labels:
        raise ValueError(f"None of the {len(cases)} cases in {root} has a label map: training needs them.")
    tell_unused(root, cases)
    return with_labels


def reading(task: Task) -> Reading:
    """Returns how the task reads cases: its channels, spacing, intensity steps, and the values of its labels."""
    steps = tuple(step for step in task.data.preprocessing if step["name"] != "resample")
    values = add_label_map({value: index for index, (_, value) in task.data.labels.items()}, task.data.label_map)
    names = tuple(_tabular_names(task))
    return Reading(channels=task.data.channels, spacing_mm=task.grid_mm, steps=steps, labels=values, tabular=names)


def _tabular_names(task: Task) -> list[str]:
    return [name for field in task.data.tabular for name in (field.name, f"{field.name} is missing")]


def conditioned(task: Task, case: Case) -> Case:
    """Returns the case with the numbers that condition the network in place of its tabular values.

    Ignores columns of the table that the task does not take.

    Raises:
        ValueError: a value that its field does not accept; the case is named.
    """
    known = {field.name: case.tabular[field.name] for field in task.data.tabular if field.name in case.tabular}
    try:
        numbers = encode(task.data.tabular, known).tolist()
    except ValueError as error:
        raise ValueError(f"Case {case.id}: {error}") from error
    return dataclasses.replace(case, tabular=dict(zip(_tabular_names(task), numbers, strict=True)))


def _drop_tabular(task: Task, batches: Any, seed: int, start: int, shard: Shard | None) -> Any:
    """Drops tabular values, all or one by one, as a function of the seed and the number of the batch."""
    if not task.data.tabular:
        return batches
    index, count = shard or ALONE
    numbers = _clock_numbers() if shard is None else tf.data.Dataset.range(start, tf.int64.max)

    def drop(number: Any, batch: Any) -> Any:
        (volume, vector), labels = batch
        pairs = tf.reshape(vector, (-1, len(task.data.tabular), 2))
        key = tf.stack([tf.constant(seed, tf.int64), number * count + index])
        uniform = tf.random.stateless_uniform((tf.shape(pairs)[0], 1 + len(task.data.tabular)), key)
        dropped = (uniform[:, :1] < task.data.tabular_dropout) | (uniform[:, 1:] < task.data.tabular_dropout / 2)
        pairs = tf.where(dropped[..., None], tf.constant([0.0, 1.0]), pairs)
        return (volume, tf.ensure_shape(tf.reshape(pairs, tf.shape(vector)), vector.shape)), labels

    return tf.data.Dataset.zip((numbers, batches)).map(drop)


def _split(cases: list[Case], seed: int, out: pathlib.Path) -> Split:
    """Returns a split with one case in five for validation, by subject, and writes it once."""
    path = out / SPLIT_FILE
    if not path.exists():
        subjects = len({case.subject for case in cases})
        splits.write(splits.folds(cases, min(VALIDATE_ONE_IN, subjects), seed=seed)[:1], path, seed=seed)
    return splits.read(path)[0]


def synthetic(
    task: Task,
    *,
    split: str,
    seed: int,
    start: int = 0,
    stop: int | None = None,
    shard: Shard | None = ALONE,
    hard: hard_mining.Hard | None = None,
) -> tf.data.Dataset:
    """Returns batches of the task's own synthesis.

    Args:
        task: a task with a synthesis.
        split: "train", "validation" or "prior"; no two splits share a seed.
        seed: seed of the run.
        start: number of the first batch.
        stop: number of the batch to stop before; None never stops.
        shard: as in `TrainingData.training`.
        hard: numbers of samples that a share of the batches returns to; None for no such return.

    Returns:
        A data set of ((batch, x, y, z, channels) float32, (batch, x, y, z, 1) int32); of a task with tabular inputs
        the image is a pair with the conditioning vector, (batch, 2 x inputs), and a masked task has its mask as the
        last channel of the labels.

    Raises:
        ValueError: the task has no synthesis.
    """
    draw = _compile_samples(task, split)
    size, base = 1 if task.synthesis.batched else task.fit.batch_size, _seed_base(seed, split)
    numbers = _clock_numbers() if shard is None else _sample_numbers(size, start, stop, shard)
    numbers = hard_mining.return_to_hard(numbers, hard, task.fit.mining.fraction) if task.fit.mining else numbers
    samples = numbers.map(
        lambda number: draw(tf.cast(tf.stack([tf.cast(base, tf.int64), number]), tf.int32)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    _check_context(task, samples)
    batches = (samples if task.synthesis.batched else samples.batch(size, drop_remainder=True)).prefetch(2)
    # Keras counts one batch too many when it cannot know where a data set ends.
    return batches if stop is None else batches.apply(tf.data.experimental.assert_cardinality(stop - start))


def _check_context(task: Task, samples: tf.data.Dataset) -> None:
    """Raises where a synthesis gives patches without the surroundings that the task's network looks at."""
    image = samples.element_spec[0]
    if task.data.context and (isinstance(image, tuple) or image.shape[-1] != task.num_channels):
        raise ValueError(
            f"Task {task.name!r} has context={task.data.context}, and its synthesis does not give {task.num_channels} "
            "channels, those of the patch and of its surroundings. Set context=None, or train on real data."
        )


def _compile_samples(task: Task, split: str) -> Callable[[Any], Any]:
    """Returns the task's synthesis, compiled."""
    if task.synthesis.samples is None:
        raise ValueError(f"Task {task.name!r} has no synthesis: give a folder or a BIDS data set as its source.")
    # XLA makes synthesis quicker on every device, also inside a data set's map.
    return tf.function(task.synthesis.samples(task, split, **task.synthesis.sample_arguments), jit_compile=True)


def _seed_base(seed: int, split: str) -> int:
    """Returns the first word of the seeds of a split's samples."""
    return seed * len(SPLITS) + SPLITS[split]


def _sample_numbers(size: int, start: int, stop: int | None, shard: Shard) -> tf.data.Dataset:
    """Returns the numbers of the samples of the batches start, start + 1, ... of one worker."""
    index, count = shard
    batches = tf.data.Dataset.range(start * count + index, tf.int64.max if stop is None else stop * count, count)
    return batches.flat_map(lambda batch: tf.data.Dataset.range(batch * size, (batch + 1) * size))


def _clock_numbers() -> tf.data.Dataset:
    microseconds = lambda _: tf.cast(tf.timestamp() * 1e6, tf.int64) % tf.int32.max  # noqa: E731
    return tf.data.Dataset.range(tf.int64.max).map(microseconds)


def prior(task: Task, batches: Any) -> list[float]:
    """Returns the fraction of voxels of each class in some batches, each at least a millionth."""
    # Voxels of padding count as one class more, which is left out.
    flat = (tf.where(y[..., 1] > 0, y[..., 0], task.num_classes) if task.data.masked else y[..., 0] for _, y in batches)
    counts = sum(tf.math.bincount(tf.reshape(y, [-1]), minlength=task.num_classes + 1).numpy() for y in flat)
    counts = counts[: task.num_classes]
    return [max(float(count) / counts.sum(), 1e-6) for count in counts]
