"""Normalises images of a brain locally: removes receiver bias and scale over some centimetres."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

SIGMA_MM = 20.0
LEAST_SD = 0.2  # of the channel's own; where all is of one tissue, noise is not blown up
COARSE = 4  # voxels along the edge of one that local means are taken of


def flatten(images: np.ndarray, inside: np.ndarray, *, sigma_mm: float = SIGMA_MM) -> np.ndarray:
    """Subtracts each channel's local mean and divides by its local SD, both Gaussian over the brain.

    This removes slow variation: the coil's bias, the scales of scanner and contrast. A place's local mean depends on
    the tissues near it, so what is left can be compared between people at one place, not between places.

    Args:
        images: (x, y, z, channels) at 1 mm, any scale; may be multiplied by anything positive.
        inside: (x, y, z) bool, the brain; voxels outside are ignored.
        sigma_mm: SD of the Gaussian; much smaller structures stay as they are.

    Returns:
        (x, y, z, channels) float32, 0 outside; a channel without contrast is 0.

    Source: after homomorphic unsharp masking, Brinkmann et al., IEEE Transactions on Medical Imaging 17(2), 1998; the
    SD and the mask are ours.
    """
    weight = np.maximum(_smooth(_average_blocks(inside.astype(np.float32)), sigma_mm), 1e-3)
    normalised = np.zeros(images.shape, np.float32)
    for channel in range(images.shape[-1]):
        values = np.where(inside, images[..., channel].astype(np.float32), 0)
        scale = float(values[inside].std()) if inside.any() else 0.0
        if scale <= 0:
            continue
        mean = _refine(_smooth(_average_blocks(values), sigma_mm) / weight, inside.shape)
        residual = np.where(inside, (values - mean) / scale, 0)
        sd = _refine(np.sqrt(_smooth(_average_blocks(residual**2), sigma_mm) / weight), inside.shape)
        normalised[..., channel] = residual / np.maximum(sd, LEAST_SD)
    return normalised


def _average_blocks(volume: np.ndarray) -> np.ndarray:
    padded = np.pad(volume, [(0, -size % COARSE) for size in volume.shape])
    split = [length for size in padded.shape for length in (size // COARSE, COARSE)]
    return padded.reshape(split).mean(axis=(1, 3, 5))


def _smooth(volume: np.ndarray, sigma_mm: float) -> np.ndarray:
    return ndimage.gaussian_filter(volume, sigma_mm / COARSE, mode="constant")


def _refine(volume: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    for axis, size in enumerate(shape):
        place = np.clip((np.arange(size) + 0.5) / COARSE - 0.5, 0, volume.shape[axis] - 1)
        low = np.minimum(place.astype(int), max(volume.shape[axis] - 2, 0))
        high = np.minimum(low + 1, volume.shape[axis] - 1)
        weight = (place - low).astype(np.float32).reshape([-1 if other == axis else 1 for other in range(3)])
        volume = (1 - weight) * volume.take(low, axis) + weight * volume.take(high, axis)
    return volume
