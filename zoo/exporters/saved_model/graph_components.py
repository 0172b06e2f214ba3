"""Numbers connected components in a TensorFlow graph; tested against `zoo.volumes.components`.

Every voxel of a mask starts with a number of its own and takes the smallest among its neighbours until nothing changes;
between the rounds it jumps to the number that its number points at, so that long winding shapes take few rounds
(Shiloach and Vishkin, J. Algorithms 1982, doi 10.1016/0196-6774(82)90008-6).
"""

import tensorflow as tf

from zoo.errors import unknown_choice


def bounding_box(mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the smallest box that holds a mask: work in it costs the size of the structure, not of the head.

    Args:
        mask: (x, y, z) bool.

    Returns:
        Its first voxel and its size, each (3,) int32; zeros for an empty mask.
    """
    ends = []
    for axis in range(3):
        rows = tf.cast(tf.where(tf.reduce_any(mask, [other for other in range(3) if other != axis]))[:, 0], tf.int32)
        rows = tf.cond(tf.size(rows) > 0, lambda rows=rows: rows, lambda: tf.constant([0, -1]))
        ends.append((rows[0], rows[-1] + 1 - rows[0]))
    first, size = zip(*ends, strict=True)
    return tf.stack(first), tf.stack(size)


def put_back(part: tf.Tensor, first: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Puts a box of bool into a volume of False.

    Args:
        part: (i, j, k) bool.
        first: (3,) int32, the first voxel of the box.
        shape: (3,) int32, shape of the volume.
    """
    return tf.pad(part, tf.stack([first, shape - first - tf.shape(part)], 1))


def number_components(mask: tf.Tensor, connectivity: int = 26) -> tf.Tensor:
    """Numbers the connected components of a mask by their first voxel.

    Args:
        mask: (x, y, z) bool.
        connectivity: 6, 18 or 26 neighbours.

    Returns:
        (x, y, z) int32: one more than the flat index of the component's first voxel; 0 outside.

    Raises:
        ValueError: another connectivity.

    Example:
        >>> number_components(tf.constant([[[True, False, True]]])).numpy()
        array([[[1, 0, 3]]], dtype=int32)
    """
    if connectivity not in (6, 18, 26):
        raise unknown_choice("connectivity", connectivity, ("6", "18", "26"))
    size = tf.size(mask)
    no_number = tf.fill(tf.shape(mask), size + 1)
    start = tf.where(mask, tf.reshape(tf.range(1, size + 1), tf.shape(mask)), no_number)

    def spread(numbers: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        near = tf.where(mask, _neighbour_minimum(numbers, connectivity), no_number)
        table = tf.concat([[0], tf.reshape(near, [-1]), [size + 1]], 0)
        jumped = tf.minimum(near, tf.gather(table, near))
        return jumped, tf.reduce_any(jumped != numbers)

    begin = (start, tf.reduce_any(mask))
    numbers, _ = tf.while_loop(lambda _, changed: changed, spread, begin, parallel_iterations=1)
    return tf.where(mask, numbers, 0)


def component_roots(numbers: tf.Tensor) -> tf.Tensor:
    """Returns the number of each component once, ascending, (n,) int32."""
    flat = tf.reshape(numbers, [-1])
    return tf.boolean_mask(flat, flat == tf.range(1, tf.size(flat) + 1))


def component_sizes(numbers: tf.Tensor) -> tf.Tensor:
    """Counts the voxels of each number, (voxels + 1,) int32; 0 for the background."""
    counts = tf.math.bincount(tf.reshape(numbers, [-1]), minlength=tf.size(numbers) + 1)
    return tf.concat([[0], counts[1:]], 0)


def _neighbour_minimum(numbers: tf.Tensor, connectivity: int) -> tf.Tensor:
    """Returns the smallest number among each voxel and its neighbours."""
    lines = [_line_minimum(numbers, axis) for axis in range(3)]
    if connectivity == 6:
        return tf.reduce_min(tf.stack(lines), 0)
    if connectivity == 18:
        return tf.reduce_min(tf.stack([_line_minimum(line, (axis + 1) % 3) for axis, line in enumerate(lines)]), 0)
    return _line_minimum(_line_minimum(lines[0], 1), 2)


def _line_minimum(numbers: tf.Tensor, axis: int) -> tf.Tensor:
    """Returns the smallest of each voxel and its two neighbours along one axis."""
    count = tf.shape(numbers)[axis]
    rows = tf.range(count)
    ahead = tf.gather(numbers, tf.minimum(rows + 1, count - 1), axis=axis)
    behind = tf.gather(numbers, tf.maximum(rows - 1, 0), axis=axis)
    return tf.minimum(numbers, tf.minimum(ahead, behind))
