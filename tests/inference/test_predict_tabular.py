"""Prediction under tabular values: who gets them, on every grid of ISLES 2017, and what is refused."""

import dataclasses

import keras
import nibabel
import numpy as np
import pytest
from keras import layers
from support.cards import make_card
from support.datasets import noise_in_air
from support.networks import identity

from zoo.hub.card import Label, Step
from zoo.hub.tabular import Tabular
from zoo.inference.predict import predict
from zoo.inference.predictor import Predictor
from zoo.inference.settings import Settings
from zoo.models.vnet import vnet

TIME = Tabular("time_h", "h", 0, 48, 6, 4)
TICI = Tabular("tici", "", 0, 3, 1, 2, {"0": 0, "2b": 2, "3": 3})
GRIDS = [(192, 192, 19), (256, 256, 24), (128, 128, 25), (192, 192, 30)]
STROKE = {0: Label("background", 0), 1: Label("lesion", 1)}


@keras.saving.register_keras_serializable(package="tests")
class Told(layers.Layer):
    """The volume times a thousand, and the conditioning vector as digits."""

    def call(self, x):
        volume, values = x
        return (
            volume * 0
            + keras.ops.sum(values * keras.ops.convert_to_tensor([1.0, 10, 100, 1000]), -1)[:, None, None, None, None]
        )


def told():
    inputs = [keras.Input((None, None, None, 1)), keras.Input((4,))]
    return keras.Model(inputs, Told()(inputs), name="told")


def conditioned(**changes):
    made = make_card(**changes)
    return dataclasses.replace(made, input=dataclasses.replace(made.input, tabular=(TIME, TICI)))


def digits(tabular, **settings):
    return np.unique(
        np.asanyarray(predict(told(), noise_in_air(), card=conditioned(), tabular=tabular, **settings).dataobj)
    )


def test_values_reach_the_network_standardised_with_flags():
    # (value, missing) twice: (10 - 6) / 4 = 1 and 0; (3 - 1) / 2 = 1 and 0.
    assert digits({"time_h": 10, "tici": "3"}) == [101]
    assert digits({"tici": "3"}) == [110]
    assert digits(None) == digits({}) == [1010]


def test_a_raw_vector_stands_in_place_of_names():
    assert digits(None, settings=Settings(conditioning=(1, 2, 3, 4))) == [4321]
    with pytest.raises(ValueError, match=r"toy.test got tabular values \{'time_h': 1\}, and conditioning is given"):
        digits({"time_h": 1}, settings=Settings(conditioning=(1, 2, 3, 4)))


@pytest.mark.parametrize(
    ("tabular", "message"),
    [
        ({"time": 4}, r"There is no tabular value 'time'. Did you mean 'time_h'\?"),
        ({"time_h": -1}, r"time_h is -1 h, and it goes from 0 to 48 h"),
        ({"tici": "2B"}, r"There is no grade of tici '2B'. Did you mean '2b'\?"),
    ],
)
def test_values_that_do_not_fit_are_refused_before_anything_is_read(tabular, message):
    with pytest.raises(ValueError, match=message):
        predict(told(), "nowhere.nii.gz", card=conditioned(), tabular=tabular)


def test_a_model_without_tabular_values_refuses_them():
    with pytest.raises(ValueError, match=r"toy.test got tabular values \{'age': 70\}, and the model takes none"):
        predict(identity(), noise_in_air(), card=make_card(), tabular={"age": 70})
    with pytest.raises(ValueError, match=r"takes 4 tabular values beside the volume, got 0"):
        Predictor(told(), card=make_card())


def test_one_reading_serves_many_conditions():
    predictor = Predictor(told(), card=conditioned())
    case = predictor.prepare(noise_in_air())
    results = [predictor.predict(case, conditioning=predictor.encode_tabular({"time_h": h})) for h in (6, 10)]
    assert [np.asanyarray(image.dataobj).max() for image in results] == [1000, 1001]


