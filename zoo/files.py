"""Writes files and folders whole or not at all, and reads caches that may be broken."""

import contextlib
import csv
import io
import json
import math
import os
import platform
import re
import shutil
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.arrays import read_npz

if TYPE_CHECKING:
    import numpy as np

_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<kind>part|old)-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{12}(?:\.\w+)*")
_DAY_S = 86400
_MOST_CACHED = 1 << 36  # bytes of one cache file, which zoo itself wrote


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Replaces a file at once: yields a temporary path beside it, forces that to the disk, then renames it.

    Whatever fails or is interrupted, the path holds either its old content or the whole new one. What killed processes
    left of the same file is removed.

    Args:
        path: the file; its folder exists.

    Yields:
        A hidden path in the same folder with the same suffix, for the caller to write.

    Raises:
        OSError: the disk is full or the folder cannot be written; the error names `path`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with replacing(path) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> path.read_text()
        'whole'
    """
    path = Path(path)
    temporary = _name_beside(path, "part")
    try:
        with contextlib.suppress(OSError):
            remove_leftovers(path.parent, path.name)
        with _naming_target(path, temporary):
            yield temporary
            _force_to_disk(temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _force_folder_to_disk(path.parent)


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """Replaces a folder at once: yields an empty temporary folder beside it, then swaps the two by renaming.

    The old folder stays until the new one stands. What killed processes left is removed at the next call; an old
    folder that a kill left aside comes back. Of two writers without `overwrite`, the first to end wins.

    Args:
        path: the folder, or a link to it; its parents are made.
        overwrite: whether a folder that exists is replaced.

    Yields:
        An empty hidden folder, for the caller to fill.

    Raises:
        FileExistsError: the folder exists and `overwrite` is False; also where another process made it meanwhile.
        NotADirectoryError: the path is a file.
        OSError: the disk is full or the parent cannot be written; the error names `path`.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "results"
        >>> with replacing_folder(folder) as temporary:
        ...     _ = write_whole(temporary / "note.txt", b"whole")
        >>> [file.name for file in folder.iterdir()]
        ['note.txt']
    """
    path = Path(path)
    path = path.resolve() if path.is_symlink() else path
    temporary = _name_beside(path, "part")
    try:
        with _naming_target(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent, path.name)
            _check_absent(path, overwrite)
            temporary.mkdir()
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file() and not file.is_symlink():
                    _force_to_disk(file)
            _check_absent(path, overwrite)  # another process may have made it meanwhile
            swap_folder(temporary, path, overwrite=overwrite)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def swap_folder(new: Path, path: Path, *, overwrite: bool = True) -> None:
    """Renames the folder `new` to `path`, and removes the folder that was there.

    Linux and macOS exchange the two names at once, so that `path` is never missing. Where the file system cannot, the
    old folder is put aside first, and comes back if the renaming fails.

    Args:
        new: the whole new folder, beside `path`.
        path: where it belongs.
        overwrite: whether a folder that is there is replaced; else one that another process made meanwhile stays.

    Raises:
        FileExistsError: a folder is there that is not to be replaced, or came while the old one was put aside.
    """
    old = new
    if not (overwrite and path.exists()):
        _rename_to_free(new, path)
    elif not _exchange(new, path):
        old = _name_beside(path, "old")
        os.rename(path, old)
        try:
            _rename_to_free(new, path)
        except BaseException:
            if not path.exists():
                os.rename(old, path)
            raise
    _force_folder_to_disk(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _rename_to_free(new: Path, path: Path) -> None:
    """Renames a folder to a name that is free: a folder with files is never replaced by renaming."""
    try:
        os.rename(new, path)
    except OSError as error:
        if path.exists():
            raise FileExistsError(f"{path} exists: another process wrote it meanwhile, and it is kept.") from error
        raise


def _exchange(first: Path, other: Path) -> bool:
    """Exchanges two names at once where system and file system can; returns whether it did."""
    import ctypes

    names = os.fsencode(first), os.fsencode(other)
    library: Any = ctypes.CDLL(None) if os.name == "posix" else None
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        at, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        return library.renameat2(at, names[0], at, names[1], exchange) == 0
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        return library.renamex_np(*names, 2) == 0  # RENAME_SWAP
    return False


def remove_leftovers(folder: str | os.PathLike, name: str | None = None) -> None:
    """Removes the temporary files and folders that killed processes left in a folder.

    Args:
        folder: where to look.
        name: of the file or folder they were meant for; None for any.
    """
    start = "." if name is None else f".{name[:100]}."
    for path in [path for path in Path(folder).iterdir() if path.name.startswith(start)]:
        match = _LEFTOVER.fullmatch(path.name)
        if not match or (name is not None and match["name"] != name[:100]) or _is_in_use(path, match):
            continue
        if match["kind"] == "old" and name is not None and not path.with_name(name).exists():
            os.rename(path, path.with_name(name))
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike, content: bytes) -> Path:
    """Writes a file whole or not at all.

    Returns:
        The file's path; a file that was there is replaced.

    Raises:
        OSError: the disk is full or the folder cannot be written; what was there is kept.

    Example:
        >>> import tempfile
        >>> write_whole(Path(tempfile.mkdtemp()) / "a.txt", b"whole").read_bytes()
        b'whole'
    """
    path = Path(path)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def cached_arrays(
    path: Path, make: Callable[[], Mapping[str, Any]], *, compress: bool = True
) -> "dict[str, np.ndarray]":
    """Returns the arrays of a cache file, made and written first where the file is missing or broken.

    Args:
        path: of the npz; its folder is made.
        make: computes the arrays, by name.
        compress: whether the file is compressed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "cache.npz"
        >>> cached_arrays(path, lambda: {"sizes": [16, 24, 32]})["sizes"]
        array([16, 24, 32])
    """
    import numpy as np

    try:
        return read_npz(path, most_bytes=_MOST_CACHED, finite=False)
    except (OSError, ValueError):
        arrays = {key: np.asarray(value) for key, value in make().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        (np.savez_compressed if compress else np.savez)(temporary, allow_pickle=False, **arrays)
    return arrays


def mapped_array(path: Path) -> "np.ndarray | None":
    """Maps an npy file into memory; returns None where it is missing or broken, so that its owner makes it anew."""
    import numpy as np

    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # NumPy's parser of headers raises anything for arbitrary bytes
        return None


def write_array(path: Path, array: "np.ndarray") -> None:
    """Writes an npy file whole or not at all; its folder is made."""
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def cached_json(path: Path, make: Callable[[], Any], *, default: Callable[[Any], Any] | None = None) -> Any:
    """Returns what a JSON file holds, made and written first where the file is missing or broken.

    Args:
        path: of the file; its folder is made.
        make: computes the content.
        default: turns what JSON has no word for, such as a NumPy number, into what it has.

    Example:
        >>> import tempfile
        >>> cached_json(Path(tempfile.mkdtemp()) / "cache.json", lambda: {"sizes": (16, 24, 32)})
        {'sizes': [16, 24, 32]}
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        text = json.dumps(make(), default=default)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())
    return json.loads(text)


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, *, tabs: bool = False) -> str:
    r"""Returns rows as CSV; what is not defined is an empty cell, and no text is a formula (`csv_cell`).

    Args:
        rows: column -> value.
        columns: of the table, also where there is no row; every column that occurs when None.
        tabs: as TSV of BIDS: tabs between cells, n/a for what is not defined, text as it is.

    Example:
        >>> csv_text([{"case": "a", "dice": 0.9}, {"case": "b", "dice": None}])
        'case,dice\na,0.9\nb,\n'
    """
    text = io.StringIO()
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
    cell, delimiter = (_tsv_cell, "\t") if tabs else (csv_cell, ",")
    table = csv.DictWriter(text, columns, restval=cell(None), lineterminator="\n", delimiter=delimiter)
    for row in [{column: column for column in columns}, *rows]:
        table.writerow({key: cell(value) for key, value in row.items()})
    return text.getvalue()


