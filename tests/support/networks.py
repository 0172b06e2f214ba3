"""Networks for tests: one with two branches, others with an output known by hand. Runs on any backend."""

import keras
import numpy as np
from keras import layers

TINY_ARGUMENTS = {"input_shape": (None, None, None, 2), "num_classes": 3, "filters": 4}


def tiny(
    input_shape=(None, None, None, 1),
    num_classes=2,
    *,
    filters=4,
    activation="relu",
    dropout=0.1,
    swap=False,
    name="tiny",
):
    """Builds two branches of equal shapes, batch norm, a seeded dropout, two nested models with equal inner names."""

    def branch(title):
        inputs = keras.Input((None, None, None, filters), name=f"{title}_input")
        x = layers.Conv3D(filters, 3, padding="same", name="conv")(inputs)
        return keras.Model(inputs, layers.BatchNormalization(name="norm")(x), name=title)

    inputs = keras.Input(input_shape, name="image")
    x = layers.Conv3D(filters, 3, padding="same", activation=activation, name="stem")(inputs)
    x = layers.Dropout(dropout, seed=1, name="drop")(x)
    titles = ("right", "left") if swap else ("left", "right")
    branches = {title: branch(title)(x) for title in titles}
    x = layers.Subtract(name="difference")([branches[title] for title in titles])
    x = layers.Rescaling(-1.0 if swap else 1.0, name="sign")(x)
    x = layers.PReLU(shared_axes=[1, 2, 3], name="bend")(x)
    return keras.Model(inputs, layers.Conv3D(num_classes, 1, name="head")(x), name=name)


def scramble_weights(model, seed=0):
    """Draws every weight anew, so that no two layers are alike; returns the model."""
    draw = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(0.5 + 0.5 * draw.random(variable.shape))
    return model


def vary_weights(model):
    """Draws kernels that make the labels vary from voxel to voxel; returns the model."""
    draw = np.random.default_rng(3)
    for weight in model.weights:
        spread = draw.normal(0, 1.4 / np.sqrt(np.prod(weight.shape[:-1])), weight.shape)
        weight.assign(spread if len(weight.shape) > 1 else np.asarray(weight) + 0.2 * draw.random(weight.shape))
    return model


def identity(channels=1):
    """Builds a network that returns its input."""
    inputs = keras.Input((None, None, None, channels))
    return keras.Model(inputs, layers.Activation("linear")(inputs), name="identity")


def linear(weights, bias=None):
    """Builds a 1x1x1 convolution from (channels, num_classes) weights."""
    weights = np.asarray(weights, np.float32)
    inputs = keras.Input((None, None, None, weights.shape[0]))
    model = keras.Model(inputs, layers.Conv3D(weights.shape[1], 1, name="only")(inputs), name="linear")
    bias = np.zeros(weights.shape[1], np.float32) if bias is None else np.asarray(bias, np.float32)
    model.get_layer("only").set_weights([weights[None, None, None], bias])
    return model


def threshold(at=0.5):
    """Builds a network of two classes: 0 below `at`, 1 above it."""
    return linear([[-20.0, 20.0]], [20.0 * at, -20.0 * at])
