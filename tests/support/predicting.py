"""Networks, cards and images for the tests of prediction."""

import keras
import nibabel
import numpy as np
from keras import layers

from zoo.hub.card import Card, Channel, Input, Label, Output, Training

SHAPE = (16, 24, 32)
BRAIN = {0: Label("background", 0), 1: Label("Left-Thalamus", 10), 2: Label("Right-Thalamus", 49)}


def card(
    *,
    channels=("T1w",),
    labels=None,
    kind="regression",
    activation="linear",
    patch=(16, 16, 16),
    divisor=(4, 4, 4),
    spacing_mm=None,
    preprocessing=(),
    postprocessing=(),
):
    return Card(
        name="toy.test",
        version="1.0.0",
        builder="toy",
        arguments={},
        task="tests",
        description="A toy.",
        input=Input(tuple(Channel(name, "any") for name in channels), patch, divisor, spacing_mm),
        output=Output(kind, activation, labels or {}),
        training=Training("nothing", "CC0-1.0", True, "none"),
        licence="Apache-2.0",
        intended_use="Tests.",
        limits=("Knows nothing.",),
        changelog={"1.0.0": "First."},
        preprocessing=preprocessing,
        postprocessing=postprocessing,
    )


def identity(channels=1):
    inputs = keras.Input((None, None, None, channels))
    return keras.Model(inputs, layers.Activation("linear")(inputs), name="identity")


def linear(weights, bias=None):
    """A 1x1x1 convolution: (channels, num_classes) weights."""
    weights = np.asarray(weights, np.float32)
    inputs = keras.Input((None, None, None, weights.shape[0]))
    model = keras.Model(inputs, layers.Conv3D(weights.shape[1], 1, name="only")(inputs), name="linear")
    bias = np.zeros(weights.shape[1], np.float32) if bias is None else np.asarray(bias, np.float32)
    model.get_layer("only").set_weights([weights[None, None, None], bias])
    return model


def thresholder(at=0.5):
    """Background below `at`, class 1 above it."""
    return linear([[-20.0, 20.0]], [20.0 * at, -20.0 * at])


def head(shape=SHAPE, *, affine=None, seed=0, margin=3):
    """Noise in a box of air, as float32 NIfTI."""
    data = np.zeros(shape, np.float32)
    inner = tuple(slice(margin, -margin) for _ in shape)
    data[inner] = np.random.default_rng(seed).uniform(0.1, 1, data[inner].shape)
    return nibabel.Nifti1Image(data, np.eye(4) if affine is None else affine)
