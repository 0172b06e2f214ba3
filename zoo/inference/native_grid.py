"""Brings what a network gives back to the grid of the image, a slab at a time, as values or as labels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from zoo.hub.card import Card, Label
from zoo.inference.postprocessing import postprocess
from zoo.volumes import image
from zoo.volumes.image import Image, resample_like

Shape = Sequence[int]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class NativeGrid:
    """The grid of an image, as seen from the grid of a network.

    Attributes:
        like: the first channel, whose grid results come back to.
        shape: voxels of the image along x, y, z in RAS+.
        scale: image voxels that a voxel of the network's grid spans, along x, y, z.
    """

    like: Image
    shape: tuple[int, ...]
    scale: np.ndarray


def native_values(values: np.ndarray, grid: NativeGrid, *, budget_bytes: int) -> Image:
    """Brings values to the image's grid.

    Args:
        values: (x, y, z, channels) float32 on the network's grid.
        grid: of the image.
        budget_bytes: what one slab may take.

    Returns:
        A float32 image of (x, y, z, channels), or of (x, y, z) for a single channel.
    """
    native = np.empty((*grid.shape, values.shape[-1]), np.float32)
    for part, slab in native_slabs(values, grid.shape, grid.scale, budget_bytes=budget_bytes):
        native[part] = slab
    native = native[..., 0] if native.shape[-1] == 1 else native
    return image.on_grid_of(grid.like, image.from_ras(native, grid.like))


def native_labels(
    probabilities: np.ndarray, grid: NativeGrid, card: Card, *, budget_bytes: int, confidence: np.ndarray | None = None
) -> Image:
    """Interpolates probabilities on the image's grid, takes the likeliest label there and postprocesses it.

    Args:
        probabilities: (x, y, z, num_classes) float32 on the network's grid.
        grid: of the image.
        card: of the model.
        budget_bytes: what one slab may take.
        confidence: (x, y, z) float32, filled with the probability of the likeliest label that is not background; None
            where it is not needed.

    Returns:
        The card's source values, in the smallest of uint8, int16 and int32.
    """
    table, names = source_values(card.output.labels), card.output.labels
    foreground = [channel for channel, index in enumerate(sorted(names)) if names[index].value]
    labels, box = np.zeros(tuple(grid.shape), table.dtype), None
    if confidence is None:  # between voxels of the background there is background
        box = _box_of_labels(table[classes(probabilities, card.output.activation)], grid)
    for part, slab in native_slabs(probabilities, grid.shape, grid.scale, budget_bytes=budget_bytes, box=box):
        labels[part] = table[classes(slab, card.output.activation)]
        if confidence is not None:
            confidence[part] = slab[..., foreground].max(-1)
    native = image.from_ras(labels, grid.like)
    del labels
    spacing = image.spacing_mm(grid.like.affine)  # along the image's own axes, so after turning back to them
    return image.on_grid_of(grid.like, postprocess(native, card.postprocessing, names, spacing_mm=spacing))


def _box_of_labels(labels: np.ndarray, grid: NativeGrid) -> Box:
    """Returns the voxels of the image that lie nearer than one voxel of the network's grid to a label."""
    box = []
    for axis, (size, scale) in enumerate(zip(grid.shape, grid.scale, strict=True)):
        along = np.flatnonzero(labels.any(axis=tuple({0, 1, 2} - {axis})))
        if not along.size:
            return (slice(0, 0),) * 3
        last = labels.shape[axis] - 1
        origin = last / 2 - (size - 1) / 2 / scale  # position of the image's first voxel
        low = 0 if along[0] == 0 else int(np.floor((along[0] - 1 - origin) * scale))
        high = size if along[-1] == last else int(np.ceil((along[-1] + 1 - origin) * scale)) + 1
        box.append(slice(max(low, 0), max(min(high, size), 0)))
    return (box[0], box[1], box[2])


