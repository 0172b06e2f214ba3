"""Registers two sets of tissue maps diffeomorphically: estimates a stationary velocity, coarse to fine."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

SQUARINGS = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a registration.

    Attributes:
        shrink: voxels of the given grid along the edge of a level's voxel, the coarsest first.
        rounds: updates of each level.
        smooth: SD in voxels of the level, of each update (as in fluids) and of the velocity (as in elastic bodies).
        step: longest move of one update, in voxels of the level.
    """

    shrink: tuple[int, ...] = (4, 2, 1)
    rounds: tuple[int, ...] = (40, 30, 4)
    smooth: tuple[float, float] = (1.5, 0.7)
    step: float = 0.5


DEFAULT = Settings()


@dataclasses.dataclass(frozen=True)
class Warp:
    """A diffeomorphism of a grid.

    Attributes:
        velocity: (3, x, y, z) float32, stationary, in voxels.
    """

    velocity: np.ndarray

    def displacement(self, *, inverse: bool = False) -> np.ndarray:
        """Returns the shift from each voxel of the fixed image to its place in the moving one: (3, x, y, z) in voxels.

        Args:
            inverse: return the shift from the moving image to the fixed one instead.
        """
        return integrated(-self.velocity if inverse else self.velocity)


def integrated(velocity: np.ndarray) -> np.ndarray:
    """Integrates a stationary velocity over unit time to a displacement, by scaling and squaring.

    Args:
        velocity: (3, x, y, z) in voxels.

    Returns:
        (3, x, y, z) float32, in voxels.

    Source: Arsigny et al., MICCAI 2006, doi 10.1007/11866565_113.
    """
    field = velocity.astype(np.float32) / 2**SQUARINGS
    for _ in range(SQUARINGS):
        field = field + pulled(field, field)
    return field


def pulled(volumes: np.ndarray, displacement: np.ndarray, *, order: int = 1) -> np.ndarray:
    """Samples volumes at displaced places; past the border the border repeats.

    Args:
        volumes: (n, x, y, z).
        displacement: (3, x, y, z) in voxels.
        order: 1 trilinear, 0 nearest.

    Returns:
        (n, x, y, z) float32; the dtype of the volumes for order 0.
    """
    return pulled_at(volumes, np.indices(displacement.shape[1:], np.float32) + displacement, order=order)


def pulled_at(volumes: np.ndarray, places: np.ndarray, *, order: int = 1) -> np.ndarray:
    """Samples volumes (n, x, y, z) at places (3, ...) in voxels, as `pulled` interpolates: (n, ...)."""
    kind = volumes.dtype if order == 0 else np.float32
    return np.stack([ndimage.map_coordinates(volume, places, kind, order=order, mode="nearest") for volume in volumes])


def register(fixed: np.ndarray, moving: np.ndarray, settings: Settings = DEFAULT) -> Warp:
    """Estimates the diffeomorphism that maps one brain's tissue maps onto another's, already affinely aligned.

    Symmetric demons on several channels at once: at each round the velocity moves along the difference of the maps,
    by the mean of both gradients, at most `step` voxels, and is smoothed. Maps should have soft edges.

    Args:
        fixed: (channels, x, y, z), 0 to 1.
        moving: the same shape.
        settings: rounds and smoothness.

    Returns:
        The warp; `pulled(moving, warp.displacement())` lies on `fixed`.

    Raises:
        ValueError: the shapes differ, or the maps are not 4D.

    Source: Vercauteren et al., NeuroImage 2009, doi 10.1016/j.neuroimage.2008.10.040 (log-domain demons). Ours adds the
    update to the velocity, its first-order composition, and has a channel a tissue.
    """
    if fixed.ndim != 4 or fixed.shape != moving.shape:
        raise ValueError(
            f"Registration takes two stacks of maps (channels, x, y, z) of one shape, got {fixed.shape} and "
            f"{moving.shape}. Resample the moving maps to the fixed grid first."
        )
    velocity = np.zeros((3, *_shrink_shape(fixed.shape[1:], settings.shrink[0])), np.float32)
    for shrink, rounds in zip(settings.shrink, settings.rounds, strict=True):
        fixed_maps, moving_maps = (_shrink(maps, shrink) for maps in (fixed, moving))
        velocity = resized(velocity, fixed_maps.shape[1:])
        for _ in range(rounds):
            velocity = _update(velocity, fixed_maps, moving_maps, settings)
    return Warp(resized(velocity, fixed.shape[1:]))


def _update(velocity: np.ndarray, fixed: np.ndarray, moving: np.ndarray, settings: Settings) -> np.ndarray:
    warped = pulled(moving, integrated(velocity))
    difference = fixed - warped
    push, size = np.zeros_like(velocity), np.zeros(fixed.shape[1:], np.float32)
    for target, image, residual in zip(fixed, warped, difference, strict=True):
        slope = np.stack(np.gradient((target + image) / 2))
        push += residual * slope
        size += np.sum(slope * slope, axis=0) + residual * residual / (4 * settings.step**2)
    push = _smooth(push / np.maximum(size, 1e-4), settings.smooth[0])
    longest = np.sqrt(np.max(np.sum(push * push, axis=0)))
    push *= min(1.0, 2 * settings.step / max(longest, 1e-6))
    return _smooth(velocity + push, settings.smooth[1])


def _smooth(field: np.ndarray, sigma: float) -> np.ndarray:
    return np.stack([ndimage.gaussian_filter(component, sigma, mode="nearest", truncate=3) for component in field])


def _shrink_shape(shape: Sequence[int], shrink: int) -> tuple[int, ...]:
    return tuple(-(-size // shrink) for size in shape)


def _shrink(maps: np.ndarray, shrink: int) -> np.ndarray:
    """Averages blocks; the last ones are filled up with the border."""
    if shrink == 1:
        return maps.astype(np.float32)
    room = [(0, 0)] + [(0, -size % shrink) for size in maps.shape[1:]]
    padded = np.pad(maps, room, mode="edge")
    blocks = [length for size in padded.shape[1:] for length in (size // shrink, shrink)]
    return padded.reshape(len(maps), *blocks).mean(axis=(2, 4, 6), dtype=np.float32)


def resized(velocity: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Interpolates a velocity or displacement to a finer grid of the same extent, in voxels of that grid.

    Args:
        velocity: (3, x, y, z) in voxels.
        shape: of the finer grid, a whole multiple, or up to that much less where blocks were filled up.
    """
    if velocity.shape[1:] == tuple(shape):
        return velocity
    # Blocks share their first corner, so the middle of coarse voxel i is fine voxel (i + 1/2) ratio - 1/2.
    ratio = [round(new / old) if new > old else 1 for new, old in zip(shape, velocity.shape[1:], strict=True)]
    places = np.meshgrid(
        *[(np.arange(size, dtype=np.float32) + 0.5) / r - 0.5 for size, r in zip(shape, ratio, strict=True)],
        indexing="ij",
    )
    return np.stack(
        [r * ndimage.map_coordinates(component, places, np.float32, order=1, mode="nearest")
         for component, r in zip(velocity, ratio, strict=True)]
    )  # fmt: skip
