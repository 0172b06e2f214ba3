"""Keeps two trainings out of one run folder: a lock that the system releases when its process ends, however it ends."""

import contextlib
import datetime
import errno
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

FILE = ".lock"
HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # Windows has the last two
FAR = 1 << 20  # of the byte that Windows locks: what it locks cannot be read


class RunInUseError(RuntimeError):
    """Another process trains in the run folder."""


class NoLockWarning(UserWarning):
    """Warns that a file system has no locks, so that nothing tells whether another process trains in its folder."""


@contextlib.contextmanager
def hold(out: str | os.PathLike) -> Iterator[None]:
    """Holds a run folder for this process; the folder is made where it is missing.

    The lock is `flock` of a file in the folder, on Windows its `LockFile`: both end with their process, also by a kill.
    On network file systems it holds between machines where these share locks (NFS 4, or 3 with its lock daemon).

    Args:
        out: the run folder.

    Raises:
        RunInUseError: another process, or another thread, holds it; it is named.

    Warns:
        NoLockWarning: the file system has no locks.

    Example:
        >>> import tempfile
        >>> out = tempfile.mkdtemp()
        >>> with hold(out):
        ...     os.listdir(out)
        ['.lock']
    """
    path = Path(out) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno in HELD:
                raise RunInUseError(
                    f"{out} is in use: {_read_holder(descriptor)} trains in it. Wait for its end or stop it, or choose "
                    "a new folder."
                ) from error
            text = f"{out} lies on a file system without locks ({error.strerror}): start no second training in it"
            warnings.warn(text, NoLockWarning, stacklevel=3)
        _write_holder(descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Locks an open file, or raises OSError at once."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write_holder(descriptor: int) -> None:
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, f"process {os.getpid()} on {platform.node()}, since {now},".encode())


def _read_holder(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, 1000).decode(errors="replace") or "another process"
