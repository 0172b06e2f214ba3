"""Makes batches from cases with one tf.data pipeline."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from zoo.datasets.cases import Case
from zoo.pipeline import cache as caches
from zoo.pipeline import sampler
from zoo.pipeline.cache_reader import Table
from zoo.pipeline.prepare import Reading
from zoo.pipeline.sampler import Sampling
from zoo.volumes import context

Augment = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
Patch = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Settings of a stream of batches: which ones it has, and where they are made.

    Attributes:
        seed: the same seed gives the same batches in the same order; None draws one, and order may vary.
        start: number of the first batch, to continue a stopped run.
        stop: number of the batch to stop before; None for an endless stream.
        shard: this host's number and the number of hosts; each host reads its own part of the cases.
        turn: (i, n) takes batches i, i + n, i + 2 n and so on of the stream, so that n workers that all see every case
            share one stream; start and stop then count this worker's batches.
        service: address of a tf.data service ("grpc://host:5000") whose workers do the work; the cache must be a
            folder that they see under the same path, and the order is then not fixed.
        masked: give labels a second channel, 1 in the volume and 0 where a patch or a batch was padded, for losses with
            `maps=("mask",)`.
        context: add the surroundings of each patch, this many times as wide and averaged down to as many voxels
            (`zoo.volumes.context`), as further channels; they are read from the same case, 0 beyond it. None for none.
        prefetch: batches ready in advance.
    """

    seed: int | None = 0
    start: int = 0
    stop: int | None = None
    shard: tuple[int, int] = (0, 1)
    turn: tuple[int, int] = (0, 1)
    service: str | None = None
    masked: bool = False
    context: int | None = None
    prefetch: int = 2

    def part(self, cases: Sequence[Case]) -> list[Case]:
        """Returns the cases of this host.

        Raises:
            ValueError: no such host, or fewer cases than hosts.
        """
        index, count = self.shard
        if not 0 <= index < count or len(cases) < count:
            raise ValueError(f"shard={self.shard} of {len(cases)} cases: give (host, hosts) with a case for each host.")
        return list(cases)[index::count]


def dataset(
    cases: Sequence[Case] | caches.Cache,
    *,
    patch: Patch | None,
    batch_size: int = 1,
    reading: Reading | None = None,
    sampling: Sampling | None = None,
    cache: str | Path = caches.MEMORY,
    augment: Augment | None = None,
    stream: Stream | None = None,
) -> tf.data.Dataset:
    """Makes batches of patches for `model.fit`.

    Args:
        cases: what a reader listed, or a cache that `zoo.pipeline.cache.build` made, to be used several times.
        patch: voxels along x, y, z; smaller volumes are padded with 0 on both sides after their intensities are
            normalised. None gives whole volumes, one round in the order of the cases unless `stream.stop` is set.
        batch_size: patches a batch; the last, smaller batch of a stream that ends is dropped, except with patch=None.
        reading: channels, grid, intensities and labels.
        sampling: how centres are drawn.
        cache: "memory", or the folder of a cache on disk.
        augment: `(image, labels, seed) -> (image, labels)` on one patch, (x, y, z, channels) float32, (x, y, z, 1)
            int32 and a seed of two int32; shapes stay. Labels are None where the cases have none. Surroundings are
            augmented with the same seed.
        stream: seed, first batch, host, service.

    Returns:
        `(image, labels)` with (batch, x, y, z, channels) float32 and (batch, x, y, z, 1) int32; the image alone where
        there are no labels. With `reading.tabular` the image is {"volume": ..., "conditioning": (batch, n)}. Whole
        volumes in batches of several come as (image, labels, mask), padded at the far ends, mask 0 there.

    Raises:
        ValueError: no usable case, or settings that do not fit the cases.
    """
    stream = stream or Stream()
    if not isinstance(cases, caches.Cache):
        cases = caches.build(stream.part(cases), reading or Reading(), cache)  # read, normalise, keep
    _check_settings(cases, stream, patch, batch_size)
    seed = secrets.randbelow(2**31) if stream.seed is None else stream.seed
    table = Table(cases, portable=stream.service is not None)
    plan = sampler.plan(cases.counts, cases.ids, sampling or Sampling())
    samples = _number_samples(stream, batch_size, None if patch else len(cases.entries))
    draw = lambda number: (number, *_read_sample(table, plan, number, seed=seed, patch=patch, stream=stream))  # noqa: E731
    samples = _map(samples, tf.autograph.experimental.do_not_convert(draw), stream)  # quicker to trace
    if augment is not None:
        views = 2 if stream.context else 1
        samples = _map(samples, lambda *sample: _augment(augment, seed, views, *sample), stream)
    samples = samples.map(lambda number, *sample: _model_inputs(table, *sample))
    batches = _batch(samples, batch_size, patch, stream.masked)
    if stream.service is not None:
        batches = batches.apply(_distribute(stream.service))
    if stream.stop is not None:
        batches = batches.apply(tf.data.experimental.assert_cardinality(stream.stop - stream.start))
    return batches.prefetch(stream.prefetch)


