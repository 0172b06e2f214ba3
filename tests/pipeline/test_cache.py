"""Caches: what is kept, what is taken over after a kill, and what is found stale."""

import gc
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tensorflow as tf
from support.datasets import SHAPE, draw_image, mark_voxels, write_cases, write_nifti

from zoo import files
from zoo.datasets.cases import Case
from zoo.datasets.cases import cases as listed
from zoo.datasets.images import read_labels
from zoo.pipeline import cache as caches
from zoo.pipeline import mapped_files, memory_cache, tfrecord_cache
from zoo.pipeline.cache_reader import Table
from zoo.pipeline.prepare import Reading, prepare


def window(cache, case=0, start=(2, 3, 4), size=(5, 7, 9)):
    table = Table(cache)
    place = [tf.constant(value, tf.int64) for value in (case, start, size)]
    return table.image(*place).numpy(), table.labels(*place).numpy()


def written(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("[!.]*.tfrecord")}


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_window_is_the_z_score_of_the_file_and_the_dtype_is_kept(tmp_path, where, dtype):
    cases = write_cases(tmp_path / "data", 2, dtype=dtype)
    cache = caches.build(cases, Reading(), "memory" if where == "memory" else tmp_path / "cache")
    image, labels = window(cache, case=1)
    for number, path in enumerate(cases[1].channels.values()):
        voxels = nibabel.load(path).get_fdata()
        expected = ((voxels - voxels.mean()) / voxels.std())[2:7, 3:10, 4:13]
        np.testing.assert_allclose(image[..., number], expected, atol=1e-5)
    np.testing.assert_array_equal(labels[..., 0], nibabel.load(cases[1].labels).get_fdata()[2:7, 3:10, 4:13])
    assert {block.dtype for entry in cache.entries for block in entry.channels} == {dtype}
    if where == "disk":
        overhead = cache.entries[0].num_bytes - 2 * np.prod(SHAPE) * np.dtype(dtype).itemsize - np.prod(SHAPE)
        assert 0 < overhead < 60_000  # header and places


def test_cases_of_different_shape_and_dtype_share_a_cache(tmp_path):
    cases = write_cases(tmp_path / "a", 1, dtype=np.int16) + [
        replace(case, id=f"other{case.id}")
        for case in write_cases(tmp_path / "b", 1, shape=(20, 28, 18), dtype=np.float32)
    ]
    for where in ("memory", tmp_path / "cache"):
        cache = caches.build(cases, Reading(steps=()), where)
        for number, case in enumerate(cases):
            voxels = nibabel.load(case.channels["flair"]).get_fdata()[2:7, 3:10, 4:13]
            np.testing.assert_array_equal(window(cache, number)[0][..., 1], voxels)


def test_every_remembered_voxel_holds_its_class(tmp_path):
    cases = write_cases(tmp_path / "data", 2)
    for where in ("memory", tmp_path / "cache"):
        cache = caches.build(cases, Reading(), where)
        table = Table(cache)
        for number, case in enumerate(cases):
            labels = nibabel.load(case.labels).get_fdata()
            np.testing.assert_array_equal(cache.counts[number], np.bincount(labels.ravel().astype(int)))
            for kind in (0, 1, 2):
                last = tf.constant(cache.counts[number, kind] - 1)
                voxel = table.voxel(tf.constant(number, tf.int64), tf.constant(kind, tf.int64), last)
                assert labels[tuple(voxel.numpy())] == kind


def test_memory_is_estimated_and_the_disk_serves_where_it_is_too_little(tmp_path, monkeypatch, capsys):
    cases = write_cases(tmp_path / "data", 4)
    need = 4 * (2 * 2 + 1) * np.prod(SHAPE)
    assert sum(memory_cache.estimate(cases, Reading().of(cases))) == need
    in_memory = caches.build(cases, Reading(), limit_mb=1)
    assert capsys.readouterr().err == "4 cases need 0 MB of memory; 1 MB may be used.\n"
    monkeypatch.setattr(caches.platformdirs, "user_cache_path", lambda name: tmp_path / name)
    on_disk = caches.build(cases, Reading(), limit_mb=0.1)
    assert "which is too much: they go to disk" in capsys.readouterr().err
    assert (in_memory.buffer is None, on_disk.buffer is None) == (False, True)
    assert Path(on_disk.entries[0].file).is_relative_to(tmp_path / "zoo3d" / "cases")
    np.testing.assert_array_equal(window(in_memory)[0], window(on_disk)[0])


