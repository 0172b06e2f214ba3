"""Each fault of a data set is found, named and counted; a sound one is clean."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support.datasets import SHAPE, draw_image, mark_voxels, write_cases, write_nifti

from zoo.datasets import splits
from zoo.datasets.check import Report, check
from zoo.training.task import Data


@pytest.fixture
def cases(tmp_path):
    return write_cases(tmp_path, 5)


def found(report):
    return [(finding.level, finding.kind, finding.case) for finding in report.findings]


def test_a_sound_data_set_is_clean(cases, tmp_path):
    report = check(tmp_path)
    assert found(report) == []
    assert report.num_errors == 0
    assert (report.num_cases, report.num_subjects) == (5, 5)
    assert report.channels == {"flair": 5, "t1": 5}
    assert report.shapes == {"16 x 24 x 32": 5}
    assert report.spacings_mm == {"1 x 1 x 1": 5}
    assert report.labels == {0: 5, 1: 5, 2: 5}
    assert str(report).startswith(f"{tmp_path}: 5 cases of 5 subjects\n  channels: flair (5), t1 (5)\n")
    assert str(report).endswith("\n0 errors, 0 warnings")


def test_grids_apart_and_the_tolerance_for_them(cases):
    shifted = np.eye(4)
    shifted[0, 3] = 0.3
    write_nifti(cases[1].channels["flair"], draw_image(50), shifted)
    write_nifti(cases[2].labels, mark_voxels((1, 2, 3), (2, 2, 3), shape=(16, 24, 30)))
    report = check(cases)
    assert found(report) == [("error", "geometry", "case1"), ("error", "geometry", "case2")]
    assert "the same voxel is up to 0.30 mm apart" in report.findings[0].text
    assert found(check(cases, tolerance_mm=0.5)) == [("error", "geometry", "case2")]


def test_files_that_cannot_be_used(cases):
    cases[0].channels["t1"].write_bytes(b"no image")
    cases[3].channels["t1"].unlink()
    report = check(cases)
    assert found(report) == [("error", "unreadable", "case0"), ("error", "unreadable", "case3")]
    assert report.num_errors == 2
    for case in cases:
        case.labels.write_bytes(b"")
    assert check(cases).num_errors == 5


def test_channels_and_label_maps_that_only_some_have(cases):
    cases[4] = replace(cases[4], channels={"t1": cases[4].channels["t1"]}, labels=None)
    report = check(cases)
    assert found(report) == [("error", "channels", "case4"), ("error", "labels", "case4")]
    assert report.findings[0].text == "channels that others have are missing: flair"


def test_a_layout_with_a_hole_is_an_error_too(cases, tmp_path):
    cases[2].channels["t1"].unlink()
    assert found(check(tmp_path)) == [("error", "layout", "")]
    with pytest.raises(ValueError, match="no reader 'x'"):
        check(tmp_path, reader="x")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        check(tmp_path / "none")


def test_label_values_and_empty_masks(cases):
    write_nifti(cases[0].labels, np.zeros(SHAPE, np.uint8))
    write_nifti(cases[1].labels, mark_voxels((1, 2, 3), dtype=np.float32) * 0.5)
    write_nifti(cases[2].labels, mark_voxels((1, 2, 3), value=255))
    report = check(cases)
    assert found(report) == [
        ("error", "labels", "case1"),
        ("warning", "empty mask", "case0"),
        ("warning", "labels", "case2"),
        ("warning", "labels", "case1"),
        ("warning", "labels", "case2"),
    ]
    assert report.findings[0].text == "label values that are not 0, 1, 2 and so on: 0.5"
    assert report.findings[2].text.endswith("as a mask saved as a picture is; divide it by 255")
    assert report.findings[4].text == "label value 255 is in this case alone"


def test_a_task_has_its_own_channels_and_label_values(tmp_path):
    cases = write_cases(tmp_path, 2)
    labels = {0: ("background", 0), **{i + 1: (f"part_{v}", v) for i, v in enumerate((2, 3, 41, 42))}}
    task = SimpleNamespace(data=Data(channels=("t1", "flair"), labels=labels, spacing_mm=(1.0,) * 3, patch=(8, 8, 8)))
    array = np.zeros(SHAPE, np.float32)
    array[2:6], array[6:9], array[9:12], array[4, 5, 6:8] = 1001, 2, 41, (77, 2.0004)
    write_nifti(cases[0].labels, array)
    array[4, 5, 6] = 99
    write_nifti(cases[1].labels, array)
    report = check(tmp_path, task=task)
    assert found(report) == [("error", "labels", "case1")]
    assert report.findings[0].text.startswith(
        "the label map holds values that are no label: 99 (1 voxel), and 2, 3, 41"
    )
    assert report.notes == [
        "FreeSurfer's codes of left cortical parcels (aparc, DKT, a2009s) count as 3",
        "FreeSurfer's codes of hypointensities without a side count as 2 or 41, whichever is nearer",
    ]
    assert "\n  FreeSurfer's codes of left cortical" in str(report)
    assert report.labels == {0: 2, 2: 2, 41: 2, 77: 1, 99: 1, 1001: 2}
    task.data = replace(task.data, label_map={99: 42})
    assert check(tmp_path, task=task).num_errors == 0
    task.data = replace(task.data, channels=("t1", "t2"))
    (finding,) = check(tmp_path, task=task).findings
    assert (finding.level, finding.kind, finding.case) == ("error", "channels", "case0, case1")
    assert finding.text == "the task's channels t2 are missing, and there is flair, t1; name files by --pattern"


def test_values_that_follow_each_other_are_shown_as_one():
    report = Report("data", labels={0: 2, 1: 2, 5: 2, 6: 2, 7: 2, 8: 1, 10: 1})
    assert "  label values: 0 (2), 1 (2), 5-7 (2), 8 (1), 10 (1)\n" in str(report)


def test_label_values_that_are_no_numbers_are_findings(cases):
    write_nifti(cases[0].labels, np.where(mark_voxels((1, 2, 3)), np.nan, 1.0).astype(np.float32))
    assert ("error", "labels", "case0") in found(check(cases))


def test_the_same_voxels_under_two_names(cases):
    write_nifti(cases[3].channels["t1"].with_name("t1.nii.gz"), draw_image(0))
    cases[3].channels["t1"] = cases[3].channels["t1"].with_name("t1.nii.gz")  # packed, and of case 0
    report = check(cases)
    assert found(report) == [("error", "duplicate", "case0, case3")]
    assert report.findings[0].text == "the same voxels under 2 names: case0/t1, case3/t1"


def test_subjects_on_both_sides(cases, tmp_path):
    folds = [splits.Split(("case0", "case2", "case3"), ("case1", "case4")), splits.Split(("case4",), ("case9",))]
    report = check(cases, splits=folds)
    assert found(report) == [("error", "split", "case0, case1"), ("error", "split", "case9")]
    assert report.findings[0].text == "subjects both train and validate in fold 0: subject0"
    splits.write(folds[:1], tmp_path / "splits.json")
    assert check(tmp_path).num_errors == 0  # in a plain folder each case is its own subject
    assert found(check(cases, splits=tmp_path / "splits.json"))[0][1] == "split"


def test_the_report_is_json(cases):
    write_nifti(cases[0].labels, np.zeros(SHAPE, np.uint8))
    plain = json.loads(json.dumps(check(cases).plain()))
    assert plain["num_errors"] == 0
    assert plain["findings"][0]["kind"] == "empty mask"
    assert plain["labels"] == {"0": 5, "1": 4, "2": 4}


def test_folds_hold_subjects_together_and_are_repeatable(tmp_path):
    cases = write_cases(tmp_path, 10)
    folds = splits.folds(cases, 3, seed=4)
    assert sorted(key for fold in folds for key in fold.validation) == [f"case{n}" for n in range(10)]
    for fold in folds:
        train, validation = fold.select(cases)
        assert not {case.subject for case in train} & {case.subject for case in validation}
        assert len(train) + len(validation) == 10
    assert sorted(len(fold.validation) for fold in folds) == [2, 4, 4]
    assert splits.folds(cases[::-1], 3, seed=4) == folds
    assert splits.folds(cases, 3, seed=5) != folds
    assert splits.read(splits.write(folds, tmp_path / "splits.json", seed=4)) == folds


def test_folds_that_cannot_be(cases, tmp_path):
    with pytest.raises(ValueError, match="3 subjects make 2 to 3 folds, got num_folds=5"):
        splits.folds(cases, 5)
    with pytest.raises(ValueError, match="names cases that are not in the data: case9"):
        splits.Split(("case9",), ()).select(cases)
    with pytest.raises(FileNotFoundError, match="no file of splits"):
        splits.read(tmp_path / "splits.json")
    (tmp_path / "splits.json").write_text('{"folds": [1]}')
    with pytest.raises(ValueError, match="is not a file of splits"):
        splits.read(tmp_path / "splits.json")