def csv_cell(value: Any) -> Any:
    """Returns a value as a cell of a table that a spreadsheet may open.

    Text that begins as a formula does, such as the name of a case, is quoted with an apostrophe, so that it is neither
    computed nor lost; numbers stay as they are, also as text. What is not defined is empty.

    Example:
        >>> csv_cell("=1+1"), csv_cell("-3.5"), csv_cell(-3.5), csv_cell(None)
        ("'=1+1", '-3.5', -3.5, '')
    """
    if is_missing(value):
        return ""
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    with contextlib.suppress(ValueError):
        float(value)
        return value
    return f"'{value}"


def _tsv_cell(value: Any) -> Any:
    return "n/a" if is_missing(value) or value == "" else value


def is_missing(value: Any) -> bool:
    """Returns whether a number is not defined: None or NaN.

    Example:
        >>> is_missing(float("nan")), is_missing(0)
        (True, False)
    """
    return value is None or (isinstance(value, float) and math.isnan(value))


def _name_beside(path: Path, kind: str) -> Path:
    """Returns a free hidden name that tells which process it belongs to; it ends in the suffix of `path`."""
    suffix = ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix
    tag = f"{kind}-{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
    return path.with_name(f".{path.name[:100]}.{tag}{suffix if len(suffix) < 20 else ''}")


def _is_in_use(path: Path, match: re.Match) -> bool:
    """Returns whether the process that made a temporary file may live; one of another machine lives for a day."""
    if match["host"] != _HOST or os.name != "posix":  # elsewhere signal 0 would end the process
        with contextlib.suppress(OSError):
            return time.time() - path.stat().st_mtime < _DAY_S
        return True
    try:
        os.kill(int(match["pid"]), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


@contextlib.contextmanager
def _naming_target(path: Path, temporary: Path) -> Iterator[None]:
    """Turns a failure to write `temporary` into one that names `path`; other failures pass."""
    try:
        yield
    except OSError as error:
        if error.errno is None or (error.filename and not str(error.filename).startswith(str(temporary))):
            raise
        cause, reason = error.__cause__, error.strerror
        if isinstance(cause, OSError) and str(temporary) in str(error):  # of a file in a folder, named already
            reason = cause.strerror
        text = f"{path} could not be written ({reason}); what was there is kept."
        raise OSError(error.errno, text) from error


def _check_absent(path: Path, overwrite: bool) -> None:
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file, and a folder is written. Name another folder.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Pass overwrite=True to replace it, or name another folder.")


def _force_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _force_folder_to_disk(folder: Path) -> None:
    """Forces a renaming to the disk; file systems that cannot (some network ones) leave the file whole all the same."""
    with contextlib.suppress(OSError):
        _force_to_disk(folder)
