"""Reads label maps of real people from folders that a user has cloned: SynthSeg's heads and SynthSR's brains."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable

import nibabel as nib
import numpy as np
from scipy import ndimage

from zoo.synth.anatomy import completion
from zoo.synth.anatomy.labels import INDEX, LABELS, NUM_LABELS, PARTNERS, sides
from zoo.volumes.image import to_ras

SETTING = "ZOO_ANATOMIES"
REPOSITORIES = {
    "synthseg": "https://github.com/BBillot/SynthSeg (data/training_label_maps)",
    "synthsr": "https://github.com/BBillot/SynthSR (data/labels)",
}
MARGIN = 8  # voxels of background around a head
LEAST_WIDTH = 20  # voxels of both halves of a brain together; less is the tip of one half


@dataclasses.dataclass(frozen=True)
class Person:
    """One label map: its file, the short name of its repository, and whether it may train."""

    file: str
    folder: str
    split: str


def _make_table() -> dict[str, Person]:
    heads = {
        f"synthseg_{number:02d}": Person(f"training_seg_{number:02d}.nii.gz", "synthseg", split)
        for split, numbers in {"train": range(1, 14), "test": range(14, 21)}.items()
        for number in numbers
    }
    brains = {
        f"synthsr_{number}": Person(f"brain{number}_labels.nii.gz", "synthsr", "train" if number < 5 else "test")
        for number in range(1, 6)
    }
    return heads | brains


PEOPLE = _make_table()  # the only place that decides who trains and who tests


def folders() -> list[pathlib.Path]:
    """Returns the folders that `ZOO_ANATOMIES` names, and their subfolders with the short name of a repository."""
    return folders_of(SETTING, REPOSITORIES)


def folders_of(setting: str, subfolders: Iterable[str]) -> list[pathlib.Path]:
    """Returns the folders that an environment variable names, each followed by its subfolders, of those that exist."""
    paths = [pathlib.Path(part) for part in os.environ.get(setting, "").split(os.pathsep) if part]
    places = [place for path in paths for place in (path, *(path / name for name in subfolders))]
    return [place for place in places if place.is_dir()]


def missing_file(what: str, setting: str, repository: str) -> FileNotFoundError:
    """Returns the error for a file that no folder of a setting has: what to clone and to set.

    Args:
        what: the thing and its file, as "Anatomy 'synthseg_01' is the label map training_seg_01.nii.gz".
        setting: the environment variable.
        repository: where the files are from.
    """
    named = os.environ.get(setting)
    looked = f"{setting}={named!r} has no file of that name" if named else f"{setting} is not set"
    return FileNotFoundError(
        f"{what}, and {looked}. Clone {repository} and set {setting} to the folder with the files; several folders are "
        f"joined by {os.pathsep!r}."
    )


def locate(name: str) -> pathlib.Path:
    """Returns the label map file of a person.

    Raises:
        FileNotFoundError: no folder of the setting has it; the message says what to clone and to set.
    """
    person = PEOPLE[name]
    for folder in folders():
        if (folder / person.file).is_file():
            return folder / person.file
    raise missing_file(f"Anatomy {name!r} is the label map {person.file}", SETTING, REPOSITORIES[person.folder])


def names(split: str = "train") -> list[str]:
    """Lists the people of a split whose label maps are in the setting's folders."""
    there = {file.name for folder in folders() for file in folder.iterdir()}
    return [name for name, person in PEOPLE.items() if person.split == split and person.file in there]


def required(split: str = "train") -> list[str]:
    """Lists people as `names` does, but raises instead of returning an empty list.

    Raises:
        FileNotFoundError: there is nobody of that split.
    """
    people = names(split)
    if not people:
        locate(next(name for name, person in PEOPLE.items() if person.split == split))
    return people


# SynthSeg's codes that are not FreeSurfer's, and FreeSurfer's that another structure of the scheme stands for.
# 29 is "undetermined", a few voxels in white matter; 72 the fifth ventricle, between the two lateral ones.
_ALSO = {136: "left_choroid", 163: "right_choroid", 29: "left_white", 61: "right_white", 72: "third_ventricle"}
_ALSO |= {506: "eye", 507: "soft_tissue"}
_KNOWN = (
    *(0, 2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 24, 25, 26, 28, 30, 31, 41, 42, 43, 44, 46, 47, 49, 50),
    *(51, 52, 53, 54, 57, 58, 60, 62, 63, 85, 137, 164, 502, 508, 509, 511, 512, 514, 515, 516, 530),
)


