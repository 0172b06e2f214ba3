"""Two trainings in one run folder: the second is refused at once, and the death of the first frees it."""

import doctest
import errno
import os
import subprocess
import sys

import pytest

from zoo.training.run import run_lock

HOLDER = """
import sys
from zoo.training.run import run_lock
with run_lock.hold(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_example_of_the_module():
    assert doctest.testmod(run_lock).failed == 0


def test_another_process_is_refused_by_name_until_it_is_killed(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    message = rf"{tmp_path} is in use: process {holder.pid} on .*, since 20.*, trains in it\. Wait for its end or stop"
    for _ in range(2):  # the refusal leaves the name of the holder where it is
        with pytest.raises(run_lock.RunInUseError, match=message), run_lock.hold(tmp_path):
            pytest.fail("the body does not run")
    holder.kill()
    holder.communicate()
    with run_lock.hold(tmp_path):
        assert str(os.getpid()) in (tmp_path / run_lock.FILE).read_text()


def test_the_same_process_is_refused_twice_and_let_in_after(tmp_path):
    with run_lock.hold(tmp_path / "new"), pytest.raises(run_lock.RunInUseError), run_lock.hold(tmp_path / "new"):
        pytest.fail("the body does not run")
    with pytest.raises(KeyError), run_lock.hold(tmp_path / "new"):
        raise KeyError
    with run_lock.hold(tmp_path / "new"):
        pass


def test_a_file_system_without_locks_is_told_and_does_not_stop_the_work(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock, "_lock", refuse)
    message = r"without locks \(No locks available\): start no second training"
    with pytest.warns(run_lock.NoLockWarning, match=message), run_lock.hold(tmp_path):
        assert (tmp_path / run_lock.FILE).exists()
