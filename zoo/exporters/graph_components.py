"""Connected components and what post-processing makes of them, as a TensorFlow graph.

Every voxel of a mask starts with a number of its own and takes the smallest among its neighbours until nothing changes;
between the rounds it jumps to the number that its number points at, so that long winding shapes take few rounds
(Shiloach and Vishkin, J. Algorithms 1982, doi 10.1016/0196-6774(82)90008-6). `zoo.inference.postprocess` is the oracle.
"""

from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from zoo.cards import Label, Step
from zoo.registry import check_arguments, unknown


def postprocess(
    labels: tf.Tensor, steps: Sequence[Step], names: Mapping[int, Label], spacing_mm: tf.Tensor
) -> tf.Tensor:
    """Applies the steps of a card to a label map, as `zoo.inference.postprocess` does.

    Args:
        labels: (x, y, z) integers, the card's source values.
        steps: "largest_component", "fill_holes", "remove_small".
        names: the card's labels by channel index.
        spacing_mm: (3,) float64.

    Returns:
        A new map of the same dtype.
    """
    voxel_ml = tf.reduce_prod(spacing_mm) / 1000
    for step in steps:
        settings = dict(step.parameters)
        chosen = settings.pop("labels", None)
        check_arguments(STEPS[step.name], settings)
        for value in [None] if chosen is None else [_value(one, names) for one in chosen]:
            labels = STEPS[step.name](labels, value, voxel_ml, **settings)
    return labels


def numbered(mask: tf.Tensor, connectivity: int = 26) -> tf.Tensor:
    """Numbers the connected components of a mask by their first voxel.

    Args:
        mask: (x, y, z) bool.
        connectivity: 6 or 26 neighbours.

    Returns:
        (x, y, z) int32: one more than the flat index of the component's first voxel; 0 outside.

    Raises:
        ValueError: another connectivity.
    """
    if connectivity not in (6, 26):
        raise unknown("connectivity in a graph", connectivity, ("6", "26"))
    size = tf.size(mask)
    nobody = tf.fill(tf.shape(mask), size + 1)
    own = tf.where(mask, tf.reshape(tf.range(1, size + 1), tf.shape(mask)), nobody)

    def spread(now: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        near = tf.where(mask, _least(now, connectivity), nobody)
        table = tf.concat([[0], tf.reshape(near, [-1]), [size + 1]], 0)
        jumped = tf.minimum(near, tf.gather(table, near))
        return jumped, tf.reduce_any(jumped != now)

    begin = (own, tf.reduce_any(mask))
    found, _ = tf.while_loop(lambda _, changed: changed, spread, begin, parallel_iterations=1)
    return tf.where(mask, found, 0)


def _least(numbers: tf.Tensor, connectivity: int) -> tf.Tensor:
    """The smallest number among a voxel and its neighbours."""
    if connectivity == 6:
        return tf.reduce_min(tf.stack([_pair(numbers, axis) for axis in range(3)]), 0)
    for axis in range(3):
        numbers = _pair(numbers, axis)
    return numbers


def _pair(numbers: tf.Tensor, axis: int) -> tf.Tensor:
    """The smallest of a voxel and its two neighbours along one axis."""
    count = tf.shape(numbers)[axis]
    rows = tf.range(count)
    ahead = tf.gather(numbers, tf.minimum(rows + 1, count - 1), axis=axis)
    behind = tf.gather(numbers, tf.maximum(rows - 1, 0), axis=axis)
    return tf.minimum(numbers, tf.minimum(ahead, behind))


def _sizes(numbers: tf.Tensor) -> tf.Tensor:
    """Voxels of each number; of the background none."""
    counts = tf.math.bincount(tf.reshape(numbers, [-1]), minlength=tf.size(numbers) + 1)
    return tf.concat([[0], counts[1:]], 0)


def _value(chosen: int | str, names: Mapping[int, Label]) -> int:
    for index, label in names.items():
        if chosen in (index, label.name):
            return label.value
    raise unknown("label", chosen, [label.name for label in names.values()])


def _mask(labels: tf.Tensor, value: int | None) -> tf.Tensor:
    return labels != 0 if value is None else labels == tf.constant(value, labels.dtype)


def _largest_component(
    labels: tf.Tensor, value: int | None, voxel_ml: tf.Tensor, *, connectivity: int = 26
) -> tf.Tensor:
    mask = _mask(labels, value)
    numbers = numbered(mask, connectivity)
    largest = tf.argmax(_sizes(numbers), output_type=tf.int32)
    return tf.where(mask & (numbers != largest), tf.zeros_like(labels), labels)


def _fill_holes(labels: tf.Tensor, value: int | None, voxel_ml: tf.Tensor) -> tf.Tensor:
    mask = _mask(labels, value)
    numbers = numbered(tf.pad(~mask, [[1, 1]] * 3, constant_values=True), 6)
    enclosed = ~mask & (numbers[1:-1, 1:-1, 1:-1] != numbers[0, 0, 0]) & (labels == 0)
    if value is not None:
        return tf.where(enclosed, tf.constant(value, labels.dtype), labels)
    least = tf.cast(tf.reduce_min(labels), tf.int32)
    counts = tf.math.bincount(tf.cast(tf.boolean_mask(labels, mask), tf.int32) - least)
    commonest = tf.argmax(tf.concat([counts, [0]], 0), output_type=tf.int32) + least
    return tf.where(enclosed, tf.cast(commonest, labels.dtype), labels)


def _remove_small(
    labels: tf.Tensor, value: int | None, voxel_ml: tf.Tensor, *, minimum_ml: float, connectivity: int = 26
) -> tf.Tensor:
    mask = _mask(labels, value)
    numbers = numbered(mask, connectivity)
    volume_ml = tf.cast(tf.gather(_sizes(numbers), numbers), tf.float64) * voxel_ml
    return tf.where(mask & (volume_ml < minimum_ml), tf.zeros_like(labels), labels)


STEPS: dict[str, Callable[..., tf.Tensor]] = {
    "fill_holes": _fill_holes,
    "largest_component": _largest_component,
    "remove_small": _remove_small,
}
