"""Adds red nucleus and substantia nigra as shapes from an atlas, since no source of anatomy outlines them."""

import dataclasses
import functools
import importlib.metadata
import pathlib

import nibabel as nib
import numpy as np
from scipy import ndimage

from zoo.synth.anatomy import completion
from zoo.synth.anatomy.labels import sides
from zoo.synth.anatomy.sources import INSTALL, Anatomy
from zoo.volumes.image import to_ras

FILE = "deepmriprep/data/templates/mori.nii.gz"
SHAPES = ("red_nucleus", "substantia_nigra")
# Codes of the atlas, left and right: of the shapes that are added, and of the landmarks that the fit matches.
_CODES = {"red_nucleus": (109, 110), "substantia_nigra": (111, 112)}
_LANDMARKS = {
    "amygdala": (49, 50),
    "hippocampus": (51, 52),
    "caudate": (115, 116),
    "putamen": (117, 118),
    "thalamus": (119, 120),
    "pallidum": (121, 122),
}
_ROOM = ("ventral_diencephalon", "brainstem", "white", "cerebellum_white", "csf")


def with_midbrain(brain: Anatomy) -> Anatomy:
    """Adds red nucleus and substantia nigra from an atlas, moved by an affine fit of twelve centres.

    The shapes come from a template, made symmetric, not from this person: they show where such a nucleus may lie and
    how large it may be. Reports of scores on them must say so; `borrowed` lists them.

    Args:
        brain: an anatomy with the nuclei of both hemispheres.

    Returns:
        A copy; only midbrain, white matter and fluid lose voxels.

    Raises:
        FileNotFoundError: the package that holds the atlas is not installed.
        ValueError: the anatomy lacks the nuclei that the fit needs.
    """
    atlas, source = _read_atlas()
    box = _box_around(np.isin(brain.labels, [index for name in _LANDMARKS for index in sides(name)]))
    labels = brain.labels.copy()
    part = labels[box]  # a view: writing to it changes the copy
    target = completion.centroids(part)
    pairs = [
        (source[code], target.get(index))
        for name, codes in _LANDMARKS.items()
        for code, index in zip(codes, sides(name), strict=True)
    ]
    if any(there is None for _, there in pairs):
        raise ValueError(f"Anatomy {brain.name!r} lacks nuclei to place the midbrain by. Use one with all of them.")
    points = np.array([there for _, there in pairs], float)
    matrix = np.linalg.lstsq(np.c_[points, np.ones(len(points))], np.array([here for here, _ in pairs]), rcond=None)[0]
    room = np.isin(part, [index for name in _ROOM for index in sides(name)])
    for name in SHAPES:
        for code, index in zip(_CODES[name], sides(name), strict=True):
            shape = ndimage.affine_transform(
                (atlas == code).astype(np.float32), matrix[:3].T, matrix[3], output_shape=part.shape, order=1
            )
            part[(shape >= 0.5) & room] = index
    indices = tuple(index for name in SHAPES for index in sides(name))
    missing = tuple(index for index in brain.missing if index not in indices)
    return dataclasses.replace(brain, labels=labels, missing=missing, borrowed=(*brain.borrowed, *indices))


@functools.cache
def _read_atlas() -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Reads the atlas in RAS, 1 mm, and the centres of its labels.

    Makes its midbrain symmetric, and one voxel wider, since it outlines only the cores.
    """
    try:
        path = pathlib.Path(str(importlib.metadata.distribution("deepmriprep").locate_file(FILE)))
    except importlib.metadata.PackageNotFoundError:
        path = pathlib.Path()
    if not path.is_file():
        raise FileNotFoundError(f"The midbrain's shapes are in the package 'deepmriprep', not found. Run: {INSTALL}")
    image = nib.nifti1.load(path)
    codes, _ = to_ras(np.rint(np.asanyarray(image.dataobj)).astype(np.int16), image.affine)
    mirrored = codes[::-1]  # the grid is symmetric about x = 0
    taken = np.isin(codes, [code for pair in _LANDMARKS.values() for code in pair])
    nuclei = {}
    for left, right in _CODES.values():
        nuclei[left] = ndimage.binary_dilation((codes == left) | (mirrored == right))
        nuclei[right] = nuclei[left][::-1]
    for code, mask in nuclei.items():
        codes = np.where(mask & ~taken, code, codes)
    return codes, completion.centroids(codes)


def _box_around(mask: np.ndarray, margin: int = 12) -> tuple[slice, ...]:
    """Returns the box of a mask with a margin on every side; the whole grid where the mask is empty."""
    places = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if not mask.any():
        return (slice(None),) * 3
    return tuple(slice(max(0, int(p[0]) - margin), int(p[-1]) + 1 + margin) for p in places)
