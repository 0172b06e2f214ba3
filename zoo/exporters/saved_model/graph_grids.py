"""Turns and resamples volumes in a TensorFlow graph; tested against `zoo.volumes`."""

from collections.abc import Sequence

import tensorflow as tf

from zoo.inference.preprocessing import SAME_SPACING
from zoo.volumes.resampling import SPACING_DECIMALS

SAME_SCALE = 1e-3  # as in zoo.inference.native_grid: grids closer than this are one
SPACING_TOLERANCE = 1e-2  # relative: by how much spacing_mm and the affine may differ


def orientation(affine: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the world axis that each array axis runs along, and whether it runs backwards.

    The columns are first made orthogonal (polar decomposition); the array axis that lies closest to a world axis
    chooses first. This is what `nibabel.orientations.io_orientation` does.

    Args:
        affine: (4, 4) float64, voxel index to mm, not singular.

    Returns:
        (3,) int32, the world axis of each array axis, and (3,) bool, whether it must be reversed for RAS+.
    """
    directions = affine[:3, :3] / tf.norm(affine[:3, :3], axis=0)
    _, left, right = tf.linalg.svd(directions)
    rotation = left @ tf.transpose(right)
    order = tf.argsort(tf.reduce_min(-tf.square(rotation), axis=0), stable=True)
    world, reverse = tf.zeros(3, tf.int32), tf.zeros(3, tf.bool)
    for turn in range(3):
        axis = order[turn]
        column = rotation[:, axis]
        direction = tf.argmax(tf.abs(column), output_type=tf.int32)
        here = tf.range(3) == axis
        world = tf.where(here, direction, world)
        reverse = tf.where(here, column[direction] < 0, reverse)
        rotation = tf.where((tf.range(3) == direction)[:, None], tf.zeros_like(rotation), rotation)
    return world, reverse


def to_ras(volume: tf.Tensor, world: tf.Tensor, reverse: tf.Tensor) -> tf.Tensor:
    """Turns (x, y, z, channels) to RAS+ by the result of `orientation`, without interpolation."""
    channels = volume.shape[-1]
    flipped = tf.raw_ops.Reverse(tensor=volume, dims=tf.concat([reverse, [False]], 0))
    turned = tf.transpose(flipped, tf.concat([tf.math.invert_permutation(world), [3]], 0))
    return tf.ensure_shape(turned, (None, None, None, channels))


def from_ras(volume: tf.Tensor, world: tf.Tensor, reverse: tf.Tensor) -> tf.Tensor:
    """Undoes `to_ras`, for (x, y, z, channels)."""
    channels = volume.shape[-1]
    turned = tf.transpose(volume, tf.concat([world, [3]], 0))
    flipped = tf.raw_ops.Reverse(tensor=turned, dims=tf.concat([reverse, [False]], 0))
    return tf.ensure_shape(flipped, (None, None, None, channels))


def spacing_of(spacing_mm: tf.Tensor, affine: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns voxel size and affine of an image; an affine of zeros stands for axes that are RAS+ already.

    Args:
        spacing_mm: (3,) float32, along the axes of the array; zeros to take them from the affine.
        affine: (4, 4) float32, or zeros.

    Returns:
        (3,) and (4, 4) float64.
    """
    spacing, affine = tf.cast(spacing_mm, tf.float64), tf.cast(affine, tf.float64)
    voxel_mm = tf.norm(affine[:3, :3], axis=0)
    no_affine, no_spacing = tf.reduce_all(affine[:3, :3] == 0), tf.reduce_all(spacing == 0)
    spacing = tf.where(no_spacing, voxel_mm, spacing)
    agree = tf.abs(voxel_mm - spacing) <= SPACING_TOLERANCE * spacing
    checks = [
        tf.debugging.Assert(
            tf.reduce_all(tf.math.is_finite(spacing) & (spacing > 0)),
            ["spacing_mm must be three positive numbers, or zeros with an affine; got", spacing_mm],
        ),
        tf.debugging.Assert(
            no_affine | tf.reduce_all(agree),
            ["spacing_mm and the voxel size of the affine differ:", spacing_mm, voxel_mm],
        ),
    ]
    with tf.control_dependencies(checks):
        straight = tf.linalg.diag(tf.concat([spacing, [tf.constant(1, tf.float64)]], 0))
        return tf.identity(spacing), tf.where(no_affine, straight, affine)


def to_work_grid(
    volume: tf.Tensor, spacing_mm: tf.Tensor, steps: Sequence[tuple[str, dict]]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Carries out the grid steps of a card, as `zoo.inference.preprocessing.to_work_grid` does.

    Args:
        volume: (x, y, z, channels) float32, RAS+.
        spacing_mm: (3,) float64.
        steps: names ("resample", "resize") with their parameters.

    Returns:
        The volume and its voxel size in mm, (3,) float64.
    """
    for name, settings in steps:
        shape = tf.shape(volume)[:3]
        if name == "resize":
            new_shape = tf.constant(settings["shape"], tf.int32)
            target = spacing_mm * tf.cast(shape, tf.float64) / tf.cast(new_shape, tf.float64)
        else:
            requested = tf.broadcast_to(tf.constant(settings["spacing_mm"], tf.float64), (3,))
            same = tf.reduce_all(tf.abs(spacing_mm - requested) <= SAME_SPACING * requested)
            target = tf.where(same, spacing_mm, requested)
            extent = tf.cast(shape, tf.float64) * spacing_mm / target
            new_shape = tf.where(same, shape, tf.maximum(tf.cast(tf.floor(extent + 0.5 + 1e-6), tf.int32), 1))
        ratio = target / spacing_mm
        width = tf.maximum(ratio, 1.0) if settings.get("antialias") else tf.ones_like(ratio)
        volume = _resample(volume, new_shape, ratio, width)
        spacing_mm = target
    return volume, spacing_mm


def to_image_grid(values: tf.Tensor, shape: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """Resamples from the network's grid to the image's, whose centres coincide; equal grids are passed through.

    Args:
        values: (x, y, z, channels) float32.
        shape: (3,) int32, voxels of the image.
        scale: (3,) float64, image voxels that one voxel of the network's grid spans.

    Returns:
        (*shape, channels) float32.
    """
    return _resample(values, shape, ratio_back(values, shape, scale), tf.ones_like(scale))


def ratio_back(values: tf.Tensor, shape: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """Returns the voxels of the network's grid that one image voxel spans; 1 where the grids are equal."""
    same = tf.reduce_all(tf.shape(values)[:3] == shape) & tf.reduce_all(tf.abs(scale - 1) <= SAME_SCALE)
    return tf.where(same, tf.ones_like(scale), 1 / scale)


def planes_back(values: tf.Tensor, shape: tf.Tensor, ratio: tf.Tensor, first: tf.Tensor, count: int) -> tf.Tensor:
    """Returns a slab of `to_image_grid`: `count` planes from x = `first`; planes past the end repeat the last one."""
    rows = tf.minimum(first + tf.range(count), shape[0] - 1)
    matrix = tf.gather(_interpolation_matrix(tf.shape(values)[0], shape[0], ratio[0], tf.ones_like(ratio[0])), rows)
    slab = _apply_matrix(matrix, values, 0)
    for axis in (1, 2):
        slab = _resample_axis(slab, axis, shape[axis], ratio[axis], tf.ones_like(ratio[axis]))
    return slab


def _resample(volume: tf.Tensor, shape: tf.Tensor, ratio: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Resamples linearly, axis by axis."""
    for axis in range(3):
        volume = _resample_axis(volume, axis, shape[axis], ratio[axis], width[axis])
    return volume


def _resample_axis(volume: tf.Tensor, axis: int, size: tf.Tensor, ratio: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Resamples one axis; returns the volume unchanged where neither size nor spacing changes."""
    now = tf.shape(volume)[axis]
    same = (now == size) & (tf.abs(ratio - 1) < 1e-9)

    def resample() -> tf.Tensor:
        return _apply_matrix(_interpolation_matrix(now, size, ratio, width), volume, axis)

    result = tf.cond(same, lambda: volume, resample)
    return tf.ensure_shape(result, (None, None, None, volume.shape[-1]))


def _interpolation_matrix(num_in: tf.Tensor, num_out: tf.Tensor, ratio: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Returns (num_out, num_in) float32: row i weighs the input voxels for output voxel i, by a triangle."""
    first, last = (tf.cast(num - 1, tf.float64) for num in (num_in, num_out))
    steps = 10.0**SPACING_DECIMALS
    offset = (tf.range(num_out, dtype=tf.float64) - last / 2) * ratio
    position = tf.clip_by_value(tf.round(offset * steps) / steps + first / 2, tf.zeros_like(first), first)
    distance = tf.abs(position[:, None] - tf.range(num_in, dtype=tf.float64))
    weights = tf.maximum(1 - distance / width, 0)
    return tf.cast(weights / tf.reduce_sum(weights, 1, keepdims=True), tf.float32)


def _apply_matrix(matrix: tf.Tensor, volume: tf.Tensor, axis: int) -> tf.Tensor:
    """Applies a matrix (m, n) to one axis of (x, y, z, channels) without moving axes."""
    shape, channels = tf.shape(volume), volume.shape[-1]
    if axis == 2 and channels == 1:
        result = tf.linalg.matmul(tf.reshape(volume, [-1, shape[2]]), matrix, transpose_b=True)
    else:
        result = tf.linalg.matmul(matrix, tf.reshape(volume, [tf.reduce_prod(shape[:axis]), shape[axis], -1]))
    sizes = tf.concat([shape[:axis], tf.shape(matrix)[:1], shape[axis + 1 :]], 0)
    return tf.ensure_shape(tf.reshape(result, sizes), (None, None, None, channels))
