"""Real data of the task `lacunes`: VALDO, BIDS with derivatives and plain folders, from the files to a batch."""

import nibabel as nib
import numpy as np
import pytest

from zoo.tasks import lacunes
from zoo.training import batches

SIZES = (24, 20, 16)
LEVELS = {"T1": 100, "T2": 200, "FLAIR": 300}


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.nifti1.Nifti1Image(array.astype(np.int16), np.diag([-1.0, 1, 1, 1])).to_filename(path)


def scan(channel, subject):
    draw = np.random.default_rng([LEVELS[channel], subject])
    return LEVELS[channel] + draw.integers(1, 50, SIZES)


def truth(subject):
    mask = np.zeros(SIZES)
    mask[8 + subject : 12 + subject, 8:12, 6:10] = 1
    return mask


def valdo(root):
    for number in (1, 2, 3):
        name = f"sub-10{number}"
        for channel in LEVELS:
            write(root / name / f"{name}_space-T1_desc-masked_{channel}.nii.gz", scan(channel, number))
        write(root / name / f"{name}_space-T1_desc-Rater1_Lacunes.nii.gz", truth(number))


def bids(root):
    root.mkdir()
    (root / "dataset_description.json").write_text('{"Name": "small vessels", "BIDSVersion": "1.9.0"}')
    for number in (1, 2, 3):
        name = f"sub-0{number}"
        for channel, suffix in (("T1", "T1w"), ("T2", "T2w"), ("FLAIR", "FLAIR")):
            write(root / name / "anat" / f"{name}_{suffix}.nii.gz", scan(channel, number))
        out = root / "derivatives" / "manual" / name / "anat"
        write(out / f"{name}_label-lacune_mask.nii.gz", truth(number))
        write(out / f"{name}_desc-brain_mask.nii.gz", np.ones(SIZES))


def folders(root):
    for number in (1, 2, 3):
        for channel in LEVELS:
            write(root / f"case{number}" / f"{channel}.nii.gz", scan(channel, number))
        write(root / f"case{number}" / "lacunes.nii.gz", truth(number))


def flat(root):
    for number in (1, 2, 3):
        for channel in LEVELS:
            write(root / "images" / f"{number}-{channel.lower()}.nii.gz", scan(channel, number))
        write(root / "drawn" / f"{number}.nii.gz", truth(number))


PATTERNS = {name: f"images/{{id}}-{name.lower()}.nii.gz" for name in LEVELS} | {"labels": "drawn/{id}.nii.gz"}


@pytest.mark.parametrize(
    ("make", "changes"),
    [(valdo, {}), (bids, {}), (folders, {}), (flat, {"reader": "folder", "patterns": PATTERNS})],
    ids=["valdo", "bids", "folders", "patterns"],
)
def test_a_data_set_becomes_batches(tmp_path, make, changes):
    make(tmp_path / "data")
    task = lacunes.TASK.replace(patch=(16, 16, 16), batch_size=1, positive_fraction=1.0, augment=None, **changes)
    cases = batches.labelled(task, tmp_path / "data")
    assert len(cases) == 3 and all(set(case.channels) == set(LEVELS) for case in cases)
    for number, case in enumerate(cases, 1):
        read = [
            np.asanyarray(nib.nifti1.load(path).dataobj)
            for path in (*(case.channels[name] for name in LEVELS), case.labels)
        ]
        expected = [*(scan(channel, number) for channel in LEVELS), truth(number)]
        assert all(np.array_equal(first, other) for first, other in zip(read, expected, strict=True))
    data = batches.open_data(task, tmp_path / "data", seed=0, out=tmp_path)
    x, y = (np.asarray(each) for each in next(iter(data.training(0))))
    assert x.shape == (1, 16, 16, 16, 3) and y.shape[:4] == (1, 16, 16, 16)
    assert 1 <= y[..., 0].sum() <= 64 and np.abs(x).max() < 6  # a lacune is inside, intensities are z-scores


def test_a_channel_that_is_missing_is_named(tmp_path):
    folders(tmp_path)
    (tmp_path / "case2" / "T2.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"(?s)case2.*T2"):
        batches.labelled(lacunes.TASK, tmp_path)


def test_a_pattern_of_no_channel_is_refused_on_the_command_line(zoo_command, tmp_path):
    result = zoo_command("train", "lacunes", "--source", tmp_path, "--pattern", "T3={id}.nii.gz")
    assert result.exit_code == 2 and "T1, T2, FLAIR, labels" in result.stderr and "T3={id}" in result.stderr
