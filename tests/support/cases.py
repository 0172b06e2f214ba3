"""Small data sets on disk for the tests of `zoo.data`."""

import nibabel
import numpy as np

from zoo.datasets.cases import Case

SHAPE = (16, 24, 32)


def write(path, array, affine=None):
    """Writes a NIfTI file, its folders too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.asarray(array), np.eye(4) if affine is None else affine), path)
    return path


def image(seed=0, shape=SHAPE, dtype=np.int16):
    return np.random.default_rng(seed).integers(1, 200, shape).astype(dtype)


def lesion(*voxels, shape=SHAPE, value=1, dtype=np.uint8):
    labels = np.zeros(shape, dtype)
    for voxel in voxels:
        labels[voxel] = value
    return labels


def made(folder, num=4, *, shape=SHAPE, channels=("t1", "flair"), dtype=np.int16, labelled=True):
    """Cases with one lesion voxel of class 1 and a few of class 2; case i holds a seeded image."""
    cases = []
    for number in range(num):
        key = f"case{number}"
        files = {
            name: write(folder / key / f"{name}.nii", image(10 * number + place, shape, dtype))
            for place, name in enumerate(channels)
        }
        labels = lesion((3 + number % 8, 5, 7), shape=shape)
        labels[10:12, 20, 2 + number % 8] = 2
        mask = write(folder / key / "mask.nii", labels) if labelled else None
        cases.append(Case(key, f"subject{number // 2}", files, mask, {"age": 50.0 + number}))
    return cases
