"""The pipeline: the same stream from every cache, in any cut, on any host, through a service."""

import subprocess
import sys
from dataclasses import replace

import keras
import nibabel
import numpy as np
import pytest
import tensorflow as tf
from support.datasets import SHAPE, draw_image, write_cases, write_nifti

from zoo.datasets.cases import Case
from zoo.pipeline import cache as caches
from zoo.pipeline.dataset import Stream, dataset
from zoo.pipeline.prepare import Reading
from zoo.pipeline.sampler import Sampling

PATCH = (6, 8, 10)
RAW = Reading(steps=())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def cases(folder):
    return write_cases(folder / "files", 4)


@pytest.fixture(scope="module")
def cache(cases):
    return caches.build(cases, RAW)


def batches(cases, num=4, **options):
    options = {"patch": PATCH, "batch_size": 3, "stream": Stream(seed=1), **options}
    drawn = [tf.nest.map_structure(np.asarray, batch) for batch in dataset(cases, **options).take(num)]
    return tf.nest.map_structure(lambda *parts: np.stack(parts), *drawn)


def test_shapes_and_dtypes(cache):
    x, y = dataset(cache, patch=PATCH, batch_size=2).element_spec
    assert (x.shape, x.dtype) == ((2, *PATCH, 2), tf.float32)
    assert (y.shape, y.dtype) == ((2, *PATCH, 1), tf.int32)


def test_every_patch_is_a_piece_of_its_volume(cases, cache):
    """Images hold random numbers, so that the first row of a patch is found in one place alone."""
    volumes = {case.id: nibabel.load(case.channels["t1"]).get_fdata() for case in cases}
    masks = {case.id: nibabel.load(case.labels).get_fdata() for case in cases}
    x, y = batches(cache)
    for patch, labels in zip(x.reshape(-1, *PATCH, 2), y.reshape(-1, *PATCH), strict=True):
        key, place = next(match for match in (_found(patch, volumes, key) for key in volumes) if match)
        window = tuple(slice(start, start + size) for start, size in zip(place, PATCH, strict=True))
        np.testing.assert_array_equal(patch[..., 0], volumes[key][window])
        np.testing.assert_array_equal(labels, masks[key][window])


def _found(patch, volumes, key):
    windows = np.lib.stride_tricks.sliding_window_view(volumes[key], PATCH[2], axis=2)
    hits = np.argwhere((windows == patch[0, 0, :, 0]).all(-1))
    return (key, hits[0]) if len(hits) else None


@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_the_share_of_patches_with_foreground_at_their_centre(cache, jitter):
    sampling = Sampling(positive_fraction=0.5, jitter=jitter, class_weights={1: 1.0})
    _, y = batches(cache, 20, sampling=sampling, batch_size=2)
    holds = (y.reshape(40, -1) > 0).any(1)
    assert holds[1::2].all()
    at_centre = (y.reshape(40, *PATCH)[:, 3, 4, 5] > 0).sum()
    assert at_centre == 20 if jitter == 0 else at_centre < 20


def test_memory_and_disk_give_the_same_stream(cases, cache, folder):
    x, y = batches(cache)
    other = batches(cases, reading=RAW, cache=folder / "cache")
    np.testing.assert_array_equal(x, other[0])
    np.testing.assert_array_equal(y, other[1])


def test_a_seed_decides_and_a_stream_goes_on_at_any_batch(cache):
    whole = batches(cache, 6)
    for number in (0, 1):
        np.testing.assert_array_equal(batches(cache, 6)[number], whole[number])
        late = batches(cache, 2, stream=Stream(seed=1, start=4))
        np.testing.assert_array_equal(late[number], whole[number][4:])
    assert (batches(cache, 6, stream=Stream(seed=2))[0] != whole[0]).any()
    assert (batches(cache, 6, stream=Stream(seed=None))[0] != batches(cache, 6, stream=Stream(seed=None))[0]).any()
    assert len(list(dataset(cache, patch=PATCH, stream=Stream(start=2, stop=5)))) == 3


