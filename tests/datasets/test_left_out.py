"""No file of a data set vanishes: readers take every suffix, and what no case uses is told."""

from dataclasses import replace

import pytest
from support.datasets import draw_image, mark_voxels, write_cases, write_nifti

from zoo.datasets.cases import cases
from zoo.datasets.left_out import only_labelled, tell_once, tell_unused


def test_scans_of_any_suffix_are_read_in_a_data_set(tmp_path):
    for name, suffix in (("a", ".NII"), ("b", ".mgz"), ("c", ".nii.gz")):
        write_nifti(tmp_path / name / f"T1{suffix.lower()}", draw_image()).rename(tmp_path / name / f"T1{suffix}")
        write_nifti(tmp_path / name / f"mask{suffix.lower()}", mark_voxels((1, 2, 3)))
    listed = cases(tmp_path)
    assert [case.channels["T1"].name for case in listed] == ["T1.NII", "T1.mgz", "T1.nii.gz"]
    assert all(case.labels for case in listed)


def test_two_files_of_one_name_are_refused(tmp_path):
    write_cases(tmp_path, 2)
    write_nifti(tmp_path / "case1" / "t1.nii.gz", draw_image(3))
    with pytest.raises(ValueError, match=r"Case case1 has t1\.nii and t1\.nii\.gz, two files of one name"):
        cases(tmp_path)


def test_files_that_no_case_uses_are_told_once(tmp_path, capsys):
    write_cases(tmp_path, 2)
    write_nifti(tmp_path / "case0" / "deep" / "t1.nii", draw_image(3))
    for name in ("table.csv", "README", "case0/t1.json", "notes.txt", "case1/scan.dcm"):
        (tmp_path / name).write_text("")
    tell_unused(tmp_path, cases(tmp_path))
    tell_unused(tmp_path, cases(tmp_path))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path}: left out 3 files: notes.txt (not a scan), ")
    assert "case0/deep/t1.nii (no channel or label map of a case)" in line
    assert "case1/scan.dcm (DICOM; dcm2niix" in line


def test_cases_without_labels_are_told(tmp_path, capsys):
    listed = write_cases(tmp_path, 7)
    listed = [listed[0], *(replace(case, labels=None) for case in listed[1:])]
    assert only_labelled(listed, tmp_path) == listed[:1]
    line = capsys.readouterr().err
    assert line.endswith("no label map: case1, case2, case3, case4, case5 and 1 more\n") and "6 of 7 cases" in line
    tell_once.cache_clear()
    assert only_labelled(listed[:1], tmp_path) == listed[:1] and capsys.readouterr().err == ""
