"""Arrays are checked by their headers before they are unpacked; whatever else a file holds is one error."""

import io
import struct
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy

from zoo.arrays import Entry, first_not_finite, read_npz


def pack(path, compression=zipfile.ZIP_DEFLATED, **members):
    """Writes a zip of npy files; an array is packed, bytes stand as they are."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            if not isinstance(content, bytes):
                stream = io.BytesIO()
                np.save(stream, content, allow_pickle=True)
                content = stream.getvalue()
            archive.writestr(f"{name}.npy", content)
    return path


def header_of(shape, dtype="<f4", version=(1, 0)):
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_as_numpy_reads_them(save, tmp_path):
    draw = np.random.default_rng(0)
    arrays = {
        "c": draw.normal(size=(3, 4, 5)).astype(np.float32),
        "fortran": np.asfortranarray(draw.normal(size=(3, 4, 5))),
        "half": draw.normal(size=7).astype(np.float16),
        "big_endian": np.arange(6, dtype=">i2").reshape(2, 3),
        "scalar": np.float64(2.5),
        "empty": np.zeros((0, 3)),
        "flags": np.array([True, False]),
    }
    save(tmp_path / "a.npz", **arrays)
    stored = read_npz(tmp_path / "a.npz")
    assert list(stored) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(stored[name], array)
        assert stored[name].dtype == np.asarray(array).dtype
    stored["c"][:] = 0


def test_a_file_that_unpacks_to_more_than_memory_is_refused_by_its_header(tmp_path, monkeypatch):
    size = 1 << 26
    path = pack(tmp_path / "bomb.npz", zeros=np.zeros(size, np.uint8))
    assert path.stat().st_size < size / 500
    unpacked = []
    read = zipfile.ZipExtFile.read
    monkeypatch.setattr(
        zipfile.ZipExtFile, "read", lambda self, n=-1: (lambda part: unpacked.append(len(part)) or part)(read(self, n))
    )
    with pytest.raises(ValueError, match="it unpacks to 64 MiB, and at most 32 MiB are expected"):
        read_npz(path, most_bytes=1 << 25)
    assert sum(unpacked) < 1000


def test_a_header_may_not_announce_what_the_archive_does_not_hold(tmp_path):
    path = pack(tmp_path / "a.npz", x=header_of((1 << 40,)) + bytes(16))
    with pytest.raises(ValueError, match=r"x\.npy of shape \(1099511627776,\) and dtype float32 has 16 bytes"):
        read_npz(path)
    path = pack(tmp_path / "b.npz", x=header_of((-1, 4)) + bytes(16))
    with pytest.raises(ValueError, match=r"x\.npy of shape \(-1, 4\)"):
        read_npz(path)


def test_pickles_and_other_dtypes_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was executed",))

    for array in (np.array([Evil()], object), np.array(["text"]), np.zeros(2, "f4,i4"), np.zeros(2, complex)):
        with pytest.raises(ValueError, match="and plain numbers are expected"):
            read_npz(pack(tmp_path / "a.npz", x=array))


def test_names_kinds_shapes_and_nan_are_named(tmp_path):
    entries = {"codes": Entry("f", (None, 3)), "places": Entry("iu", (None,)), "extra": Entry()}
    arrays = {"codes": np.zeros((4, 2)), "places": np.zeros(4), "state_a": np.zeros(1, bool), "odd": np.zeros(1)}
    path = pack(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError) as error:
        read_npz(path, entries, families={"state_": Entry("f")})
    assert str(error.value) == (
        "extra is missing; codes has shape (4, 2), and (any, 3) is expected; places is of dtype float64, and one of "
        "kind i or u is expected; state_a is of dtype bool, and one of kind f is expected; 'odd' is not expected in it"
    )
    path = pack(tmp_path / "b.npz", x=np.array([[1.0, np.inf], [np.nan, 0]]))
    with pytest.raises(ValueError, match=r"x holds inf at \[0, 1\]"):
        read_npz(path)
    assert np.isnan(read_npz(path, finite=False)["x"][1, 0])


def test_other_members_and_twins_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("../../note.txt", "x")
    with pytest.raises(ValueError, match=r"'\.\./\.\./note\.txt' in it is no array"):
        read_npz(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for _ in range(2):
            archive.writestr("x.npy", header_of((0,)))
    with pytest.raises(ValueError, match="two of its arrays share a name"):
        read_npz(tmp_path / "b.npz")


def test_every_mutation_of_a_file_is_a_value_error_or_the_same_arrays(tmp_path):
    array = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    whole = pack(tmp_path / "a.npz", x=array, y=np.arange(4)).read_bytes()
    draw, refused = np.random.default_rng(1), 0
    for trial in range(300):
        content = bytearray(whole[: draw.integers(len(whole))] if trial % 5 == 0 else whole)
        for _ in range(draw.integers(1, 4)):
            if content:
                content[draw.integers(len(content))] = draw.integers(256)
        (tmp_path / "b.npz").write_bytes(content)
        try:
            stored = read_npz(tmp_path / "b.npz", {"x": Entry("f"), "y": Entry("i")})
        except ValueError:
            refused += 1
        else:
            np.testing.assert_array_equal(stored["x"], array)
    assert refused > 200


def test_an_encrypted_or_oddly_packed_member_is_an_error(tmp_path):
    path = pack(tmp_path / "a.npz", zipfile.ZIP_STORED, x=np.zeros(2))
    content = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        struct.pack_into("<H", content, content.index(signature) + at, 1)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"it does not unpack \(RuntimeError: .* encrypted"):
        read_npz(path)
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "none.npz")


def test_the_first_number_that_is_not_finite():
    assert first_not_finite(np.arange(3)) is None and first_not_finite(np.zeros((0, 2))) is None
    for value in (np.nan, np.inf, -np.inf):
        array = np.zeros((3, 4, 5), np.float16)
        array[1, 2, 3] = value
        assert first_not_finite(array) == (1, 2, 3)
        assert first_not_finite(array[:1]) is None