def test_workers_take_turns_in_one_stream(cache):
    whole = batches(cache, 6)[0]
    for index in (0, 1, 2):
        mine = batches(cache, 2, stream=Stream(seed=1, turn=(index, 3), stop=2))[0]
        np.testing.assert_array_equal(mine, whole[index::3])
    assert len(dataset(cache, patch=PATCH, stream=Stream(turn=(1, 3), start=1, stop=3))) == 2


def test_hosts_share_the_cases_out(cases):
    seen = []
    for host in (0, 1, 2):
        stream = Stream(shard=(host, 3), stop=4)
        ages = batches(cases, stream=stream, reading=Reading(tabular=("age",)))[0]["conditioning"]
        seen.append({float(age) for age in ages.ravel()})
    assert seen == [{50.0, 53.0}, {51.0}, {52.0}]
    with pytest.raises(ValueError, match=r"shard=\(5, 5\) of 4 cases"):
        dataset(cases, patch=PATCH, stream=Stream(shard=(5, 5)))


def test_augmentation_gets_each_patch_with_its_own_seed(cache):
    @tf.function(jit_compile=True)
    def augment(image, labels, seed):
        noise = tf.random.stateless_normal(tf.shape(image), seed)
        return image + noise, labels + 7

    plain, labels = batches(cache)
    noisy, shifted = batches(cache, augment=augment)
    np.testing.assert_array_equal(shifted, labels + 7)
    noise = (noisy - plain).reshape(12, -1)
    assert abs(noise.std() - 1) < 0.05
    assert np.abs(np.corrcoef(noise) - np.eye(12)).max() < 0.2
    np.testing.assert_array_equal(noisy, batches(cache, augment=augment)[0])


def test_augmentation_may_not_change_shapes(cache):
    with pytest.raises(ValueError, match=r"augment turned shape \(6, 8, 10, 2\) into \(5, 8, 10, 2\)"):
        dataset(cache, patch=PATCH, augment=lambda image, labels, seed: (image[1:], labels))


def test_small_volumes_are_padded_after_their_intensities(folder):
    small = write_cases(folder / "small", 1, shape=(16, 24, 12))
    x, y = batches(small, 1, patch=(8, 8, 17), batch_size=1, sampling=Sampling(positive_fraction=1.0))
    assert x.shape == (1, 1, 8, 8, 17, 2)
    inside = np.zeros(17, bool)
    inside[2:14] = True
    assert (x[..., ~inside, :] == 0).all()
    assert (x[..., inside, :] != 0).all()
    assert (y[..., ~inside, :] == 0).all()


def test_whole_volumes_come_once_and_are_masked_in_batches(folder, cases):
    mixed = [*cases[:2], *(replace(case, id="small") for case in write_cases(folder / "two", 1, shape=(12, 24, 20)))]
    drawn = list(dataset(mixed, patch=None, reading=RAW))
    assert [tuple(x.shape) for x, _ in drawn] == [(1, *SHAPE, 2), (1, *SHAPE, 2), (1, 12, 24, 20, 2)]
    np.testing.assert_array_equal(drawn[1][0][0, ..., 0], nibabel.load(cases[1].channels["t1"]).get_fdata())
    (x, y, mask), *_ = dataset(mixed, patch=None, batch_size=3, reading=RAW)
    assert x.shape == (3, *SHAPE, 2)
    assert mask.shape == y.shape
    assert (mask[0] == 1).numpy().all()
    assert mask[2].numpy().sum() == 12 * 24 * 20
    assert (x.numpy()[2][mask[2, ..., 0] == 0] == 0).all()


def test_without_labels_images_come_alone(folder):
    unlabelled = write_cases(folder / "unlabelled", 2, labelled=False)
    x = batches(unlabelled)
    assert x.shape == (4, 3, *PATCH, 2)
    brighter = batches(unlabelled, augment=lambda image, labels, seed: (image + 1, None))
    np.testing.assert_array_equal(brighter, x + 1)


