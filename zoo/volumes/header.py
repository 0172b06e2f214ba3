"""Checks and repairs the geometry of a NIfTI header: units, voxel sizes, orientation codes."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.spatialimages import HeaderDataError

MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}
LARGEST_MM = 1e4  # a voxel of ten metres is no scan of anything


class GeometryWarning(UserWarning):
    """Warns that a header was repaired, or leaves the place of its voxels in doubt."""


def check_sizes(header: Any, path: Path) -> None:
    """Checks that voxels have a size and that their data begin behind the header.

    Args:
        header: a NIfTI-1 or -2 header of nibabel.
        path: the file, for the error.

    Raises:
        ValueError: the data begin inside the header, or a voxel size is zero, not finite or beyond ten metres.
    """
    offset, least = int(header.get_data_offset()), int(header["sizeof_hdr"])
    if offset < least:
        raise ValueError(
            f"{path} says that its voxels begin at byte {offset}, inside its header of {least} bytes: the file is "
            "corrupt. Copy or convert it again."
        )
    sizes = np.asarray(header["pixdim"][1:4], np.float64)
    axes = min(int(header["dim"][0]), 3)
    bad = [f"{size:g}" for size in sizes[:axes] if not 0 < abs(size) < LARGEST_MM]
    if bad and not _has_sform(header):
        raise ValueError(
            f"{path} gives a voxel size of {', '.join(bad)} and has no sform. Set pixdim to the scanner's spacing "
            "in mm, or convert the file again."
        )


def convert_to_mm(header: Any) -> float | None:
    """Turns a header in metres or microns into one in mm, in place.

    Args:
        header: a NIfTI-1 or -2 header of nibabel; voxel sizes, qform offsets and sform rows are scaled.

    Returns:
        The factor that positions were multiplied by; None where the header is in mm or names no unit.
    """
    unit, time_unit = header.get_xyzt_units()
    factor = MM_PER_UNIT.get(unit)
    if factor is None:
        return None
    header["pixdim"][1:4] = np.asarray(header["pixdim"][1:4], np.float64) * factor
    for field in ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"):
        header[field] = np.asarray(header[field], np.float64) * factor
    header.set_xyzt_units("mm", time_unit)
    return factor


def doubt_about_sides(header: Any) -> str | None:
    """Explains why left and right are in doubt: no orientation code, or a qform and sform that mirror each other.

    Args:
        header: a NIfTI-1 or -2 header of nibabel.

    Returns:
        The reason in words, or None.
    """
    try:
        qform, sform = header.get_qform(coded=True)[0], header.get_sform(coded=True)[0]
    except HeaderDataError:  # an impossible quaternion beside an sform, which then decides
        return None
    if qform is None and sform is None:
        return "the header has neither a qform nor an sform: which side is left is a guess"
    if qform is not None and sform is not None and _find_handedness(qform) * _find_handedness(sform) < 0:
        return "qform and sform mirror each other: left and right are in doubt, the sform was used"
    return None


def warn(path: Path, factor: float | None, doubt: str | None) -> None:
    """Warns of converted units and of doubt about left and right.

    Args:
        path: the file.
        factor: as `convert_to_mm` returns it.
        doubt: as `doubt_about_sides` returns it.
    """
    if factor is not None:
        unit = next(name for name, mm in MM_PER_UNIT.items() if mm == factor)
        message = f"the header is in {unit}s; voxel sizes and positions were multiplied by {factor:g} to get mm."
        warnings.warn(f"{path}: {message}", GeometryWarning, stacklevel=5)
    if doubt is not None:
        warnings.warn(f"{path}: {doubt}. Convert the scan again from its source.", GeometryWarning, stacklevel=5)


def _has_sform(header: Any) -> bool:
    return int(header["sform_code"]) > 0


def _find_handedness(affine: np.ndarray) -> float:
    return float(np.sign(np.linalg.det(affine[:3, :3])))
