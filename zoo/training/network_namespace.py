"""A network of their own for the processes of a local cluster: their servers listen to nobody else. Linux alone.

TensorFlow's servers listen on every address of a machine and ask for no password; who reaches one can read and write
files as its user. In a network namespace there is only the loopback address, and only its own processes reach it.
Run as a program, this file makes such a namespace and keeps it until its standard input is closed; with the number of
that process and a command, it runs the command inside.
"""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET of Linux
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 0x1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP
READY = b"ready\n"


@contextmanager
def own_network() -> Iterator[list[str] | None]:
    """Makes a network namespace, and removes it at the end.

    Yields:
        The words that stand before a command to run it inside; None where the system has no namespaces or does not
        allow them.

    Example:
        >>> with own_network() as inside:  # doctest: +SKIP
        ...     subprocess.run([*inside, "zoo", "list"])
    """
    if sys.platform != "linux":
        yield None
        return
    program = [sys.executable, "-I", __file__]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as keeper:  # its end closes the pipes, then waits
        ready = keeper.stdout is not None and keeper.stdout.readline() == READY
        yield [*program, str(keeper.pid)] if ready else None


def enter(pid: int, command: Sequence[str]) -> None:
    """Moves this process into the namespaces of another, and becomes the command there."""
    library = ctypes.CDLL(None, use_errno=True)
    for kind in ("user", "net"):
        there = f"/proc/{pid}/ns/{kind}"
        if os.readlink(there) == os.readlink(f"/proc/self/ns/{kind}"):
            continue
        handle = os.open(there, os.O_RDONLY)
        if library.setns(handle, 0):
            raise OSError(ctypes.get_errno(), f"The {kind} namespace of process {pid} cannot be entered")
        os.close(handle)
    os.execvp(command[0], list(command))


def other_interfaces() -> list[str]:
    """Returns the network interfaces of this machine, beside loopback, that are up: others may reach it there.

    Example:
        >>> "lo" in other_interfaces()
        False
    """
    states = Path("/sys/class/net")
    if not states.is_dir():  # not Linux: an interface may be down, which is not known
        return [name for _, name in socket.if_nameindex() if not name.startswith("lo")]
    names = [path.name for path in states.iterdir() if path.name != "lo" and (path / "operstate").is_file()]
    return sorted(name for name in names if (states / name / "operstate").read_text().strip() != "down")


def keep() -> None:
    """Moves this process into a network namespace of its own, says so, and stays until standard input is closed."""
    user, group = os.getuid(), os.getgid()
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(NEW_NETWORK):  # not root: the right to do so comes with a user namespace
        if library.unshare(NEW_USER | NEW_NETWORK):
            raise OSError(ctypes.get_errno(), "This system allows no network namespace")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = fcntl.ioctl(handle, GET_FLAGS, struct.pack("16sH22x", b"lo", 0))
        flags = struct.unpack("16sH22x", request)[1]
        fcntl.ioctl(handle, SET_FLAGS, struct.pack("16sH22x", b"lo", flags | UP))
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    sys.stdin.buffer.read()


if __name__ == "__main__":
    if sys.argv[1:]:
        enter(int(sys.argv[1]), sys.argv[2:])
    else:
        keep()
