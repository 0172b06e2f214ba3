"""Writes location channels: the position along x, y and z, and the distance to the ventricles, as images."""

import os
from collections.abc import Sequence
from pathlib import Path

import edt
import numpy as np

from zoo.volumes import image as images

VENTRICLES = (4, 43)  # FreeSurfer's left and right lateral ventricle, as unet3d.brain_structures writes them
DISTANCE_UNIT_MM = 30.0
NAMES = ("x", "y", "z", "ventricle_distance")


def location_images(
    structures: str | os.PathLike, out: str | os.PathLike, *, ventricles: Sequence[int] = VENTRICLES
) -> dict[str, Path]:
    """Writes the four location channels of a scan from a label map of its brain.

    Args:
        structures: label map on the scan's grid, 0 outside the brain: `zoo predict unet3d.brain_structures T1.nii.gz`.
        out: an existing folder, gets `x.nii.gz`, `y.nii.gz`, `z.nii.gz` and `ventricle_distance.nii.gz`.
        ventricles: their values in the label map.

    Returns:
        Name -> file. Positions are mm to the right, front and top of the ventricles' centre of mass over the extent of
        the brain along that axis; the distance is in units of 30 mm; both are 0 outside the brain.

    Raises:
        ValueError: the label map has no ventricles.
    """
    like = images.read(structures)
    labels, affine = images.to_ras(images.array(like), like.affine)
    inside = np.isin(labels, list(ventricles))
    if not inside.any():
        raise ValueError(
            f"{structures} has no voxel of the ventricles' values {tuple(ventricles)}, which places are told from. "
            "Give a label map of the whole brain, or their values in it."
        )
    head, spacing = labels != 0, images.spacing_mm(affine)
    far = edt.edt(~inside, anisotropy=tuple(map(float, spacing))) / DISTANCE_UNIT_MM
    volumes = [_relative_position(head, inside, axis) for axis in range(3)] + [far]
    return {
        name: images.write(
            Path(out) / f"{name}.nii.gz", images.from_ras((volume * head).astype(np.float32), like), like
        )
        for name, volume in zip(NAMES, volumes, strict=True)
    }


def _relative_position(head: np.ndarray, ventricles: np.ndarray, axis: int) -> np.ndarray:
    """Returns the offset from the ventricles' centre over the brain's extent on one axis; broadcasts to the volume."""
    others = tuple({0, 1, 2} - {axis})
    across = np.arange(head.shape[axis])
    extent = np.flatnonzero(head.any(axis=others))
    middle = np.average(across, weights=ventricles.sum(axis=others))
    shape = [1, 1, 1]
    shape[axis] = -1
    return ((across - middle) / (extent[-1] - extent[0] + 1)).reshape(shape)
