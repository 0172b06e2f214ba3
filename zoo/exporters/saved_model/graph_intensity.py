"""Carries out the intensity steps of a card in a TensorFlow graph; tested against `zoo.volumes.intensity`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from zoo.hub.card import Card
from zoo.inference.preprocessing import ROUNDING
from zoo.volumes import intensity, susceptibility_units


class LinearMap(NamedTuple):
    """Holds `(clip(x, low, high) - offset) * scale` as scalars; where `keep_zero`, a voxel that is 0 stays 0."""

    low: tf.Tensor
    high: tf.Tensor
    offset: tf.Tensor
    scale: tf.Tensor
    keep_zero: bool = False


def normalise(card: Card, volume: tf.Tensor, steps: Sequence[dict[str, Any]]) -> tf.Tensor:
    """Carries out intensity steps on each channel alone, measured on the whole volume.

    Args:
        card: the names of the channels.
        volume: (x, y, z, channels) float32 on the network's grid.
        steps: as `zoo.volumes.intensity.measure` takes them.

    Returns:
        The same shape, float32.
    """
    if not steps:
        return volume
    channels = []
    for index, channel in enumerate(card.input.channels):
        array = volume[..., index]
        line = LinearMap(*(tf.constant(number, tf.float32) for number in (-np.inf, np.inf, 0, 1)))
        for step in intensity.of_channel(steps, channel.name):
            settings = {key: value for key, value in step.items() if key != "name"}
            array, line = MEASURES[step["name"]](array, line, **settings)
        channels.append(_apply(array, line))
    return tf.stack(channels, -1)


def varies(volume: tf.Tensor, masked: bool) -> tf.Tensor:
    """Returns whether any channel has more than one value where its spread is measured: whether there is a brain."""
    inside = volume != 0 if masked else tf.ones_like(volume, tf.bool)
    least = tf.reduce_min(tf.where(inside, volume, np.inf), [0, 1, 2])
    most = tf.reduce_max(tf.where(inside, volume, -np.inf), [0, 1, 2])
    return tf.reduce_any(most - least > ROUNDING * tf.maximum(tf.abs(least), tf.abs(most)))


def percentile(array: tf.Tensor, inside: tf.Tensor, percent: float) -> tf.Tensor:
    """Returns `numpy.percentile` of the values inside, without sorting: two order statistics, interpolated.

    Args:
        array: float32, any shape.
        inside: bool, the same shape; not empty.
        percent: in 0..100.

    Returns:
        A float32 scalar.

    Example:
        >>> float(percentile(tf.constant([0.0, 1.0, 3.0]), tf.constant([False, True, True]), 50.0))
        2.0
    """
    count = tf.reduce_sum(tf.cast(inside, tf.int64))
    place = tf.cast(count - 1, tf.float64) * (percent / 100)
    below = tf.cast(tf.floor(place), tf.int64)
    keys = _ordered_keys(array)
    low = _order_statistic(keys, inside, below)
    high = _order_statistic(keys, inside, tf.minimum(below + 1, count - 1))
    share = tf.cast(place - tf.floor(place), tf.float32)
    return low + (high - low) * share


def _ordered_keys(array: tf.Tensor) -> tf.Tensor:
    """Returns int32 numbers in the order of the float32 values that they stand for (IEEE 754)."""
    bits = tf.bitcast(array + 0.0, tf.int32)
    return tf.where(bits < 0, tf.bitwise.bitwise_xor(bits, 0x7FFFFFFF), bits)


def _order_statistic(keys: tf.Tensor, inside: tf.Tensor, rank: tf.Tensor) -> tf.Tensor:
    """Returns the value with `rank` values before it, by halving the range of keys 32 times."""
    low, high = tf.constant(-(2**31), tf.int64), tf.constant(2**31 - 1, tf.int64)
    for _ in range(32):
        middle = (low + high) // 2
        enough = tf.math.count_nonzero(inside & (keys <= tf.cast(middle, tf.int32))) > rank
        low, high = tf.where(enough, low, middle + 1), tf.where(enough, middle, high)
    key = tf.cast(low, tf.int32)
    return tf.bitcast(tf.where(key < 0, tf.bitwise.bitwise_xor(key, 0x7FFFFFFF), key), tf.float32)


def _apply(array: tf.Tensor, line: LinearMap) -> tf.Tensor:
    mapped = (tf.clip_by_value(array, line.low, line.high) - line.offset) * line.scale
    return tf.where(array == 0, tf.zeros_like(array), mapped) if line.keep_zero else mapped


def _clip(array: tf.Tensor, line: LinearMap, low: float = -np.inf, high: float = np.inf) -> tuple[tf.Tensor, LinearMap]:
    return array, _clipping_map(tf.constant(low, tf.float32), tf.constant(high, tf.float32))


def _clip_percentiles(
    array: tf.Tensor, line: LinearMap, low: float = 0.5, high: float = 99.5, mask: str | None = None
) -> tuple[tf.Tensor, LinearMap]:
    inside = array != 0
    inside = inside | ~tf.reduce_any(inside) if mask else tf.ones_like(inside)
    return array, _clipping_map(*(percentile(array, inside, percent) for percent in (low, high)))


def _clipping_map(low: tf.Tensor, high: tf.Tensor) -> LinearMap:
    return LinearMap(low, high, tf.constant(0, tf.float32), tf.constant(1, tf.float32))


def _z_score(array: tf.Tensor, line: LinearMap, mask: str | None = None) -> tuple[tf.Tensor, LinearMap]:
    """Measures mean and spread; sums planes in float32 and the volume in float64."""
    inside = array != 0 if mask else tf.ones_like(array, tf.bool)
    clipped = tf.clip_by_value(array, line.low, line.high)
    num = tf.maximum(tf.cast(tf.math.count_nonzero(inside), tf.float64), 1)
    mean = _sum_in_double(tf.where(inside, clipped, 0)) / num
    residual = tf.where(inside, clipped - tf.cast(mean, tf.float32), 0)
    deviation = tf.sqrt(_sum_in_double(tf.square(residual)) / num)
    scale = tf.where(deviation > 0, 1 / deviation, 1)
    return array, line._replace(
        offset=tf.cast(mean, tf.float32), scale=tf.cast(scale, tf.float32), keep_zero=mask is not None
    )


def _sum_in_double(array: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(tf.reduce_sum(array, [1, 2]), tf.float64))


def _range(
    array: tf.Tensor, line: LinearMap, low: float | None = None, high: float | None = None
) -> tuple[tf.Tensor, LinearMap]:
    ends = tf.reduce_min(array), tf.reduce_max(array)
    bounds = [
        tf.clip_by_value(end, line.low, line.high) if fixed is None else tf.constant(fixed, tf.float32)
        for end, fixed in zip(ends, (low, high), strict=True)
    ]
    width = bounds[1] - bounds[0]
    return array, line._replace(offset=bounds[0], scale=tf.where(width > 0, 1 / width, 1))


def _maximum(array: tf.Tensor, line: LinearMap) -> tuple[tf.Tensor, LinearMap]:
    """Measures the brightest value above air, without spikes."""
    level = _air_level(array)
    bright = array > level
    usual = percentile(array, bright | ~tf.reduce_any(bright), intensity.SPIKE_PERCENTILE) - level
    most = tf.clip_by_value(tf.reduce_max(array), line.low, line.high) - level
    low = tf.where(level == 0, line.low, tf.maximum(line.low, level))
    spiky = (usual > 0) & (most > intensity.SPIKE * usual)
    most = tf.where(spiky, intensity.SPIKE * usual, most)
    high = tf.where(spiky, tf.minimum(line.high, level + most), line.high)
    return array, LinearMap(low, high, level, tf.where(most > 0, 1 / most, 1))


def _air_level(array: tf.Tensor) -> tf.Tensor:
    sample = array[::2, ::2, ::2]
    percents = (intensity.AIR_PERCENTILE, 10.0, 99.0)
    low, tenth, high = (percentile(sample, tf.ones_like(sample, tf.bool), percent) for percent in percents)
    is_air = (low < 0) | (low == tenth)
    return tf.where(is_air & (tf.abs(low) > intensity.AIR_OFF * (high - low)), low, 0.0)


def _susceptibility(array: tf.Tensor, line: LinearMap) -> tuple[tf.Tensor, LinearMap]:
    """Raises where the array is no masked map in ppm, by the bounds of `zoo.volumes.susceptibility_units`."""
    inside = array != 0
    zeros = 1 - tf.reduce_mean(tf.cast(inside, tf.float32))
    safe = inside | ~tf.reduce_any(inside)
    spread = (percentile(array, safe, 99.0) - percentile(array, safe, 1.0)) / 2
    checks = [
        tf.debugging.Assert(
            (spread >= susceptibility_units.PPM_AT_LEAST) & (spread <= susceptibility_units.PPM_AT_MOST),
            ["The susceptibility map must be in ppm: half its spread is about 0.1, got", spread],
        ),
        tf.debugging.Assert(
            zeros > susceptibility_units.MASKED,
            ["The susceptibility map must be 0 outside the brain; share of zeros:", zeros],
        ),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(array), line


MEASURES: dict[str, Callable[..., tuple[tf.Tensor, LinearMap]]] = {
    "clip": _clip,
    "clip_percentiles": _clip_percentiles,
    "z_score": _z_score,
    "range": _range,
    "maximum": _maximum,
    "susceptibility": _susceptibility,
}