@pytest.fixture(scope="module")
def stroke():
    """A tiny V-Net of Monteiro's form that shrinks z only once, with drawn FiLM, on the grid of each case."""
    keras.utils.set_random_seed(1)
    model = vnet((None, None, None, 2), 2, filters=(2, 3, 4), strides=((2, 2, 1), (2, 2, 2)), conditioning=4)
    draw = np.random.default_rng(0)
    for weight in model.weights:
        if "film" in weight.path:  # they start as the identity
            weight.assign(draw.normal(0, 0.1, weight.shape))
    made = conditioned(
        channels=("ADC", "Tmax"),
        labels=STROKE,
        kind="segmentation",
        activation="softmax",
        patch=(64, 64, 16),
        divisor=(4, 4, 2),
        preprocessing=(Step("z_score", {"mask": "nonzero"}),),
    )
    return Predictor(model, card=made, settings=Settings(overlap=0.0, probabilities=True))


@pytest.mark.parametrize("shape", GRIDS)
def test_every_grid_of_isles_2017_comes_back_on_itself(stroke, shape):
    affine = nibabel.affines.from_matvec(np.diag([-1.2, 1.2, 6.5]), [100, -90, -40])
    data = np.zeros((2, *shape), np.float32)
    inner = (slice(None), slice(40, 90), slice(30, 100), slice(2, -2))
    data[inner] = np.random.default_rng(0).uniform(1, 2, data[inner].shape)
    images = {name: nibabel.Nifti1Image(volume, affine) for name, volume in zip(("ADC", "Tmax"), data, strict=True)}
    result = stroke(images, tabular={"time_h": 3, "tici": "0"})
    shares = np.asanyarray(result.dataobj)
    assert shares.shape == (*shape, 2) and np.isfinite(shares).all()
    np.testing.assert_array_equal(result.affine, affine)
    np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-5)
    assert shares[45:85, 35:95, 3:-3, 1].std() > 0  # the network ran there


def test_a_thin_volume_equals_the_network_on_the_whole_padded_one(stroke):
    """19 slices through windows of 32, padded once: what the network itself says of the padded volume."""
    twin = Predictor(
        stroke.model, card=stroke.card, settings=Settings(patch=(16, 16, 32), probabilities=True, skip=False)
    )
    volumes = [np.random.default_rng(k).uniform(1, 2, (16, 16, 19)).astype(np.float32) for k in (0, 1)]
    scans = [nibabel.Nifti1Image(volume, np.eye(4)) for volume in volumes]
    shares = np.asanyarray(twin(scans, tabular={"time_h": 10, "tici": "3"}).dataobj)
    scored = np.stack([(volume - volume.mean()) / volume.std() for volume in volumes], -1)
    before = (32 - 19) // 2
    padded = np.pad(scored, ((0, 0), (0, 0), (before, 32 - 19 - before), (0, 0)))[None]
    logits = keras.ops.convert_to_numpy(stroke.model([padded, np.float32([[1, 0, 1, 0]])], training=False))
    expected = keras.ops.convert_to_numpy(keras.ops.softmax(logits, -1))[0, :, :, before : before + 19]
    np.testing.assert_allclose(shares, expected, atol=1e-4)


@pytest.mark.parametrize("value", [0.5, 1000])
def test_images_without_a_brain_are_refused(stroke, value):
    flat = np.zeros((16, 16, 16), np.float32)
    flat[4:12, 4:12, 4:12] = value
    image = nibabel.Nifti1Image(flat, np.eye(4))
    with pytest.raises(ValueError, match="There is no brain in The image in memory: no channel has"):
        stroke({"ADC": image, "Tmax": image})


def test_one_flat_channel_among_others_is_no_reason_to_refuse(stroke):
    flat = np.ones((16, 16, 16), np.float32)
    images = {"ADC": noise_in_air((16, 16, 16)), "Tmax": nibabel.Nifti1Image(flat, np.eye(4))}
    assert stroke(images).shape == (16, 16, 16, 2)
