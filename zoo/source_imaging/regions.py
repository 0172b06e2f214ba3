"""Names the regions of located sources by any label map in MNI152, and gives each region its time course."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.eeg import grid
from zoo.source_imaging.head_model import to_mni

if TYPE_CHECKING:
    from zoo.source_imaging.located_sources import LocatedSources

OUTSIDE = "outside"
_STEPS = np.array([-1.0, 0.0, 1.0]) * grid.SPACING_MM / 3
_LEAST = 0.05


def name_regions(
    located: "LocatedSources", atlas: Any, names: Mapping[int, str] | None = None
) -> list[dict[str, float | str]]:
    """Returns the regions where each source probably lies, the most probable first.

    Args:
        located: the result of `zoo.locate_sources`.
        atlas: label map in MNI152, a file or a nibabel image of whole numbers, 0 outside.
        names: label -> name; without it the number is the name.

    Returns:
        Rows with source, region and probability, of regions with 5 % or more.

    Raises:
        ValueError: an atlas that is no label map in three dimensions.

    Example:
        >>> name_regions(located, "atlas.nii.gz", {17: "left hippocampus"})  # doctest: +SKIP
        [{'source': 1, 'region': 'left hippocampus', 'probability': 0.83}]
    """
    labels, membership = _label_places(atlas)
    rows: list[dict[str, float | str]] = []
    for number, shares in enumerate(located.places @ membership, start=1):
        for index in np.argsort(-shares):
            if shares[index] >= _LEAST:
                region = _name(int(labels[index]), names)
                rows.append({"source": number, "region": region, "probability": round(float(shares[index]), 3)})
    return rows


def region_courses(
    located: "LocatedSources", atlas: Any, names: Mapping[int, str] | None = None
) -> dict[str, np.ndarray]:
    """Returns the strength of each region over time, nA m: courses of sources, shared by where they probably lie.

    Args:
        located: the result of `zoo.locate_sources`.
        atlas: as in `name_regions`.
        names: as in `name_regions`.

    Returns:
        Name -> (times,) at `located.course_times_s`, of regions where some source lies with 5 % or more.

    Example:
        >>> region_courses(located, "atlas.nii.gz")["17"].shape  # doctest: +SKIP
        (300,)
    """
    labels, membership = _label_places(atlas)
    shares = located.places @ membership
    used = np.flatnonzero((shares >= _LEAST).any(0))
    return {_name(int(labels[index]), names): shares[:, index] @ located.courses_nam for index in used}


def _name(label: int, names: Mapping[int, str] | None) -> str:
    return OUTSIDE if label == 0 else (names or {}).get(label, str(label))


def _label_places(atlas: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels (n,) and the share of each place's voxel in each, (5215, n), from 27 points of the voxel."""
    volume, affine = _read_labels(atlas)
    steps = np.stack(np.meshgrid(_STEPS, _STEPS, _STEPS, indexing="ij"), -1).reshape(-1, 3)
    points = to_mni((grid.grid()[0][:, None] + steps).reshape(-1, 3).astype(float))
    inverse = np.linalg.inv(affine)
    voxels = np.rint(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    inside = ((voxels >= 0) & (voxels < volume.shape)).all(1)
    found = np.zeros(len(points), int)
    found[inside] = volume[tuple(voxels[inside].T)]
    labels, index = np.unique(found, return_inverse=True)
    membership = np.zeros((grid.NUM_PLACES, len(labels)))
    np.add.at(membership, (np.repeat(np.arange(grid.NUM_PLACES), len(steps)), index.ravel()), 1 / len(steps))
    return labels, membership


def _read_labels(atlas: Any) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(atlas, str | os.PathLike):
        import nibabel

        atlas = nibabel.load(atlas)
    volume = np.asanyarray(atlas.dataobj)
    volume = volume[..., 0] if volume.ndim == 4 and volume.shape[3] == 1 else volume
    if volume.ndim != 3 or not np.isfinite(volume).all() or (volume != np.rint(volume)).any():
        raise ValueError(
            f"An atlas is a label map of whole numbers in three dimensions, got shape {volume.shape} of {volume.dtype}."
        )
    return volume.astype(int), np.asarray(atlas.affine, float)
