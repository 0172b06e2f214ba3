"""Reads arrays from npz files that may be broken or hostile, and finds numbers that are not finite."""

import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Arrays = dict[str, np.ndarray]
    Header = tuple[tuple[int, ...], bool, np.dtype]  # shape, whether in Fortran order, dtype

MOST_BYTES = 1 << 31  # unpacked: zeros pack a thousand times smaller, so that a small file may hold more than memory
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Entry:
    """What an array of a file must be.

    Attributes:
        kinds: letters of NumPy's kinds that it may have: f for floats, i and u for whole numbers, b for bool.
        shape: of each axis its size, or None for any; None for any shape.
    """

    kinds: str = "f"
    shape: tuple[int | None, ...] | None = None


def first_not_finite(array: "np.ndarray") -> tuple[int, ...] | None:
    """Returns the index of the first NaN or infinite number of an array; None where there is none.

    Two passes over memory and no second array: cheap enough for every volume and every window.

    Args:
        array: any shape and dtype; whole numbers are always finite.

    Example:
        >>> import numpy as np
        >>> first_not_finite(np.array([[1.0, 2.0], [np.nan, np.inf]]))
        (1, 0)
    """
    import numpy as np

    if array.dtype.kind != "f" or not array.size:
        return None
    with np.errstate(invalid="ignore"):
        if math.isfinite(array.min()) and math.isfinite(array.max()):
            return None
    return tuple(int(i) for i in np.unravel_index(int(np.argmin(np.isfinite(array))), array.shape))


def read_npz(
    path: str | os.PathLike,
    entries: Mapping[str, Entry] | None = None,
    *,
    families: Mapping[str, Entry] | None = None,
    most_bytes: int = MOST_BYTES,
    finite: bool = True,
) -> "Arrays":
    """Reads an npz file whose headers are checked before anything is unpacked; no pickle is ever read.

    Args:
        path: the file.
        entries: arrays that must be there, by name; None takes whatever plain numbers there are.
        families: beginning of a name -> what any number of further arrays must be.
        most_bytes: that all arrays together may take.
        finite: whether NaN and infinity are refused.

    Returns:
        The arrays, writable, in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no npz, truncated or corrupt, or its arrays are not those expected; the text says what is
            wrong without the file's name, for the caller to say what file it should be.

    Example:
        >>> import tempfile, numpy as np
        >>> path = os.path.join(tempfile.mkdtemp(), "codes.npz")
        >>> np.savez(path, codes=np.ones((4, 3)))
        >>> read_npz(path, {"codes": Entry("f", (None, 3))})["codes"].shape
        (4, 3)
    """
    with open(path, "rb") as file:
        try:
            arrays = _unpack(file, entries, families or {}, most_bytes)
        except (MemoryError, ValueError):
            raise
        except Exception as error:  # zipfile meets arbitrary bytes here, and raises a dozen types for them
            raise ValueError(f"it does not unpack ({type(error).__name__}: {error})") from error
    places = {name: first_not_finite(array) for name, array in arrays.items() if finite}
    faults = [f"{name} holds {arrays[name][at]} at {list(at)}" for name, at in places.items() if at is not None]
    if faults:
        raise ValueError("; ".join(faults))
    return arrays


def _unpack(
    file: IO[bytes], entries: Mapping[str, Entry] | None, families: Mapping[str, Entry], most_bytes: int
) -> "Arrays":
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        headers = {_array_name(member): _read_header(archive, member) for member in members}
        _check_headers(headers, len(members), entries, families, most_bytes)
        return {name: _read_array(archive, f"{name}.npy", header) for name, header in headers.items()}


def _array_name(info: zipfile.ZipInfo) -> str:
    if not info.filename.endswith(".npy"):
        raise ValueError(f"{info.filename!r} in it is no array")
    return info.filename.removesuffix(".npy")


def _open_member(archive: zipfile.ZipFile, name: str) -> tuple[IO[bytes], "Header"]:
    """Opens an array of an archive behind its header."""
    from numpy.lib import format as npy

    stream = archive.open(name)
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} has the npy format {version}, and 1.0 or 2.0 is expected")
    read: Any = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return stream, read(stream)


def _read_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> "Header":
    """Reads the header of an array, and compares the size that it announces with that in the archive's list."""
    stream, header = _open_member(archive, info.filename)
    with stream:
        start = stream.tell()
    shape, _, dtype = header
    if dtype.hasobject or dtype.kind not in "fiub":
        raise ValueError(f"{info.filename} is of dtype {dtype}, and plain numbers are expected")
    if any(size < 0 for size in shape) or info.file_size != start + math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{info.filename} of shape {shape} and dtype {dtype} has {info.file_size - start} bytes")
    return header


def _check_headers(
    headers: "Mapping[str, Header]",
    count: int,
    entries: Mapping[str, Entry] | None,
    families: Mapping[str, Entry],
    most_bytes: int,
) -> None:
    """Collects what is wrong with names, kinds, shapes and sizes, before anything is unpacked."""
    total = sum(math.prod(shape) * dtype.itemsize for shape, _, dtype in headers.values())
    faults = ["two of its arrays share a name"] if count > len(headers) else []
    if total > most_bytes:
        faults.append(f"it unpacks to {total / 2**20:.0f} MiB, and at most {most_bytes / 2**20:.0f} MiB are expected")
    if entries is not None:
        faults += [f"{name} is missing" for name in entries if name not in headers]
        for name, (shape, _, dtype) in headers.items():
            family = next((entry for start, entry in families.items() if name.startswith(start)), None)
            faults += _list_faults(name, entries.get(name, family), shape, dtype)
    if faults:
        raise ValueError("; ".join(faults))


def _list_faults(name: str, entry: Entry | None, shape: tuple[int, ...], dtype: "np.dtype") -> list[str]:
    if entry is None:
        return [f"{name!r} is not expected in it"]
    faults = []
    if dtype.kind not in entry.kinds:
        faults.append(f"{name} is of dtype {dtype}, and one of kind {' or '.join(entry.kinds)} is expected")
    expected = shape if entry.shape is None else entry.shape
    if len(shape) != len(expected) or any(size not in (own, None) for own, size in zip(shape, expected, strict=True)):
        words = ", ".join("any" if size is None else str(size) for size in expected)
        faults.append(f"{name} has shape {shape}, and ({words}) is expected")
    return faults


def _read_array(archive: zipfile.ZipFile, name: str, header: "Header") -> "np.ndarray":
    """Unpacks an array of a known size, piece by piece; the last piece is compared with the archive's checksum."""
    import numpy as np

    shape, fortran, dtype = header
    content = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
    stream, again = _open_member(archive, name)
    with stream:
        place, view = 0, content.data
        while part := stream.read(_CHUNK):
            view[place : place + len(part)] = part
            place += len(part)
    if again != header or place != len(content):
        raise ValueError(f"{name} ends after {place} of {len(content)} bytes")
    return content.view(dtype).reshape(shape, order="F" if fortran else "C")
