"""Maps as they come: units, masks, readers, and the table of structures."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from zoo.datasets.cases import fitting
from zoo.hub import card_file
from zoo.tasks import qsm_nuclei
from zoo.training.run import model_card
from zoo.volumes import intensity, susceptibility_units
from zoo.workflows import susceptibility_tables as maps


def a_map(shape=(16, 18, 14), seed=0):
    """A masked map in ppm of a brain-like spread."""
    rng = np.random.default_rng(seed)
    chi = rng.normal(0, 0.04, shape).astype(np.float32)
    chi[:3] = chi[-3:] = 0
    return chi


def save(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.nifti1.Nifti1Image(array, np.diag([-1.0, 1, 2, 1]) if affine is None else affine).to_filename(path)
    return path


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (1e3, "ppb.*0.001"),
        (42.577 * 3, "Hz.*42.58 B0"),
        (2 * np.pi * 42.577 * 3 * 0.02, "radians.*2 pi 42.58"),
        (1e-6, "ratio.*1e6"),
    ],
)
def test_other_units_are_told_with_their_factor(factor, words):
    chi = a_map()
    susceptibility_units.check(chi)
    with pytest.raises(ValueError, match=words):
        susceptibility_units.check(chi * np.float32(factor))


@pytest.mark.parametrize(
    ("unit", "per_ppm"),
    [
        ("ppm", 1),
        ("ppb", 1e3),
        ("1", 1e-6),
        ("hz@3", 42.577478518 * 3),
        ("RAD@7,12.5", 2 * np.pi * 42.577478518 * 0.0875),
    ],
)
def test_units_convert_to_ppm(unit, per_ppm):
    assert susceptibility_units.ppm_per(unit) * per_ppm == pytest.approx(1)
    image = nib.nifti1.Nifti1Image((a_map() * per_ppm).astype(np.float32), np.eye(4))
    np.testing.assert_allclose(np.asanyarray(maps.to_ppm(image, unit=unit).dataobj), a_map(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("unit", ["tesla", "hz", "hz@0", "rad@3", "ppm@3", ""])
def test_other_words_for_units_are_refused(unit):
    with pytest.raises(ValueError, match=r"A unit is one of ppm, ppb.*got"):
        susceptibility_units.ppm_per(unit)


def test_a_map_without_mask_is_refused_and_the_magnitude_gives_one(monkeypatch):
    chi = np.random.default_rng(1).normal(0, 0.04, (12, 10, 8)).astype(np.float32)
    image = nib.nifti1.Nifti1Image(chi, np.eye(4))
    with pytest.raises(ValueError, match="no brain mask"):
        maps.to_ppm(image)
    brain = np.zeros(chi.shape, np.uint8)
    brain[2:-2, 2:-2] = 1
    requests = []

    class Masker:
        def __init__(self, name):
            requests.append(name)

        def __call__(self, magnitude):
            assert np.asanyarray(magnitude.dataobj).min() == 5
            return nib.nifti1.Nifti1Image(brain, np.eye(4))

    monkeypatch.setattr(maps, "Predictor", Masker)
    magnitude = nib.nifti1.Nifti1Image(np.full(chi.shape, 5, np.float32) + np.eye(10, 8, dtype=np.float32), np.eye(4))
    masked = np.asanyarray(maps.to_ppm(image, magnitude=magnitude).dataobj)
    np.testing.assert_array_equal(masked, chi * brain)
    assert requests == ["unet3d.brain_mask"]
    moved = nib.nifti1.Nifti1Image(np.asanyarray(magnitude.dataobj), np.diag([1, 1, 2, 1]))
    with pytest.raises(ValueError, match="magnitude"):
        maps.to_ppm(image, magnitude=moved)


def test_steps_of_one_channel_leave_the_other_alone():
    steps = [{"name": "clip", "low": -1, "high": 1, "channels": ["a"]}, {"name": "range", "channels": ["b"]}]
    assert intensity.of_channel(steps, "a") == [{"name": "clip", "low": -1, "high": 1}]
    assert intensity.of_channel([*steps, {"name": "maximum"}], "b") == [{"name": "range"}, {"name": "maximum"}]
    line = intensity.measure(a_map(), intensity.of_channel(qsm_nuclei.TASK.data.preprocessing[1:], "Chimap"))
    np.testing.assert_allclose(line.apply(np.array([-0.3, -0.125, 0, 0.25, 0.4])), [-1, -0.5, 0, 1, 1], atol=1e-6)


def test_bids_maps_with_masks_among_the_derivatives(tmp_path):
    (tmp_path / "dataset_description.json").write_text(json.dumps({"Name": "qsm", "BIDSVersion": "1.8.0"}))
    for subject in ("01", "02"):
        anat = tmp_path / f"sub-{subject}" / "anat"
        save(anat / f"sub-{subject}_part-mag_MEGRE.nii.gz", a_map() + 1)
        save(anat / f"sub-{subject}_Chimap.nii.gz", a_map())
        derived = tmp_path / "derivatives" / "nuclei" / f"sub-{subject}" / "anat"
        save(derived / f"sub-{subject}_space-orig_dseg.nii.gz", np.full((16, 18, 14), 11, np.int16))
        save(derived / f"sub-{subject}_desc-brain_mask.nii.gz", np.ones((16, 18, 14), np.uint8))
    cases = fitting(tmp_path, qsm_nuclei.TASK.data.channels, reader=qsm_nuclei.TASK.data.reader)
    assert [case.id for case in cases] == ["sub-01", "sub-02"]
    assert [list(case.channels) for case in cases] == [["Chimap"], ["Chimap"]]
    assert cases[0].channels["Chimap"].name == "sub-01_Chimap.nii.gz"
    assert cases[1].labels.name == "sub-02_space-orig_dseg.nii.gz"


def test_maps_among_the_derivatives_and_folders_by_pattern(tmp_path):
    save(tmp_path / "bids" / "sub-1" / "anat" / "sub-1_T1w.nii.gz", a_map())
    save(tmp_path / "bids" / "derivatives" / "qsm" / "sub-1" / "anat" / "sub-1_Chimap.nii.gz", a_map())
    assert fitting(tmp_path / "bids", ("Chimap",))[0].channels["Chimap"].parent.name == "anat"
    for number in (1, 2, 3):
        save(tmp_path / "plain" / f"{number}_QSM.nii", a_map())
        save(tmp_path / "plain" / f"{number}_ROI.nii", np.zeros((16, 18, 14), np.uint8))
    patterns = {"Chimap": "{id}_QSM.nii", "labels": "{id}_ROI.nii"}
    cases = fitting(tmp_path / "plain", ("Chimap",), reader="folder", patterns=patterns)
    assert [(case.id, case.labels.name) for case in cases] == [(n, f"{n}_ROI.nii") for n in "123"]


def the_card():
    config = {"source": "synthetic", "seed": 0, "steps": 1}
    return model_card.describe(qsm_nuclei.TASK, config, {"seconds": 1.0})


def test_table_has_means_in_ppm_volumes_and_voxels(tmp_path):
    card = the_card()
    card_file.check(card, complete=False)
    labels, chi = np.zeros((10, 8, 6), np.int16), np.zeros((10, 8, 6), np.float32)
    labels[1:3, 2, 2], labels[6, 2, 2] = 12, 51  # putamen, left and right
    chi[1, 2, 2], chi[2, 2, 2], chi[6, 2, 2] = 0.04, 0.08, 0.05
    grid = np.diag([-2.0, 2, 2.5, 1])
    rows = maps.measure_structures(nib.nifti1.Nifti1Image(labels, grid), nib.nifti1.Nifti1Image(chi, grid), card)
    by_name = {row["structure"]: row for row in rows}
    left = by_name["left_putamen"]
    assert left["num_voxels"] == 2 and left["volume_ml"] == pytest.approx(0.02)
    assert left["mean_ppm"] == pytest.approx(0.06) and left["sd_ppm"] == pytest.approx(0.02)
    assert by_name["right_putamen"]["mean_ppm"] == pytest.approx(0.05)
    assert "mean_ppm" not in by_name["left_caudate"] and by_name["left_caudate"]["num_voxels"] == 0
    path = maps.write_table(tmp_path / "out.csv", [("sub-01", rows), ("sub-02", rows)])
    with open(path, newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == list(maps.COLUMNS)
    assert [row["case"] for row in table].count("sub-02") == len(rows)
    assert next(row for row in table if row["structure"] == "left_putamen")["mean_ppm"] == "0.06"
    with pytest.raises(ValueError, match="grid"):
        maps.measure_structures(nib.nifti1.Nifti1Image(labels, np.eye(4)), nib.nifti1.Nifti1Image(chi, grid), card)
