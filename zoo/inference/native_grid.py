"""From the grid of a network back to that of the image, a slab at a time, and the labels of what is there."""

from collections.abc import Iterator, Sequence

import numpy as np

from zoo.volumes.image import resample_like

Shape = Sequence[int]


def native_slabs(
    values: np.ndarray, shape: Shape, scale: np.ndarray, *, budget_bytes: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Brings a volume from the network's grid to the image's, in slabs along x that fit a budget.

    The grids share their centre: image voxel i lies at (i - (N - 1) / 2) / scale + (n - 1) / 2 on the network's.
    Past its edge the edge repeats. Where the grids are equal, the slabs are views, bit for bit.

    Args:
        values: (x, y, z, channels) float32 on the network's grid.
        shape: voxels of the image along x, y, z.
        scale: image voxels that one voxel of the network's grid spans, along x, y, z.
        budget_bytes: what one slab may take; a single plane is made whatever it takes.

    Yields:
        A slice of x and the slab, (planes, y, z, channels) float32.
    """
    planes = max(1, int(budget_bytes // max(1, int(np.prod(shape[1:])) * values.shape[3] * 4)))
    same = tuple(shape) == values.shape[:3] and np.allclose(scale, 1, rtol=0, atol=1e-3)
    for first in range(0, shape[0], planes):
        part = slice(first, min(first + planes, shape[0]))
        yield part, values[part] if same else _slab(values, shape, scale, part)


def _slab(values: np.ndarray, shape: Shape, scale: np.ndarray, part: slice) -> np.ndarray:
    """One slab, from a crop with the edge repeated once: `resample_like` gives 0 outside the voxels it has."""
    sizes = np.asarray(values.shape[:3])
    origin = (sizes - 1) / 2 - (np.asarray(shape) - 1) / 2 / scale  # position of the image's first voxel
    start = origin[0] + part.start / scale[0]
    end = origin[0] + (part.stop - 1) / scale[0]
    low = int(np.clip(np.floor(start), 0, sizes[0] - 1))
    high = int(np.clip(np.ceil(end) + 1, low + 1, sizes[0]))
    crop = np.pad(values[low:high], ((1, 1), (1, 1), (1, 1), (0, 0)), mode="edge")
    target = np.diag([*(1 / scale), 1.0])
    target[:3, 3] = np.array([start - low, origin[1], origin[2]]) + 1
    return resample_like(crop, np.eye(4), (part.stop - part.start, *shape[1:]), target)


def classes(probabilities: np.ndarray, activation: str) -> np.ndarray:
    """The class of each voxel: arg-max; under a sigmoid, -1 where no class reaches one half.

    Args:
        probabilities: (x, y, z, num_classes) float32.
        activation: that made them.

    Returns:
        (x, y, z) int64; of equal probabilities the first.
    """
    best = probabilities.argmax(-1)
    if activation == "sigmoid":
        best[probabilities.max(-1) < 0.5] = -1
    return best
