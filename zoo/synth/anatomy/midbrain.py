"""Adds red nucleus and substantia nigra, which no source of anatomy outlines, as shapes from an atlas."""

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
# Codes of the atlas, left and right: what is carried over, and the landmarks that both sides of the fit have.
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
    """Adds red nucleus and substantia nigra: shapes of an atlas, moved by an affine fit of twelve centres.

    The shapes are a template's, made symmetric, not this person's: they say where such a nucleus may lie and how large
    it may be, and whoever scores them must say so. `borrowed` names them.

    Args:
        brain: an anatomy with the nuclei of both hemispheres.

    Returns:
        A copy; only midbrain, white matter and fluid gave up voxels.

    Raises:
        FileNotFoundError: the package that holds the atlas is not installed.
        ValueError: the anatomy lacks the nuclei that the fit needs.
    """
    atlas, source = _atlas()
    box = _around(np.isin(brain.labels, [index for name in _LANDMARKS for index in sides(name)]))
    labels = brain.labels.copy()
    part = labels[box]  # a view: what is written there is written into the copy
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
    found = tuple(index for name in SHAPES for index in sides(name))
    missing = tuple(index for index in brain.missing if index not in found)
    return dataclasses.replace(brain, labels=labels, missing=missing, borrowed=(*brain.borrowed, *found))


@functools.cache
def _atlas() -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Reads the atlas in RAS, 1 mm, and the centres of its labels.

    Its midbrain is made symmetric, and a voxel wider, as it draws the cores alone.
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


def _around(mask: np.ndarray, margin: int = 12) -> tuple[slice, ...]:
    """Returns the box of a mask with a margin on every side; everything where the mask is empty."""
    places = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if not mask.any():
        return (slice(None),) * 3
    return tuple(slice(max(0, int(p[0]) - margin), int(p[-1]) + 1 + margin) for p in places)
