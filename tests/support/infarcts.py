"""A folder of made-up infarct masks in the layout of the Stroke Outcome Optimization Project."""

import nibabel
import numpy as np

SHAPE, ORIGIN = (60, 56, 52), (-30.0, -40.0, -10.0)
HOLES = np.s_[14:46, 26:30, 22:26]  # a bar of fluid through both sides
PLACES = {1: 15, 2: 16, 4: 44, 5: 17, 8: 42, 10: 43, 11: 18}  # x of the middle of each: left half or right
RADII = {1: 10, 2: 7, 4: 8, 5: 9, 8: 11, 10: 6, 11: 5}
TABLE = "participant_id\tsex\tage\tnihss\nsub-1\tM\t78.0\t17.0\nsub-2\tF\t89+\t0.0\nsub-4\tn/a\tn/a\tn/a\n"


def balls(number):
    """Returns the mask of an infarct, two balls that touch: (x, y, z) bool, RAS."""
    x, y, z = np.indices(SHAPE)
    near = lambda middle, radius: (x - middle[0]) ** 2 + (y - middle[1]) ** 2 + (z - middle[2]) ** 2 < radius**2  # noqa: E731
    radius, place = RADII[number], PLACES[number]
    return near((place, 28, 25), radius) | near((place, 28 + radius, 25), radius / 2)


def write_folder(folder, numbers=(1, 2, 4, 5, 8, 10)):
    """Writes masks whose first axis points left, a table of people and an atlas of two halves; returns the folder."""
    folder.mkdir(parents=True)
    affine = np.diag([-1.0, 1, 1, 1])
    affine[:3, 3] = ORIGIN[0] + SHAPE[0] - 1, *ORIGIN[1:]
    for number in numbers:
        mask = balls(number)[::-1].astype(np.uint8)
        nibabel.Nifti1Image(mask, affine).to_filename(folder / f"bwsrsub-{number}_lesion.nii.gz")
    halves = np.where(np.arange(SHAPE[0])[:, None, None] < SHAPE[0] / 2, 1, 2) * np.ones(SHAPE)
    nibabel.Nifti1Image(halves[::-1].astype(np.uint8), affine).to_filename(folder / "ArterialAtlas136.nii.gz")
    (folder / "participants.tsv").write_text(TABLE)
    (folder / "LICENSE").write_text("not a mask")
    return folder
