"""Names the ways to make intensities of two scanners alike: by each place's surroundings, or by the tissues."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from zoo.errors import unknown_choice
from zoo.normative.tissue_scale import standardise
from zoo.volumes.local_normalisation import flatten

LOCAL, TISSUE = "local", "tissue"
NORMALISATIONS: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = MappingProxyType(
    {LOCAL: lambda images, parcels: flatten(images, parcels > 0), TISSUE: standardise}
)


def normalise(images: np.ndarray, parcels: np.ndarray, intensities: str = LOCAL) -> np.ndarray:
    """Normalises the images of one brain.

    Args:
        images: (x, y, z, channels) at 1 mm, any scale.
        parcels: (x, y, z) integers of the scheme, 0 outside the brain; for "local" anything else inside.
        intensities: "local", `zoo.volumes.local_normalisation`, or "tissue", `zoo.normative.tissue_scale`.

    Returns:
        (x, y, z, channels) float32, 0 outside.

    Raises:
        ValueError: no such way, or a tissue is missing.

    Example:
        >>> bool(normalise(np.ones((8, 8, 8, 1)), np.ones((8, 8, 8), int)).any())
        False
    """
    if intensities not in NORMALISATIONS:
        raise unknown_choice("normalisation", intensities, NORMALISATIONS)
    return NORMALISATIONS[intensities](images, parcels)
