"""Measures connected components in a TensorFlow graph; tested against `zoo.evaluation.candidates`.

Sums over slabs of planes, so that memory grows with the number of components, not with their voxels.
"""

import math
from typing import NamedTuple

import tensorflow as tf

from zoo.evaluation.candidates import ROUNDING
from zoo.exporters.saved_model import graph_components

PLANES = 4  # summed at once
PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # of axes, for second moments


class Measurements(NamedTuple):
    """Size and shape of every component of a mask, ascending by number.

    Attributes:
        roots: (n,) int32, its number (`graph_components.number_components`).
        diameter_mm: (n,) float64, diameter of the ball of its volume.
        elongation: (n,) float64, longest over shortest principal SD; each voxel counts with its own extent.
    """

    roots: tf.Tensor
    diameter_mm: tf.Tensor
    elongation: tf.Tensor


def measure_components(numbers: tf.Tensor, spacing_mm: tf.Tensor) -> Measurements:
    """Measures every component.

    Args:
        numbers: (x, y, z) int32 of `graph_components.number_components`.
        spacing_mm: (3,) float64, voxel size in mm.
    """
    roots = graph_components.component_roots(numbers)
    sums = _sum_moments(numbers, roots)
    count, mean, second = sums[:, :1], sums[:, 1:4] / sums[:, :1], sums[:, 4:] / sums[:, :1]
    spread = [second[:, index] - mean[:, a] * mean[:, b] for index, (a, b) in enumerate(PAIRS)]
    matrix = tf.stack([tf.stack([spread[PAIRS.index((min(a, b), max(a, b)))] for b in range(3)], -1)
                       for a in range(3)], -2)  # fmt: skip
    voxel = tf.eye(3, dtype=tf.float64) / 12  # the variance of a box: it keeps single voxels and lines finite
    principal = tf.linalg.eigvalsh((matrix + voxel) * spacing_mm[:, None] * spacing_mm)
    volume_mm3 = count[:, 0] * tf.reduce_prod(spacing_mm)
    return Measurements(roots, (6 * volume_mm3 / math.pi) ** (1 / 3), tf.sqrt(principal[:, -1] / principal[:, 0]))


def mark_plausible(
    numbers: tf.Tensor, spacing_mm: tf.Tensor, *, diameter_mm: tuple[float, float], elongation: float
) -> tf.Tensor:
    """Marks the components whose size and shape are within limits (`zoo.evaluation.candidates.select`).

    Args:
        numbers: (x, y, z) int32 of `graph_components.number_components`.
        spacing_mm: (3,) float64, voxel size in mm.
        diameter_mm: least and largest diameter.
        elongation: largest elongation.

    Returns:
        (x, y, z) bool.
    """
    components, (least, most) = measure_components(numbers, spacing_mm), diameter_mm
    diameter = components.diameter_mm
    fits = (diameter >= least * (1 - ROUNDING)) & (diameter <= most * (1 + ROUNDING))
    fits &= components.elongation <= elongation * (1 + ROUNDING)
    table = tf.scatter_nd(components.roots[:, None], tf.cast(fits, tf.int32), [tf.size(numbers) + 1])
    return tf.gather(table, numbers) > 0


def _sum_moments(numbers: tf.Tensor, roots: tf.Tensor) -> tf.Tensor:
    """Returns (n, 10) float64: voxels, sums of offsets from the first voxel, and sums of their products."""
    _, rows, columns = tf.unstack(tf.maximum(tf.shape(numbers), 1))
    flat = roots - 1
    origins = tf.stack([flat // (rows * columns), flat // columns % rows, flat % columns], -1)

    def step(plane: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        slab = numbers[plane : plane + PLANES]
        places = tf.where(slab > 0)
        owners = tf.searchsorted(roots, tf.gather_nd(slab, places))
        offset = tf.cast(tf.cast(places, tf.int32) - tf.gather(origins, owners) + tf.stack([plane, 0, 0]), tf.float64)
        columns = [
            tf.ones_like(offset[:, 0]),
            *tf.unstack(offset, 3, -1),
            *(offset[:, a] * offset[:, b] for a, b in PAIRS),
        ]
        return plane + PLANES, sums + tf.math.unsorted_segment_sum(tf.stack(columns, -1), owners, tf.size(roots))

    begin = (tf.constant(0), tf.zeros([tf.size(roots), 10], tf.float64))
    return tf.while_loop(lambda plane, _: plane < tf.shape(numbers)[0], step, begin, parallel_iterations=1)[1]
