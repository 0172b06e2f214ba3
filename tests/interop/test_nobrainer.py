"""nobrainer's U-Net: random weights in its layout, against the network built here layer by layer."""

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from zoo.interop.nobrainer import PARAMETERS, load_unet


def theirs():
    """The network as nobrainer publishes it, down to the sigmoid; Keras names its layers."""
    x = inputs = keras.Input((None, None, None, 1))
    skips = []
    for level, (first, second) in enumerate([(16, 32), (32, 64), (64, 128), (128, 256)]):
        x = layers.MaxPooling3D(2)(x) if level else x
        for width in (first, second):
            x = layers.Conv3D(width, 3, padding="same", activation="relu")(x)
        skips.append(x)
    for skip, width in zip(skips[2::-1], (128, 64, 32), strict=True):
        x = layers.Conv3DTranspose(2 * width, 2, 2, padding="same")(x)
        x = layers.Concatenate()([skip, x])
        for _ in range(2):
            x = layers.Conv3D(width, 3, padding="same", activation="relu")(x)
    return keras.Model(inputs, layers.Conv3D(1, 1, activation="sigmoid")(x))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model = theirs()
    path = tmp_path_factory.mktemp("nobrainer") / "weights.h5"
    with h5py.File(path, "w") as file:
        for layer in model.layers:
            if layer.weights:
                layer.set_weights([np.random.default_rng(1).normal(0, 0.05, w.shape) for w in layer.get_weights()])
                group = file.create_group(layer.name)
                names = [f"{layer.name}/{part}:0" for part in ("kernel", "bias")]
                group.attrs["weight_names"] = names
                for name, array in zip(names, layer.get_weights(), strict=True):
                    group[name] = array
    return model, path


def test_it_is_the_same_network(saved):
    model, path = saved
    ours = load_unet(path)
    assert ours.count_params() == model.count_params() == PARAMETERS == 4_768_289
    x = np.random.default_rng(0).normal(size=(1, 16, 24, 32, 1)).astype("float32")
    result = keras.ops.convert_to_numpy(keras.ops.sigmoid(ours(x)))
    np.testing.assert_allclose(result, keras.ops.convert_to_numpy(model(x)), atol=1e-5)


def test_other_files_are_refused(saved, tmp_path):
    with pytest.raises(ValueError, match=r"Check num_classes=50"):
        load_unet(saved[1], num_classes=50)
    with h5py.File(tmp_path / "few.h5", "w"):
        pass
    with pytest.raises(ValueError, match="has 15 convolutions and 3 up-convolutions, .* has 0 and 0"):
        load_unet(tmp_path / "few.h5")
    with h5py.File(tmp_path / "norms.h5", "w") as file:
        file.create_group("batch_normalization_3")
    with pytest.raises(ValueError, match=r"norms\.h5 has batch norms"):
        load_unet(tmp_path / "norms.h5")
    with pytest.raises(FileNotFoundError, match=r"There is no file .*gone\.h5"):
        load_unet(tmp_path / "gone.h5")