def test_tabular_data_stand_beside_the_volume(cases):
    x, _ = batches(cases, reading=Reading(tabular=("age", "weight")))
    assert x["volume"].shape == (4, 3, *PATCH, 2)
    assert set(x["conditioning"][..., 0].ravel()) <= {50.0, 51.0, 52.0, 53.0}
    assert np.isnan(x["conditioning"][..., 1]).all()
    worded = [replace(cases[0], tabular={"age": "old"})]
    with pytest.raises(ValueError, match=r"case0 has age='old', and a number is expected"):
        dataset(worded, patch=PATCH, reading=Reading(tabular=("age",)))


def test_hard_places_are_visited(cases, cache):
    sampling = Sampling(positive_fraction=0.0, hard_fraction=1.0, hard_places={"case2": [[8, 12, 16]]})
    x, _ = batches(cache, 1, sampling=sampling, batch_size=1)
    volume = nibabel.load(cases[2].channels["t1"]).get_fdata()
    np.testing.assert_array_equal(x[0, 0, ..., 0], volume[5:11, 8:16, 11:21])


def test_clipped_and_zero_keeping_lines_are_those_of_numpy(folder):
    voxels = draw_image(3)
    voxels[:8] = 0
    case = Case("x", "x", {"t1": write_nifti(folder / "masked.nii", voxels)})
    steps = ({"name": "clip", "low": 50, "high": 150}, {"name": "z_score", "mask": "nonzero"})
    cache = caches.build([case], Reading(steps=steps))
    (x,) = dataset(cache, patch=None)
    expected = cache.entries[0].lines[0].apply(voxels)
    np.testing.assert_allclose(x[0, ..., 0], expected, atol=1e-5)
    assert (expected[:8] == 0).all()


def test_a_local_service_makes_each_batch_once(cases, folder):
    dispatcher = tf.data.experimental.service.DispatchServer()
    address = dispatcher.target.split("://")[1]
    config = tf.data.experimental.service.WorkerConfig(dispatcher_address=address)
    workers = [tf.data.experimental.service.WorkerServer(config) for _ in range(2)]
    stream = Stream(seed=1, stop=8, service=dispatcher.target)
    through = batches(cases, 99, reading=RAW, cache=folder / "cache", stream=stream)
    direct = batches(cases, 99, reading=RAW, cache=folder / "cache", stream=Stream(seed=1, stop=8))
    assert through[0].shape == direct[0].shape
    np.testing.assert_array_equal(_sorted(through[0]), _sorted(direct[0]))
    assert len(workers) == 2
    with pytest.raises(ValueError, match="cannot see this process's memory"):
        dataset(cases, patch=PATCH, stream=stream)


WORKER = """
import sys
import tensorflow as tf
config = tf.data.experimental.service.WorkerConfig(dispatcher_address=sys.argv[1])
server = tf.data.experimental.service.WorkerServer(config)
print("ready", flush=True)
server.join()
"""


def test_a_service_worker_in_another_process_needs_none_of_our_python(cases, folder):
    dispatcher = tf.data.experimental.service.DispatchServer()
    address = dispatcher.target.split("://")[1]
    worker = subprocess.Popen([sys.executable, "-c", WORKER, address], stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout.readline() == "ready\n"
        stream = Stream(seed=1, stop=4, service=dispatcher.target)
        through = batches(cases, 99, reading=RAW, cache=folder / "cache", stream=stream)
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()
    direct = batches(cases, 99, reading=RAW, cache=folder / "cache", stream=Stream(seed=1, stop=4))
    np.testing.assert_array_equal(_sorted(through[0]), _sorted(direct[0]))


def _sorted(x):
    flat = x.reshape(len(x), -1)
    return flat[np.lexsort(flat.T[:4])]


def test_a_model_learns_from_it(cache):
    model = keras.Sequential([keras.Input((None, None, None, 2)), keras.layers.Conv3D(3, 1)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(dataset(cache, patch=PATCH, batch_size=2), steps_per_epoch=2, shuffle=False, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_settings_that_cannot_be(cache):
    for patch, size in (((0, 8, 8), 1), ((8, 8), 1), (PATCH, 0)):
        with pytest.raises(ValueError, match="patch must be three sizes of 1 or more and batch_size 1 or more"):
            dataset(cache, patch=patch, batch_size=size)
