"""Runs a network in sliding windows in a TensorFlow loop; tested against `zoo.inference.sliding_window`.

One loop over windows of one shape: its memory is the volume's, whatever the number of windows, and blending is a
running weighted mean that updates its buffers in place.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from zoo.volumes import patches

Network = Callable[[tf.Tensor], tf.Tensor]


def sliding_window(
    network: Network,
    volume: tf.Tensor,
    *,
    patch: Sequence[int],
    overlap: float,
    num_classes: int,
    inside: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs a network over a volume, window by window.

    Args:
        network: maps (1, *patch, channels) to (1, *patch, num_classes) float32 logits.
        volume: (x, y, z, channels) float32.
        patch: window in voxels.
        overlap: least shared fraction of neighbouring windows, in [0, 1).
        num_classes: channels of the logits.
        inside: (x, y, z) bool; windows without any True are skipped.

    Returns:
        The blended logits (x, y, z, num_classes), and whether a window reached the voxel, (x, y, z) bool.
    """
    shape, size = tf.shape(volume)[:3], tf.constant(patch, tf.int32)
    before, padded = _padding(shape, size)
    room = tf.stack([before, padded - shape - before], 1)
    channels = volume.shape[-1]
    volume = tf.pad(volume, tf.concat([room, [[0, 0]]], 0))
    mask = None if inside is None else tf.pad(inside, room)
    corners = starts(padded, patch, overlap)
    weight = tf.constant(patches.gaussian_weight(patch))
    empty = tf.constant(False) if mask is None else ~tf.reduce_any(mask)

    def has_work(index: tf.Tensor) -> tf.Tensor:
        if mask is None:
            return tf.constant(True)
        return ((index == 0) & empty) | tf.reduce_any(tf.slice(mask, corners[index], size))

    def run(index: tf.Tensor, mean: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        corner = corners[index]
        window = tf.slice(volume, tf.concat([corner, [0]], 0), [*patch, channels])
        return _blend(mean, total, network(window[None])[0], corner=corner, weight=weight)

    def step(index: tf.Tensor, mean: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        mean, total = tf.cond(has_work(index), lambda: run(index, mean, total), lambda: (mean, total))
        return index + 1, mean, total

    begin = (tf.constant(0), tf.zeros(tf.concat([padded, [num_classes]], 0)), tf.zeros(padded))
    open_shapes = (tf.TensorShape([]), tf.TensorShape([None, None, None, num_classes]), tf.TensorShape([None] * 3))
    _, mean, total = tf.while_loop(
        lambda index, *_: index < tf.shape(corners)[0], step, begin, open_shapes, parallel_iterations=1
    )
    logits = tf.slice(mean, tf.concat([before, [0]], 0), tf.concat([shape, [num_classes]], 0))
    logits = tf.ensure_shape(logits, (None, None, None, num_classes))
    return logits, tf.slice(total, before, shape) > 0


def centred_window(
    network: Network,
    volume: tf.Tensor,
    *,
    patch: Sequence[int],
    overlap: float,
    num_classes: int,
    activation: str,
    inside: tf.Tensor | None = None,
    average: Callable[[Network], Network] = lambda network: network,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the foreground with windows side by side, then runs windows about its middle alone.

    Args:
        network: as `sliding_window` takes it.
        volume: as `sliding_window` takes it.
        patch: window in voxels.
        overlap: of the windows that count.
        num_classes: channels of the logits.
        activation: "softmax", where the first class is the background, or another, where half is.
        inside: as `sliding_window` takes it.
        average: what makes the network of the windows that count, such as one that averages mirror images.

    Returns:
        As `sliding_window`; no window reached the voxels outside the box.
    """
    shape, size = tf.shape(volume)[:3], tf.constant(patch, tf.int32)
    before, padded = _padding(shape, size)
    room = tf.stack([before, padded - shape - before], 1)
    channels = volume.shape[-1]
    volume = tf.ensure_shape(tf.pad(volume, tf.concat([room, [[0, 0]]], 0)), (None, None, None, channels))
    inside = None if inside is None else tf.pad(inside, room)
    settings: dict[str, Any] = {"patch": patch, "num_classes": num_classes}
    logits, reached = sliding_window(network, volume, overlap=0.0, inside=inside, **settings)
    start, extent = _box_about(_foreground(activate(logits, reached, activation), activation), size)
    part = tf.slice(volume, tf.concat([start, [0]], 0), tf.concat([extent, [channels]], 0))
    part = tf.ensure_shape(part, (None, None, None, channels))
    seen = None if inside is None else tf.slice(inside, start, extent)
    logits, reached = sliding_window(average(network), part, overlap=overlap, inside=seen, **settings)
    around = tf.stack([start, padded - start - extent], 1)
    logits, reached = tf.pad(logits, tf.concat([around, [[0, 0]]], 0)), tf.pad(reached, around)
    logits = tf.slice(logits, tf.concat([before, [0]], 0), tf.concat([shape, [num_classes]], 0))
    return tf.ensure_shape(logits, (None, None, None, num_classes)), tf.slice(reached, before, shape)


def _foreground(values: tf.Tensor, activation: str) -> tf.Tensor:
    return tf.argmax(values, -1) > 0 if activation == "softmax" else tf.reduce_max(values, -1) >= 0.5


def _box_about(mask: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns start and extent of the box that `zoo.volumes.patches.box_about` returns."""
    shape, counts = tf.shape(mask), tf.cast(mask, tf.int64)
    low, high = [], []
    for axis in range(3):
        before = tf.cumsum(tf.reduce_sum(counts, [other for other in range(3) if other != axis]))
        low.append(_find_first(patches.TAIL * before > before[-1]))
        high.append(_find_first(patches.TAIL * before >= (patches.TAIL - 1) * before[-1]))
    ends = tf.stack(low) - patches.MARGIN, tf.stack(high) + 1 + patches.MARGIN
    extent = tf.minimum(tf.maximum(ends[1] - ends[0], size), shape)
    start = tf.minimum(tf.maximum((ends[0] + ends[1] - extent) // 2, 0), shape - extent)
    found = tf.reduce_any(mask)
    return tf.where(found, start, 0), tf.where(found, extent, shape)


def _find_first(mask: tf.Tensor) -> tf.Tensor:
    return tf.argmax(tf.cast(mask, tf.int32), output_type=tf.int32)


def starts(shape: tf.Tensor, patch: Sequence[int], overlap: float) -> tf.Tensor:
    """Returns first voxels of the fewest evenly spaced windows with that overlap or more, (num_windows, 3) int32."""
    axes = []
    for axis, size in enumerate(patch):
        stride = max(1, int(size * (1 - overlap) + 1e-6))
        rest = shape[axis] - size
        num = -(-rest // stride) + 1
        step = tf.cast(rest, tf.float64) / tf.cast(tf.maximum(num - 1, 1), tf.float64)
        axes.append(tf.cast(tf.round(tf.range(num, dtype=tf.float64) * step), tf.int32))
    return tf.reshape(tf.stack(tf.meshgrid(*axes, indexing="ij"), -1), [-1, 3])


def average_mirrored(network: Network, axes: Sequence[int], partners: Sequence[int] | None) -> Network:
    """Averages a network's logits over every combination of mirror axes.

    Args:
        network: maps windows to logits.
        axes: some of 0, 1, 2.
        partners: for each channel, the index of its left/right counterpart.
    """
    flips = [flip for num in range(len(axes) + 1) for flip in itertools.combinations(axes, num)]

    def mean(windows: tf.Tensor) -> tf.Tensor:
        result = network(windows)
        for number, flip in enumerate(flips[1:], 2):
            at = [axis + 1 for axis in flip]
            logits = tf.reverse(network(tf.reverse(windows, at)), at)
            if 0 in flip and partners is not None:
                logits = tf.gather(logits, list(partners), axis=-1)
            result = result + (logits - result) / number
        return result

    return mean


def activate(logits: tf.Tensor, reached: tf.Tensor, activation: str) -> tf.Tensor:
    """Applies the activation of a card; voxels that no window reached become background."""
    values = logits if activation == "linear" else getattr(tf.nn, activation)(logits)
    background = [1.0 if activation == "softmax" else 0.0] + [0.0] * (values.shape[-1] - 1)
    return tf.where(reached[..., None], values, tf.constant(background))


def _padding(shape: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the zeros before each axis, and the padded size: at least one window."""
    padded = tf.maximum(shape, size)
    return (padded - shape) // 2, padded


def _blend(
    mean: tf.Tensor, total: tf.Tensor, logits: tf.Tensor, *, corner: tf.Tensor, weight: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Adds `(values - mean) * weight / total` to the mean in a box, as `zoo.volumes.patches.blend` does."""
    size = tf.constant(weight.shape.as_list(), tf.int32)
    weights = tf.slice(total, corner, size) + weight
    here, extent = tf.concat([corner, [0]], 0), tf.concat([size, [logits.shape[-1]]], 0)
    part = tf.slice(mean, here, extent)
    part = part + (logits - part) * (weight / weights)[..., None]
    return _set_box(mean, here, extent, part), _set_box(total, corner, size, weights)


def _set_box(tensor: tf.Tensor, begin: tf.Tensor, size: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Sets the values of a box; in place where nothing else holds the tensor."""
    return tf.raw_ops.TensorStridedSliceUpdate(
        input=tensor, begin=begin, end=begin + size, strides=tf.ones_like(begin), value=values
    )