def native_slabs(
    values: np.ndarray, shape: Shape, scale: np.ndarray, *, budget_bytes: int, box: Box | None = None
) -> Iterator[tuple[Box, np.ndarray]]:
    """Brings a volume from the network's grid to the image's, in slabs along x that fit a budget.

    The grids share their centre: image voxel i lies at (i - (N - 1) / 2) / scale + (n - 1) / 2 on the network's.
    Past its edge the edge repeats. Where the grids are equal, the slabs are views, bit for bit.

    Args:
        values: (x, y, z, channels) float32 on the network's grid.
        shape: voxels of the image along x, y, z.
        scale: image voxels that one voxel of the network's grid spans, along x, y, z.
        budget_bytes: what one slab may take; a single plane is made whatever it takes.
        box: slices of the image along x, y, z outside which nothing is made; None for all of it.

    Yields:
        Slices of x, y, z and the slab, (planes, y, z, channels) float32.

    Example:
        >>> volume = np.zeros((8, 4, 4, 1), np.float32)
        >>> slabs = native_slabs(volume, (16, 4, 4), np.array([2, 1, 1]), budget_bytes=640)
        >>> [slab.shape for _, slab in slabs]
        [(10, 4, 4, 1), (6, 4, 4, 1)]
    """
    x, y, z = box or (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
    plane = (y.stop - y.start) * (z.stop - z.start)
    planes = max(1, int(budget_bytes // max(1, plane * values.shape[3] * 4)))
    same = tuple(shape) == values.shape[:3] and np.allclose(scale, 1, rtol=0, atol=1e-3)
    for first in range(x.start, x.stop, planes):
        part = (slice(first, min(first + planes, x.stop)), y, z)
        yield part, values[part] if same else _resample_slab(values, shape, scale, part)


def _resample_slab(values: np.ndarray, shape: Shape, scale: np.ndarray, part: Box) -> np.ndarray:
    """Resamples one slab from a crop with the edge repeated once: `resample_like` gives 0 outside its voxels."""
    sizes = np.asarray(values.shape[:3])
    origin = (sizes - 1) / 2 - (np.asarray(shape) - 1) / 2 / scale  # position of the image's first voxel
    start = origin + [along.start for along in part] / scale
    end = origin + [along.stop - 1 for along in part] / scale
    low = np.clip(np.floor(start), 0, sizes - 1).astype(int)
    high = np.clip(np.ceil(end) + 1, low + 1, sizes).astype(int)
    inside = tuple(slice(*ends) for ends in zip(low, high, strict=True))
    crop = np.pad(values[inside], ((1, 1), (1, 1), (1, 1), (0, 0)), mode="edge")
    target = np.diag([*(1 / scale), 1.0])
    target[:3, 3] = start - low + 1
    return resample_like(crop, np.eye(4), tuple(along.stop - along.start for along in part), target)


def classes(probabilities: np.ndarray, activation: str) -> np.ndarray:
    """Returns the class of each voxel: arg-max; under a sigmoid, -1 where no class reaches one half.

    Args:
        probabilities: (x, y, z, num_classes) float32.
        activation: that made them.

    Returns:
        (x, y, z) int64; of equal probabilities the first.

    Example:
        >>> classes(np.array([[[[0.4, 0.3], [0.2, 0.9]]]]), "sigmoid").tolist()
        [[[-1, 1]]]
    """
    best = probabilities.argmax(-1)
    if activation == "sigmoid":
        best[probabilities.max(-1) < 0.5] = -1
    return best


def source_values(labels: Mapping[int, Label]) -> np.ndarray:
    """Returns the source value of each class, and last a 0 for voxels of none, so that class -1 gives 0.

    Args:
        labels: of a card, by channel index from 0.

    Returns:
        (num_classes + 1,) in the smallest of uint8, int16 and int32 that holds them.

    Example:
        >>> source_values({0: Label("background", 0), 1: Label("thalamus", 1010)})
        array([   0, 1010,    0], dtype=int16)
    """
    values = [labels[index].value for index in sorted(labels)]
    lowest, highest = min(0, *values), max(0, *values)
    dtype = next(d for d in ("uint8", "int16", "int32") if np.iinfo(d).min <= lowest and highest <= np.iinfo(d).max)
    return np.asarray([*values, 0], dtype)
