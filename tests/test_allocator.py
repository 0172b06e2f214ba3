"""The allocator: a process that reports what it was started with."""

import os
import subprocess
import sys

import pytest

from zoo import allocator

linux = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux's")
SCRIPT = """
import os, sys
from zoo import allocator
allocator.find_tcmalloc = lambda: {library!r}
allocator.use_tcmalloc()
print(os.environ.get("LD_PRELOAD"), sys.argv[1:])
"""


@pytest.fixture
def run(tmp_path):
    """Returns a function that runs the script with a library and further environment: its output and errors."""

    def run_script(library, **environment):
        script = tmp_path / "script.py"
        script.write_text(SCRIPT.format(library=library))
        clean = {key: value for key, value in os.environ.items() if key not in ("LD_PRELOAD", "ZOO_ALLOCATOR")}
        command = [sys.executable, "-X", "utf8", str(script), "train", "a b"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean | environment)
        return done.stdout.strip(), done.stderr

    return run_script


@linux
def test_the_process_starts_anew_once_with_its_arguments(run, tmp_path):
    library = str(tmp_path / "libtcmalloc_minimal.so.4")  # the loader ignores what is not there, and says so
    assert run(library)[0] == f"{library} ['train', 'a b']"


@linux
def test_a_preloaded_library_or_the_users_wish_changes_nothing(run):
    assert run("/lib.so", ZOO_ALLOCATOR="system") == ("None ['train', 'a b']", "")
    out, err = run("/lib.so", LD_PRELOAD="other.so")
    assert out == "other.so ['train', 'a b']"
    assert "/lib.so" not in err


@linux
def test_a_missing_library_is_said_in_one_line(run):
    out, err = run(None)
    assert out == "None ['train', 'a b']"
    assert err.splitlines() == [allocator.INSTALL]
    assert "apt install libtcmalloc-minimal4" in err


def test_the_first_folder_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(allocator.ctypes.util, "find_library", lambda name: None)
    folders = [str(tmp_path / "*-linux-gnu"), str(tmp_path / "lib")]
    assert allocator.find_tcmalloc(folders) is None
    for folder, name in (("lib", allocator.NAMES[0]), ("x86_64-linux-gnu", allocator.NAMES[1])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    assert allocator.find_tcmalloc(folders) == str(tmp_path / "x86_64-linux-gnu" / allocator.NAMES[1])
    assert allocator.find_tcmalloc(folders[1:]) == str(tmp_path / "lib" / allocator.NAMES[0])
