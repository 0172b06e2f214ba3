"""The demo as a user runs it, once, and what it says of itself."""

import json
import os
import subprocess
import sys

import matplotlib.image
import nibabel
import numpy as np
import pytest

import zoo
from zoo.reporting import planes
from zoo.workflows import demo


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    quiet = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-m", "zoo.cli", "demo", "--json"]
    done = subprocess.run(command, cwd=folder, env=quiet, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, json.loads(done.stdout)


def test_the_mask_lies_on_the_grid_of_the_head(ran):
    folder, printed = ran
    mask, head = nibabel.load(folder / printed["mask"]), nibabel.load(zoo.sample("colin27"))
    assert mask.shape == head.shape
    np.testing.assert_array_equal(mask.affine, head.affine)
    assert set(np.unique(mask.dataobj)) == {0, 1}


def test_volume_and_dice_are_counted_right(ran):
    folder, printed = ran
    mask = np.asarray(nibabel.load(folder / printed["mask"]).dataobj) > 0
    truth = np.asarray(nibabel.load(zoo.sample("colin27_mask")).dataobj) > 0
    assert printed["volume_ml"] == pytest.approx(mask.sum() * 0.008)  # voxels of 2 x 2 x 2 mm
    assert printed["reference_ml"] == pytest.approx(truth.sum() * 0.008)
    assert printed["dice"] == pytest.approx(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    assert printed["dice"] > 0.92


def test_the_picture_shows_three_planes(ran):
    folder, printed = ran
    decoded = matplotlib.image.imread(folder / printed["picture"])
    assert decoded.shape[1] > 1200 and 1.5 < decoded.shape[1] / decoded.shape[0] < 4
    cyan = (decoded[..., 2] > 0.7) & (decoded[..., 0] < 0.2)
    yellow = (decoded[..., 0] > 0.9) & (decoded[..., 2] < 0.45)
    for part in np.array_split(np.arange(decoded.shape[1]), 3):
        assert cyan[:, part].sum() > 300 and yellow[:, part].sum() > 300


def test_structures_have_sides_and_a_picture_of_their_own(ran):
    folder, printed = ran
    labels = np.asarray(nibabel.load(folder / printed["labels"]).dataobj)
    left, right, asymmetry = printed["structures"]["thalamus"]
    assert (left, right) == pytest.approx(((labels == 10).sum() * 0.008, (labels == 49).sum() * 0.008))
    assert asymmetry == pytest.approx(200 * (left - right) / (left + right))
    assert len((folder / printed["volumes"]).read_text().splitlines()) > 24
    assert matplotlib.image.imread(folder / printed["labels_picture"]).shape[1] > 1200


def test_without_matplotlib_all_but_the_picture_is_made(tmp_path, monkeypatch):
    def predicted(name, scan, *, out):
        mask = nibabel.load(zoo.sample("colin27_mask" if name == demo.MODEL else "colin27_aal"))
        nibabel.save(mask, out)
        return mask

    def no_matplotlib(*_, **__):
        raise ImportError("matplotlib")

    monkeypatch.setattr(demo, "predict", predicted)
    monkeypatch.setattr(planes, "write_planes", no_matplotlib)
    result = zoo.demo(tmp_path / "new" / "folder")
    assert (result.picture, result.dice) == (None, 1.0)
    assert "Dice      1.000" in str(result) and "pip install zoo3d[report]" in str(result)
    names = ["brain_mask.nii.gz", "brain_structures.nii.gz", "brain_structures_volumes.csv"]
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == names and result.labels_picture is None
