"""Geometry of headers: units, voxel sizes, codes, and files that ask for more than they hold."""

import gzip

import nibabel
import numpy as np
import pytest

from zoo.volumes import image as images
from zoo.volumes.header import GeometryWarning

SHAPE = (16, 24, 32)
AFFINE = np.array([[2.0, 0, 0, -16], [0, 1.5, 0, -20], [0, 0, 1.0, 5], [0, 0, 0, 1]])


def numbers(shape=SHAPE):
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize(("unit", "factor"), [("meter", 1e-3), ("micron", 1e3)])
def test_units_are_honoured_and_the_repair_is_stated(tmp_path, kind, unit, factor):
    scaled = AFFINE.copy()
    scaled[:3] *= factor
    image = kind(numbers(), scaled)
    image.set_qform(scaled, 1)
    image.header.set_xyzt_units(unit, "sec")
    nibabel.save(image, tmp_path / "scan.nii.gz")
    with pytest.warns(
        GeometryWarning, match=rf"scan.nii.gz: the header is in {unit}s; .* multiplied by {1 / factor:g}"
    ):
        read = images.read(tmp_path / "scan.nii.gz")
    np.testing.assert_allclose(read.affine, AFFINE, rtol=1e-6)
    np.testing.assert_allclose(read.get_qform(), AFFINE, atol=1e-4)
    assert read.header.get_xyzt_units() == ("mm", "sec")
    np.testing.assert_allclose(read.header.get_zooms(), (2, 1.5, 1), rtol=1e-6)


@pytest.mark.parametrize("name", ["scan.mgz", "scan.mgh", "SCAN.MGZ"])
def test_freesurfer_volumes_are_read_as_they_are(tmp_path, name):
    nibabel.save(nibabel.MGHImage(numbers().astype(np.float32), AFFINE), tmp_path / name.lower())
    (tmp_path / name.lower()).rename(tmp_path / name)
    read = images.read(tmp_path / name)
    np.testing.assert_allclose(read.affine, AFFINE, atol=1e-5)
    assert np.array_equal(images.array(read), numbers())


def test_forms_that_mirror_each_other_leave_sides_in_doubt(tmp_path):
    image = nibabel.Nifti1Image(numbers(), AFFINE)
    image.set_qform(AFFINE @ np.diag([-1, 1, 1, 1]), 1)
    nibabel.save(image, tmp_path / "scan.nii")
    with pytest.warns(GeometryWarning, match="scan.nii: qform and sform mirror each other"):
        images.read(tmp_path / "scan.nii")


def test_no_code_at_all_leaves_sides_in_doubt(tmp_path):
    image = nibabel.Nifti1Image(numbers(), AFFINE)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / "scan.nii")
    with pytest.warns(GeometryWarning, match="neither a qform nor an sform: which side is left is a guess"):
        images.read(tmp_path / "scan.nii")


def patched(path, offset, content):
    """The bytes of a saved scan with some of its header overwritten."""
    nibabel.save(nibabel.Nifti1Image(numbers(), AFFINE), path)
    changed = bytearray(path.read_bytes())
    changed[offset : offset + len(content)] = content
    path.write_bytes(changed)
    return path


def test_voxels_do_not_begin_inside_the_header(tmp_path):
    path = patched(tmp_path / "scan.nii", 108, np.float32(0).tobytes())
    with pytest.raises(ValueError, match="voxels begin at byte 0, inside its header of 348 bytes"):
        images.read(path)


@pytest.mark.parametrize("size", [0.0, 1e30, np.nan])
def test_impossible_voxel_sizes_without_sform(tmp_path, size):
    path = patched(tmp_path / "scan.nii", 80, np.float32(size).tobytes())
    content = bytearray(path.read_bytes())
    content[254:256] = np.int16(0).tobytes()  # sform_code
    content[252:254] = np.int16(1).tobytes()  # qform_code
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"gives a voxel size of .* and has no sform|affine that is missing"):
        images.read(path)


def test_no_more_is_unpacked_than_the_header_asks_for(tmp_path):
    path = tmp_path / "scan.nii"
    nibabel.save(nibabel.Nifti1Image(numbers(), AFFINE), path)
    bomb = tmp_path / "bomb.nii.gz"
    bomb.write_bytes(gzip.compress(path.read_bytes() + bytes(2**23)))
    with pytest.raises(ValueError, match="bomb.nii.gz holds over 1048576 bytes more than its header"):
        images.read(bomb)


def test_a_header_that_asks_for_terabytes_is_truncated(tmp_path):
    path = patched(tmp_path / "scan.nii", 42, np.array([30000, 30000, 30000], np.int16).tobytes())
    with pytest.raises(ValueError, match="truncated or corrupt"):
        images.read(path)


def test_analyze_and_dicom_are_named(tmp_path):
    nibabel.save(nibabel.AnalyzeImage(numbers(), np.eye(4)), tmp_path / "old.img")
    with pytest.raises(ValueError, match="old.hdr is an Analyze 7.5 header, which does not say which side is left"):
        images.read(tmp_path / "old.hdr")
    (tmp_path / "slice.dcm").write_bytes(bytes(128) + b"DICM" + bytes(500))
    with pytest.raises(ValueError, match="slice.dcm is a DICOM file. Convert its series with dcm2niix"):
        images.read(tmp_path / "slice.dcm")
