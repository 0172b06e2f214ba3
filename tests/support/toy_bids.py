"""A BIDS data set of noise and tiny models for it, for the tests of `zoo bids`."""

import json

import nibabel
import numpy as np

import zoo
from support.blank import card
from zoo.hub.card import Label
from zoo.hub.tabular import Tabular

ONE, TWO, SEVERAL = "unet3d.toy_lesion", "unet3d.toy_pair", "unet3d.toy_parts"
SHAPE = (12, 14, 16)
PARTS = {0: Label("background", 0), 1: Label("left", 17), 2: Label("right", 53)}
LESION = {0: Label("background", 0), 1: Label("lesion", 7)}


def save_models(folder):
    """A model of one channel, one of two with an age beside them, one of several structures and any contrast."""
    age = Tabular("age", "years", 18, 110, 60, 10)
    made = (
        card(ONE, ("T1w",), LESION),
        card(TWO, ("T1", "FLAIR"), LESION, (age,)),
        card(SEVERAL, ("image",), PARTS),
    )
    for one in made:
        zoo.save(zoo.load("unet3d", **one.arguments), folder / one.name, one)
    return folder


def scan(seed=0):
    volume = np.random.default_rng(seed).random(SHAPE, np.float32)
    image = nibabel.Nifti1Image(volume, np.diag([1.0, 1.5, 2.0, 1.0]))
    image.header.set_xyzt_units("mm", "sec")
    return image


def write(root, name, seed=0):
    """A scan by its BIDS name: `sub-01_ses-a_T1w` into sub-01/ses-a/anat."""
    folder = root.joinpath(*[part for part in name.split("_") if part.startswith(("sub-", "ses-"))], "anat")
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(scan(seed), folder / f"{name}.nii.gz")
    return folder / f"{name}.nii.gz"


def data_set(root, subjects=("01", "02", "03")):
    """Subjects with a T1w image and an age each."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "toys", "BIDSVersion": "1.10.0"}))
    rows = [f"sub-{subject}\t{50 + int(subject)}\n" for subject in subjects]
    (root / "participants.tsv").write_text("".join(["participant_id\tage\n", *rows]))
    (root / "participants.json").write_text(json.dumps({"age": {"Description": "Age.", "Units": "year"}}))
    for number, subject in enumerate(subjects):
        write(root, f"sub-{subject}_T1w", number)
    return root
