"""Carries brains to the common space of a cohort, a grid in which a voxel is the same place in every brain.

The space is MNI152NLin6Asym at 1 mm, cut to the brain with a margin. The label map of a brain defines its way there: an
affine through the centres of its structures, then a diffeomorphism that aligns its tissues with the template's.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from zoo import files
from zoo.synth.anatomy import completion
from zoo.synth.anatomy.labels import HEAD, INDEX, NUM_LABELS, sides
from zoo.synth.anatomy.sources import anatomy, cache_folder
from zoo.volumes import registration

SHAPE = (160, 200, 176)
AFFINE = np.array([[1.0, 0, 0, -79], [0, 1, 0, -117], [0, 0, 1, -84], [0, 0, 0, 1]])
TEMPLATE = "nibabies"  # the anatomy that lies in MNI152NLin6Asym itself
VERSION = 2  # part of the cache's file names: raise it when the derivation changes
COARSER = 2  # edge of a voxel of the registration, in voxels of the space
# The tissues that are aligned; sides separate where they are large. Indices of the scheme.
DEEP = ("thalamus", "caudate", "putamen", "pallidum", "accumbens", "hippocampus", "amygdala")
CEREBELLUM = ("cerebellum_cortex", "cerebellum_white", "dentate")
TISSUES: tuple[tuple[int, ...], ...] = (
    *((index,) for name in ("cortex", "white") for index in sides(name)),
    tuple(index for index in sides("ventricle")),
    tuple(index for name in DEEP[:1] for index in sides(name)),
    tuple(index for name in DEEP[1:5] for index in sides(name)),
    tuple(index for name in DEEP[5:] for index in sides(name)),
    tuple(index for name in CEREBELLUM for index in sides(name)),
    sides("brainstem"),
    sides("csf"),
)
LEAST_SHARED = 8  # structures that two brains must share for an affine
# What label maps of people tell apart and the template's does not: structure, and what it is there.
_COARSER_NAMES = (
    *(("third_ventricle", "csf"), ("fourth_ventricle", "csf"), ("optic_chiasm", "csf")),
    *(("inferior_ventricle", "ventricle"), ("choroid", "ventricle"), ("inferior_choroid", "ventricle")),
    *(("vessel", "white"), ("lesion", "white")),
)


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """Transform between the common space and the grid of one brain.

    Attributes:
        matrix: (4, 4), voxels of the common space to voxels of the brain's grid, before the warp.
        warp: the remaining displacement, on the common grid at `COARSER` mm.
    """

    matrix: np.ndarray
    warp: registration.Warp

    def carry(self, volume: np.ndarray, *, order: int = 1) -> np.ndarray:
        """Carries a volume of the brain's grid to the common space.

        Args:
            volume: (x, y, z) on the brain's own grid.
            order: 1 trilinear, 0 nearest.

        Returns:
            `SHAPE`, float32, or of the volume's type where nearest; 0 outside.
        """
        places = np.indices(SHAPE, np.float32) + self._displacement(inverse=False)
        return _sample(volume, _transform(self.matrix, places), order)

    def back(self, volume: np.ndarray, shape: Sequence[int], *, order: int = 1) -> np.ndarray:
        """Carries a volume of the common space back to the brain's own grid of that shape; 0 outside."""
        places = _transform(np.linalg.inv(self.matrix), np.indices(tuple(shape), np.float32))
        moved = registration.pulled_at(self._displacement(inverse=True), places)
        return _sample(volume, places + moved, order)

    def _displacement(self, *, inverse: bool) -> np.ndarray:
        return registration.resized(self.warp.displacement(inverse=inverse), SHAPE)


