"""What is done to a volume before a network sees it: the named steps of a card, on NumPy arrays.

A card lists them with their numbers, in order: `Step("resample", {"spacing_mm": (1, 1, 1)})`,
`Step("z_score", {"mask": "nonzero"})`. Each channel is treated alone, each volume whole: before it is cut into
patches, in training and in prediction alike. A new step is one more function in `GRID` or `INTENSITY`.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from zoo.cards import Step
from zoo.registry import check_arguments, unknown
from zoo.volumes.image import resample
from zoo.volumes.resampling import resampled_shape

MASKS = ("all", "nonzero")


def apply(steps: Iterable[Step], volume: np.ndarray, spacing_mm: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Applies named steps to a volume.

    Args:
        steps: as a card has them.
        volume: (x, y, z, channels) float32 in RAS+; not changed.
        spacing_mm: its voxel size along x, y, z.

    Returns:
        The volume, (x', y', z', channels) float32, and its new voxel size in mm, (3,).

    Raises:
        ValueError: an unknown step, parameter or parameter value; the nearest match is named.
    """
    spacing = np.asarray(spacing_mm, np.float64)
    for step in steps:
        check(step)
        if step.name in GRID:
            volume, spacing = GRID[step.name](volume, spacing, **step.parameters)
        else:
            channels = [INTENSITY[step.name](volume[..., c], **step.parameters) for c in range(volume.shape[-1])]
            volume = np.stack(channels, -1).astype(np.float32, copy=False)
    return volume, spacing


def check(step: Step) -> None:
    """Checks that a step exists and takes its parameters.

    Raises:
        ValueError: it does not; the nearest match is named.
    """
    if step.name not in GRID and step.name not in INTENSITY:
        raise unknown("preprocessing step", step.name, [*GRID, *INTENSITY])
    function = GRID.get(step.name) or INTENSITY[step.name]
    check_arguments(function, step.parameters)


def _resample(
    volume: np.ndarray, spacing: np.ndarray, *, spacing_mm: Sequence[float], antialias: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    target = np.broadcast_to(np.asarray(spacing_mm, np.float64), 3)
    shape = resampled_shape(volume.shape, spacing, target)
    return resample(volume, spacing, target, shape=shape, antialias=antialias), target


def _resize(
    volume: np.ndarray, spacing: np.ndarray, *, shape: Sequence[int], antialias: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    target = spacing * np.asarray(volume.shape[:3]) / np.asarray(shape)
    return resample(volume, spacing, target, shape=tuple(shape), antialias=antialias), target


def _chosen(channel: np.ndarray, mask: str) -> np.ndarray:
    if mask not in MASKS:
        raise unknown("mask", mask, MASKS)
    values = channel[channel != 0] if mask == "nonzero" else channel.ravel()
    return values if values.size else np.zeros(1, channel.dtype)


def _z_score(channel: np.ndarray, *, mask: str = "nonzero") -> np.ndarray:
    """Zero mean and unit deviation over the mask; outside it 0."""
    values = _chosen(channel, mask)
    mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    scored = (channel - np.float32(mean)) / np.float32(max(deviation, 1e-8))
    return scored if mask == "all" else np.where(channel != 0, scored, np.float32(0))


def _clip_percentiles(
    channel: np.ndarray, *, low: float = 0.5, high: float = 99.5, mask: str = "nonzero"
) -> np.ndarray:
    """Clips to two percentiles of the voxels in the mask; what is 0 outside it stays 0."""
    least, most = np.percentile(_chosen(channel, mask), [low, high]).astype(np.float32)
    clipped = np.clip(channel, least, most)
    return clipped if mask == "all" else np.where(channel != 0, clipped, np.float32(0))


def _rescale(channel: np.ndarray, *, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Maps the smallest value to `low` and the largest to `high`."""
    least, most = float(channel.min()), float(channel.max())
    return (channel - np.float32(least)) * np.float32((high - low) / max(most - least, 1e-8)) + np.float32(low)


def _clip(channel: np.ndarray, *, low: float, high: float) -> np.ndarray:
    return np.clip(channel, np.float32(low), np.float32(high))


def _divide_by_maximum(channel: np.ndarray) -> np.ndarray:
    most = channel.max()
    return channel / most if most else channel


def _divide(channel: np.ndarray, *, by: float) -> np.ndarray:
    return channel / np.float32(by)


GRID: dict[str, Callable] = {"resample": _resample, "resize": _resize}
INTENSITY: dict[str, Callable] = {
    "clip": _clip,
    "clip_percentiles": _clip_percentiles,
    "divide": _divide,
    "divide_by_maximum": _divide_by_maximum,
    "rescale": _rescale,
    "z_score": _z_score,
}
