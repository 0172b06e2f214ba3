"""Which sessions and images of a BIDS data set go into which result; no framework is needed for it."""

import pytest
from support.datasets import write_bids, write_bids_scan
from support.trained_models import bids_cards

from zoo.datasets.readers.bids import survey
from zoo.workflows.bids_app.derivatives import Derivatives
from zoo.workflows.bids_app.plan import choose, choose_patterns, make_description, plan

LESION, PAIR, STRUCTURES = bids_cards()


def planned(root, card, **patterns):
    listing = survey(root)
    return plan(listing, choose(listing), card, choose_patterns(listing, card, patterns))


def test_the_shards_of_a_run_share_no_subject_and_leave_none_out(tmp_path):
    root = write_bids(tmp_path, [f"{number:02}" for number in range(1, 8)])
    write_bids_scan(root, "sub-03_ses-b_T1w")
    parts = [choose(survey(root), shard=(number, 3)) for number in (1, 2, 3)]
    assert [[subject for subject, _ in part] for part in parts] == [
        ["01", "04", "07"],
        ["02", "05"],
        ["03", "03", "06"],
    ]
    assert sorted(session for part in parts for session in part) == choose(survey(root))
    assert choose(survey(root), participants=["sub-02", "03"], shard=(2, 2)) == [("03", ""), ("03", "b")]
    assert choose(survey(root), sessions=["ses-b"]) == [("03", "b")]
    assert choose(survey(root), shard=(9, 9)) == []


def test_labels_that_are_not_there_and_bad_shards_are_refused(tmp_path):
    listing = survey(write_bids(tmp_path))
    with pytest.raises(ValueError, match=r"There is no participant '04'\..* Choose from: 01, 02, 03"):
        choose(listing, participants=["sub-04"])
    with pytest.raises(ValueError, match="There is no session 'a'"):
        choose(listing, sessions=["a"])
    with pytest.raises(ValueError, match=r"K/N with K from 1 to N, got 3/2"):
        choose(listing, shard=(3, 2))


def test_each_run_of_a_single_channel_is_a_case_and_keeps_its_entities(tmp_path):
    root = write_bids(tmp_path, ["01"])
    for run in (1, 2):
        write_bids_scan(root, f"sub-02_ses-a_acq-high_run-{run}_T1w")
    works, failed = planned(root, LESION)
    assert not failed
    assert [work.target for work in works] == [
        "sub-01/anat/sub-01_desc-zooUnet3dToyLesion",
        "sub-02/ses-a/anat/sub-02_ses-a_acq-high_run-1_desc-zooUnet3dToyLesion",
        "sub-02/ses-a/anat/sub-02_ses-a_acq-high_run-2_desc-zooUnet3dToyLesion",
    ]
    assert works[1].sources == ["bids:raw:sub-02/ses-a/anat/sub-02_ses-a_acq-high_run-1_T1w.nii.gz"]
    assert works[1].name == "sub-02_ses-a_acq-high_run-1"


def test_parts_of_complex_images_are_no_anatomy_and_said_to_be_left_out(tmp_path, capsys):
    root = write_bids(tmp_path, ["01"])
    for part in ("mag", "phase"):
        write_bids_scan(root, f"sub-02_part-{part}_T1w")
    write_bids_scan(root, "sub-03_part-phase_T1w")
    works, failed = planned(root, LESION)
    assert [work.name for work in works] == ["sub-01", "sub-02_part-mag"]
    assert failed == {"sub-03": "No T1w in sub-03, which holds part-phase_T1w."}
    stderr = capsys.readouterr().err
    assert stderr.startswith(
        f"{root}: left out 2 files: sub-02/anat/sub-02_part-phase_T1w.nii.gz, sub-03/anat/sub-03_part"
    )
    assert "(complex parts, which show no anatomy: name part-... in the channel's pattern to read one)" in stderr
    works, failed = planned(root, LESION, T1w="part-phase_T1w")
    assert [work.name for work in works] == ["sub-02_part-phase", "sub-03_part-phase"] and list(failed) == ["sub-01"]


def test_channels_are_matched_by_suffix_and_a_subject_that_lacks_one_is_named(tmp_path):
    root = write_bids(tmp_path)
    write_bids_scan(root, "sub-01_acq-x_FLAIR")
    for run in (1, 2):
        write_bids_scan(root, f"sub-03_run-{run}_FLAIR")
    (root / "sub-05" / "anat").mkdir(parents=True)
    works, failed = planned(root, PAIR)
    assert [(work.name, work.tabular, list(work.images)) for work in works] == [
        ("sub-01", {"age": 51}, ["T1", "FLAIR"])
    ]
    assert works[0].images["FLAIR"].endswith("sub-01_acq-x_FLAIR.nii.gz")
    assert failed["sub-02"] == "No FLAIR in sub-02, which holds T1w."
    assert failed["sub-05"] == "No T1, FLAIR in sub-05, which holds no NIfTI image."
    assert "2 images for FLAIR: sub-03_run-1_FLAIR.nii.gz, sub-03_run-2" in failed["sub-03"]
    assert failed["sub-03"].endswith("--pattern FLAIR=run-1_FLAIR.")
    works, failed = planned(root, PAIR, FLAIR="run-2_FLAIR")
    assert [work.name for work in works] == ["sub-03"] and set(failed) == {"sub-01", "sub-02", "sub-05"}


def test_a_model_of_any_contrast_takes_the_only_one_and_asks_where_there_are_several(tmp_path):
    root, any_contrast = write_bids(tmp_path), STRUCTURES
    assert len(planned(root, any_contrast)[0]) == 3
    write_bids_scan(root, "sub-01_FLAIR")
    with pytest.raises(ValueError, match=r"the data set has FLAIR, T1w\. Say which is meant: --pattern image=FLAIR"):
        planned(root, any_contrast)
    works, failed = planned(root, any_contrast, image="T1w")
    assert len(works) == 3 and not failed
    with pytest.raises(ValueError, match=r"There is no channel of unet3d\.toy_parts 'T1w'"):
        planned(root, any_contrast, T1w="T1w")


def test_two_images_that_would_share_a_result_are_refused(tmp_path):
    root = write_bids(tmp_path, ["01"])
    for text in ("one", "two"):
        folder = root / "derivatives" / "prep" / "sub-01" / "anat"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"sub-01_desc-{text}_FLAIR.nii.gz").write_bytes(b"")
    works, failed = planned(root, STRUCTURES, image="FLAIR")
    assert "desc-one_FLAIR.nii.gz and sub-01_desc-two_FLAIR.nii.gz would give one result" in failed["sub-01"]
    assert len(works) == 1


def test_a_folder_that_is_not_ours_is_refused(tmp_path):
    root, card = write_bids(tmp_path / "raw"), LESION
    with pytest.raises(ValueError, match="is the data set itself"):
        Derivatives(root, root, card, "0").check()
    other = write_bids(tmp_path / "other")
    with pytest.raises(ValueError, match="is a data set of its own"):
        Derivatives(other, root, card, "0").check()
    (other / "dataset_description.json").write_text('{"GeneratedBy": [{"Name": "fMRIPrep"}]}')
    with pytest.raises(ValueError, match="is made by fMRIPrep"):
        Derivatives(other, root, card, "0").check()
    (other / "dataset_description.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        Derivatives(other, root, card, "0").check()


def test_labels_of_models_differ_by_builder_and_tag():
    assert make_description("unet3d.brain_mask") == "zooUnet3dBrainMask"
    assert make_description("resunet.qsm_nuclei") != make_description("unet3d.qsm_nuclei")
