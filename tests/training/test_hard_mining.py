"""Hard-negative mining: what is found, that it comes back, and that a run which was stopped sees the same samples."""

import json
import signal

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from zoo.datasets.cases import cases
from zoo.metrics import MeanDice
from zoo.pipeline import cache as caches
from zoo.tasks import lacunes
from zoo.training import batches, fit, hard_mining
from zoo.training.run.run_callback import Interrupted
from zoo.training.task import Mining


def synthesis(task, split):
    """A bright lesion, and in every third sample a bright block that is none."""

    def sample(seed):
        noise = 0.2 * tf.random.stateless_normal((*task.data.patch, 3), seed)
        number = tf.cast(seed[1], "int32")
        corner = tf.pad(tf.ones((2, 2, 2)), [(1, 5)] * 3)
        mimic = tf.cast(number % 3 == 0, "float32") * tf.pad(tf.ones((2, 2, 2)), [(5, 1)] * 3)
        return noise + 3.0 * (corner + mimic)[..., None], tf.cast(corner, "int32")[..., None]

    return sample


TASK = lacunes.TASK.replace(
    arguments={"filters": (2, 4), "norm": "none"},
    patch=(8, 8, 8),
    divisor=(2, 2, 2),
    samples=synthesis,
    batch_size=1,
    steps=75,
    validation_batches=1,
    metrics=lambda: [MeanDice(1)],
    mining=Mining(every=1, fraction=0.5, num=4, threshold=0.05),
)


class Bright:
    """Stands for a network that takes all that is bright for a lesion."""

    def __call__(self, image, training=False):
        return 4.0 * (image[..., :1] - 1.5)


def test_the_worst_samples_are_those_with_the_mimic():
    sample = synthesis(TASK, "train")
    numbers = hard_mining.hard_numbers(
        Bright(), Mining(num=2), lambda number: sample(tf.constant([0, number])), list(range(8))
    )
    assert len(numbers) == 2 and all(number % 3 == 0 for number in numbers)


def test_a_share_of_the_numbers_comes_back_to_what_is_hard():
    numbers = tf.data.Dataset.range(4, 12)
    again = [int(n) for n in hard_mining.return_to_hard(numbers, [70, 80, 90], 0.25).as_numpy_iterator()]
    assert again == [80, 5, 6, 7, 90, 9, 10, 11]  # every fourth, in turn
    assert list(hard_mining.return_to_hard(numbers, None, 0.25).as_numpy_iterator()) == list(range(4, 12))


def test_the_samples_looked_at_are_spread_over_the_past():
    assert hard_mining.sample_window(10, 2, 5) == [0, 4, 8, 12, 16] and hard_mining.sample_window(2, 2, 100) == [
        0,
        1,
        2,
        3,
    ]


def test_pauses_are_at_every_kth_epoch():
    assert hard_mining.pauses(Mining(every=3), 8) == [3, 6, 8] and hard_mining.pauses(None, 8) == [8]


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="fraction"):
        Mining(fraction=0.0)
    with pytest.raises(ValueError, match="mining=None"):
        batches._find_mining(TASK.replace(batched=True))


class Stop(keras.callbacks.Callback):
    """Stops a run after some steps, as a signal would."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            signal.raise_signal(signal.SIGTERM)


def train(out, callbacks=()):
    options = fit.TrainOptions(seed=3, precision="float32", jit=False)
    return fit.run(TASK, "synthetic", out, options, callbacks=callbacks)


@pytest.mark.slow
def test_a_run_that_goes_on_mines_what_a_run_in_one_piece_mines(tmp_path):
    train(tmp_path / "whole")
    written = sorted(path.name for path in (tmp_path / "whole" / "hard").iterdir())
    assert written == ["0000025.json", "0000050.json"]
    mined = json.loads((tmp_path / "whole" / "hard" / "0000025.json").read_text())
    assert 0 < len(mined) <= 4 and all(number < 25 for number in mined)
    with pytest.raises(Interrupted):
        train(tmp_path / "parts", [Stop(30)])
    train(tmp_path / "parts")
    for name in written:
        whole, parts = ((tmp_path / run / "hard" / name).read_text() for run in ("whole", "parts"))
        assert whole == parts
    ours, theirs = (safetensors.numpy.load_file(tmp_path / run / fit.LAST) for run in ("whole", "parts"))
    for key, value in ours.items():
        np.testing.assert_allclose(value, theirs[key], rtol=1e-5, atol=1e-6, err_msg=key)


def test_a_list_that_is_gone_is_not_made_up(tmp_path):
    assert hard_mining.load_or_find(tmp_path, 7, every_steps=10, find=lambda: [1]) is None
    with pytest.raises(ValueError, match=r"0000010\.json.*is gone"):
        hard_mining.load_or_find(tmp_path, 12, every_steps=10, find=lambda: [1])
    assert hard_mining.load_or_find(tmp_path, 10, every_steps=10, find=lambda: [1]) == [1]
    assert hard_mining.load_or_find(tmp_path, 12, every_steps=10, find=lambda: [2]) == [1]
    (tmp_path / hard_mining.FOLDER / "0000010.json").write_bytes(b"")
    with pytest.raises(ValueError, match=r"0000010\.json.*is gone or broken .*Train into a new folder"):
        hard_mining.load_or_find(tmp_path, 12, every_steps=10, find=lambda: [1])
    assert hard_mining.load_or_find(tmp_path, 10, every_steps=10, find=lambda: [3]) == [3]


def test_real_cases_give_places_of_false_positives(tmp_path, monkeypatch):
    import nibabel as nib

    image, labels = np.zeros((12, 12, 12), np.float32), np.zeros((12, 12, 12), np.uint8)
    image[2:4, 2:4, 2:4] = image[8:10, 8:10, 8:10] = 5.0
    labels[2:4, 2:4, 2:4] = 1
    for name, array in {**dict.fromkeys(lacunes.CHANNELS, image), "lesion": labels}.items():
        (tmp_path / "one").mkdir(exist_ok=True)
        nib.save(nib.nifti1.Nifti1Image(array, np.eye(4)), tmp_path / "one" / f"{name}.nii.gz")
    listed = cases(tmp_path, reader="folder", channels={n: f"{{id}}/{n}.nii.gz" for n in lacunes.CHANNELS},
                   labels="{id}/lesion.nii.gz")  # fmt: skip
    task = TASK.replace(preprocessing=())
    cache = caches.build(listed, batches.reading(task))
    network = keras.Sequential([keras.Input((None, None, None, 3)), keras.layers.Conv3D(1, 1)])
    network.set_weights([np.full((1, 1, 1, 3, 1), 1.0), np.array([-7.0])])
    network = keras.Model(network.inputs, network.outputs)
    mined = hard_mining.hard_places(network, Mining(num=100), cache, (8, 8, 8))
    (places,) = mined.values()
    assert {tuple(place) for place in places} == {(x, y, z) for x in (8, 9) for y in (8, 9) for z in (8, 9)}
    assert json.loads(json.dumps(mined)) == mined
