"""Files and folders are whole or not there at all, whatever fails."""

import doctest
import errno
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zoo import files

FULL = OSError(errno.ENOSPC, "No space left on device")
ROOT = Path(files.__file__).parent
DEAD = subprocess.Popen([sys.executable, "-c", ""])
DEAD.wait()


def fail(error):
    def call(*_, **__):
        raise error

    return call


def leave(path, kind="part"):
    """The name that a process left for `path` which is no more."""
    name = files._name_beside(path, kind).name.replace(f"-{os.getpid()}-", f"-{DEAD.pid}-")
    return path.with_name(name)


def test_the_examples_of_the_module():
    assert doctest.testmod(files).failed == 0


@pytest.mark.parametrize("name", ["map.npz", "scan.nii.gz", "curves.png", "note", "a" * 240 + ".csv"])
def test_the_temporary_name_is_hidden_and_keeps_the_suffix(tmp_path, name):
    with files.replacing(tmp_path / name) as temporary:
        assert temporary.parent == tmp_path and temporary.name.startswith(".")
        assert "".join(temporary.suffixes[-1:]) == "".join((tmp_path / name).suffixes[-1:])[:20] or name == "note"
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_numpy_and_the_reader_see_the_name_they_expect(tmp_path):
    with files.replacing(tmp_path / "a.npz") as temporary:
        np.savez(temporary, x=np.arange(3))
    assert np.load(tmp_path / "a.npz")["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["full", "interrupted"])
@pytest.mark.parametrize("operation", ["fsync", "replace", "open"])
def test_a_failure_at_any_operation_keeps_the_old_file(tmp_path, monkeypatch, operation, error):
    path = tmp_path / "state"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, operation, fail(error))
    with pytest.raises(type(error)) as caught, files.replacing(path) as temporary:
        temporary.write_bytes(b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    if error is FULL:
        assert f"{path} could not be written (No space left on device); what was there is kept." in str(caught.value)
        assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt(), ValueError("bad")], ids=["full", "interrupted", "value"])
def test_a_failure_while_writing_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "state"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), files.replacing(path) as temporary:
        temporary.write_bytes(b"ne")
        raise error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_bytes", fail(FULL))
    with pytest.raises(OSError, match=rf"{re.escape(str(tmp_path / 'a'))} could not be written"):
        files.write_whole(tmp_path / "a", b"new")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none/a could not be written \(No such file or directory\)"):
        files.write_whole(tmp_path / "none" / "a", b"new")


def test_an_error_of_another_file_passes_as_it_is(tmp_path):
    message = "No such file or directory: .*elsewhere"
    with pytest.raises(FileNotFoundError, match=message), files.replacing(tmp_path / "a"):
        (tmp_path / "elsewhere").read_bytes()


def test_a_folder_that_cannot_be_forced_to_the_disk_is_no_failure(tmp_path, monkeypatch):
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: fail(FULL)() if os.path.isdir(f"/proc/self/fd/{file}") else real(file)
    )
    assert files.write_whole(tmp_path / "a", b"new").read_bytes() == b"new"


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "deep" / "model"
    for content in (b"first", b"second"):
        with files.replacing_folder(folder, overwrite=True) as temporary:
            (temporary / "inner").mkdir()
            (temporary / "inner" / "file").write_bytes(content)
        assert (folder / "inner" / "file").read_bytes() == content and list(folder.parent.iterdir()) == [folder]


def test_a_folder_that_exists_is_not_replaced_unasked(tmp_path):
    message = r"exists\. Pass overwrite=True to replace it"
    with pytest.raises(FileExistsError, match=message), files.replacing_folder(tmp_path):
        pytest.fail("the body does not run")


def test_a_folder_that_another_process_made_meanwhile_stays(tmp_path):
    with pytest.raises(FileExistsError), files.replacing_folder(tmp_path / "a"):
        (tmp_path / "a").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["full", "interrupted"])