def test_the_estimate_knows_turned_and_resampled_grids(tmp_path):
    turned = np.array([[0, 0, 2.0, 0], [-1.0, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 0, 1]])
    path = write_nifti(tmp_path / "x.nii", draw_image(), turned)
    cases = [Case("x", "x", {"t1": path}, write_nifti(tmp_path / "y.nii", mark_voxels((1, 2, 3)), turned))]
    for spacing in (None, (1.0, 1.0, 1.0), (2.0, 1.0, 1.5)):
        reading = Reading(spacing_mm=spacing).of(cases)
        prepared = prepare(cases[0], reading)
        exact = prepared.channels[0].nbytes + prepared.labels.nbytes
        assert exact <= memory_cache.estimate(cases, reading)[0] < exact + 128
        assert prepared.channels[0].shape == prepared.labels.shape


def test_a_second_run_reads_nothing_and_a_changed_file_or_option_is_stale(tmp_path, capsys):
    cases, folder = write_cases(tmp_path / "data", 3), tmp_path / "cache"
    caches.build(cases, Reading(), folder)
    before = written(folder)
    caches.build(cases, Reading(), folder)
    assert written(folder) == before
    assert "3 cases taken from the cache, 0 written" in capsys.readouterr().err
    write_nifti(cases[1].channels["t1"], draw_image(99))
    cache = caches.build(cases, Reading(steps=({"name": "maximum"},)).of(cases), folder)
    assert len(written(folder)) == 3  # the stale ones are gone
    assert not set(written(folder)) & set(before)
    voxels = nibabel.load(cases[1].channels["t1"]).get_fdata()
    np.testing.assert_allclose(window(cache, 1)[0][..., 0], (voxels / voxels.max())[2:7, 3:10, 4:13], rtol=1e-6)
    os.utime(cases[2].labels, (1, 1))
    again = written(folder)
    caches.build(cases, Reading(steps=({"name": "maximum"},)).of(cases), folder)
    assert len(set(written(folder)) & set(again)) == 2


KILLED = """
import sys, time
from pathlib import Path
from zoo.datasets import cases
from zoo.pipeline import cache, tfrecord_cache
from zoo.pipeline.prepare import Reading
slow = tfrecord_cache.prepare
tfrecord_cache.prepare = lambda *arguments: (time.sleep(0.3), slow(*arguments))[1]
cache.build(cases.cases(sys.argv[1]), Reading(), Path(sys.argv[2]))
"""