def _check_settings(cache: caches.Cache, stream: Stream, patch: Patch | None, batch_size: int) -> None:
    if batch_size < 1 or (patch is not None and (len(patch) != 3 or min(patch) < 1)):
        raise ValueError(
            f"patch must be three sizes of 1 or more and batch_size 1 or more, got {patch} and {batch_size}."
        )
    if stream.context is not None:
        if patch is None:
            raise ValueError(f"Whole volumes have no surroundings, got context={stream.context}. Pass a patch.")
        context.check(patch, stream.context)
    if stream.service is not None and cache.buffer is not None:
        raise ValueError(
            f"The tf.data service at {stream.service} cannot see this process's memory. Pass cache=FOLDER, on a disk "
            "that its workers share."
        )


def _number_samples(stream: Stream, batch_size: int, num_cases: int | None) -> tf.data.Dataset:
    """Counts the numbers of patches, or of volumes up to `num_cases`; each number defines its patch.

    Counts batch by batch, so that a service, which distributes the elements of the first data set, gives each worker
    whole batches.
    """
    if stream.stop is None and num_cases is not None:
        return tf.data.Dataset.range(stream.start * batch_size, num_cases)
    index, count = stream.turn
    last = tf.int64.max if stream.stop is None else stream.stop * count
    rounds = tf.data.Dataset.range(stream.start * count + index, last, count)
    return rounds.flat_map(lambda number: tf.data.Dataset.range(number * batch_size, (number + 1) * batch_size))


def _map(samples: tf.data.Dataset, function: Callable[..., Any], stream: Stream) -> tf.data.Dataset:
    return samples.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=stream.seed is not None)


def _read_sample(
    table: Table, plan: sampler.Plan, number: tf.Tensor, *, seed: int, patch: Patch | None, stream: Stream
) -> tuple[tf.Tensor, ...]:
    """Returns the case number, the image and any labels of one patch, or of one whole volume."""
    if patch is None:
        case = number % len(plan.counts)
        start, size = tf.zeros([3], tf.int64), table.shape(case)
    else:
        case, start, size = _draw_patch(table, plan, number, seed=seed, patch=patch)
    image = _pad(table.image(case, start, size), patch, table.num_channels)
    if patch is not None and stream.context:
        first = start - (tf.constant(patch, tf.int64) - size) // 2
        image = tf.concat([image, _read_surroundings(table, case, first, patch=patch, ratio=stream.context)], -1)
    if not table.labelled:
        return case, image
    labels = table.labels(case, start, size)
    labels = tf.concat([labels, tf.ones_like(labels)], -1) if stream.masked else labels
    return case, image, _pad(labels, patch, 1 + stream.masked)