def _make_code_table() -> np.ndarray:
    """Returns the index in the scheme of each code, (codes,) int16, -1 where these maps have no such code."""
    table = np.full(1000, -1, np.int16)
    index = {label.code: label.index for label in LABELS}
    for code in _KNOWN:
        table[code] = index[code]
    for code, name in _ALSO.items():
        table[code] = INDEX[name]
    return table


def from_synthseg(codes: np.ndarray, name: str = "label map") -> np.ndarray:
    """Converts the codes of SynthSeg's and SynthSR's maps to labels of the scheme.

    Args:
        codes: (x, y, z) integers.
        name: of the map, for the error message.

    Returns:
        (x, y, z) int16.

    Raises:
        ValueError: codes that the scheme has no structure for, each with its volume in voxels.
    """
    table = _make_code_table()
    values, counts = np.unique(codes, return_counts=True)
    strange = [
        f"{code} ({count} voxels)"
        for code, count in zip(values.tolist(), counts.tolist(), strict=True)
        if not 0 <= code < len(table) or table[code] < 0
    ]
    if strange:
        raise ValueError(
            f"{name} has codes that are neither FreeSurfer's aseg nor SynthSeg's: {', '.join(strange)}. "
            "Give a label map with those codes alone, or set the others to 0."
        )
    return table[codes]


def split_merged(labels: np.ndarray) -> np.ndarray:
    """Gives the right half of a map whose sides are merged (as left) the labels of the right side.

    Args:
        labels: (x, y, z) of the scheme, RAS, so that right is where the first axis ends.

    Returns:
        (x, y, z) int16; a map that already has right labels is returned unchanged.
    """
    right = np.arange(NUM_LABELS) > PARTNERS
    if right[labels].any():
        return labels
    return np.where(midline(labels), PARTNERS[labels], labels).astype(np.int16)


def midline(labels: np.ndarray) -> np.ndarray:
    """Marks the voxels right of the plane half-way between the outer borders of both sides, (x, y, z) bool.

    Fits the half-way x over y and z by least squares, so that a slightly turned brain is split along its own fissure.
    """
    sided = PARTNERS[labels] != labels
    size, y_size, z_size = labels.shape
    across = np.arange(size, dtype=np.float32)[:, None, None]
    first, last = np.where(sided, across, size).min(0), np.where(sided, across, -1).max(0)
    y, z = np.nonzero(last - first > LEAST_WIDTH)
    middle = (first + last)[y, z] / 2
    plane = np.c_[np.ones(len(y)), y, z]
    weights = np.linalg.lstsq(plane, middle, rcond=None)[0]
    grid = np.indices((y_size, z_size))
    return across > (weights[0] + weights[1] * grid[0] + weights[2] * grid[1])[None]


def read(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads the label map of a person in the scheme, int16, RAS, 1 mm, cut to its content, and its affine.

    Raises:
        FileNotFoundError: see `locate`.
        ValueError: unknown codes, or voxels that are not 1 mm.
    """
    path = locate(name)
    image = nib.nifti1.load(path)
    sizes = nib.affines.voxel_sizes(image.affine)
    if np.abs(sizes - 1).max() > 0.05:
        raise ValueError(f"{path} has voxels of {sizes.round(2).tolist()} mm, not 1 mm. Resample it, nearest label.")
    codes, affine = to_ras(np.rint(np.asanyarray(image.dataobj)).astype(np.int32), image.affine)
    labels = split_merged(from_synthseg(codes, path.name))
    with_head = bool(np.isin(labels, sides("soft_tissue")).any())
    labels, affine = framed(labels, affine, MARGIN if with_head else 24)
    return (labels, affine) if with_head else (completion.add_csf(labels), affine)


def framed(labels: np.ndarray, affine: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts to the labelled part and adds the same margin of background on every side."""
    low_high = ndimage.find_objects((labels > 0).astype(np.uint8))[0]
    affine = affine.copy()
    affine[:3, 3] += affine[:3, :3] @ (np.array([axis.start for axis in low_high]) - margin)
    return np.pad(labels[low_high], margin), affine
