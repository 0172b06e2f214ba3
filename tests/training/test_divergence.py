"""Where a divergence began, told by a replay."""

import keras
import numpy as np
import pytest
from keras import layers

from zoo.training.run.divergence import explain


def network(scale: float = 1.0, learning_rate: float = 0.0) -> keras.Model:
    """Two inputs, added and multiplied by one weight of 1."""
    image, value = keras.Input((1,)), keras.Input((1,))
    total = layers.Rescaling(scale, name="scaled")(layers.Add()([image, value]))
    outputs = layers.Dense(1, use_bias=False, kernel_initializer="ones", name="gain")(total)
    model = keras.Model([image, value], outputs)
    model.compile(keras.optimizers.SGD(learning_rate), loss="mse")
    return model


def batch(value: float, target: float = 0.0) -> tuple:
    column = np.ones((2, 1), np.float32)
    return (column * np.float32(value), 0 * column), column * np.float32(target)


@pytest.mark.parametrize(
    ("model", "last", "reason"),
    [
        (network(), batch(np.nan), "the input batch of step 8 holds NaN"),
        (network(scale=1e30), batch(1e30), "layer 'scaled' gave the first value that is not finite, at step 8"),
        (network(learning_rate=1e30), batch(1e10), "update of step 8 made 'gain/kernel' non-finite first"),
        (network(), batch(1, target=1e20), "the loss of step 8 is not finite although every layer"),
        (network(), batch(1), "the fault does not repeat"),
    ],
)
def test_the_first_fault_is_named_with_its_step(model, last, reason):
    assert reason in explain(model, [batch(0), last], 7)


def test_layers_are_checked_with_the_weights_of_each_step():
    model = network(learning_rate=1e20)  # the first update makes the weight large, and finite
    assert (
        explain(model, [batch(1), batch(1e20)], 0) == "layer 'gain' gave the first value that is not finite, at step 1"
    )
