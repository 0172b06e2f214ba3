"""Labels connected components of masks, takes the largest, and fills holes."""

from typing import Literal, cast, get_args

import cc3d
import numpy as np

from zoo.errors import unknown_choice

Connectivity = Literal[6, 18, 26]  # neighbours that share a face, an edge as well, a corner as well


def label_components(mask: np.ndarray, connectivity: int = 26) -> tuple[np.ndarray, int]:
    """Numbers the connected components of a mask in the order of their first voxels, z running fastest.

    Args:
        mask: (x, y, z); every voxel other than 0 belongs to it.
        connectivity: 6, 18 or 26 neighbours.

    Returns:
        (x, y, z) unsigned integers, 0 outside the mask and 1 to n inside, and n.

    Raises:
        ValueError: another connectivity, or a mask that is not 3D.

    Example:
        >>> mask = np.zeros((16, 24, 32), bool)
        >>> mask[2:4, 2, 2] = mask[8, 8, 8] = True
        >>> label_components(mask)[1]
        2
    """
    if connectivity not in get_args(Connectivity):
        raise unknown_choice("connectivity", connectivity, map(str, get_args(Connectivity)))
    inside = np.ascontiguousarray(_check_volume(mask) != 0)  # cc3d numbers in the order of memory
    labels, num = cc3d.connected_components(inside, connectivity=cast(Connectivity, connectivity), return_N=True)
    return labels, int(num)


def largest_component(mask: np.ndarray, connectivity: int = 26) -> np.ndarray:
    """Returns the connected component of a mask with the most voxels.

    Args:
        mask: (x, y, z); every voxel other than 0 belongs to it.
        connectivity: 6, 18 or 26 neighbours.

    Returns:
        (x, y, z) bool; empty for an empty mask; of equal components the one met first.

    Raises:
        ValueError: as `label_components`.

    Example:
        >>> mask = np.zeros((16, 24, 32), bool)
        >>> mask[2:4, 2, 2] = mask[8, 8, 8] = True
        >>> int(largest_component(mask).sum())
        2
    """
    labels, num = label_components(mask, connectivity)
    if num < 2:
        return labels > 0
    sizes = cc3d.statistics(labels)["voxel_counts"][1:]
    return labels == 1 + int(np.argmax(sizes))


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Fills the holes of a mask: background that no path through voxel faces joins to the volume's edge.

    Args:
        mask: (x, y, z); every voxel other than 0 belongs to it.

    Returns:
        (x, y, z) bool, a superset of the mask.

    Raises:
        ValueError: a mask that is not 3D.

    Example:
        >>> mask = np.ones((3, 3, 3), bool)
        >>> mask[1, 1, 1] = False
        >>> bool(fill_holes(mask).all())
        True
    """
    # A frame of background joins all that touches the edge into one component, the one of the first voxel.
    background = np.pad(_check_volume(mask) == 0, 1, constant_values=True)
    labels, _ = label_components(background, connectivity=6)
    return labels[1:-1, 1:-1, 1:-1] != labels[0, 0, 0]


def _check_volume(mask: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 3:
        raise ValueError(f"A mask is 3D (x, y, z), got shape {mask.shape}. Take channels or batches one by one.")
    return mask
