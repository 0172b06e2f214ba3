"""Files and folders are whole or not there at all, whatever fails."""

import csv
import doctest
import errno
import io
import os
import re
import subprocess
import sys
import threading
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


def test_a_failure_inside_a_folder_names_the_folder_once(tmp_path, monkeypatch):
    with pytest.raises(OSError) as caught, files.replacing_folder(tmp_path / "model") as temporary:
        monkeypatch.setattr(os, "fsync", fail(FULL))
        files.write_whole(temporary / "file", b"new")
    text = f"{tmp_path / 'model'} could not be written (No space left on device); what was there is kept."
    assert caught.value.strerror == text and caught.value.errno == errno.ENOSPC


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
@pytest.mark.parametrize("moment", ["fsync", "mkdir", "first rename", "second rename", "exchange", "body"])
def test_a_failure_at_any_operation_keeps_the_old_folder(tmp_path, monkeypatch, moment, error):
    folder, real, calls = tmp_path / "model", os.rename, []
    folder.mkdir()
    (folder / "file").write_bytes(b"old")

    def rename(source, target):
        calls.append(source)
        return fail(error)() if len(calls) == (1 if moment == "first rename" else 2) else real(source, target)

    if moment.endswith("rename"):
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
        monkeypatch.setattr(os, "rename", rename)
    elif moment == "exchange":
        monkeypatch.setattr(files, "_exchange", fail(error))
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


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="no system call exchanges two names")
def test_a_folder_that_is_replaced_is_never_missing(tmp_path):
    folder, stop, seen = tmp_path / "model", threading.Event(), []

    def watch():
        while not stop.is_set():
            try:
                seen.append((folder / "file").read_text())
            except FileNotFoundError:
                seen.append("gone")

    with files.replacing_folder(folder) as temporary:
        (temporary / "file").write_text("0")
    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(1, 40):
        with files.replacing_folder(folder, overwrite=True) as temporary:
            (temporary / "file").write_text(str(number))
    stop.set()
    watcher.join()
    assert "gone" not in seen and len(set(seen)) > 1


@pytest.mark.parametrize("exchanges", [True, False])
def test_of_two_writers_at_once_one_is_told(tmp_path, monkeypatch, exchanges):
    """Both pass every check before either renames: the second finds the folder of the first, and leaves it."""
    if not exchanges:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    first, second = files.replacing_folder(tmp_path / "a"), files.replacing_folder(tmp_path / "a")
    (first.__enter__() / "file").write_text("first")
    (second.__enter__() / "file").write_text("second")
    monkeypatch.setattr(files, "_check_absent", lambda *_: None)
    first.__exit__(None, None, None)
    with pytest.raises(FileExistsError, match="another process wrote it meanwhile, and it is kept"):
        second.__exit__(None, None, None)
    assert (tmp_path / "a" / "file").read_text() == "first" and os.listdir(tmp_path) == ["a"]


def test_a_folder_that_comes_while_the_old_one_is_put_aside_is_kept(tmp_path, monkeypatch):
    folder, real, calls = tmp_path / "a", os.rename, []
    folder.mkdir()
    monkeypatch.setattr(files, "_exchange", lambda *_: False)

    def rename(source, target):
        real(source, target)
        if not calls:  # another process is quicker
            calls.append(source)
            folder.mkdir()
            (folder / "file").write_text("other")

    monkeypatch.setattr(os, "rename", rename)
    with (
        pytest.raises(FileExistsError, match="another process wrote it meanwhile"),
        files.replacing_folder(folder, overwrite=True) as temporary,
    ):
        (temporary / "file").write_text("own")
    assert (folder / "file").read_text() == "other"


def test_a_file_is_never_replaced_by_a_folder_and_a_link_stays_a_link(tmp_path):
    (tmp_path / "file").write_text("kept")
    message = "is a file, and a folder is written"
    with pytest.raises(NotADirectoryError, match=message), files.replacing_folder(tmp_path / "file", overwrite=True):
        pytest.fail("the body does not run")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with files.replacing_folder(tmp_path / "link", overwrite=True) as temporary:
        (temporary / "file").write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "file").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "real"]


