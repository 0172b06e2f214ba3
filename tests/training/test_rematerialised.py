"""Stages that are computed again: the network that keeps everything is the oracle."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from support.tasks import BALL

from zoo.registry import builder
from zoo.training import network
from zoo.training.rematerialised import find_chains, rematerialise

SIZES = (8, 12, 16)
NETWORKS = {
    "unet3d_instance": ("unet3d", {"norm": "instance", "activation": "leaky_relu"}),
    "unet3d_folded": ("unet3d", {"norm": "group", "fold": 2}),
    "unet3d_batch": ("unet3d", {"norm": "batch"}),
    "unet3d_supervised": ("unet3d", {"deep_supervision": True, "conditioning": 2}),
    "vnet": ("vnet", {}),
    "resunet": ("resunet", {}),
}
every = pytest.mark.parametrize("name", NETWORKS)


def pair(name, **options):
    """Builds a network twice with equal weights: plain, and rematerialised."""
    kind, settings = NETWORKS[name]
    models = [builder(kind)((*SIZES, 1), 3, filters=(4, 6), **settings, **options) for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    return models[0], rematerialise(models[1])


def batch(model):
    draw = np.random.default_rng(0)
    shapes = [tensor.shape[1:] for tensor in model.inputs]
    values = [draw.normal(size=(2, *shape)).astype("float32") for shape in shapes]
    return values if isinstance(model.input, list) else values[0]


def step(model):
    """Returns outputs, gradients and the statistics after one step in training, compiled."""

    @tf.function
    def run(inputs):
        with tf.GradientTape() as tape:
            outputs = keras.tree.flatten(model(inputs, training=True))
            loss = sum(tf.reduce_mean(tf.square(output)) for output in outputs)
        return outputs, tape.gradient(loss, [weight.value for weight in model.trainable_weights])

    outputs, gradients = run(batch(model))
    values = [*outputs, *gradients, *model.non_trainable_weights]
    return [np.asarray(keras.ops.convert_to_numpy(value)) for value in values]


@every
def test_gradients_and_statistics_equal_the_plain_ones(name):
    plain, low = (step(model) for model in pair(name))
    assert len(plain) == len(low)
    for one, other in zip(plain, low, strict=True):
        # Of a bias before a norm, zero but for rounding.
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * max(np.abs(one).max(), 1e-2))


@every
def test_weights_keep_their_paths_and_inference_is_the_same(name):
    plain, low = pair(name)
    assert [weight.path for weight in low.weights] == [weight.path for weight in plain.weights]
    images = batch(plain)
    for one, other in zip(*(keras.tree.flatten(model(images)) for model in (plain, low)), strict=True):
        np.testing.assert_array_equal(other, one)


def test_the_backward_pass_reads_less_from_the_forward_pass():
    kept = []
    for model in pair("unet3d_instance"):
        graph = tf.function(lambda x, model=model: model(x, training=True)).get_concrete_function(batch(model))
        _, backward = graph._delayed_rewrite_functions.forward_backward()
        large = {tensor.ref() for tensor in backward.inputs if (tensor.shape.num_elements() or 0) >= 2 * 8 * 12 * 16}
        kept.append(len(large))
    assert kept[1] < 0.7 * kept[0]


def test_a_chain_ends_where_a_tensor_has_two_readers_or_a_layer_draws():
    x = inputs = keras.Input((8, 8, 8, 2))
    for name in ("a", "b", "c"):
        x = layers.Conv3D(2, 1, name=name)(x)
    joined = layers.Concatenate(name="join")([x, layers.ReLU(name="alone")(x)])  # reads two: in no chain
    x = layers.Dropout(0.5, name="drop")(layers.ReLU(name="d")(layers.ReLU(name="e")(joined)))
    model = keras.Model(inputs, layers.ReLU(name="last")(x))
    assert [[layer.name for layer in chain] for chain in find_chains(model)] == [["a", "b", "c"], ["e", "d"]]


def test_dropout_is_drawn_once():
    model = rematerialise(builder("unet3d")((*SIZES, 1), 3, filters=(4, 6), norm="instance", dropout=0.3))
    assert all(np.isfinite(value).all() for value in step(model))
    seeds = [np.asarray(layer.seed_generator.state) for layer in model.layers if isinstance(layer, layers.Dropout)]
    assert seeds and all(seed[1] == 1 for seed in seeds)


def test_a_model_without_chains_is_refused():
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match=r'memory="low" computes chains of layers again, and \'short\' has none'):
        rematerialise(keras.Model(inputs, layers.Dense(1)(inputs), name="short"))


def test_a_task_with_a_learner_is_refused():
    with pytest.raises(ValueError, match=r'memory="low" is for networks with one loss, and ball has a learner'):
        network.build(BALL.replace(learner=print), 1, memory="low")


def test_a_task_builds_with_low_memory_and_its_own_weights():
    low, plain = (network.build(BALL, 1, memory=memory) for memory in ("low", "normal"))
    assert type(low).__name__ == "Rematerialised" != type(plain).__name__
    assert [weight.path for weight in low.weights] == [weight.path for weight in plain.weights]
