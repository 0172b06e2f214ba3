"""`zoo predict` on folders of folders, and with the scan cut along the mask beside it."""

import json

import keras
import nibabel
import numpy as np
import pytest
from support.cards import unet3d_card
from support.datasets import waves_in_air

import zoo
from zoo.hub.card import Label
from zoo.workflows.brain_images import BrainWriter

MASKS, PAIRS = "unet3d.brain_mask", "unet3d.pairs"
AFFINE = np.array([[-1.5, 0, 0, 20], [0, 1.5, 0, -9], [0, 0, 2.0, 4], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A model that finds the brain, and one of two channels and two structures."""
    folder = tmp_path_factory.mktemp("models")
    cards = (
        unet3d_card(MASKS, ("T1w",), {0: Label("background", 0), 1: Label("brain", 1)}),
        unet3d_card(PAIRS, ("T1w", "FLAIR"), {0: Label("background", 0), 1: Label("left", 2), 2: Label("right", 3)}),
    )
    for card in cards:
        keras.utils.set_random_seed(3)  # some draws find brain everywhere, or nowhere
        zoo.save(zoo.load("unet3d", **card.arguments), folder / card.name, card)
    return folder


def write_scan(path, seed=0, dtype=np.int16):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(waves_in_air((16, 24, 32), seed=seed).get_fdata().astype(dtype), AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, 2)
    nibabel.save(image, path)
    return path


def test_the_brain_is_written_beside_its_mask(zoo_command, tmp_path):
    scan = write_scan(tmp_path / "T1.nii.gz")
    write_scan(tmp_path / "T2.nii.gz", seed=1, dtype=np.float32)
    done = zoo_command("predict", MASKS, tmp_path, "--out", tmp_path, "--brain", "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert rows[0]["out"] == [str(tmp_path / "T1_brain_mask.nii.gz"), str(tmp_path / "T1_brain.nii.gz")]
    for name, dtype in (("T1", np.int16), ("T2", np.float32)):
        original, mask, brain = (
            nibabel.load(tmp_path / f"{name}{end}.nii.gz") for end in ("", "_brain_mask", "_brain")
        )
        inside = np.asarray(mask.dataobj) != 0
        assert 0 < inside.sum() < inside.size and brain.get_data_dtype() == dtype
        np.testing.assert_array_equal(brain.dataobj, np.asarray(original.dataobj) * inside)
        np.testing.assert_array_equal(brain.affine, original.affine)
        assert int(brain.header["qform_code"]) == 1 and int(brain.header["sform_code"]) == 2
    again = zoo_command("predict", MASKS, tmp_path, "--out", tmp_path, "--brain", "--json")
    assert [row["kept"] for row in json.loads(again.stdout)] == [True, True]  # T1_brain is no third scan
    (tmp_path / "T1_brain.nii.gz").unlink()
    done = zoo_command("predict", MASKS, scan, "--out", tmp_path, "--brain")
    assert (
        tmp_path / "T1_brain.nii.gz"
    ).is_file() and f"the scan without skull: {tmp_path / 'T1_brain'}" in done.stdout
    assert BrainWriter(zoo.card(MASKS)).name_stripped(tmp_path / "mask.nii").name == "mask_brain.nii.gz"


def test_only_a_mask_of_the_brain_cuts(zoo_command, tmp_path):
    scan = write_scan(tmp_path / "T1.nii.gz")
    refused = zoo_command("predict", PAIRS, f"T1w={scan}", f"FLAIR={scan}", "--brain")
    assert refused.exit_code == 2
    assert "unet3d.pairs finds no brain as a whole: leave --brain out. zoo predict unet3d.brain_mask" in refused.stderr
    both = zoo_command("predict", MASKS, scan, "--brain", "--probabilities")
    assert both.exit_code == 2 and "--brain cuts along a mask: leave --probabilities out" in both.stderr


def test_sub_folders_are_searched_on_request_and_kept(zoo_command, tmp_path):
    for site in ("north", "south"):
        write_scan(tmp_path / "scans" / site / "01" / "T1.nii.gz", seed=len(site))
    write_scan(tmp_path / "scans" / "T1.nii.gz")
    flat = zoo_command("predict", MASKS, tmp_path / "scans", "--out", tmp_path / "flat", "--json")
    assert [row["case"] for row in json.loads(flat.stdout)] == ["T1"]
    assert "left out 2 folders: north, south (a sub-folder with scans; --recursive searches it)" in flat.stderr
    deep = zoo_command(
        "predict", MASKS, tmp_path / "scans", "--recursive", "--out", tmp_path / "out", "--volumes", "--json"
    )
    assert deep.exit_code == 0, deep.output
    assert [row["case"] for row in json.loads(deep.stdout)] == ["T1", "north/01/T1", "south/01/T1"]
    for site in ("north", "south"):
        assert (tmp_path / "out" / site / "01" / "T1_brain_mask.nii.gz").is_file()
        assert (tmp_path / "out" / site / "01" / "T1_brain_mask_volumes.csv").is_file()
    refused = zoo_command("predict", MASKS, tmp_path / "scans" / "T1.nii.gz", "--recursive")
    assert refused.exit_code == 2 and "--recursive searches one folder of scans, got" in refused.stderr


def test_test_cases_of_nnunet_are_predicted_by_their_folder(zoo_command, tmp_path):
    for place in range(2):
        write_scan(tmp_path / "imagesTs" / f"case_7_{place:04d}.nii.gz", seed=place)
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "FLAIR", "1": "T1w"}, "labels": {}}))
    done = zoo_command("predict", PAIRS, tmp_path / "imagesTs", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    paths = {name: tmp_path / "imagesTs" / f"case_7_{place:04d}.nii.gz" for place, name in enumerate(("FLAIR", "T1w"))}
    result = nibabel.load(tmp_path / "out" / "case_7_pairs.nii.gz")
    np.testing.assert_array_equal(result.dataobj, zoo.predict(PAIRS, paths).dataobj)


def test_a_freesurfer_volume_gives_a_nifti_result(zoo_command, tmp_path):
    scan = nibabel.load(write_scan(tmp_path / "given.nii.gz"))
    nibabel.save(nibabel.MGHImage(np.asarray(scan.dataobj), AFFINE), tmp_path / "orig.mgz")
    done = zoo_command("predict", MASKS, tmp_path / "orig.mgz", "--out", tmp_path / "out", "--brain")
    assert done.exit_code == 0, done.output
    brain, mask = (nibabel.load(tmp_path / "out" / f"orig_{end}.nii.gz") for end in ("brain", "brain_mask"))
    np.testing.assert_array_equal(brain.dataobj, np.asarray(scan.dataobj) * np.asarray(mask.dataobj))
    assert brain.get_data_dtype() == np.int16


def test_cases_of_several_channels_at_any_depth(zoo_command, tmp_path):
    for site in ("north", "south"):
        for place, name in enumerate(("T1w", "FLAIR")):
            write_scan(tmp_path / "data" / site / "01" / f"{name}.nii.gz", seed=place)
    done = zoo_command("predict", PAIRS, tmp_path / "data", "--recursive", "--out", tmp_path / "out", "--json")
    assert [row["case"] for row in json.loads(done.stdout)] == ["north_01", "south_01"]