@pytest.mark.parametrize("moment", ["fsync", "mkdir", "first rename", "second rename", "body"])
def test_a_failure_at_any_operation_keeps_the_old_folder(tmp_path, monkeypatch, moment, error):
    folder, real, calls = tmp_path / "model", os.rename, []
    folder.mkdir()
    (folder / "file").write_bytes(b"old")

    def rename(source, target):
        calls.append(source)
        return fail(error)() if len(calls) == (1 if moment == "first rename" else 2) else real(source, target)

    if moment.endswith("rename"):
        monkeypatch.setattr(os, "rename", rename)
    elif moment == "fsync":
        monkeypatch.setattr(os, "fsync", fail(error))
    elif moment == "mkdir":
        monkeypatch.setattr(os, "mkdir", fail(error))
    with pytest.raises(type(error)), files.replacing_folder(folder, overwrite=True) as temporary:
        (temporary / "file").write_bytes(b"new")
        if moment == "body":
            raise error
    monkeypatch.undo()
    assert (folder / "file").read_bytes() == b"old" and list(tmp_path.iterdir()) == [folder]


KILLED = """
import os, signal, sys
from zoo import files
folder, moment = sys.argv[1:]
real, calls = os.rename, []
def rename(source, target):
    calls.append(source)
    if moment == str(len(calls)):
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)
os.rename = rename
with files.replacing_folder(folder, overwrite=True) as temporary:
    (temporary / "file").write_text("new")
    if moment == "0":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["0", "1", "2"])
def test_what_a_kill_leaves_is_put_right_at_the_next_call(tmp_path, moment):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "file").write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, folder, moment])
    assert done.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(FileExistsError), files.replacing_folder(folder):
        pass
    assert list(tmp_path.iterdir()) == [folder] and (folder / "file").read_text() == "old"


def test_only_what_dead_processes_left_is_removed(tmp_path):
    path = tmp_path / "a.npz"
    dead, own, other = leave(path), files._name_beside(path, "part"), leave(tmp_path / "b.npz")
    away = leave(path).name.replace(files._HOST, "0" * 8)
    young, old = tmp_path / away, tmp_path / f"{away[:-16]}{'0' * 12}.npz"
    foreign = tmp_path / ".a.npz.part"
    for file in (dead, own, other, young, old, foreign):
        file.touch()
    os.utime(old, (1, 1))
    files.remove_leftovers(tmp_path, "a.npz")
    assert set(tmp_path.iterdir()) == {own, other, young, foreign}
    files.remove_leftovers(tmp_path)
    assert set(tmp_path.iterdir()) == {own, young, foreign}


def packed(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("content", [None, b"", b"PK", b"garbage", packed(x=np.arange(999))[:500]])
def test_a_broken_cache_of_arrays_is_made_anew(tmp_path, content, compress):
    path = tmp_path / "cache" / "a.npz"
    if content is not None:
        path.parent.mkdir()
        path.write_bytes(content)
    made = files.cached_arrays(path, lambda: {"x": [16, 24, 32]}, compress=compress)
    again = files.cached_arrays(path, lambda: pytest.fail("it is there"))
    assert made["x"].tolist() == again["x"].tolist() == [16, 24, 32] and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_a_broken_array_is_none(tmp_path, content):
    path = tmp_path / "cache" / "a.npy"
    if content is not None:
        path.parent.mkdir()
        path.write_bytes(content)
    assert files.mapped_array(path) is None
    files.write_array(path, np.arange(24))
    assert files.mapped_array(path).tolist() == list(range(24))


def test_a_broken_cache_of_json_is_made_anew(tmp_path):
    path = tmp_path / "a.json"
    for content in (b"", b'{"a": '):
        path.write_bytes(content)
        assert files.cached_json(path, lambda: {"a": (1, 2)}) == {"a": [1, 2]}
    assert files.cached_json(path, lambda: pytest.fail("it is there")) == {"a": [1, 2]}


def test_rows_become_csv():
    rows = [{"case": "a", "dice": 0.5}, {"case": "b,c", "hd_mm": float("nan")}]
    assert files.csv_text(rows) == 'case,dice,hd_mm\na,0.5,\n"b,c",,\n'


def test_files_are_replaced_in_one_place_alone():
    strays = re.compile(r"os\.(replace|rename)\(|mkstemp|uuid4|\.replace\((path|target|out)\)|\.rename\(")
    assert [
        str(path) for path in ROOT.rglob("*.py") if path.name != "files.py" and strays.search(path.read_text())
    ] == []
