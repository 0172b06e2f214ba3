"""Images for tests, in memory and as small data sets on disk: folders a case, and a BIDS data set."""

import json

import nibabel
import numpy as np

from zoo.datasets.cases import Case
from zoo.synth.anatomy.labels import INDEX, sides

SHAPE = (16, 24, 32)


def write_nifti(path, array, affine=None):
    """Writes a NIfTI file, its folders too; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.asarray(array), np.eye(4) if affine is None else affine), path)
    return path


def draw_image(seed=0, shape=SHAPE, dtype=np.int16):
    """Draws whole numbers from 1 to 199."""
    return np.random.default_rng(seed).integers(1, 200, shape).astype(dtype)


def mark_voxels(*voxels, shape=SHAPE, value=1, dtype=np.uint8):
    """Returns a label map with `value` at these voxels."""
    labels = np.zeros(shape, dtype)
    for voxel in voxels:
        labels[voxel] = value
    return labels


def write_cases(folder, num=4, *, shape=SHAPE, channels=("t1", "flair"), dtype=np.int16, labelled=True):
    """Writes cases with one voxel of class 1 and a few of class 2; case i holds a seeded image."""
    cases = []
    for number in range(num):
        key = f"case{number}"
        files = {
            name: write_nifti(folder / key / f"{name}.nii", draw_image(10 * number + place, shape, dtype))
            for place, name in enumerate(channels)
        }
        labels = mark_voxels((3 + number % 8, 5, 7), shape=shape)
        labels[10:12, 20, 2 + number % 8] = 2
        mask = write_nifti(folder / key / "mask.nii", labels) if labelled else None
        cases.append(Case(key, f"subject{number // 2}", files, mask, {"age": 50.0 + number}))
    return cases


def noise_in_air(shape=SHAPE, *, affine=None, seed=0, margin=3):
    """Returns noise in a box of air, as float32 NIfTI."""
    data = np.zeros(shape, np.float32)
    inner = tuple(slice(margin, -margin) for _ in shape)
    data[inner] = np.random.default_rng(seed).uniform(0.1, 1, data[inner].shape)
    return nibabel.Nifti1Image(data, np.eye(4) if affine is None else affine)


def waves_in_air(shape, affine=None, seed=0):
    """Returns a box of smooth structure in air, with noise on it, as float32 NIfTI."""
    draw = np.random.default_rng(seed)
    data = np.zeros(shape, np.float32)
    inner = tuple(slice(2, -2) for _ in shape)
    waves = [np.sin(np.arange(n) * step)[2:-2] for n, step in zip(shape, (0.5, 0.7, 0.9), strict=True)]
    data[inner] = 50 + 20 * np.einsum("i,j,k->ijk", *waves) + draw.normal(0, 4, data[inner].shape)
    return nibabel.Nifti1Image(data, np.eye(4) if affine is None else affine)


def oblique_affine():
    """Returns an affine that runs backwards, swaps axes and is oblique, with voxels of 1.3 x 1.1 x 1.2 mm."""
    angle = 0.15
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[0, 0, -1.2], [1.3, 0, 0], [0, -1.1, 0]])
    affine[:3, 3] = (4, -7, 30)
    return affine


def box_brain():
    """Returns labels of white matter in a shell of cortex and fluid, a ventricle in a corner, a brainstem below."""
    labels = np.zeros((72, 72, 72), np.int16)
    labels[4:68, 4:68, 4:68] = INDEX["csf"]
    labels[6:66, 6:66, 6:66] = sides("cortex")[0]
    labels[9:63, 9:63, 9:63] = sides("white")[0]
    labels[12:20, 12:20, 40:60] = sides("ventricle")[0]
    labels[50:60, 50:60, 10:30] = INDEX["brainstem"]
    return labels


def write_bids_scan(root, name, seed=0):
    """Writes noise under its BIDS name: `sub-01_ses-a_T1w` into sub-01/ses-a/anat; returns the path."""
    volume = np.random.default_rng(seed).random((12, 14, 16), np.float32)
    image = nibabel.Nifti1Image(volume, np.diag([1.0, 1.5, 2.0, 1.0]))
    image.header.set_xyzt_units("mm", "sec")
    folder = root.joinpath(*[part for part in name.split("_") if part.startswith(("sub-", "ses-"))], "anat")
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, folder / f"{name}.nii.gz")
    return folder / f"{name}.nii.gz"


def write_bids(root, subjects=("01", "02", "03")):
    """Writes a BIDS data set whose subjects have a T1w image and an age each; returns the folder."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "toys", "BIDSVersion": "1.10.0"}))
    rows = [f"sub-{subject}\t{50 + int(subject)}\n" for subject in subjects]
    (root / "participants.tsv").write_text("".join(["participant_id\tage\n", *rows]))
    (root / "participants.json").write_text(json.dumps({"age": {"Description": "Age.", "Units": "year"}}))
    for number, subject in enumerate(subjects):
        write_bids_scan(root, f"sub-{subject}_T1w", number)
    return root
