"""Size and shape of connected components as a TensorFlow graph; `zoo.evaluation.candidates` is the oracle.

Sums over slabs of planes, so that what is held grows with the number of components and not with their voxels.
"""

import math
from typing import NamedTuple

import tensorflow as tf

from zoo.evaluation.candidates import ROUNDING
from zoo.exporters.saved_model import graph_components

PLANES = 4  # summed at once
PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # of axes, for second moments


class Measured(NamedTuple):
    """Every component of a mask, in the order of their numbers.

    Attributes:
        roots: (n,) int32, its number (`graph_components.numbered`).
        diameter_mm: (n,) float64, of the ball of its volume.
        elongation: (n,) float64, longest over shortest principal SD; each voxel counts with its own extent.
    """

    roots: tf.Tensor
    diameter_mm: tf.Tensor
    elongation: tf.Tensor


def measured(numbers: tf.Tensor, spacing_mm: tf.Tensor) -> Measured:
    """Measures components.

    Args:
        numbers: (x, y, z) int32 of `graph_components.numbered`.
        spacing_mm: (3,) float64.
    """
    roots = graph_components.roots(numbers)
    sums = _moments(numbers, roots)
    count, mean, second = sums[:, :1], sums[:, 1:4] / sums[:, :1], sums[:, 4:] / sums[:, :1]
    spread = [second[:, index] - mean[:, a] * mean[:, b] for index, (a, b) in enumerate(PAIRS)]
    matrix = tf.stack([tf.stack([spread[PAIRS.index((min(a, b), max(a, b)))] for b in range(3)], -1)
                       for a in range(3)], -2)  # fmt: skip
    voxel = tf.eye(3, dtype=tf.float64) / 12  # the variance of a box: it keeps single voxels and lines finite
    principal = tf.linalg.eigvalsh((matrix + voxel) * spacing_mm[:, None] * spacing_mm)
    volume_mm3 = count[:, 0] * tf.reduce_prod(spacing_mm)
    return Measured(roots, (6 * volume_mm3 / math.pi) ** (1 / 3), tf.sqrt(principal[:, -1] / principal[:, 0]))


def plausible(
    numbers: tf.Tensor, spacing_mm: tf.Tensor, *, diameter_mm: tuple[float, float], elongation: float
) -> tf.Tensor:
    """Where a component has the size and the shape of what is looked for (`zoo.evaluation.candidates.select`).

    Args:
        numbers: (x, y, z) int32 of `graph_components.numbered`.
        spacing_mm: (3,) float64.
        diameter_mm: least and largest diameter.
        elongation: largest elongation.

    Returns:
        (x, y, z) bool.
    """
    found, (least, most) = measured(numbers, spacing_mm), diameter_mm
    sized = (found.diameter_mm >= least * (1 - ROUNDING)) & (found.diameter_mm <= most * (1 + ROUNDING))
    kept = sized & (found.elongation <= elongation * (1 + ROUNDING))
    table = tf.scatter_nd(found.roots[:, None], tf.cast(kept, tf.int32), [tf.size(numbers) + 1])
    return tf.gather(table, numbers) > 0


def _moments(numbers: tf.Tensor, roots: tf.Tensor) -> tf.Tensor:
    """(n, 10) float64: voxels, sums of places, sums of their products, each place counted from the first voxel."""
    _, rows, columns = tf.unstack(tf.maximum(tf.shape(numbers), 1))
    flat = roots - 1
    origins = tf.stack([flat // (rows * columns), flat // columns % rows, flat % columns], -1)

    def step(plane: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        slab = numbers[plane : plane + PLANES]
        places = tf.where(slab > 0)
        owners = tf.searchsorted(roots, tf.gather_nd(slab, places))
        apart = tf.cast(tf.cast(places, tf.int32) - tf.gather(origins, owners) + tf.stack([plane, 0, 0]), tf.float64)
        columns = [tf.ones_like(apart[:, 0]), *tf.unstack(apart, 3, -1), *(apart[:, a] * apart[:, b] for a, b in PAIRS)]
        return plane + PLANES, sums + tf.math.unsorted_segment_sum(tf.stack(columns, -1), owners, tf.size(roots))

    begin = (tf.constant(0), tf.zeros([tf.size(roots), 10], tf.float64))
    return tf.while_loop(lambda plane, _: plane < tf.shape(numbers)[0], step, begin, parallel_iterations=1)[1]
