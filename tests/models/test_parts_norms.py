"""Norms that keep less for their gradient: Keras' layers are the oracle."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import norm_table
from support.norm_table import TABLE, arrays, make, train

from zoo.models.parts import fused_kernels, norms

every = pytest.mark.parametrize("name", TABLE)


def check_close(values, expected, rtol, err_msg=""):
    for index, (value, other) in enumerate(zip(values, expected, strict=True)):
        scale = np.abs(other).max()
        np.testing.assert_allclose(value, other, rtol=0, atol=rtol * scale, err_msg=f"{err_msg} {index}")


@every
def test_a_training_step_equals_that_of_keras(name):
    ours, theirs = (train(make(name, library), *arrays(name)) for library in (norms, keras.layers))
    assert len(ours) >= 3
    check_close(ours, theirs, 1e-5, name)


@every
def test_inference_is_that_of_keras_bit_for_bit(name):
    x, _ = arrays(name)
    ours, theirs = (np.asarray(make(name, library)(x, training=False)) for library in (norms, keras.layers))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["instance_kernel", "instance_closed", "group", "batch_kernel", "batch_closed"])
def test_statistics_are_float32_in_bfloat16(name):
    x, upstream = arrays(name)
    layer = make(name, dtype="mixed_bfloat16")
    x = np.asarray(tf.cast(x + 40, tf.bfloat16), "float32")  # a mean of many deviations: bfloat16 would lose these
    y, of_x, *_ = train(layer, x, upstream)
    wide, *_ = train(make(name), x, upstream)
    assert layer(x, training=True).dtype == tf.bfloat16
    np.testing.assert_allclose(y, wide, atol=2**-8 * np.abs(wide).max())
    assert np.isfinite(of_x).all()


@pytest.mark.parametrize("name", [name for name in TABLE if name != "unscaled"])
def test_the_gradient_keeps_no_float32_copy_of_the_input_where_keras_does(name):
    size = arrays(name)[0].size
    for library, copies in ((norms, False), (keras.layers, True)):
        kept = _kept(make(name, library, dtype="mixed_bfloat16"), arrays(name)[0].shape)
        assert any(shape.num_elements() == size and dtype == tf.float32 for shape, dtype in kept) == copies


def _kept(layer, shape):
    """Returns shape and dtype of what the backward pass of a compiled call reads."""
    compiled = tf.function(lambda x: layer(x, training=True))
    graph = compiled.get_concrete_function(tf.TensorSpec(shape, tf.bfloat16))
    _, backward = graph._delayed_rewrite_functions.forward_backward()
    return [(tensor.shape, tensor.dtype) for tensor in backward.inputs]


def test_jax_gives_the_same_step(tmp_path):
    pytest.importorskip("jax", reason="pip install 'zoo3d[test]'")
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    script = [sys.executable, norm_table.__file__, str(tmp_path / "jax.npz")]
    subprocess.run(script, check=True, env=environment, timeout=300)
    with np.load(tmp_path / "jax.npz") as theirs:
        for name in TABLE:
            expected = train(make(name, keras.layers), *arrays(name))
            check_close([theirs[f"{name}/{index}"] for index in range(len(expected))], expected, 1e-5, name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_leaky_relu_equals_that_of_keras(dtype):
    x = tf.cast(np.array([-300, -2, -1e-3, 0, 1e-3, 5]), dtype)
    results = []
    for library in (norms, keras.layers):
        layer = library.LeakyReLU(negative_slope=0.01, dtype=dtype)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        results.append((y.numpy(), tape.gradient(y, x, 2 * tf.ones_like(x)).numpy()))
    np.testing.assert_array_equal(results[0], results[1])


def test_a_saved_network_comes_back(tmp_path):
    x = keras.Input((4, 4, 4, 6))
    y = norms.LeakyReLU(0.01)(norms.BatchNormalization()(norms.GroupNormalization(groups=2)(x)))
    model = keras.Model(x, y)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    volume = np.random.default_rng(0).normal(size=(1, 4, 4, 4, 6)).astype("float32")
    np.testing.assert_array_equal(again(volume), model(volume))
    assert [type(layer) for layer in again.layers] == [type(layer) for layer in model.layers]


def test_the_kernel_serves_what_fills_registers_alone():
    serves = fused_kernels.serves_fused_batch_norm
    assert serves(tf.ones((1, 8)))
    assert serves(tf.ones((1, 16), tf.bfloat16))
    assert not serves(tf.ones((1, 8), tf.bfloat16))
    assert not serves(tf.ones((1, 12)))
    assert fused_kernels.fused_batch_norm(tf.ones((1, 12)), tf.ones(12), tf.zeros(12), 1e-5) is None
