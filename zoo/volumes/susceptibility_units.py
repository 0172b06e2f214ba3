"""Checks the unit and the mask of susceptibility maps, and converts units to ppm."""

import math
import re

import numpy as np

GAMMA_MHZ_PER_T = 42.577478518  # of the proton, over 2 pi; CODATA 2018
UNITS = ("ppm", "ppb", "1", "hz@<tesla>", "rad@<tesla>,<ms>")
# Half the distance from the 1st to the 99th percentile of a brain: about 0.1 ppm on a map, iron and veins included.
PPM_AT_LEAST, PPM_AT_MOST = 1e-4, 0.6
_NOT_PPM = (
    (PPM_AT_LEAST, "a plain ratio (parts of 1)", "multiply it by 1e6, or name the unit '1'"),
    (3.3, "a phase in radians", "divide it by 2 pi 42.58 B0[T] TE[s], or name the unit as 'rad@3,20' (tesla, ms)"),
    (25.0, "a frequency in Hz", "divide it by 42.58 B0[T], or name the unit as 'hz@3' (tesla)"),
    (math.inf, "a map in ppb", "multiply it by 0.001, or name the unit 'ppb'"),
)
MASKED = 0.05  # a masked map is 0 in more of its voxels than this; a whole head has hardly a zero


def spread(array: np.ndarray) -> float:
    """Returns half the distance from the 1st to the 99th percentile of the voxels that are not 0."""
    inside = array[array != 0]
    low, high = np.percentile(inside, (1, 99)) if inside.size else (0.0, 0.0)
    return float(high - low) / 2


def check(array: np.ndarray) -> None:
    """Checks that a volume is a masked susceptibility map in ppm.

    Args:
        array: (x, y, z), a whole volume.

    Raises:
        ValueError: the values tell of another unit, with the factor to ppm; or there is no mask.
    """
    check_unit(array)
    check_mask(array)


def check_unit(array: np.ndarray) -> None:
    """Checks that the values of a map are in ppm.

    Args:
        array: (x, y, z), a whole volume.

    Raises:
        ValueError: which unit it seems to be, and the factor to ppm.
    """
    width = spread(array)
    if width == 0:
        raise ValueError("The susceptibility map has one value everywhere. Check how the file was made.")
    if PPM_AT_LEAST <= width <= PPM_AT_MOST:
        return
    unit, cure = next((unit, cure) for most, unit, cure in _NOT_PPM if width <= most)
    raise ValueError(
        f"The susceptibility map spans {2 * width:.3g} from its 1st to its 99th percentile, and one in ppm spans about "
        f"0.2: this looks like {unit}. To get ppm, {cure}."
    )


def check_mask(array: np.ndarray) -> None:
    """Checks that a map has a mask.

    Args:
        array: (x, y, z), a whole volume.

    Raises:
        ValueError: hardly a voxel is exactly 0.
    """
    if not is_masked(array):
        raise ValueError(
            f"{np.mean(array == 0):.1%} of the susceptibility map are exactly 0, so it has no brain mask. Set it to 0 "
            "outside the brain, or give the magnitude (--magnitude), whose brain mask is then used."
        )


def is_masked(array: np.ndarray) -> bool:
    """Returns whether a map is 0 in enough of its voxels to have a mask."""
    return bool(np.mean(array == 0) > MASKED)


def ppm_per(unit: str) -> float:
    """Returns the factor from a unit to ppm.

    Args:
        unit: "ppm", "ppb", "1" (a ratio), "hz@3" (at 3 T) or "rad@3,20" (at 3 T, an echo time of 20 ms).

    Raises:
        ValueError: another unit, or a main field or echo time that is not positive.

    Example:
        >>> ppm_per("ppb"), round(ppm_per("hz@3"), 5)
        (0.001, 0.00783)
    """
    plain = {"ppm": 1.0, "ppb": 1e-3, "1": 1e6}
    if unit in plain:
        return plain[unit]
    number = r"(\d+(?:\.\d+)?)"
    match = re.fullmatch(rf"(?:hz@{number}|rad@{number},{number})", unit.lower())
    values = [float(part) for part in match.groups() if part] if match else []
    if not values or min(values) <= 0:
        raise ValueError(f"A unit is one of {', '.join(UNITS)}, as in 'hz@3' or 'rad@3,20', got {unit!r}.")
    per_hz = 1 / (GAMMA_MHZ_PER_T * values[0])
    return per_hz if len(values) == 1 else per_hz / (2 * math.pi * values[1] / 1000)
