"""Computes the surroundings of a patch: a region several times as wide about its centre, averaged to as many voxels.

Voxel j of the surroundings is the mean of a block of `ratio` voxels a side. The central blocks lie on those of
the patch itself, so that a network can join their features to its level of that stride voxel by voxel.
"""

from collections.abc import Sequence

import numpy as np


def check(size: Sequence[int], ratio: int) -> None:
    """Checks that a patch can have surroundings of a ratio.

    Args:
        size: voxels of a patch along x, y, z.
        ratio: how many times as wide the surroundings are.

    Raises:
        ValueError: the ratio is no whole number of 2 or more, or the blocks of the patch and of its surroundings do not
            fall on each other.
    """
    if ratio < 2 or int(ratio) != ratio:
        raise ValueError(f"context is how many times as wide surroundings are, 2 or more, got {ratio}. Pass 4 or None.")
    if any(n % (2 * ratio) for n in size):
        raise ValueError(
            f"A patch with surroundings {ratio} times as wide must be a multiple of {2 * ratio} voxels along each "
            f"axis, got {tuple(size)}. Change the patch."
        )


def block_means(volume: np.ndarray, ratio: int) -> np.ndarray:
    """Averages the blocks of a volume that begin at each voxel; the volume is 0 beyond its edge.

    Called once for a volume: the surroundings of each window are then every `ratio`-th entry.

    Args:
        volume: (x, y, z, channels).
        ratio: voxels along the edge of a block.

    Returns:
        (x + ratio - 1, y + ratio - 1, z + ratio - 1, channels) float32; entry i + ratio - 1 belongs to the block that
        begins at voxel i, the first ones to blocks that begin outside.
    """
    means = np.asarray(volume, np.float32)
    for axis in range(3):
        num, whole = means.shape[axis], (slice(None),) * axis
        sums = np.zeros((*means.shape[:axis], num + ratio - 1, *means.shape[axis + 1 :]), np.float32)
        for shift in range(ratio):
            sums[(*whole, slice(shift, shift + num))] += means
        sums /= ratio
        means = sums
    return means


def around(means: np.ndarray, corner: Sequence[int], size: Sequence[int], ratio: int) -> np.ndarray:
    """Returns the surroundings of one window.

    Args:
        means: from `block_means` of the volume.
        corner: first voxel of the window in the volume.
        size: its voxels along x, y, z.
        ratio: as for the means.

    Returns:
        (*size, channels) float32, 0 beyond the volume.
    """
    result = np.zeros((*size, means.shape[3]), np.float32)
    there, taken = [], []
    for start, voxels, extent in zip(corner, size, means.shape[:3], strict=True):
        first = int(start) - (ratio - 1) * voxels // 2 + ratio - 1  # the entry of the first block
        low = max(0, -(first // ratio))
        high = max(low, min(voxels, -((first - extent) // ratio)))
        there.append(slice(low, high))
        taken.append(slice(first + ratio * low, max(first + ratio * high, 0), ratio))
    result[tuple(there)] = means[tuple(taken)]
    return result
