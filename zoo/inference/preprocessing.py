"""Prepares a whole volume for a network: the named steps of a card, in order.

Grid steps come first: `Step("resample", {"spacing_mm": (1, 1, 1)})` or `Step("resize", {"shape": (128, 128, 128)})`.
Intensity steps follow, each channel alone: those of `zoo.volumes.intensity`, so that training and prediction share one
definition. Nothing is normalised a patch at a time.
"""

import difflib
from collections.abc import Callable, Sequence

import numpy as np

from zoo.errors import unknown_choice
from zoo.hub.card import Card, Step
from zoo.registry import check_arguments
from zoo.volumes import intensity
from zoo.volumes.image import resample

SAME_SPACING = 1e-3  # relative: headers round, and interpolating for less would only blur
ROUNDING = 1e-5  # relative: what resampling leaves of a difference where there was none


def to_work_grid(card: Card, volume: np.ndarray, spacing_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Brings a volume to the grid of a network: the card's spacing, then its grid steps.

    Args:
        card: of the trained model.
        volume: (x, y, z, channels) float32, RAS+.
        spacing_mm: its voxel size along x, y, z.

    Returns:
        (x', y', z', channels) float32, `volume` itself when the grid is right already, and its voxel size in mm.

    Raises:
        ValueError: an unknown step or parameter, or a grid step after an intensity step.
    """
    for step in grid_steps(card):
        check_arguments(GRID[step.name], step.parameters)
        volume, spacing_mm = GRID[step.name](volume, spacing_mm, **step.parameters)
    return volume, spacing_mm


def grid_steps(card: Card) -> list[Step]:
    """Returns the grid steps of a card; resampling to its spacing comes first where no step says how.

    Raises:
        ValueError: a grid step after an intensity step, or a misspelt grid step.
    """
    spacing, (steps, _) = card.input.spacing_mm, split(card.preprocessing)
    if spacing is None or any(step.name == "resample" for step in steps):
        return steps
    return [Step("resample", {"spacing_mm": spacing}), *steps]


def normalise(card: Card, volume: np.ndarray, name: str = "the images") -> np.ndarray:
    """Applies the intensity steps of a card, each channel alone, measured on the whole volume.

    Args:
        card: of the trained model.
        volume: (x, y, z, channels) float32 on the network's grid.
        name: what the error calls the case.

    Returns:
        The same shape, float32; `volume` itself when there is nothing to do.

    Raises:
        ValueError: an unknown step or setting, the nearest match is named; or channels that are all constant where
            their spread is asked for: there is no brain in them.
    """
    settings = [{"name": step.name, **step.parameters} for step in split(card.preprocessing)[1]]
    if not settings:
        return volume
    if any(step["name"] == "z_score" for step in settings) and not _varies(volume, settings):
        raise ValueError(
            f"There is no brain in {name}: no channel has more than one value where the brain should be. Leave the "
            "case out, or check how the files were made."
        )
    result = np.empty_like(volume)
    for index, channel in enumerate(card.input.channels):
        steps = intensity.of_channel(settings, channel.name)
        result[..., index] = intensity.measure(volume[..., index], steps).apply(volume[..., index])
    return result


def _varies(volume: np.ndarray, settings: Sequence[intensity.Step]) -> bool:
    """Returns whether any channel has more than one value where its spread is measured."""
    masked = any(step["name"] == "z_score" and step.get("mask") for step in settings)
    for channel in np.moveaxis(volume, -1, 0):
        values = channel[channel != 0] if masked else channel
        if values.size and np.ptp(values) > ROUNDING * np.abs(values).max():
            return True
    return False


def split(steps: Sequence[Step]) -> tuple[list[Step], list[Step]]:
    """Splits the steps of a card into grid steps and intensity steps.

    Raises:
        ValueError: a grid step after an intensity step, or a misspelt grid step.

    Example:
        >>> grid, intensities = split([Step("resize", {"shape": (64, 64, 64)}), Step("z_score", {})])
        >>> grid[0].name, intensities[0].name
        ('resize', 'z_score')
    """
    count = sum(step.name in GRID for step in steps)
    grid, rest = list(steps[:count]), list(steps[count:])
    for step in rest:
        if step.name in GRID:
            raise ValueError(
                f"The preprocessing step {step.name!r} changes the grid after {rest[0].name!r} changed intensities. "
                "List grid steps (resample, resize) first."
            )
        if difflib.get_close_matches(step.name, GRID, 1, 0.7):
            raise unknown_choice("preprocessing step", step.name, GRID)
    return grid, rest


def _resample(
    volume: np.ndarray, spacing: np.ndarray, *, spacing_mm: Sequence[float], antialias: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    target = np.broadcast_to(np.asarray(spacing_mm, np.float64), 3)
    if np.allclose(spacing, target, rtol=SAME_SPACING, atol=0):
        return volume, spacing
    return resample(volume, spacing, target, antialias=antialias), target


def _resize(
    volume: np.ndarray, spacing: np.ndarray, *, shape: Sequence[int], antialias: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    target = np.asarray(spacing) * np.asarray(volume.shape[:3]) / np.asarray(shape)
    return resample(volume, spacing, target, shape=tuple(shape), antialias=antialias), target


GRID: dict[str, Callable] = {"resample": _resample, "resize": _resize}
