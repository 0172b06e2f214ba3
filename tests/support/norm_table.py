"""Training steps of each norm beside Keras' layer of its name; as a script, writes ours on the running backend."""

import sys

import keras
import numpy as np
from keras import ops

from zoo.models.parts import norms

SIZES = (5, 6, 7)
# Name -> layer, its settings, channels, batch; 16 channels meet a kernel of TensorFlow, 6 the closed form.
TABLE = {
    "instance_kernel": ("GroupNormalization", {"groups": -1}, 16, 1),
    "instance_kernel_batch": ("GroupNormalization", {"groups": -1}, 16, 3),
    "instance_large_batch": ("GroupNormalization", {"groups": -1}, 16, 6),
    "instance_closed": ("GroupNormalization", {"groups": -1}, 6, 2),
    "group": ("GroupNormalization", {"groups": 2}, 6, 2),
    "group_of_all": ("GroupNormalization", {"groups": 1}, 16, 2),
    "batch_kernel": ("BatchNormalization", {}, 16, 2),
    "batch_closed": ("BatchNormalization", {}, 6, 2),
    "unscaled": ("GroupNormalization", {"groups": -1, "scale": False}, 6, 2),
}


def make(name, library=norms, **options):
    """Makes a layer with drawn weights: ours, or Keras' with `library=keras.layers`."""
    kind, settings, channels, _ = TABLE[name]
    layer = getattr(library, kind)(epsilon=1e-5, name="norm", **settings, **options)
    layer.build((None, *SIZES, channels))
    draw = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(draw.uniform(0.5, 2, channels))
    return layer


def arrays(name):
    """Draws the input, off zero, and the upstream gradient."""
    _, _, channels, batch = TABLE[name]
    draw, shape = np.random.default_rng(0), (batch, *SIZES, channels)
    return draw.normal(3, 2, shape).astype("float32"), draw.normal(0, 1, shape).astype("float32")


def train(layer, x, upstream):
    """Returns output, gradients of input and weights, and moving statistics after one step in training."""
    if keras.backend.backend() == "jax":
        return _train_jax(layer, x, upstream)
    import tensorflow as tf

    @tf.function
    def step(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, *tape.gradient(y, [x, *(weight.value for weight in layer.trainable_weights)], upstream)

    results = step(tf.cast(x, layer.compute_dtype), tf.cast(upstream, layer.compute_dtype))
    return [ops.convert_to_numpy(ops.cast(value, "float32")) for value in (*results, *layer.non_trainable_weights)]


def _train_jax(layer, x, upstream):
    import jax

    frozen = [variable.value for variable in layer.non_trainable_variables]

    def forward(x, weights):
        y, moved = layer.stateless_call(weights, frozen, x, training=True)
        return (y * upstream).sum(), (y, moved)

    step = jax.jit(jax.value_and_grad(forward, argnums=(0, 1), has_aux=True))
    (_, (y, moved)), (of_x, of_weights) = step(x, [variable.value for variable in layer.trainable_variables])
    return [np.asarray(value) for value in (y, of_x, *of_weights, *moved)]


def results():
    """Returns what our layers give, keyed by name and place."""
    return {f"{name}/{index}": value for name in TABLE for index, value in enumerate(train(make(name), *arrays(name)))}


if __name__ == "__main__":
    np.savez(sys.argv[1], **results())
