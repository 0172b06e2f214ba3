"""Finds masks of real infarcts in folders that a user has cloned, decides who is held out, and reads age and NIHSS.

Source: masks drawn on diffusion images and carried to MNI space, of the Stroke Outcome Optimization Project: Absher et
al., Scientific Data 2024, doi:10.1038/s41597-024-03667-5 (OpenNeuro ds004889).
"""

import csv
import functools
import math
import pathlib
import re
from collections.abc import Sequence

import nibabel as nib
import numpy as np

from zoo.errors import unknown_choice
from zoo.synth.anatomy import people
from zoo.volumes.image import to_ras

SETTING = "ZOO_INFARCTS"
REPOSITORY = "https://github.com/neurolabusc/StrokeOutcomeOptimizationProjectDemo"
SUBFOLDER = "soop"  # looked into as well, so that the setting may name the folder above
TABLE, ATLAS = "participants.tsv", "ArterialAtlas136.nii.gz"
SPLITS = ("train", "test")
HELD_OUT_ONE_IN = 5
_FILE = re.compile(r"bwsrsub-(\d+)_lesion\.nii(\.gz)?")


def split_of(name: str) -> str:
    """Returns the split of an infarct; the only place that decides which are held out.

    Raises:
        ValueError: not a name as "soop_12".

    Example:
        >>> split_of("soop_12"), split_of("soop_1000")
        ('train', 'test')
    """
    return "train" if _number_of(name) % HELD_OUT_ONE_IN else "test"


def folders() -> list[pathlib.Path]:
    """Returns the folders that `ZOO_INFARCTS` names, and their subfolders "soop"."""
    return people.folders_of(SETTING, [SUBFOLDER])


def found() -> dict[str, pathlib.Path]:
    """Returns the file of each infarct in the setting's folders, by name, in the order of their numbers."""
    files: dict[int, pathlib.Path] = {}
    for folder in folders():
        for file in folder.iterdir():
            match = _FILE.fullmatch(file.name)
            if match:
                files.setdefault(int(match[1]), file)
    return {f"soop_{number}": files[number] for number in sorted(files)}


def names(split: str = "train") -> list[str]:
    """Lists the infarcts of a split that are in the setting's folders.

    Args:
        split: "train", or "test": infarcts whose number is divisible by 5, which never train.

    Raises:
        ValueError: there is no such split.

    Example:
        >>> names("test")  # doctest: +SKIP
        ['soop_5', 'soop_10', ...]
    """
    if split not in SPLITS:
        raise unknown_choice("split", split, SPLITS)
    return [name for name in found() if split_of(name) == split]


def locate(name: str) -> pathlib.Path:
    """Returns the file of an infarct.

    Raises:
        ValueError: not a name as "soop_12".
        FileNotFoundError: no folder of the setting has it; the message says what to clone and to set.
    """
    number, files = _number_of(name), found()
    if name in files:
        return files[name]
    raise people.missing_file(f"Infarct {name!r} is the mask bwsrsub-{number}_lesion.nii.gz", SETTING, REPOSITORY)


def required(split: str = "train") -> list[str]:
    """Lists infarcts as `names` does, but raises FileNotFoundError instead of returning an empty list."""
    infarcts = names(split)
    if not infarcts:
        locate("soop_1" if split == "train" else f"soop_{HELD_OUT_ONE_IN}")
    return infarcts


def check_leave(infarcts: Sequence[str], *, allow_test: bool) -> None:
    """Raises ValueError where held-out infarcts are asked for without leave."""
    held_out = [name for name in infarcts if split_of(name) == "test"]
    if held_out and not allow_test:
        raise ValueError(
            f"Infarct {held_out[0]!r} is held out for tests, training on it would spoil every result. Train on those "
            "of names('train'); to evaluate on it pass allow_test=True."
        )


def read(name: str, *, allow_test: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Reads a mask.

    Args:
        name: as "soop_12".
        allow_test: lets a held-out infarct through.

    Returns:
        (x, y, z) bool, RAS, 1 mm, and its affine, to mm in MNI space.

    Raises:
        FileNotFoundError: see `locate`.
        ValueError: a held-out infarct without `allow_test`, voxels that are not 1 mm, or an empty mask.
    """
    check_leave([name], allow_test=allow_test)
    path = locate(name)
    mask, affine = read_upright(path)
    if not mask.any():
        raise ValueError(f"{path} is an empty mask. Take it out of the folder.")
    return mask > 0, affine


def read_upright(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads a volume of integers with axes along those of MNI space, 1 mm: (x, y, z) RAS, and its affine.

    Raises:
        ValueError: voxels that are not 1 mm, or axes that are turned.
    """
    image = nib.nifti1.load(path)
    values, affine = to_ras(np.asanyarray(image.dataobj), image.affine)
    if np.abs(affine[:3, :3] - np.eye(3)).max() > 0.01:
        raise ValueError(f"{path} is not on an upright grid of 1 mm. Resample it to MNI space, nearest label.")
    return values, affine


@functools.cache
def _read_table(path: pathlib.Path) -> dict[str, tuple[float, float]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {row["participant_id"]: (_to_number(row.get("age")), _to_number(row.get("nihss"))) for row in rows}


def age_and_nihss(name: str) -> tuple[float, float]:
    """Returns age in years and NIHSS at admission of the person with an infarct; NaN where they are not known.

    Ages above 89 are known as "89+" and count as 89.
    """
    path = locate(name).parent / TABLE
    table = _read_table(path) if path.is_file() else {}
    return table.get(f"sub-{_number_of(name)}", (math.nan, math.nan))


def _to_number(text: str | None) -> float:
    try:
        return float((text or "").rstrip("+"))
    except ValueError:
        return math.nan


def _number_of(name: str) -> int:
    if not re.fullmatch(r"soop_\d+", name):
        raise ValueError(f"The name of an infarct is soop_ and its number, as 'soop_12', got {name!r}.")
    return int(name.removeprefix("soop_"))
