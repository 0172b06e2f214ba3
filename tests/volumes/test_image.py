"""Reading, checking, writing and turning images; nibabel is the oracle for what a file says."""

import gzip
import itertools

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from zoo.volumes import image as images

SHAPE = (16, 24, 32)
OBLIQUE = Rotation.from_euler("xyz", (12, -17, 23), degrees=True).as_matrix()
TURNS = [(axes, signs) for axes in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]


def affine_of(axes=(0, 1, 2), signs=(1, 1, 1), spacing=(1.0, 1.5, 2.0), rotation=None):
    """Array axis i runs along world axis axes[i] in the direction signs[i]."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for i, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[axis, i] = sign * spacing[i]
    if rotation is not None:
        affine[:3, :3] = rotation @ affine[:3, :3]
    affine[:3, 3] = (-40.25, 13.5, 7.75)
    return affine


def values_of(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def saved(path, values=None, affine=None, kind=nibabel.Nifti1Image):
    values = values_of() if values is None else values
    nibabel.save(kind(values, affine_of() if affine is None else affine), path)
    return path


@pytest.mark.parametrize("rotation", [None, OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize(("axes", "signs"), TURNS)
def test_every_orientation_goes_to_ras_and_back_exactly(axes, signs, rotation):
    affine = affine_of(axes, signs, rotation=rotation)
    values = values_of()
    turned, ras_affine = images.to_ras(values, affine)
    oracle = nibabel.as_closest_canonical(nibabel.Nifti1Image(values, affine))
    assert np.array_equal(turned, oracle.get_fdata())
    assert np.allclose(ras_affine, oracle.affine, atol=1e-12)
    assert nibabel.aff2axcodes(ras_affine) == ("R", "A", "S")
    assert np.array_equal(images.from_ras(turned, affine), values)
    image = nibabel.Nifti1Image(values, affine)
    assert np.array_equal(images.from_ras(turned, image), values)


def test_channels_travel_with_their_voxels():
    affine = affine_of((2, 0, 1), (-1, 1, -1), rotation=OBLIQUE)
    values = values_of((*SHAPE, 3))
    turned, _ = images.to_ras(values, affine)
    assert turned.shape == (24, 32, 16, 3)
    assert np.array_equal(turned[..., 1], images.to_ras(values[..., 1], affine)[0])
    assert np.array_equal(images.from_ras(turned, affine), values)


@pytest.mark.parametrize(("axes", "signs"), TURNS[::5])
def test_a_file_is_turned_and_written_back_unchanged(tmp_path, axes, signs):
    path = saved(tmp_path / "in.nii.gz", affine=affine_of(axes, signs, rotation=OBLIQUE))
    image = images.read(path)
    turned, _ = images.to_ras(images.array(image), image.affine)
    images.write(tmp_path / "out.nii.gz", images.from_ras(turned, image), image)
    before, after = nibabel.load(path), nibabel.load(tmp_path / "out.nii.gz")
    assert np.array_equal(before.get_fdata(), after.get_fdata())
    assert np.array_equal(before.affine, after.affine)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize(
    ("dtype", "scale"), [("uint8", None), ("int16", (0.37, -12.5)), ("int32", None), ("float64", None)]
)
def test_formats(tmp_path, kind, suffix, byte_order, dtype, scale):
    header = kind.header_class(endianness=byte_order)
    header.set_data_dtype(dtype)
    values = np.random.default_rng(1).integers(0, 250, SHAPE).astype(dtype)
    image = kind(values, affine_of(), header)
    if scale:
        image.header.set_slope_inter(*scale)
    path = tmp_path / f"scan{suffix}"
    nibabel.save(image, path)
    oracle = nibabel.load(path)
    assert oracle.header.endianness == byte_order
    read = images.read(path)
    assert type(read) is kind
    assert read.get_data_dtype() == oracle.get_data_dtype()
    assert np.asanyarray(read.dataobj).dtype == (np.float32 if scale else np.dtype(dtype))
    assert np.array_equal(images.array(read), oracle.get_fdata().astype(np.float32))
    assert images.array(read).flags.c_contiguous
    assert np.array_equal(read.affine, oracle.affine)


def test_large_labels_survive(tmp_path):
    labels = np.full(SHAPE, 2**24 + 1, np.int32)
    image = images.read(saved(tmp_path / "labels.nii", labels))
    assert np.array_equal(np.asanyarray(image.dataobj), labels)


@pytest.mark.parametrize("form", ["sform", "qform"])
def test_one_form_alone_gives_the_affine_and_is_kept(tmp_path, form):
    affine = affine_of((1, 2, 0), (1, -1, 1), rotation=OBLIQUE)
    image = nibabel.Nifti1Image(values_of(), None)
    getattr(image, f"set_{form}")(affine, 1)
    other = {"sform": "qform", "qform": "sform"}[form]
    getattr(image, f"set_{other}")(None, 0)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "in.nii")
    read = images.read(tmp_path / "in.nii")
    assert np.allclose(read.affine, affine, atol=1e-5)
    images.write(tmp_path / "out.nii", images.array(read), read)
    assert_same_geometry(nibabel.load(tmp_path / "in.nii"), nibabel.load(tmp_path / "out.nii"))


def assert_same_geometry(first, other):
    assert np.array_equal(first.affine, other.affine)
    for form in ("get_sform", "get_qform"):
        (a, code), (b, other_code) = getattr(first, form)(coded=True), getattr(other, form)(coded=True)
        assert code == other_code
        assert (a is None and b is None) or np.array_equal(a, b)
    assert first.header.get_zooms()[:3] == other.header.get_zooms()[:3]
    assert first.header["xyzt_units"] == other.header["xyzt_units"]
    assert first.header["pixdim"][0] == other.header["pixdim"][0]


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_writing_keeps_two_different_forms_units_and_codes(tmp_path, kind):
    image = kind(values_of(), None)
    image.set_sform(affine_of(rotation=OBLIQUE), 4)
    image.set_qform(affine_of(), 1)
    image.header.set_xyzt_units("mm", "sec")
    image.header["cal_max"] = 700
    nibabel.save(image, tmp_path / "in.nii.gz")
    like = images.read(tmp_path / "in.nii.gz")
    mask = values_of() > 0
    path = images.write(str(tmp_path / "mask.nii.gz"), mask, like)
    written = nibabel.load(path)
    assert type(written) is kind
    assert_same_geometry(nibabel.load(tmp_path / "in.nii.gz"), written)
    assert written.get_data_dtype() == np.uint8
    assert written.header["cal_max"] == 0
    assert np.array_equal(written.get_fdata(), mask)
    channels = images.write(tmp_path / "p.nii", values_of((*SHAPE, 5)), like)
    assert_same_geometry(written, nibabel.load(channels))
    assert np.array_equal(nibabel.load(channels).get_fdata(), values_of((*SHAPE, 5)))
    assert images.array(images.read(channels, ndim=4)).shape == (*SHAPE, 5)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, suffix):
    like = nibabel.Nifti1Image(values_of(), affine_of())
    path = images.write(tmp_path / f"out{suffix}", values_of(), like)
    before = path.read_bytes()

    def breaks(self, stream):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(nibabel.Nifti1Image, "to_stream", breaks)
    with pytest.raises(OSError, match="disk full"):
        images.write(path, values_of(seed=1), like)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_image_gives_the_same_bytes(tmp_path):
    like = nibabel.Nifti1Image(values_of(), affine_of())
    first = images.write(tmp_path / "one.nii.gz", values_of(), like)
    two = images.write(tmp_path / "two.nii.gz", values_of(), like)
    assert first.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("given_dtype", "dtype", "stored"),
    [
        (bool, None, np.uint8),
        (np.float16, None, np.float32),
        (np.int64, None, np.int32),
        (np.float64, None, np.float64),
        (np.int64, np.int16, np.int16),
        (np.float32, "uint8", np.uint8),
    ],
)
def test_stored_types(tmp_path, given_dtype, dtype, stored):
    values = (np.arange(np.prod(SHAPE)) % 2).reshape(SHAPE).astype(given_dtype)
    like = nibabel.Nifti1Image(values_of(), affine_of())
    written = nibabel.load(images.write(tmp_path / "a.nii.gz", values, like, dtype=dtype))
    assert written.get_data_dtype() == stored
    assert np.array_equal(written.get_fdata(), values)


def test_the_middle_of_a_centred_image_is_the_origin(tmp_path):
    images.write_centred(tmp_path / "a.nii.gz", np.arange(24, dtype=np.int16).reshape(2, 3, 4), (1.0, 2.0, 6.0))
    image = nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(image.affine @ [0.5, 1.0, 1.5, 1.0], [0, 0, 0, 1])
    assert images.spacing_mm(image.affine).tolist() == [1, 2, 6] and image.get_data_dtype() == np.int16
    assert np.asarray(image.dataobj).ravel().tolist() == list(range(24))


def test_writing_refuses(tmp_path):
    like = nibabel.Nifti1Image(values_of(), affine_of())
    with pytest.raises(ValueError, match=r"written to \.nii or \.nii\.gz, got '.*a\.mgz'"):
        images.write(tmp_path / "a.mgz", values_of(), like)
    with pytest.raises(FileNotFoundError, match="folder .*missing does not exist"):
        images.write(tmp_path / "missing" / "a.nii", values_of(), like)
    with pytest.raises(ValueError, match=r"shape \(16, 24, 8\) on a grid of \(16, 24, 32\)"):
        images.write(tmp_path / "a.nii", values_of((16, 24, 8)), like)
    ramp = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    with pytest.raises(ValueError, match=r"cannot be stored as uint8: values from 0 to 12287 would change"):
        images.write(tmp_path / "a.nii", ramp, like, dtype="uint8")
    assert not list(tmp_path.iterdir())


def test_four_dimensions(tmp_path):
    single = saved(tmp_path / "one.nii", values_of((*SHAPE, 1)))
    assert images.read(single).shape == SHAPE
    assert np.array_equal(images.array(images.read(single)), values_of((*SHAPE, 1))[..., 0])
    assert images.read(saved(tmp_path / "three.nii"), ndim=4).shape == (*SHAPE, 1)
    assert images.read(saved(tmp_path / "vector.nii", values_of((*SHAPE, 1, 3))[..., :1])).shape == SHAPE
    many = saved(tmp_path / "many.nii", values_of((4, 6, 8, 3)))
    assert images.read(many, ndim=4).shape == (4, 6, 8, 3)
    with pytest.raises(
        ValueError,
        match=r"many.nii is 4D with shape \(4, 6, 8, 3\): it holds 3 volumes \(\[\.\.\., 0\], \[\.\.\., 1\], "
        r"\[\.\.\., 2\]\) where one volume is expected\. Save the one you mean",
    ):
        images.read(many)
    with pytest.raises(
        ValueError, match=r"30 volumes \(\[\.\.\., 0\], \[\.\.\., 1\], \[\.\.\., \.\.\.\], \[\.\.\., 29\]\)"
    ):
        images.check(nibabel.Nifti1Image(values_of((4, 6, 8, 30)), np.eye(4)))
    with pytest.raises(ValueError, match=r"axes of \(2, 3\) beyond x, y, z where one axis of volumes"):
        images.check(nibabel.Nifti1Image(values_of((4, 6, 8, 2, 3)), np.eye(4)), ndim=4)
    with pytest.raises(ValueError, match=r"has shape \(4, 6\), and a 3D volume"):
        images.check(nibabel.Nifti1Image(values_of((4, 6)), np.eye(4)))
    with pytest.raises(ValueError, match="ndim must be 3 .* got 5"):
        images.check(nibabel.Nifti1Image(values_of(), np.eye(4)), ndim=5)


def test_not_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*scan\.nii\.gz\. Check the path"):
        images.read(tmp_path / "scan.nii.gz")
    with pytest.raises(ValueError, match="is not a file. Name a .nii, .nii.gz, .mgh or .mgz file"):
        images.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 600, b"\x89PNG" + bytes(1000)])
def test_not_nifti(tmp_path, content):
    path = tmp_path / "scan.nii"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"scan.nii is not a NIfTI file: it .*Convert it to .nii or .nii.gz"):
        images.read(path)
    path.write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match="scan.nii is not a NIfTI file"):
        images.read(path)


def test_other_formats_are_named(tmp_path):
    other = nibabel.MGHImage(values_of(), np.eye(4))
    with pytest.raises(ValueError, match=r"The image is MGHImage, not a NIfTI image\. Convert it"):
        images.check(other)
    nibabel.save(nibabel.Nifti1Pair(values_of(), np.eye(4)), tmp_path / "pair.img")
    with pytest.raises(ValueError, match="pair.hdr is the header of a NIfTI pair"):
        images.read(tmp_path / "pair.hdr")


@pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_voxels_that_are_no_real_number(tmp_path, dtype):
    path = saved(tmp_path / "scan.nii", np.zeros(SHAPE, dtype))
    with pytest.raises(ValueError, match="one real number a voxel is expected"):
        images.read(path)


def test_a_truncated_file(tmp_path):
    path = saved(tmp_path / "scan.nii")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"truncated or corrupt: \(16, 24, 32\) voxels of float32 need 49152 bytes"):
        images.read(path)
    packed = saved(tmp_path / "scan.nii.gz")
    packed.write_bytes(packed.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"scan\.nii\.gz is truncated or corrupt: its gzip data do not unpack"):
        images.read(packed)


def test_a_damaged_header(tmp_path):
    path = saved(tmp_path / "scan.nii")
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:42] + b"\xff\xff" + content[44:])
    with pytest.raises(ValueError, match=r"has no voxels: its header gives shape \(-1, 24, 32\)"):
        images.read(path)
    path.write_bytes(content[:70] + b"\x07\x07" + content[72:])
    with pytest.raises(ValueError, match="has a corrupt NIfTI header"):
        images.read(path)


def test_voxels_that_are_not_finite_are_counted(tmp_path):
    values = values_of()
    values[0, 0, :3] = np.nan
    values[1, 2, 3:5] = (-np.inf, np.inf)
    path = saved(tmp_path / "scan.nii.gz", values)
    with pytest.raises(
        ValueError, match=r"scan\.nii\.gz has 5 voxels of 12288 that are not finite \(3 NaN, 2 infinite\)\. Replace"
    ):
        images.read(path)
    beyond_float32 = np.full(SHAPE, 1e300)
    with pytest.raises(ValueError, match=r"0 NaN, 12288 infinite"):
        images.check(nibabel.Nifti1Image(beyond_float32, np.eye(4)))
    assert images.check(nibabel.Nifti1Image(np.full(SHAPE, 3e38, np.float32), np.eye(4)))


def test_nothing_but_zeros(tmp_path):
    with pytest.raises(ValueError, match="scan.nii holds nothing but zeros"):
        images.read(saved(tmp_path / "scan.nii", np.zeros(SHAPE, np.int16)))


@pytest.mark.parametrize("column", [np.zeros(3), np.array([1, 0, 0]), np.array([1e-9, 1e-9, 0])])
def test_a_singular_affine(column):
    affine = np.eye(4)
    affine[:3, 1] = column
    image = nibabel.Nifti1Image(values_of(), np.eye(4))
    image.set_sform(affine, 1)
    with pytest.raises(ValueError, match="T1 has a singular affine: its axes of .* mm span a volume of"):
        images.check(image, "T1")


def test_an_affine_that_is_not_finite(tmp_path):
    path = saved(tmp_path / "scan.nii")
    content = bytearray(path.read_bytes())
    content[280:284] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match="affine that is missing or not finite"):
        images.read(path)


def test_grids_are_compared_in_mm():
    first = nibabel.Nifti1Image(values_of(), affine_of())
    rounded = affine_of()
    rounded[0, 3] += 0.05
    images.check_same_grid([first, nibabel.Nifti1Image(values_of(), rounded)], ["t1", "flair"])
    scaled = affine_of()
    scaled[2, 2] *= 1.1  # 31 voxels of 2 mm: the last is 6.2 mm away
    with pytest.raises(
        ValueError,
        match=r"'flair' and 't1' lie on different grids: the same voxel is up to 6\.20 mm apart, at most 0\.1 mm",
    ):
        images.check_same_grid([first, nibabel.Nifti1Image(values_of(), scaled)], ["t1", "flair"])
    with pytest.raises(ValueError, match=r"\(16, 24, 8\) voxels against \(16, 24, 32\)\. Resample 'flair' onto 't1'"):
        images.check_same_grid([first, nibabel.Nifti1Image(values_of((16, 24, 8)), affine_of())], ["t1", "flair"])
    images.check_same_grid([first], ["t1"])


def test_spacing():
    assert np.allclose(images.spacing_mm(affine_of((2, 0, 1), (1, -1, 1), rotation=OBLIQUE)), (1, 1.5, 2))


def whole(kind, scaled):
    image = kind((values_of((4, 6, 8)) * 100).astype(np.int16), affine_of(rotation=OBLIQUE))
    if scaled:
        image.header.set_slope_inter(0.5, -3)
    return image.to_bytes()


WHOLE = [whole(kind, scaled) for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image) for scaled in (False, True)]


@st.composite
def damaged(draw):
    """A small NIfTI file, plain or gzipped, with bytes changed (mostly in the header), cut off, put in or repeated."""
    content = bytearray(draw(st.sampled_from(WHOLE)))
    packed = draw(st.booleans())
    if packed and draw(st.booleans()):
        content, packed = bytearray(gzip.compress(bytes(content), mtime=0)), False
    reach = draw(st.sampled_from([20, 120, 352, len(content)]))
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, min(reach, len(content)) - 1))
        content[place] = draw(st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255))
    cut = draw(st.none() | st.integers(0, len(content)))
    content = bytes(content[:cut]) + draw(st.binary(max_size=8))
    return gzip.compress(content, mtime=0) if packed else content


@pytest.mark.filterwarnings("ignore::zoo.volumes.header.GeometryWarning")
@settings(max_examples=400, deadline=None)
@given(content=damaged())
def test_damaged_files_end_in_our_errors(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "damaged.nii"
    path.write_bytes(content)
    try:
        image = images.read(path)
    except ValueError as error:
        assert str(path) in str(error)
        assert str(error).endswith(".")
    else:
        turned, affine = images.to_ras(images.array(image), image.affine)
        assert np.isfinite(turned).all() and np.isfinite(affine).all()