KILLED = """
import builtins, io, os, pathlib, shutil, signal, sys
import numpy as np
from zoo import files

os.fsync = lambda file: None  # a kill is no power cut

def write_folder(path):
    with files.replacing_folder(path, overwrite=True) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "file").write_text("new")
        (temporary / "other").write_text("new")

def write_array_file(path):
    files.write_array(path, np.full(9, 2))

def cache(path):
    files.cached_arrays(path, lambda: {"x": np.full(9, 2)})

def cache_json(path):
    files.cached_json(path, lambda: ["new"])

def read_folder(path):
    return {str(file.relative_to(path)): file.read_text() for file in path.rglob("*") if file.is_file()}

OLD_FOLDER, NEW_FOLDER = {"file": "old"}, {"inner/file": "new", "other": "new"}
KINDS = {  # writer, content before, readers, states that are allowed after a kill
    "whole": (lambda path: files.write_whole(path, b"new"), b"old", pathlib.Path.read_bytes, (b"old", b"new")),
    "array": (write_array_file, b"old", pathlib.Path.read_bytes, None),
    "arrays": (cache, b"broken", pathlib.Path.read_bytes, None),
    "json": (cache_json, b"{", pathlib.Path.read_bytes, (b"{", b'["new"]')),
    "folder": (write_folder, OLD_FOLDER, read_folder, (OLD_FOLDER, NEW_FOLDER)),
    "folder aside": (write_folder, OLD_FOLDER, read_folder, (OLD_FOLDER, NEW_FOLDER)),
}
SUFFIXES = {"array": ".npy", "arrays": ".npz"}
NAMES = ("open", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir")

def kill_at(moment):
    calls = [0]
    def wrap(real):
        def call(*words, **options):
            calls[0] += 1
            if calls[0] == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*words, **options)
            calls[0] += 1
            if calls[0] == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return call
    for name in NAMES:
        setattr(os, name, wrap(getattr(os, name)))
    files._exchange = wrap(files._exchange)
    io.open = builtins.open = wrap(builtins.open)

def prepare(path, before):
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir()
    if isinstance(before, bytes):
        path.write_bytes(before)
    else:
        path.mkdir()
        (path / "file").write_text("old")
    return path

home = pathlib.Path(sys.argv[1]) / "home"
for kind, (write, before, read, allowed) in KINDS.items():
    if kind == "folder aside":
        files._exchange = lambda one, other: False
    path = prepare(home / f"result{SUFFIXES.get(kind, '')}", before)
    write(path)
    new = read(path)
    moment, killed = 0, True
    while killed:
        moment += 1
        prepare(path, before)
        child = os.fork()
        if not child:
            kill_at(moment)
            write(path)
            os._exit(0)
        killed = os.waitpid(child, 0)[1] == signal.SIGKILL
        if not path.exists():
            assert kind == "folder aside", (kind, moment)
        else:
            assert read(path) in (allowed or (before, new)), (kind, moment)
        try:
            with files.replacing_folder(path) if "folder" in kind else files.replacing(path):
                raise KeyError  # the next writer of all puts right what the kill left, and fails
        except (KeyError, FileExistsError):
            pass
        assert os.listdir(home) == [path.name], (kind, moment, os.listdir(home))
        assert read(path) in (allowed or (before, new)), (kind, moment)
        write(path)
        assert read(path) == new and os.listdir(home) == [path.name], (kind, moment)
    print(kind, moment)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_operation_of_any_writer_leaves_old_or_new(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    moments = {line.rsplit(" ", 1)[0]: int(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines()}
    assert set(moments) == {"whole", "array", "arrays", "json", "folder", "folder aside"}
    assert min(moments.values()) > 8 and moments["folder"] > 16


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


def test_a_file_that_is_written_again_takes_the_leftovers_of_its_killed_writers_away(tmp_path):
    path = tmp_path / "a.npz"
    dead, other = leave(path), leave(tmp_path / "b.npz")
    dead.touch()
    other.touch()
    files.write_whole(path, b"new")
    assert set(tmp_path.iterdir()) == {path, other}


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
        assert files.cached_json(path, lambda: {"a": np.arange(1, 3)}, default=np.ndarray.tolist) == {"a": [1, 2]}
    assert files.cached_json(path, lambda: pytest.fail("it is there")) == {"a": [1, 2]}


def test_rows_become_csv():
    rows = [{"case": "a", "dice": 0.5}, {"case": "b,c", "hd_mm": float("nan")}]
    assert files.csv_text(rows) == 'case,dice,hd_mm\na,0.5,\n"b,c",,\n'


def test_rows_become_tsv_with_the_words_of_bids():
    rows = [{"case": "=a", "dice": 0.5}, {"case": "", "dice": float("nan")}, {"case": "b"}]
    assert files.csv_text(rows, tabs=True) == "case\tdice\n=a\t0.5\nn/a\tn/a\nb\tn/a\n"


def test_tables_are_written_in_one_place_alone():
    own = re.compile(r"csv\.(DictWriter|writer)\(")
    assert [str(path) for path in ROOT.rglob("*.py") if path.name != "files.py" and own.search(path.read_text())] == []


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\t=1", '=HYPERLINK("x")'])
def test_text_that_a_spreadsheet_would_compute_is_quoted(text):
    (row,) = csv.DictReader(files.csv_text([{"case": text}]).splitlines())
    assert row["case"] == f"'{text}" or text.startswith("\t")
    assert files.csv_cell(files.csv_cell(text)) == files.csv_cell(text) == f"'{text}"
    assert next(csv.reader(files.csv_text([{text: 1}]).splitlines())) == [f"'{text}"]


@pytest.mark.parametrize("number", [-3.5, "-3.500", "+1e-5", 0, "a-b", "-inf", True])
def test_numbers_and_plain_text_stay_as_they_are(number):
    assert files.csv_text([{"x": number}]) == f"x\n{number}\n"


def test_files_are_replaced_in_one_place_alone():
    strays = re.compile(r"os\.(replace|rename)\(|mkstemp|uuid4|\.replace\((path|target|out)\)|\.rename\(")
    assert [
        str(path) for path in ROOT.rglob("*.py") if path.name != "files.py" and strays.search(path.read_text())
    ] == []
