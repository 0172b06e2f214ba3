"""Postprocesses a label map in a TensorFlow graph; tested against `zoo.inference.postprocessing`."""

from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from zoo.exporters.saved_model.graph_candidates import mark_plausible
from zoo.exporters.saved_model.graph_components import bounding_box, component_sizes, number_components, put_back
from zoo.hub.card import Label, Step
from zoo.inference.postprocessing import WITHIN_INPUT, planned


def postprocess(
    labels: tf.Tensor, steps: Sequence[Step], names: Mapping[int, Label], spacing_mm: tf.Tensor
) -> tf.Tensor:
    """Applies the postprocessing steps of a card to a label map, as `zoo.inference.postprocessing` does.

    Args:
        labels: (x, y, z) integers, the card's source values.
        steps: some of `STEPS`; "within_input", which belongs to the network's grid, is ignored.
        names: the card's labels by channel index.
        spacing_mm: (3,) float64.

    Returns:
        A new map of the same dtype.
    """
    for apply, value, settings in planned(steps, names, STEPS):
        labels = apply(labels, value, spacing_mm, **settings)
    return labels


def _make_mask(labels: tf.Tensor, value: int | None) -> tf.Tensor:
    return labels != 0 if value is None else labels == tf.constant(value, labels.dtype)


def _remove(labels: tf.Tensor, value: int | None, select: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Sets to 0 the voxels that `select` picks from the mask, cut to its bounding box."""
    mask = _make_mask(labels, value)
    first, size = bounding_box(mask)
    removed = put_back(select(tf.slice(mask, first, size)), first, tf.shape(mask))
    return tf.where(removed, tf.zeros_like(labels), labels)


def _largest_component(
    labels: tf.Tensor, value: int | None, spacing_mm: tf.Tensor, *, connectivity: int = 26
) -> tf.Tensor:
    def select_smaller(mask: tf.Tensor) -> tf.Tensor:
        numbers = number_components(mask, connectivity)
        return mask & (numbers != tf.argmax(component_sizes(numbers), output_type=tf.int32))

    return _remove(labels, value, select_smaller)


def _fill_holes(labels: tf.Tensor, value: int | None, spacing_mm: tf.Tensor) -> tf.Tensor:
    mask = _make_mask(labels, value)
    first, size = bounding_box(mask)
    numbers = number_components(tf.pad(~tf.slice(mask, first, size), [[1, 1]] * 3, constant_values=True), 6)
    hole = (numbers != 0) & (numbers != numbers[0, 0, 0])
    enclosed = put_back(hole[1:-1, 1:-1, 1:-1], first, tf.shape(mask)) & (labels == 0)
    if value is not None:
        return tf.where(enclosed, tf.constant(value, labels.dtype), labels)
    least = tf.cast(tf.reduce_min(labels), tf.int32)
    counts = tf.math.bincount(tf.cast(tf.boolean_mask(labels, mask), tf.int32) - least)
    commonest = tf.argmax(tf.concat([counts, [0]], 0), output_type=tf.int32) + least
    return tf.where(enclosed, tf.cast(commonest, labels.dtype), labels)


def _remove_small(
    labels: tf.Tensor, value: int | None, spacing_mm: tf.Tensor, *, minimum_ml: float, connectivity: int = 26
) -> tf.Tensor:
    voxel_ml = tf.reduce_prod(spacing_mm) / 1000

    def select_small(mask: tf.Tensor) -> tf.Tensor:
        numbers = number_components(mask, connectivity)
        return mask & (tf.cast(tf.gather(component_sizes(numbers), numbers), tf.float64) * voxel_ml < minimum_ml)

    return _remove(labels, value, select_small)


def _select_candidates(
    labels: tf.Tensor,
    value: int | None,
    spacing_mm: tf.Tensor,
    *,
    diameter_mm: Sequence[float] = (3.0, 15.0),
    elongation: float = 3.0,
) -> tf.Tensor:
    limits = (float(diameter_mm[0]), float(diameter_mm[1]))

    def select_implausible(mask: tf.Tensor) -> tf.Tensor:
        return mask & ~mark_plausible(number_components(mask), spacing_mm, diameter_mm=limits, elongation=elongation)

    return _remove(labels, value, select_implausible)


STEPS: dict[str, Callable[..., tf.Tensor]] = {
    "fill_holes": _fill_holes,
    "largest_component": _largest_component,
    "remove_small": _remove_small,
    "select_candidates": _select_candidates,
}
HELD = (*STEPS, WITHIN_INPUT)
