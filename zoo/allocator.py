"""Starts a process anew with tcmalloc in place of the C library's allocator, where that pays.

glibc returns every large buffer to the system and fetches fresh pages for the next, which the system clears: a
tenth of a training step (docs/speed.md). Its own settings (thresholds of mmap and trim) did not help; tcmalloc keeps
the buffers.
"""

import ctypes.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path

VARIABLE, SYSTEM = "ZOO_ALLOCATOR", "system"
NAMES = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4")
FOLDERS = ("/usr/lib/*-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib")
INSTALL = (
    "Training is up to a tenth faster with tcmalloc: `apt install libtcmalloc-minimal4`, and zoo finds it. "
    f"{VARIABLE}={SYSTEM} leaves this line out."
)


def use_tcmalloc() -> None:
    """Replaces this process by one of the same command with tcmalloc; says how to install it where it is missing.

    Does nothing outside Linux, where `ZOO_ALLOCATOR` is "system", and where LD_PRELOAD is set already, so that a
    process is started anew once. Call it before large modules are imported.

    Example:
        >>> os.environ["ZOO_ALLOCATOR"] = "system"
        >>> use_tcmalloc()
    """
    if sys.platform != "linux" or os.environ.get(VARIABLE) == SYSTEM or os.environ.get("LD_PRELOAD"):
        return
    library = find_tcmalloc()
    if library is None:
        print(INSTALL, file=sys.stderr)
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"LD_PRELOAD": library})


def find_tcmalloc(folders: Iterable[str] = FOLDERS) -> str | None:
    """Returns what LD_PRELOAD takes for tcmalloc: a file of the folders or of this environment, else a name; or None.

    Args:
        folders: patterns of folders, the first before the others.
    """
    own = [str(Path(prefix) / "lib") for prefix in dict.fromkeys((sys.prefix, sys.base_prefix))]
    for pattern in (*folders, *own):
        root = Path(pattern)
        for folder in sorted(Path(root.anchor).glob(str(root.relative_to(root.anchor)))):
            for name in NAMES:
                if (folder / name).is_file():
                    return str(folder / name)
    return ctypes.util.find_library("tcmalloc_minimal")
