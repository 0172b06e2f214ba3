"""What every network promises, each promise tested over the whole table."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import builder_table
from support.builder_table import TABLE, build_once, to_arrays

from zoo.registry import builders

every_model = pytest.mark.parametrize("name", TABLE)
open_models = pytest.mark.parametrize("name", [name for name, row in TABLE.items() if not row.fixed])


def test_every_builder_is_promised():
    assert {row.builder for row in TABLE.values()} == set(builders())


@every_model
def test_outputs_have_the_promised_shape_and_are_finite_float32(name):
    outputs = to_arrays(build_once(name)(TABLE[name].inputs(build_once(name))))
    assert [output.shape for output in outputs] == [(2, *shape) for shape in TABLE[name].outputs]
    assert all(output.dtype == np.float32 and np.isfinite(output).all() for output in outputs)


@every_model
def test_names_do_not_depend_on_what_was_built_before(name):
    def names(model):
        parts = [model, *(layer for layer in model.layers if isinstance(layer, keras.Model))]
        return [layer.name for part in parts for layer in part.layers], [w.path for w in model.weights]

    layers, paths = names(build_once(name))
    assert names(TABLE[name].build()) == (layers, paths)
    assert len(paths) == len(set(paths))


@every_model
def test_a_gradient_reaches_every_weight(name):
    model = TABLE[name].build()
    builder_table.set_seeded_weights(model)
    inputs = keras.tree.map_structure(tf.constant, TABLE[name].inputs(model))
    with tf.GradientTape() as tape:
        outputs = keras.tree.flatten(model(inputs, training=False))
        loss = sum(tf.reduce_sum(output * tf.cos(tf.range(tf.size(output), dtype="float32")[: output.shape[-1]]))
                   for output in outputs)  # fmt: skip
    gradients = tape.gradient(loss, model.trainable_variables)
    unreached = [
        weight.path
        for weight, gradient in zip(model.trainable_variables, gradients, strict=True)
        if gradient is None or not np.any(gradient)
    ]
    assert not unreached


@every_model
def test_eager_graph_and_xla_agree(name):
    model = build_once(name)
    inputs = keras.tree.map_structure(tf.constant, TABLE[name].inputs(model))
    eager = to_arrays(model(inputs))
    for jit in (False, True):
        compiled = to_arrays(tf.function(lambda x: model(x), jit_compile=jit)(inputs))
        for a, b in zip(eager, compiled, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


@every_model
def test_keras_file_round_trip(name, tmp_path):
    model = build_once(name)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    inputs = TABLE[name].inputs(model)
    for a, b in zip(to_arrays(model(inputs)), to_arrays(again(inputs)), strict=True):
        np.testing.assert_array_equal(a, b)


@every_model
def test_saved_model_round_trip(name, tmp_path):
    model = build_once(name)
    model.export(tmp_path / "saved", format="tf_saved_model", verbose=False)
    again = tf.saved_model.load(tmp_path / "saved")
    inputs = TABLE[name].inputs(model)
    for a, b in zip(to_arrays(model(inputs)), to_arrays(again.serve(inputs)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@every_model
def test_mixed_bfloat16_gives_float32_outputs(name):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = TABLE[name].build()
    finally:
        keras.config.set_dtype_policy("float32")
    model.set_weights(build_once(name).get_weights())
    inputs = TABLE[name].inputs(model)
    assert {weight.dtype for weight in model.weights} == {"float32"}
    for exact, rough in zip(to_arrays(build_once(name)(inputs)), to_arrays(model(inputs)), strict=True):
        assert rough.dtype == np.float32
        assert np.abs(exact - rough).mean() < 0.05 * max(1, np.abs(exact).max())


@every_model
def test_same_seed_same_weights(name):
    keras.utils.set_random_seed(7)
    for a, b in zip(build_once(name).get_weights(), TABLE[name].build().get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@open_models
def test_open_shapes_give_what_fixed_shapes_give(name):
    row = TABLE[name]
    fixed = row.build(row.sizes)
    fixed.set_weights(build_once(name).get_weights())
    inputs = row.inputs(fixed)
    for a, b in zip(to_arrays(build_once(name)(inputs)), to_arrays(fixed(inputs)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    turned = row.sizes[::-1]
    output = to_arrays(build_once(name)(row.inputs(build_once(name), sizes=turned)))[0]
    assert output.shape[1:-1] == row.outputs[0][:-1][::-1]


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.fixed])
def test_a_model_of_fixed_shape_says_so(name):
    with pytest.raises(ValueError, match=r"every size must be fixed, got \(None, None, None\)\. Pass sizes that"):
        TABLE[name].build((None, None, None))


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.bad])
def test_a_bad_size_is_refused_when_built_and_when_called(name):
    row = TABLE[name]
    with pytest.raises(ValueError, match=row.refusal):
        row.build(row.bad)
    if not row.fixed:
        with pytest.raises(ValueError, match=row.refusal):
            build_once(name)(row.inputs(build_once(name), sizes=row.bad))


@pytest.fixture(scope="module")
def on_jax(tmp_path_factory):
    """Outputs of the whole table with the same weights under JAX."""
    file = tmp_path_factory.mktemp("jax") / "outputs.npz"
    quick = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # most of the time would go to compiling
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"} | quick
    script = Path(builder_table.__file__)
    subprocess.run([sys.executable, script, file], env=environment, check=True, timeout=300)
    with np.load(file) as outputs:
        assert outputs["backend"] == "jax"
        return dict(outputs)


@pytest.mark.slow
@every_model
def test_tensorflow_and_jax_agree(name, on_jax):
    for index, output in enumerate(builder_table.seeded_outputs(name)):
        np.testing.assert_allclose(output, on_jax[f"{name}/{index}"], atol=1e-4)
