"""Maps arterial territories onto every anatomy, and finds where an artery may be blocked.

The territories are those of the Johns Hopkins atlas in the package rapidtide, drawn from 1,298 strokes; they are read
from there at run time and never stored in this package. Structures guide them to each anatomy: an affine through
the centres of all structures and the edges of the brain, bent where the centres differ.

Source: Liu et al., Digital 3D brain MRI arterial territories atlas, Scientific Data 2023,
doi:10.1038/s41597-022-01923-0.
"""

import functools
import importlib.metadata
import pathlib
from collections.abc import Sequence

import nibabel as nib
import numpy as np
from scipy import ndimage

from zoo import files
from zoo.errors import unknown_choice
from zoo.synth.anatomy import completion
from zoo.synth.anatomy.labels import BRAIN, INDEX, LABELS, NUM_LABELS, sides
from zoo.synth.anatomy.sources import INSTALL, anatomy, cache_folder

VERSION = 1  # part of the cache's file names: raise it when the derivation changes
PACKAGE = "rapidtide"
FILE = "rapidtide/data/reference/JHU-ArterialTerritoriesNoVent-LVL1_space-MNI152NLin6Asym_2mm.nii.gz"
TEMPLATE = "nibabies"  # the anatomy that lies in the atlas' own space
# Territories of the left side by their value in the atlas; the right one's is one more.
TERRITORIES = {
    "anterior": 1,
    "medial_lenticulostriate": 3,
    "lateral_lenticulostriate": 5,
    "middle_frontal": 7,
    "middle_parietal": 9,
    "middle_temporal": 11,
    "middle_occipital": 13,
    "middle_insular": 15,
    "posterior_temporal": 17,
    "posterior_occipital": 19,
    "posterior_thalamic": 21,
    "anterior_thalamic": 23,
    "basilar": 25,
    "superior_cerebellar": 27,
    "inferior_cerebellar": 29,
}
# Probability of each blocked artery, and the territories that it cuts off.
OCCLUSIONS: dict[str, tuple[float, tuple[str, ...]]] = {
    "m1": (
        0.35,
        (
            "lateral_lenticulostriate",
            "middle_frontal",
            "middle_parietal",
            "middle_temporal",
            "middle_occipital",
            "middle_insular",
        ),
    ),
    "m2_superior": (0.2, ("middle_frontal", "middle_parietal", "middle_insular")),
    "m2_inferior": (0.15, ("middle_temporal", "middle_occipital", "middle_parietal")),
    "anterior": (0.08, ("anterior",)),
    "posterior": (0.12, ("posterior_temporal", "posterior_occipital", "posterior_thalamic")),
    "perforators": (0.05, ("lateral_lenticulostriate", "medial_lenticulostriate")),
    "cerebellar": (0.05, ("superior_cerebellar", "inferior_cerebellar")),
}
TISSUES = ("background", "csf", "cortex", "white", "nuclei")
CODE = 8  # a voxel's code is its tissue + 8 x its territory
NUM_PLACES = 64


def territories(name: str) -> np.ndarray:
    """Returns the territories of an anatomy, from the cache; derives them the first time.

    Args:
        name: of the anatomy, held-out ones too: the caller decides which of them train.

    Returns:
        (x, y, z) uint8 on the anatomy's grid: values of the atlas, 0 outside grey and white matter.

    Raises:
        ValueError: no such anatomy.
        FileNotFoundError: a package with data is not installed, with the command that installs it.
    """
    path = cache_folder() / f"territories-{name}-v{VERSION}.npz"
    return files.cached_arrays(path, lambda: {"territories": _derive(name)})["territories"]


def locate() -> pathlib.Path:
    """Returns the file of the atlas.

    Raises:
        FileNotFoundError: the package is not installed, with the command that installs it.
    """
    try:
        path = pathlib.Path(str(importlib.metadata.distribution(PACKAGE).locate_file(FILE)))
    except importlib.metadata.PackageNotFoundError:
        path = pathlib.Path()
    if not path.is_file():
        raise FileNotFoundError(f"The arterial territories are in the package {PACKAGE!r}, not installed: {INSTALL}")
    return path


def _derive(name: str) -> np.ndarray:
    atlas = nib.nifti1.load(locate())
    values = np.asanyarray(atlas.dataobj)
    values = np.where(values <= max(TERRITORIES.values()) + 1, values, 0).astype(np.uint8)
    # The atlas has gaps and its own outline: every place takes the nearest territory, cut by the anatomy's tissue.
    nearest = ndimage.distance_transform_edt(values == 0, return_distances=False, return_indices=True)
    template, brain = anatomy(TEMPLATE), anatomy(name, allow_test=True)
    here, there = landmarks(brain.labels), landmarks(template.labels)
    common = sorted(set(here) & set(there))
    source = nib.affines.apply_affine(
        np.linalg.inv(atlas.affine) @ template.affine, np.array([there[key] for key in common])
    )
    moved = completion.warp(values[tuple(nearest)], np.array([here[key] for key in common]), source, brain.labels.shape)
    return sided(moved, brain.labels)


