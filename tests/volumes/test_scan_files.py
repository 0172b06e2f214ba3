"""Every file of a folder is a scan or left out for a reason that names the right tool."""

import gzip

import nibabel
import numpy as np
import pytest

from zoo.volumes import nifti, scan_files
from zoo.volumes.scan_files import describe, list_scans


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_scans_by_suffix_in_any_case(tmp_path):
    touch(tmp_path, "a.nii", "b.NII.GZ", "c.mgz", "d.MGH", "E.Nii", "f.nii.txt", "g.gz", "nii")
    listing = list_scans(tmp_path)
    assert [path.name for path in listing.scans] == ["E.Nii", "a.nii", "b.NII.GZ", "c.mgz", "d.MGH"]
    assert [scan_files.stem(path) for path in listing.scans] == ["E", "a", "b", "c", "d"]
    assert {item.path.name for item in listing.left_out} == {"f.nii.txt", "g.gz", "nii"}


def test_what_is_left_out_has_a_reason_and_its_tool(tmp_path):
    touch(tmp_path, "T1.nii", ".hidden.nii", ".DS_Store", "__MACOSX/x.nii", "notes.txt", "a.hdr", "a.img", "s/T1.NII")
    touch(tmp_path, "empty/readme.txt", "b.nrrd")
    for number in range(5):
        (tmp_path / f"IM{number}").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "1.2.840.7").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "lost.nii.gz").symlink_to(tmp_path / ".git" / "annex" / "gone")
    listing = list_scans(tmp_path)
    assert [path.name for path in listing.scans] == ["T1.nii"]
    line = describe(listing.left_out, tmp_path)
    assert line.startswith("left out 11 files and 1 folder: 1.2.840.7, IM0, IM1 and 3 more (DICOM; dcm2niix -z y ")
    assert "a.hdr, a.img (half of an Analyze pair; nib-convert NAME.hdr NAME.nii.gz" in line
    assert "b.nrrd (a scan in another format; convert it to .nii.gz)" in line
    assert "lost.nii.gz (a link to a file that is not here; datalad get" in line
    assert "notes.txt (not a scan)" in line and "s (a sub-folder with scans; --recursive searches it)" in line
    assert "hidden" not in line and "MACOSX" not in line and "empty" not in line and "\n" not in line


def test_sub_folders_on_request_and_results_are_no_scans(tmp_path):
    touch(tmp_path, "b.nii", "a/b.nii", "a/c/d.mgz", "a/b_mask.nii.gz", ".git/x.nii")
    listing = list_scans(tmp_path, recursive=True, results=("_mask",))
    assert [path.relative_to(tmp_path).as_posix() for path in listing.scans] == ["b.nii", "a/b.nii", "a/c/d.mgz"]
    assert describe(listing.left_out, tmp_path) == "left out 1 file: a/b_mask.nii.gz (a result of this model)"
    assert describe([], tmp_path) == ""


def test_analyze_and_nifti_pairs_name_the_command_that_joins_them(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(np.ones((4, 5, 6), np.int16), np.eye(4)), tmp_path / "pair.img")
    nibabel.save(nibabel.AnalyzeImage(np.ones((4, 5, 6), np.int16), np.eye(4)), tmp_path / "old.img")
    with pytest.raises(ValueError, match=r"pair\.hdr is the header of a NIfTI pair .*nib-convert .*pair\.nii\.gz"):
        nifti.load(tmp_path / "pair.hdr")
    with pytest.raises(ValueError, match=r"old\.hdr is an Analyze 7\.5 header.*nib-convert .*old\.nii\.gz, and"):
        nifti.load(tmp_path / "old.hdr")
    (tmp_path / "old.img.gz").write_bytes(gzip.compress((tmp_path / "old.img").read_bytes()))
    for name in ("old.img", "old.img.gz"):
        with pytest.raises(ValueError, match=r"without their header\. .*nib-convert .*/old\.hdr .*/old\.nii\.gz\."):
            nifti.load(tmp_path / name)


def test_a_folder_of_dicom_in_place_of_a_file(tmp_path):
    (tmp_path / "1.dcm").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is not a file\. Name a .* file; left out 1 file: 1\.dcm \(DICOM; dcm2niix"):
        nifti.load(tmp_path)


def test_a_result_has_any_case_of_suffix(tmp_path):
    image = nibabel.Nifti1Image(np.arange(120, dtype=np.int16).reshape(4, 5, 6), np.eye(4))
    nifti.save(image, tmp_path / "A.NII.GZ")
    assert (tmp_path / "A.NII.GZ").read_bytes()[:2] == b"\x1f\x8b"
    np.testing.assert_array_equal(nifti.load(tmp_path / "A.NII.GZ").dataobj, image.dataobj)