def test_a_killed_run_is_taken_up_where_it_was(tmp_path):
    write_cases(tmp_path / "data", 30)
    cases, folder = listed(tmp_path / "data"), tmp_path / "cache"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "data"), str(folder)]
    process = subprocess.Popen(command, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    deadline = time.monotonic() + 300
    while len(list(folder.glob("[!.]*.tfrecord"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = written(folder)
    assert 3 <= len(before) < 30
    assert not (folder / tfrecord_cache.MANIFEST).exists()
    cache = caches.build(cases, Reading(), folder)
    after = written(folder)
    assert len(after) == 30
    assert {name: after[name] for name in before} == before
    whole = caches.build(cases, Reading())
    for number in (0, 1, 2, 29):
        np.testing.assert_array_equal(window(cache, number)[0], window(whole, number)[0])


def test_damage_is_found(tmp_path):
    cases, folder = write_cases(tmp_path / "data", 2), tmp_path / "cache"
    entry = caches.build(cases, Reading(), folder).entries[0]
    tfrecord_cache.verify(entry)
    path = Path(entry.file)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged \(corrupted record"):
        tfrecord_cache.verify(entry)
    path.write_bytes(content[:-7])
    with pytest.raises(ValueError, match="is not a whole shard"):
        tfrecord_cache.read_entry(path)
    (folder / tfrecord_cache.MANIFEST).write_text("{")
    repaired = caches.build(cases, Reading(), folder)
    tfrecord_cache.verify(repaired.entries[0])


def test_a_shard_that_was_damaged_at_its_full_size_is_written_again(tmp_path, capsys, monkeypatch):
    cases, folder = write_cases(tmp_path / "data", 2), tmp_path / "cache"
    first = caches.build(cases, Reading(), folder)
    before = window(first)
    path = Path(first.entries[0].file)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    np.testing.assert_array_equal(window(caches.build(cases, Reading(), folder))[0], before[0])
    stderr = capsys.readouterr().err
    assert (
        f"{path.name} is damaged and is written again." in stderr
        and "1 cases taken from the cache, 1 written" in stderr
    )
    monkeypatch.setattr(tfrecord_cache, "verify", lambda entry: pytest.fail("known shards are not read again"))
    assert len(caches.build(cases, Reading(), folder).entries) == 2


def test_what_killed_runs_left_is_removed_and_what_a_living_run_writes_stays(tmp_path):
    cases, folder = write_cases(tmp_path / "data", 1), tmp_path / "cache"
    folder.mkdir()
    living, child = files._name_beside(folder / "a.tfrecord", "part"), subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    killed = folder / living.name.replace(f"-{os.getpid()}-", f"-{child.pid}-")
    living.touch(), killed.touch()
    caches.build(cases, Reading(), folder)
    assert (living.exists(), killed.exists()) == (True, False)


@pytest.mark.parametrize("damage_manifest", [False, True])
def test_an_empty_shard_is_written_anew(tmp_path, damage_manifest):
    cases, folder = write_cases(tmp_path / "data", 1), tmp_path / "cache"
    Path(caches.build(cases, Reading(), folder).entries[0].file).write_bytes(b"")
    if damage_manifest:
        (folder / tfrecord_cache.MANIFEST).write_bytes(b"")
    tfrecord_cache.verify(caches.build(cases, Reading(), folder).entries[0])


def test_bad_cases_are_left_out_and_reported(tmp_path, capsys):
    cases = write_cases(tmp_path / "data", 4)
    cases[1].channels["t1"].write_bytes(b"no image")
    write_nifti(cases[2].channels["flair"], draw_image(shape=(16, 24, 30)))
    for where in ("memory", tmp_path / "cache"):
        cache = caches.build(cases, Reading(), where)
        assert cache.ids == ["case0", "case3"]
        assert [failure.case for failure in cache.failures] == ["case1", "case2"]
        said = capsys.readouterr().err
        assert "2 of 4 cases were left out:\n  case1: " in said
        assert "'flair' and 't1' lie on different grids" in said
    assert cache.select(["case3", "case1"]).ids == ["case3"]
    with pytest.raises(ValueError, match=r"does not hold case9"):
        cache.select(["case9"])
    for case in cases:
        case.labels.write_bytes(b"")
    with pytest.raises(ValueError, match=r"None of 4 cases can be used:\n  case0: "):
        caches.build(cases, Reading())


def test_sets_that_cannot_be_built(tmp_path):
    cases = write_cases(tmp_path / "data", 2)
    with pytest.raises(ValueError, match="There is no case to read"):
        caches.build([], Reading())
    with pytest.raises(ValueError, match="Several cases have the same id: case0"):
        caches.build([cases[0], cases[0]], Reading())
    with pytest.raises(ValueError, match=r"1 of 2 cases have no label map: case1"):
        caches.build([cases[0], replace(cases[1], labels=None)], Reading())
    with pytest.raises(ValueError, match=r"case0 has no channel 't2'; it has t1, flair"):
        caches.build(cases, Reading(channels=("t2",)))


def test_a_case_is_turned_resampled_and_its_labels_mapped(tmp_path):
    affine = np.diag([-2.0, 1.0, 1.0, 1.0])
    voxels, labels = draw_image(dtype=np.float64), mark_voxels((1, 2, 3), value=255)
    labels[4:8, 8:12, 8:12] = 4
    case = Case(
        "x",
        "x",
        {"t1": write_nifti(tmp_path / "x.nii", voxels, affine)},
        write_nifti(tmp_path / "y.nii", labels, affine),
    )
    kept = prepare(case, Reading(labels={4: 1, 255: 2}))
    np.testing.assert_array_equal(kept.channels[0], voxels[::-1].astype(np.float32))
    assert kept.labels[14, 2, 3] == 2
    assert {index: len(places) for index, places in kept.places.items()} == {0: 12288 - 65, 1: 64, 2: 1}
    finer = prepare(case, Reading(labels={4: 1, "*": 0}, spacing_mm=(1.0, 1.0, 1.0)))
    assert finer.channels[0].shape == finer.labels.shape == (32, 24, 32)
    assert finer.places.keys() == {0, 1}


def test_labels_that_are_no_classes(tmp_path):
    labels = mark_voxels((1, 2, 3), dtype=np.float32) * 0.5
    case = Case(
        "x", "x", {"t1": write_nifti(tmp_path / "x.nii", draw_image())}, write_nifti(tmp_path / "y.nii", labels)
    )
    with pytest.raises(ValueError, match=r"The label map of x holds 0\.5 \(1 voxels are not whole\), and labels are"):
        prepare(case, Reading())
    write_nifti(case.labels, mark_voxels((1, 2, 3), (4, 5, 6), value=4))
    with pytest.raises(ValueError, match=r"map of x holds the value 4 beside 0 \(2 voxels\), and 1, 2 is expected"):
        prepare(case, Reading(labels={0: 0, 1: 1, 2: 2}))
    write_nifti(case.labels, mark_voxels((1, 2, 3), dtype=np.int16, value=-4))
    with pytest.raises(ValueError, match=r"values from -4 to 0, and class indices go from 0 to 32767"):
        prepare(case, Reading())
    write_nifti(case.labels, np.zeros((*SHAPE, 2), np.uint8))
    with pytest.raises(ValueError, match="one label map"):
        prepare(case, Reading())
    write_nifti(case.labels, np.zeros((*SHAPE, 1), np.uint8))
    assert read_labels(case.labels).shape == SHAPE


def test_a_channel_of_a_4d_file(tmp_path):
    series = np.stack([draw_image(0), draw_image(1)], -1)
    path = write_nifti(tmp_path / "x.nii", series)
    prepared = prepare(Case("x", "x", {"b": path, "a": path}, volumes={"b": 1, "a": 0}), Reading())
    np.testing.assert_array_equal(prepared.channels[0], series[..., 1])
    np.testing.assert_array_equal(prepared.channels[1], series[..., 0])
    with pytest.raises(ValueError, match=r"has 2 volumes, and channel 'b' is number 2 from 0"):
        prepare(Case("x", "x", {"b": path}, volumes={"b": 2}), Reading())


def test_many_places_are_thinned_the_same_way_each_time(tmp_path):
    labels = np.zeros((64, 48, 56), np.uint8)
    labels[:40] = 1
    case = Case(
        "x",
        "x",
        {"t1": write_nifti(tmp_path / "x.nii", draw_image(shape=labels.shape))},
        write_nifti(tmp_path / "y.nii", labels),
    )
    first, second = prepare(case, Reading()).places, prepare(case, Reading()).places
    for index in (0, 1):
        np.testing.assert_array_equal(first[index], second[index])
        assert len(np.unique(first[index])) == 32768
        assert (labels.reshape(-1)[first[index]] == index).all()
    assert abs(first[1].mean() / (40 * 48 * 56) - 0.5) < 0.01


def test_files_are_mapped_side_by_side_and_let_go(tmp_path):
    contents = [np.random.default_rng(size).bytes(size) for size in (10, 5000, 4096)]
    files = [str(tmp_path / f"{number}") for number in range(3)]
    for file, content in zip(files, contents, strict=True):
        Path(file).write_bytes(content)
    tensor, starts = mapped_files.join(files)
    for start, content in zip(starts, contents, strict=True):
        assert start % 4096 == 0
        assert bytes(tensor[start : start + len(content)].numpy()) == content
    os.replace(files[0], files[1])  # the mapping keeps what it had
    assert bytes(tensor[starts[1] : starts[1] + 5000].numpy()) == contents[1]
    before = Path("/proc/self/maps").read_text()
    assert files[2] in before
    del tensor
    gc.collect()
    assert files[2] not in Path("/proc/self/maps").read_text()
    with pytest.raises(FileNotFoundError):
        mapped_files.join([str(tmp_path / "none")])
