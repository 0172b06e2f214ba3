"""Maps files side by side into memory, so that TensorFlow sees them as one tensor without a copy.

Bytes are read when they are first used, and the system may drop them when it needs the memory. If another file
replaces a mapped one, the mapping keeps the old content.
"""

import ctypes
import mmap
import sys
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

POSSIBLE = sys.platform != "win32"
_FIXED = 0x10  # MAP_FIXED, on Linux and macOS; Python's mmap module does not offer it


def join(files: Sequence[str]) -> tuple[tf.Tensor, np.ndarray]:
    """Maps files one after the other.

    Args:
        files: paths of files that are not empty.

    Returns:
        All bytes, (bytes,) uint8, and where each file begins, (files,) int64, a multiple of the page size.

    Raises:
        OSError: a file cannot be opened or mapped.
    """
    sizes = [_file_size(file) for file in files]
    starts = np.cumsum([0, *(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE for size in sizes)])
    # Reserves addresses without memory; closing it, when the last tensor is gone, frees what was mapped over it.
    reserved = mmap.mmap(-1, int(starts[-1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    address = np.frombuffer(reserved, np.uint8).ctypes.data
    for file, size, start in zip(files, sizes, starts, strict=False):
        _map(file, size, address + int(start))
    block = (ctypes.c_uint8 * len(reserved)).from_address(address)
    block.owner = reserved  # type: ignore[attr-defined]  # lives as long as the array over it
    return tf.experimental.dlpack.from_dlpack(np.ctypeslib.as_array(block).__dlpack__()), starts[:-1]


def _file_size(file: str) -> int:
    with open(file, "rb") as opened:
        return opened.seek(0, 2)


def _map(file: str, size: int, address: int) -> None:
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    with open(file, "rb") as opened:
        mapped = function(address, size, mmap.PROT_READ, mmap.MAP_PRIVATE | _FIXED, opened.fileno(), 0)
    if mapped != address:
        raise OSError(ctypes.get_errno(), f"{file} cannot be mapped into memory", file)
