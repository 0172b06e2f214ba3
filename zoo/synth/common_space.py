"""The common space of a cohort: one grid in which a voxel is the same place in every brain.

It is the space of MNI152NLin6Asym at 1 mm, cut to the brain with a margin. Each anatomy is moved there once, by an
affine through the centres of its structures and a diffeomorphism that matches its labels to the template's, and kept.
"""

import os
import pathlib
import uuid
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from zoo.synth import derived
from zoo.synth.anatomies import Anatomy, anatomy, cache_folder

SHAPE = (160, 200, 176)
AFFINE = np.array([[1.0, 0, 0, -79], [0, 1, 0, -117], [0, 0, 1, -84], [0, 0, 0, 1]])
TEMPLATE = "nibabies"  # the anatomy that lies in MNI152NLin6Asym itself
VERSION = 1  # part of the cache's file names: raise it when the derivation changes


def atlas(chosen: Sequence[str], *, allow_test: bool = False) -> np.ndarray:
    """Label maps of some anatomies in the common space.

    Args:
        chosen: names of anatomies.
        allow_test: lets held-out anatomies through.

    Returns:
        (anatomies, *SHAPE) uint8 of the scheme.

    Raises:
        ValueError: no such anatomy, or a held-out one without `allow_test`.
        FileNotFoundError: the package that holds one is not installed.
    """
    return np.stack([_kept(name, allow_test) for name in chosen])


def _kept(name: str, allow_test: bool) -> np.ndarray:
    labels = anatomy(name, allow_test=allow_test)
    path = cache_folder() / f"{name}-common-v{VERSION}.npz"
    if not path.is_file():
        _write(path, _moved(labels.labels, labels.affine, name))
    with np.load(path) as stored:
        return stored["labels"]


def _write(path: pathlib.Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.npz")
    np.savez_compressed(part, labels=labels)
    os.replace(part, path)


def _moved(labels: np.ndarray, affine: np.ndarray, name: str) -> np.ndarray:
    if name == TEMPLATE:
        matrix = np.linalg.inv(affine) @ AFFINE
    else:
        matrix = _affine(labels, anatomy(TEMPLATE))
    return ndimage.affine_transform(labels.astype(np.uint8), matrix[:3, :3], matrix[:3, 3], SHAPE, order=0)


def _affine(labels: np.ndarray, template: Anatomy) -> np.ndarray:
    """(4, 4) from voxels of the common space to those of an anatomy, by the centres of their structures."""
    target, source = derived.control_points(derived.centroids(template.labels), derived.centroids(labels))
    common = np.linalg.inv(AFFINE) @ template.affine
    target = target @ common[:3, :3].T + common[:3, 3]
    solved = np.linalg.lstsq(np.c_[target, np.ones(len(target))], source, rcond=None)[0]
    matrix = np.eye(4)
    matrix[:3] = solved.T
    return matrix
