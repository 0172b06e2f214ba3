"""Standardises images of a brain by its tissues: fluid, grey and white matter have one value each in every scan."""

import numpy as np
from scipy import ndimage

from zoo.synth.anatomy.labels import sides

SIGMA_MM = 25.0  # of the bias estimate
ROUNDS = 3  # bias and medians are estimated in turns
COARSE = 4  # voxels along the edge of one that the bias is estimated on
LEAST_VOXELS = 1000  # of a tissue
LEAST_GAP = 0.1  # between the medians of grey and white matter, over that of white matter and fluid
FLUID, WHITE = -3.0, 0.0
GREY = 1.0  # how far grey matter lies from white matter, on the side where it is
TISSUES = {"fluid": ("csf", "ventricle"), "grey": ("cortex",), "white": ("white",)}


def standardise(images: np.ndarray, parcels: np.ndarray) -> np.ndarray:
    """Divides each channel by a smooth bias and maps its tissues' medians to fixed values.

    White matter becomes 0, fluid -3, and grey matter 1 or -1, whichever side of white matter it lies on; between and
    beyond them values are linear. Where grey and white matter differ by less than a tenth of white matter and fluid,
    grey matter is left where that line puts it.

    Args:
        images: (x, y, z, channels) at 1 mm, any scale.
        parcels: (x, y, z) integers of the scheme, 0 outside the brain.

    Returns:
        (x, y, z, channels) float32, 0 outside; a channel without contrast is 0.

    Raises:
        ValueError: a tissue is missing.
    """
    masks = {name: np.isin(parcels, [i for part in parts for i in sides(part)]) for name, parts in TISSUES.items()}
    few = [name for name, mask in masks.items() if mask.sum() < LEAST_VOXELS]
    if few:
        raise ValueError(
            f"Images are standardised by their {', '.join(TISSUES)}; of {', '.join(few)} there are fewer than "
            f"{LEAST_VOXELS} voxels. Check the parcellation (zoo predict unet3d.brain_structures)."
        )
    inside, scaled = parcels > 0, np.zeros(images.shape, np.float32)
    for channel in range(images.shape[-1]):
        values = np.where(inside, images[..., channel].astype(np.float32), 0)
        if values[inside].std() > 0:
            scaled[..., channel] = np.where(inside, _scale(values / estimate_bias(values, masks), masks), 0)
    return scaled


def estimate_bias(values: np.ndarray, masks: dict[str, np.ndarray]) -> np.ndarray:
    """Returns a smooth positive field that the image is multiplied by, (x, y, z) float32, from grey and white matter.

    Args:
        values: (x, y, z), 0 or more.
        masks: (x, y, z) bool, "grey" and "white".
    """
    tissues = [masks["grey"], masks["white"]]
    used = (tissues[0] | tissues[1]) & (values > 0)
    weight = np.maximum(_smooth(_average_blocks(used.astype(np.float32))), 1e-3)
    log, field = np.log(np.maximum(values, 1e-6)), np.zeros(values.shape, np.float32)
    for _ in range(ROUNDS):
        residual = np.zeros(values.shape, np.float32)
        for tissue in tissues:
            inside = tissue & used
            level = np.median((log - field)[inside])
            spread = np.median(np.abs((log - field)[inside] - level)) * 1.4826 + 1e-6
            residual[inside] = np.clip((log - level)[inside], field[inside] - 3 * spread, field[inside] + 3 * spread)
        coarse = _smooth(_average_blocks(residual)) / weight
        zoom = [size / small for size, small in zip(values.shape, coarse.shape, strict=True)]
        places = np.meshgrid(
            *[(np.arange(size, dtype=np.float32) + 0.5) / z - 0.5 for size, z in zip(values.shape, zoom, strict=True)],
            indexing="ij",
        )
        field = ndimage.map_coordinates(coarse, places, np.float32, order=1, mode="nearest")
    return np.exp(field)


def _scale(values: np.ndarray, masks: dict[str, np.ndarray]) -> np.ndarray:
    fluid, grey, white = (float(np.median(values[masks[name]])) for name in ("fluid", "grey", "white"))
    slope = (WHITE - FLUID) / (white - fluid) if white != fluid else 1.0
    straight = WHITE + slope * (values - white)
    at_grey = WHITE + slope * (grey - white)
    if abs(at_grey) < LEAST_GAP * (WHITE - FLUID) or at_grey <= FLUID + LEAST_GAP:
        return straight.astype(np.float32)
    knots = np.array(sorted([(FLUID, FLUID), (WHITE, WHITE), (at_grey, GREY * np.sign(at_grey))]))
    inner = np.interp(straight, knots[:, 0], knots[:, 1])
    # Beyond the outer tissues the line goes on with the slope of all.
    outer = np.maximum(straight - knots[-1, 0], 0) + np.minimum(straight - knots[0, 0], 0)
    return (inner + outer).astype(np.float32)


def _average_blocks(volume: np.ndarray) -> np.ndarray:
    padded = np.pad(volume, [(0, -size % COARSE) for size in volume.shape])
    split = [length for size in padded.shape for length in (size // COARSE, COARSE)]
    return padded.reshape(split).mean(axis=(1, 3, 5))


def _smooth(volume: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(volume, SIGMA_MM / COARSE, mode="constant")