def _draw_patch(
    table: Table, plan: sampler.Plan, number: tf.Tensor, *, seed: int, patch: Patch
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Draws the case, first voxel and size of a patch; the size is cut where the volume is smaller."""
    case, kind, rank = plan.draw(number, seed)
    uniform = tf.random.stateless_uniform([6], tf.stack([tf.constant(~seed, tf.int64), number]), dtype=tf.float64)
    shape, patch_size = table.shape(case), tf.constant(patch, tf.int64)
    size = tf.minimum(shape, patch_size)

    def around(voxel: tf.Tensor) -> tf.Tensor:
        reach = tf.cast(plan.sampling.jitter * tf.cast(size, tf.float64), tf.int64)
        reach = tf.minimum(reach, (size - 1) // 2)
        shift = tf.cast(uniform[3:] * tf.cast(2 * reach + 1, tf.float64), tf.int64) - reach
        return tf.clip_by_value(voxel - size // 2 + shift, 0, shape - size)

    def anywhere() -> tf.Tensor:
        return tf.cast(uniform[:3] * tf.cast(shape - size + 1, tf.float64), tf.int64)

    kinds = [(kind >= 0, lambda: around(table.voxel(case, kind, rank)))] if table.labelled else []
    if len(plan.hard):
        kinds.append((kind == sampler.HARD, lambda: around(tf.gather(plan.hard, rank)[1:])))
    return case, tf.case(kinds, default=anywhere) if kinds else anywhere(), size


def _read_surroundings(table: Table, case: tf.Tensor, first: tf.Tensor, *, patch: Patch, ratio: int) -> tf.Tensor:
    """Reads the surroundings of a patch from the cache, as `zoo.volumes.context.around`: (*patch, channels) float32.

    Args:
        table: the cases.
        case: its number.
        first: (3,) int64, first voxel of the patch; negative where the patch was padded.
        patch: its voxels.
        ratio: how many times as wide.
    """
    patch_size = tf.constant(patch, tf.int64)
    first = first - (ratio - 1) * patch_size // 2
    low = tf.clip_by_value(first, 0, table.shape(case))
    high = tf.clip_by_value(first + ratio * patch_size, 0, table.shape(case))
    before = (low - first) % ratio  # only whole blocks are averaged; blocks of air are added afterwards
    fine = table.image(case, low, high - low)
    after = -(before + high - low) % ratio
    room = tf.concat([tf.stack([before, after], 1), tf.zeros((1, 2), tf.int64)], 0)
    blocks = tf.nn.avg_pool3d(tf.pad(fine, room)[None], ratio, ratio, "VALID")[0]
    begun = (low - first) // ratio
    rest = patch_size - begun - tf.shape(blocks, tf.int64)[:3]
    around = tf.pad(blocks, tf.concat([tf.stack([begun, rest], 1), tf.zeros((1, 2), tf.int64)], 0))
    return tf.ensure_shape(around, (*patch, table.num_channels))


def _pad(volume: tf.Tensor, patch: Patch | None, num_channels: int) -> tf.Tensor:
    if patch is None:
        return tf.ensure_shape(volume, (None, None, None, num_channels))
    room = tf.maximum(tf.constant((*patch, num_channels)) - tf.shape(volume), 0)
    padded = tf.cond(
        tf.reduce_any(room > 0), lambda: tf.pad(volume, tf.stack([room // 2, room - room // 2], 1)), lambda: volume
    )
    return tf.ensure_shape(padded, (*patch, num_channels))


def _augment(augment: Augment, seed: int, views: int, number: tf.Tensor, case: tf.Tensor, *sample: tf.Tensor) -> tuple:
    image, labels = (*sample, None)[:2]
    key = tf.cast(tf.stack([tf.constant(seed, tf.int64), number]), tf.int32)
    made = [augment(view, labels, key) for view in tf.split(image, views, -1)]
    pairs = list(zip((tf.concat([view for view, _ in made], -1), made[0][1]), sample, strict=False))
    for new, old in pairs:
        if not new.shape.is_compatible_with(old.shape):
            raise ValueError(f"augment turned shape {old.shape} into {new.shape}. Cut or pad back to the same shape.")
    return (number, case, *(tf.ensure_shape(new, old.shape) for new, old in pairs))


def _model_inputs(table: Table, case: tf.Tensor, image: tf.Tensor, *labels: tf.Tensor) -> Any:
    """Returns the inputs of the model, and the labels if there are any."""
    tabular = table.tabular(case)
    shown = {"volume": image, "conditioning": tabular} if tabular.shape[-1] else image
    return (shown, *labels) if labels else shown


def _batch(samples: tf.data.Dataset, batch_size: int, patch: Patch | None, masked: bool) -> tf.data.Dataset:
    if patch is not None:
        return samples.batch(batch_size, drop_remainder=True)
    if batch_size == 1 or masked or not isinstance(samples.element_spec, tuple):
        return samples.padded_batch(batch_size)
    return samples.map(lambda x, y: (x, y, tf.ones_like(y, tf.float32))).padded_batch(batch_size)


def _distribute(address: str) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """Distributes a data set over a service; each batch is made once, by one of the workers."""
    policy = tf.data.experimental.service.ShardingPolicy.DYNAMIC
    return tf.data.experimental.service.distribute(policy, service=address)
