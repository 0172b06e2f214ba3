"""`zoo predict` on susceptibility maps: units, masks, and the table of all scans."""

import csv
import dataclasses

import keras
import nibabel as nib
import numpy as np
import pytest

import zoo
from zoo.tasks import qsm_nuclei
from zoo.training.run import model_card

GRID = np.diag([-1.5, 1.5, 1.5, 1])


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A tiny network of the task that knows nothing, and one that takes no map."""
    folder = tmp_path_factory.mktemp("models")
    small = {"filters": (2, 3), "norm": "instance"}
    for task in (qsm_nuclei.TASK, qsm_nuclei.TASK.replace(name="other", preprocessing=())):
        tiny = task.replace(arguments=small, patch=(16, 16, 16), divisor=(2, 2, 2))
        keras.utils.set_random_seed(1)  # several structures appear
        card = model_card.describe(tiny, {"source": "synthetic", "seed": 0, "steps": 1}, {"seconds": 1.0})
        card = dataclasses.replace(card, plausible=None)  # no brain is as small as these maps
        zoo.save(zoo.load("unet3d", **card.arguments), folder / card.name, card)
    return folder


def write_map(path, scale=1.0):
    chi = np.random.default_rng(3).normal(0, 0.04, (18, 16, 20)).astype(np.float32)
    chi[:3] = chi[-3:] = 0
    nib.nifti1.Nifti1Image((chi * scale).astype(np.float32), GRID).to_filename(path)
    return chi


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_table_of_scans_in_ppm_and_ppb(zoo_command, tmp_path):
    chi = write_map(tmp_path / "a.nii.gz")
    write_map(tmp_path / "b.nii.gz", 1000)
    plain = zoo_command(
        "predict", "unet3d.qsm_nuclei", tmp_path / "a.nii.gz", "--out", tmp_path, "--table", tmp_path / "a.csv"
    )
    assert plain.exit_code == 0, plain.stderr
    ppb = zoo_command(
        "predict", "unet3d.qsm_nuclei", tmp_path / "b.nii.gz", "--out", tmp_path / "out", "--unit", "ppb", "--table",
        tmp_path / "b.csv",
    )  # fmt: skip
    assert ppb.exit_code == 0, ppb.stderr
    first, second = rows_of(tmp_path / "a.csv"), rows_of(tmp_path / "b.csv")
    labels = np.asanyarray(nib.nifti1.load(tmp_path / "a_qsm_nuclei.nii.gz").dataobj)
    seen = 0
    for left, other in zip(first, second, strict=True):
        inside = labels == int(left["value"])
        assert int(left["num_voxels"]) == inside.sum()
        assert left["case"] == "a" and other["case"] == "b" and left["structure"] == other["structure"]
        if inside.any():
            seen += 1
            assert float(left["mean_ppm"]) == pytest.approx(chi[inside].mean(), rel=1e-3, abs=1e-5)
            assert float(left["volume_ml"]) == pytest.approx(inside.sum() * 1.5**3 / 1000, rel=1e-4)
            assert float(other["mean_ppm"]) == pytest.approx(float(left["mean_ppm"]), rel=0.05, abs=2e-4)
    assert seen >= 2


def test_ppb_is_refused_with_the_factor(zoo_command, tmp_path):
    write_map(tmp_path / "b.nii.gz", 1000)
    outcome = zoo_command("predict", "unet3d.qsm_nuclei", tmp_path / "b.nii.gz", "--out", tmp_path / "out")
    assert outcome.exit_code == 1 and "ppb" in outcome.stderr and "0.001" in outcome.stderr


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("unet3d.qsm_nuclei", ("--unit", "tesla"), "A unit is one of"),
        ("unet3d.qsm_nuclei", ("--unit", "hz@3"), "spans"),
        ("unet3d.other", ("--unit", "ppb"), "takes no susceptibility map"),
    ],
)
def test_bad_arguments_are_one_line_and_code_2(zoo_command, tmp_path, model, words, message):
    write_map(tmp_path / "a.nii.gz", 1e4)
    outcome = zoo_command("predict", model, tmp_path / "a.nii.gz", "--out", tmp_path / "out", *words)
    assert outcome.exit_code == 2 and message in outcome.stderr and len(outcome.stderr.strip().splitlines()) == 1


def test_magnitude_is_that_of_one_scan(zoo_command, tmp_path):
    for name in ("a", "b"):
        write_map(tmp_path / f"{name}.nii.gz")
    outcome = zoo_command(
        "predict", "unet3d.qsm_nuclei", tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", "--magnitude",
        tmp_path / "a.nii.gz",
    )  # fmt: skip
    assert outcome.exit_code == 2 and "one by one" in outcome.stderr
