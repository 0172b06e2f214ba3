"""Connected components of masks, as a TensorFlow graph; `zoo.volumes.components` is the oracle.

Every voxel of a mask starts with a number of its own and takes the smallest among its neighbours until nothing changes;
between the rounds it jumps to the number that its number points at, so that long winding shapes take few rounds
(Shiloach and Vishkin, J. Algorithms 1982, doi 10.1016/0196-6774(82)90008-6).
"""

import tensorflow as tf

from zoo.errors import unknown_choice


def box(mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The smallest box that holds a mask: work inside it costs what the structure takes, not the head.

    Args:
        mask: (x, y, z) bool.

    Returns:
        Its first voxel and its size, each (3,) int32; zeros for an empty mask.
    """
    ends = []
    for axis in range(3):
        rows = tf.cast(tf.where(tf.reduce_any(mask, [one for one in range(3) if one != axis]))[:, 0], tf.int32)
        rows = tf.cond(tf.size(rows) > 0, lambda rows=rows: rows, lambda: tf.constant([0, -1]))
        ends.append((rows[0], rows[-1] + 1 - rows[0]))
    first, size = zip(*ends, strict=True)
    return tf.stack(first), tf.stack(size)


def put_back(part: tf.Tensor, first: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """A box of bool in a volume of False.

    Args:
        part: (i, j, k) bool.
        first: (3,) int32, its first voxel.
        shape: (3,) int32, of the volume.
    """
    return tf.pad(part, tf.stack([first, shape - first - tf.shape(part)], 1))


def numbered(mask: tf.Tensor, connectivity: int = 26) -> tf.Tensor:
    """Numbers the connected components of a mask by their first voxel.

    Args:
        mask: (x, y, z) bool.
        connectivity: 6, 18 or 26 neighbours.

    Returns:
        (x, y, z) int32: one more than the flat index of the component's first voxel; 0 outside.

    Raises:
        ValueError: another connectivity.
    """
    if connectivity not in (6, 18, 26):
        raise unknown_choice("connectivity", connectivity, ("6", "18", "26"))
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


def roots(numbers: tf.Tensor) -> tf.Tensor:
    """The number of each component, once, in order, (n,) int32: the voxels that bear their own."""
    flat = tf.reshape(numbers, [-1])
    return tf.boolean_mask(flat, flat == tf.range(1, tf.size(flat) + 1))


def sizes(numbers: tf.Tensor) -> tf.Tensor:
    """Voxels of each number, (voxels + 1,) int32; of the background none."""
    counts = tf.math.bincount(tf.reshape(numbers, [-1]), minlength=tf.size(numbers) + 1)
    return tf.concat([[0], counts[1:]], 0)


def _least(numbers: tf.Tensor, connectivity: int) -> tf.Tensor:
    """The smallest number among a voxel and its neighbours."""
    lines = [_pair(numbers, axis) for axis in range(3)]
    if connectivity == 6:
        return tf.reduce_min(tf.stack(lines), 0)
    if connectivity == 18:
        return tf.reduce_min(tf.stack([_pair(line, (axis + 1) % 3) for axis, line in enumerate(lines)]), 0)
    return _pair(_pair(lines[0], 1), 2)


def _pair(numbers: tf.Tensor, axis: int) -> tf.Tensor:
    """The smallest of a voxel and its two neighbours along one axis."""
    count = tf.shape(numbers)[axis]
    rows = tf.range(count)
    ahead = tf.gather(numbers, tf.minimum(rows + 1, count - 1), axis=axis)
    behind = tf.gather(numbers, tf.maximum(rows - 1, 0), axis=axis)
    return tf.minimum(numbers, tf.minimum(ahead, behind))