def landmarks(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the points that match brains: the centre of each structure, and the six ends of the cerebrum.

    Args:
        labels: (x, y, z) of the scheme.

    Returns:
        Name -> (3,) voxels.
    """
    centroids = completion.centroids(np.where(np.isin(labels, BRAIN), labels, 0))
    points = {LABELS[index].name: np.asarray(point, float) for index, point in centroids.items()}
    cerebrum = np.isin(labels, [*sides("cortex"), *sides("white")])
    middle = np.array([float(np.median(places)) for places in np.nonzero(cerebrum)])
    for axis in range(3):
        extent = np.flatnonzero(cerebrum.any(axis=tuple({0, 1, 2} - {axis})))
        for end, place in zip(("low", "high"), (extent[0], extent[-1]), strict=True):
            points[f"{end}_{axis}"] = np.where(np.arange(3) == axis, place, middle)
    return points


def sided(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cuts territories to tissue, each voxel on the side of its structure.

    Args:
        values: (x, y, z) territories, odd left and even right.
        labels: (x, y, z) of the scheme on the same grid.

    Returns:
        (x, y, z) uint8.
    """
    side = np.zeros(NUM_LABELS, np.int8)  # 1 left, 2 right, 0 either
    for label in LABELS:
        side[label.index] = label.name.startswith("left_") + 2 * label.name.startswith("right_")
    which, left = side[labels], (values.astype(np.int16) - 1) // 2 * 2 + 1
    fitting = np.where(which == 0, values, left + (which == 2))
    return np.where((tissues(labels) > 1) & (values > 0), fitting, 0).astype(np.uint8)


def tissues(labels: np.ndarray) -> np.ndarray:
    """Returns the tissue of each label of the scheme, (x, y, z) uint8, indices into `TISSUES`."""
    table = np.zeros(NUM_LABELS, np.uint8)
    table[list(BRAIN)] = TISSUES.index("nuclei")
    table[[INDEX["csf"], *sides("ventricle")]] = TISSUES.index("csf")
    table[[*sides("cortex"), *sides("cerebellum_cortex")]] = TISSUES.index("cortex")
    table[[*sides("white"), *sides("cerebellum_white"), *sides("brainstem")]] = TISSUES.index("white")
    return table[labels]


@functools.cache
def coded(names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Stacks anatomies and their territories, for a graph that picks one by number.

    Args:
        names: of the anatomies, held-out ones too.

    Returns:
        Codes (anatomies, x, y, z) uint8, tissue + 8 x territory, each brain in the middle of a grid of 1 mm that holds
        all; and places, (anatomies, occlusions, sides, `NUM_PLACES`, 3) float32 voxels of tissue that each occlusion
        cuts off.
    """
    maps = []
    for name in names:
        labels = anatomy(name, allow_test=True).labels
        maps.append(_crop(tissues(labels) + CODE * territories(name)))
    shape = np.max([codes.shape for codes in maps], axis=0)
    codes = np.stack([_pad_to(each, shape) for each in maps])
    return codes, np.stack([places(each) for each in codes])


def _crop(codes: np.ndarray) -> np.ndarray:
    box = ndimage.find_objects((codes > 0).astype(np.uint8))[0]
    return codes[box]


def _pad_to(codes: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    room = [int(target) - size for target, size in zip(shape, codes.shape, strict=True)]
    return np.pad(codes, [(extra // 2, extra - extra // 2) for extra in room])


def members(occlusion: str) -> np.ndarray:
    """Returns the territories that an occlusion cuts off, (2, 31) bool, left then right.

    Raises:
        ValueError: no such occlusion.
    """
    if occlusion not in OCCLUSIONS:
        raise unknown_choice("occlusion", occlusion, OCCLUSIONS)
    table = np.zeros((2, max(TERRITORIES.values()) + 2), bool)
    for name in OCCLUSIONS[occlusion][1]:
        for side in (0, 1):
            table[side, TERRITORIES[name] + side] = True
    return table


def places(codes: np.ndarray, num: int = NUM_PLACES) -> np.ndarray:
    """Draws voxels of each occlusion's territory, always the same: (occlusions, sides, num, 3) float32.

    Raises:
        ValueError: an anatomy lacks a territory.
    """
    draw = np.random.default_rng(0)
    flat = codes.reshape(-1)
    voxels = np.zeros((len(OCCLUSIONS), 2, num, 3), np.float32)
    for row, name in enumerate(OCCLUSIONS):
        for side, member in enumerate(members(name)):
            inside = np.flatnonzero(member[flat // CODE])
            if not len(inside):
                raise ValueError(f"The anatomy has no voxel in the territory of {name!r}. Use a whole brain.")
            voxels[row, side] = np.stack(np.unravel_index(draw.choice(inside, num), codes.shape), -1)
    return voxels