def by_affine(affine: np.ndarray) -> Normalisation:
    """Returns the transform of a brain in MNI space, from its affine alone."""
    still = np.zeros((3, *(size // COARSER for size in SHAPE)), np.float32)
    return Normalisation(np.linalg.inv(affine) @ AFFINE, registration.Warp(still))


def normalise(
    labels: np.ndarray,
    template: np.ndarray,
    *,
    settings: registration.Settings = registration.DEFAULT,
) -> Normalisation:
    """Finds the transform from the common space to a brain's own grid.

    Args:
        labels: (x, y, z) of the scheme, on the brain's own grid.
        template: `SHAPE`, the template's label map in the common space.
        settings: of the registration.

    Returns:
        The normalisation.

    Raises:
        ValueError: the two share too few structures to be aligned.
    """
    matrix = _fit_affine(labels, template)
    aligned = ndimage.affine_transform(labels.astype(np.uint8), matrix[:3, :3], matrix[:3, 3], SHAPE, order=0)
    return Normalisation(matrix, registration.register(maps(template), maps(aligned), settings))


def maps(labels: np.ndarray) -> np.ndarray:
    """Returns the share of each tissue in a voxel of `COARSER` mm: (tissues, x, y, z) float32 in 0 to 1."""
    blocks = [length for size in labels.shape for length in (size // COARSER, COARSER)]
    shares = []
    for members in TISSUES:
        table = np.isin(np.arange(NUM_LABELS), members)
        shares.append(table[labels].reshape(blocks).mean(axis=(1, 3, 5), dtype=np.float32))
    return np.stack(shares)


def as_template(labels: np.ndarray) -> np.ndarray:
    """Returns a label map with the template's structures alone: no head, lesions as white matter, fluid as fluid.

    Args:
        labels: (x, y, z) of the scheme.

    Returns:
        (x, y, z) of the same type.
    """
    table = np.arange(NUM_LABELS, dtype=labels.dtype)
    for name, coarser in _COARSER_NAMES:
        own, other = sides(name), sides(coarser)
        table[list(own)] = other if len(own) == len(other) else INDEX[coarser]
    table[list(HEAD)] = 0
    return table[labels]


def atlas(chosen: Sequence[str], *, allow_test: bool = False) -> np.ndarray:
    """Returns label maps of anatomies in the common space, derived once and cached.

    Args:
        chosen: names of anatomies.
        allow_test: lets held-out anatomies through.

    Returns:
        (anatomies, *SHAPE) uint8 of the scheme.

    Raises:
        ValueError: no such anatomy, or a held-out one without `allow_test`.
        FileNotFoundError: the package that holds one is not installed.
    """
    return np.stack([_load_map(name, allow_test) for name in chosen])


def _load_map(name: str, allow_test: bool) -> np.ndarray:
    brain = anatomy(name, allow_test=allow_test)
    path = cache_folder() / f"{name}-common-v{VERSION}.npz"

    def carry() -> dict[str, np.ndarray]:
        way = by_affine(brain.affine) if name == TEMPLATE else normalise(brain.labels, _load_map(TEMPLATE, False))
        return {"labels": way.carry(brain.labels.astype(np.uint8), order=0)}

    brain = dataclasses.replace(brain, labels=as_template(brain.labels))
    return files.cached_arrays(path, carry)["labels"]


def _fit_affine(labels: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Fits (4, 4) from voxels of the common space to those of a brain, by the centres of shared structures."""
    target, source = completion.control_points(completion.centroids(template), completion.centroids(labels))
    if len(target) < LEAST_SHARED:
        raise ValueError(
            f"A brain is laid on the template by at least {LEAST_SHARED} structures that both have, got {len(target)}. "
            "Give a label map of the whole brain, or an image that is in MNI space already."
        )
    solved = np.linalg.lstsq(np.c_[target, np.ones(len(target))], source, rcond=None)[0]
    matrix = np.eye(4)
    matrix[:3] = solved.T
    return matrix


def _transform(matrix: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Moves places (3, x, y, z) by a (4, 4) matrix, float32."""
    moved = np.tensordot(matrix[:3, :3], places, axes=1) + matrix[:3, 3].reshape(3, 1, 1, 1)
    return moved.astype(np.float32)


def _sample(volume: np.ndarray, places: np.ndarray, order: int) -> np.ndarray:
    kind = volume.dtype if order == 0 else np.float32
    return ndimage.map_coordinates(volume, places, kind, order=order, mode="constant")
