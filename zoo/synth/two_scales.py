"""Cuts a patch and its surroundings (`zoo.volumes.context`) from one painted volume."""

from collections.abc import Sequence
from typing import Any

from keras import ops

Tensor = Any


def middle(volume: Tensor, shape: Sequence[int]) -> Tensor:
    """Cuts the middle voxels of a volume.

    Args:
        volume: (x, y, z, ...).
        shape: voxels of the result.

    Returns:
        (*shape, ...).
    """
    x, y, z = (slice((size - part) // 2, (size + part) // 2) for size, part in zip(volume.shape, shape, strict=False))
    return volume[x, y, z]


def two_scales(wide: Tensor, *maps: Tensor, ratio: int) -> tuple[Tensor, ...]:
    """Returns the middle patch of a volume beside the whole volume, averaged down to the same number of voxels.

    Args:
        wide: (ratio x, ratio y, ratio z, channels) float32.
        *maps: (ratio x, ratio y, ratio z) of any dtype.
        ratio: width of the volume over that of the patch.

    Returns:
        (x, y, z, 2 channels) float32, the patch first; and the middle of each map, (x, y, z).
    """
    *shape, channels = wide.shape
    x, y, z = (size // ratio for size in shape)
    blocks = ops.mean(ops.reshape(wide, (x, ratio, y, ratio, z, ratio, channels)), axis=(1, 3, 5))
    both = ops.concatenate([middle(wide, (x, y, z)), blocks], axis=-1)
    return both, *(middle(each, (x, y, z)) for each in maps)
