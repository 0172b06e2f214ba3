"""Models saved by the real TensorFlow Addons 0.23 give the same numbers here (`tests/fixtures/make_addons.py`)."""

import keras
import numpy as np
import pytest
from support.paths import FIXTURES

from zoo.interop import addons, keras2

FOLDER = FIXTURES / "addons"


@pytest.mark.parametrize("name", ["volume", "volume.h5", "plane", "plane.h5", "compiled.h5"])
def test_outputs_agree_with_tensorflow_addons(name):
    model = addons.load(FOLDER / name, h5_gelu="tanh")
    golden = np.load(FOLDER / f"{name.removesuffix('.h5')}.npz")
    result = keras.ops.convert_to_numpy(model(golden["x"], training=False))
    np.testing.assert_allclose(result, golden["y"], rtol=1e-5, atol=1e-5)


def test_an_h5_file_does_not_say_whose_gelu_it_is():
    golden = np.load(FOLDER / "volume.npz")
    exact = keras.ops.convert_to_numpy(addons.load(FOLDER / "volume.h5")(golden["x"]))
    assert 1e-5 < np.abs(exact - golden["y"]).max() < 1e-1
    with pytest.raises(ValueError, match=r'h5_gelu must be "exact" or "tanh", got \'erf\''):
        addons.load(FOLDER / "volume.h5", h5_gelu="erf")


def test_layers_become_those_of_keras_and_can_be_saved(tmp_path):
    model = addons.load(FOLDER / "volume")
    kinds = {layer.name: type(layer) for layer in model.layers}
    assert kinds["instance"] is kinds["group"] is keras.layers.GroupNormalization
    assert kinds["spectral"] is keras.layers.SpectralNormalization
    model.save(tmp_path / "new.keras")
    golden = np.load(FOLDER / "volume.npz")
    again = keras.saving.load_model(tmp_path / "new.keras")(golden["x"])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(again), golden["y"], atol=1e-5)


def test_what_cannot_be_built_is_named():
    with pytest.raises(ValueError, match=r"cannot be built in Keras 3: maxout \(Addons>Maxout\)\. Replace"):
        addons.load(FOLDER / "refused.h5")


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("Conv3DTranspose", {"filters": 3, "kernel_size": [2, 2, 2], "groups": 1, "output_padding": None}),
        ("DepthwiseConv2D", {"kernel_size": [3, 3], "groups": 1, "depth_multiplier": 2}),
        ("SpatialDropout3D", {"rate": 0.2, "trainable": True, "noise_shape": None, "seed": None}),
        ("BatchNormalization", {"axis": [4]}),
        ("LeakyReLU", {"alpha": 0.2}),
        ("Dense", {"units": 2, "dtype": {"class_name": "Policy", "config": {"name": "mixed_float16"}}}),
        ("Dense", {"units": 2, "activation": {"class_name": "function", "config": "Addons>hardshrink"}}),
    ],
)
def test_what_keras_2_wrote_is_put_in_the_words_of_keras_3(kind, config):
    old = {"class_name": kind, "config": config}
    assert addons._is_known(old) and not addons._can_build(old)
    assert addons._can_build(addons._translate(old, gelu_tanh=False))


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no HDF5 file"):
        keras2.read(tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"has no keras_metadata\.pb"):
        keras2.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no file or folder"):
        keras2.read(tmp_path / "gone")


def test_losses_are_those_of_tensorflow_addons():
    known = np.load(FOLDER / "losses.npz")
    focal = addons.SigmoidFocalCrossentropy(True, 0.3, gamma=1.5, reduction="none")
    result = keras.ops.convert_to_numpy(focal(known["y"], known["logits"]))
    np.testing.assert_allclose(result, known["focal"], rtol=1e-5)
    contrastive = addons.ContrastiveLoss(1.2)(known["y"][:, 0], known["d"].astype("float32"))
    np.testing.assert_allclose(float(contrastive), known["contrastive"], rtol=1e-5)


def test_training_goes_on():
    optimizer, loss = addons.training(FOLDER / "compiled.h5")
    assert optimizer.use_ema and optimizer.ema_momentum == 0.9
    assert optimizer.weight_decay == pytest.approx(1e-2)  # 1e-4 a step at a learning rate of 1e-2
    assert (loss.from_logits, loss.alpha, loss.gamma) == (True, 0.3, 1.5)
    model = addons.load(FOLDER / "compiled.h5")
    model.compile(optimizer, loss)
    before = model.get_weights()[0]
    model.fit(np.ones((4, 5), "float32"), np.ones((4, 3), "float32"), verbose=0)
    assert not np.allclose(before, model.get_weights()[0])
    with pytest.raises(ValueError, match="saved without optimiser and loss"):
        addons.training(FOLDER / "plane.h5")


def test_adamw_takes_the_steps_of_tensorflow_addons():
    config = {"class_name": "Addons>AdamW", "config": {"learning_rate": 0.1, "weight_decay": 0.01, "epsilon": 1e-7}}
    optimizer, variable = addons._optimizer(config), keras.Variable([1.0, -2.0, 3.0])
    for _ in range(3):
        optimizer.apply([keras.ops.convert_to_tensor([0.5, -0.25, 0.125])], [variable])
    known = np.load(FOLDER / "losses.npz")["adamw"]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variable.value), known, rtol=1e-5)
