"""Weights by name, trained models whole or not at all, and every difference named."""

import dataclasses
import json
import resource
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import safetensors.numpy
from support.cards import tiny_card
from support.networks import TINY_ARGUMENTS, scramble_weights, tiny
from support.paths import TESTS

import zoo
from zoo import registry
from zoo.hub import card_file, golden, safetensors_file, save, trained_models

SIZES = (1, 16, 24, 32, 2)


@pytest.fixture(autouse=True)
def tiny_zoo(tmp_path, monkeypatch):
    """A zoo with one builder and no trained model but those that a test makes."""
    monkeypatch.setattr(registry, "builders", lambda: ["tiny"])
    monkeypatch.setattr(registry, "builder", {"tiny": tiny}.__getitem__)
    monkeypatch.setenv("ZOO_PATH", str(tmp_path))
    monkeypatch.setenv("ZOO_OFFLINE", "1")


@pytest.fixture(scope="module")
def made():
    return scramble_weights(tiny(**TINY_ARGUMENTS))


@pytest.fixture(scope="module")
def saved_once(made, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(registry, "builders", lambda: ["tiny"])
    patch.setattr(registry, "builder", {"tiny": tiny}.__getitem__)
    folder = save.save(made, tmp_path_factory.mktemp("saved") / "tiny.test", tiny_card())
    patch.undo()
    return folder


@pytest.fixture
def saved(saved_once, tmp_path):
    return shutil.copytree(saved_once, tmp_path / "tiny.test")


def image():
    return np.random.default_rng(3).standard_normal(SIZES).astype("float32")


def rewrite(folder, change):
    """Changes the arrays of a weight file, and forges the card's size and hash to fit."""
    path = folder / "weights.safetensors"
    content = safetensors.numpy.save(change(safetensors.numpy.load(path.read_bytes())))
    path.write_bytes(content)
    card = card_file.read(folder)
    new = dataclasses.replace(card.weights, bytes=len(content), sha256=trained_models.sha256(path))
    card_file.write(dataclasses.replace(card, weights=new), folder)


def test_an_attached_file_is_verified_and_goes_when_the_model_is_saved_anew(saved, made):
    with pytest.raises(FileNotFoundError, match="no extra.npz in"):
        save.attach(saved, "extra.npz")
    (saved / "extra.npz").write_bytes(b"moments")
    assert [attached.file for attached in save.attach(saved, "extra.npz").attached] == ["extra.npz"]
    assert len(save.attach(saved, "extra.npz").attached) == 1
    trained_models.verify(saved)
    (saved / "extra.npz").write_bytes(b"moment5")
    with pytest.raises(ValueError, match="extra.npz has sha256"):
        trained_models.verify(saved)
    save.save(made, saved, card_file.read(saved), overwrite=True)
    assert card_file.read(saved).attached == () and not (saved / "extra.npz").exists()


def test_paths_depend_on_layer_names_alone():
    first, second = tiny(**TINY_ARGUMENTS), tiny(**TINY_ARGUMENTS, name="another")
    names = list(safetensors_file.variables(first))
    assert names == list(safetensors_file.variables(second))
    assert {"stem/kernel", "left/conv/kernel", "right/conv/kernel", "left/norm/moving_mean"} <= set(names)
    assert not any("seed" in name for name in names)
    assert len(names) == len(first.weights)


def test_paths_are_the_same_nested_or_sequential():
    inner = [keras.layers.Dense(3, name="a"), keras.layers.Dense(3, name="b")]
    model = keras.Sequential([keras.Input((3,)), *inner], name="chain")
    assert list(safetensors_file.variables(model)) == ["a/kernel", "a/bias", "b/kernel", "b/bias"]
    inputs = keras.Input((3,))
    outer = keras.Model(inputs, model(inputs))
    assert next(iter(safetensors_file.variables(outer))) == "chain/a/kernel"


def test_a_wrapped_layer_and_a_shared_model_count_once():
    inputs = [keras.Input((4, 4, 4, 1)), keras.Input((4, 4, 4, 1))]
    conv = keras.layers.Conv3D(2, 1, name="inner")
    encoder_input = keras.Input((4, 4, 4, 1))
    wrapped = keras.layers.SpectralNormalization(conv, name="spectral")(encoder_input)
    encoder = keras.Model(encoder_input, wrapped, name="encoder")
    model = keras.Model(inputs, [encoder(tensor) for tensor in inputs])
    assert sorted(safetensors_file.variables(model)) == [
        "encoder/spectral/inner/bias",
        "encoder/spectral/inner/kernel",
        "encoder/spectral/vector_u",
    ]
    assert safetensors_file.count_weights(model) == model.count_params()


def test_equal_paths_are_refused():
    class Twice(keras.layers.Layer):
        def build(self, shape):
            self.one = self.add_weight(shape=(2,), name="same")
            self.two = self.add_weight(shape=(2,), name="same")
            super().build(shape)

        def call(self, x):
            return x + self.one + self.two

    inputs = keras.Input((2,))
    with pytest.raises(ValueError, match=r"Two weights of 'm' are called 'twice/same'"):
        safetensors_file.variables(keras.Model(inputs, Twice(name="twice")(inputs), name="m"))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("float16", 1e-3)])
def test_weights_come_back(dtype, tolerance, made, tmp_path):
    record = trained_models.write_weights(made, tmp_path / "w.safetensors", dtype)
    fresh = tiny(**TINY_ARGUMENTS)
    trained_models.read_weights(fresh, tmp_path / "w.safetensors", sha256=record.sha256)
    for name, array in safetensors_file.arrays(made).items():
        np.testing.assert_allclose(safetensors_file.arrays(fresh)[name], array, rtol=tolerance, atol=0)
    assert record.bytes == (tmp_path / "w.safetensors").stat().st_size and record.dtype == dtype
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_the_same_weights_make_the_same_file(made, tmp_path):
    assert (
        trained_models.write_weights(made, tmp_path / "a").sha256
        == trained_models.write_weights(made, tmp_path / "b").sha256
    )


def test_an_unknown_dtype_is_refused(made, tmp_path):
    with pytest.raises(ValueError, match="no dtype 'float61'. Did you mean 'float16'"):
        trained_models.write_weights(made, tmp_path / "w", "float61")


# Keras hands TensorFlow variables to NumPy 2 in save_weights, which NumPy warns of; ours does not
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_layers_built_in_another_order_still_get_their_own(made, tmp_path):
    """The same function written in another order; Keras' own file goes by position and swaps the branches."""
    other = tiny(**TINY_ARGUMENTS, swap=True)
    assert [layer.name for layer in other.layers] != [layer.name for layer in made.layers]
    trained_models.write_weights(made, tmp_path / "w")
    trained_models.read_weights(other, tmp_path / "w")
    right = made(image())
    np.testing.assert_allclose(other(image()), right, atol=1e-4)
    made.save_weights(tmp_path / "keras.weights.h5")
    other.load_weights(tmp_path / "keras.weights.h5")
    assert np.abs(np.asarray(other(image()) - right)).max() > 1


def test_all_differences_of_names_and_shapes_are_named_and_nothing_is_assigned(made, tmp_path):
    arrays = safetensors_file.arrays(made)
    arrays["stem/bias"] = arrays["stem/bias"][:1]
    arrays["stump/kernel"] = arrays.pop("stem/kernel")
    (tmp_path / "w").write_bytes(safetensors.numpy.save(arrays))
    fresh = tiny(**TINY_ARGUMENTS)
    before = safetensors_file.arrays(fresh)
    with pytest.raises(ValueError) as error:
        trained_models.read_weights(fresh, tmp_path / "w")
    for part in (
        "stem/kernel is missing in the file",
        "stump/kernel is not in the model",
        "stem/bias is (1,) in the file, (4,) in the model",
    ):
        assert part in str(error.value)
    assert all(np.array_equal(array, before[name]) for name, array in safetensors_file.arrays(fresh).items())


@pytest.mark.parametrize("content", [b"", b"rubbish that is no file", b"\xff" * 64])
def test_a_broken_file_is_one_clear_error(content, tmp_path):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(ValueError, match="is not safetensors"):
        trained_models.read_weights(tiny(), tmp_path / "w")


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="There are no weights at"):
        trained_models.read_weights(tiny(), tmp_path / "w")


def test_a_saved_model_loads_and_verifies(saved, made):
    card = zoo.card("tiny.test")
    assert card.parameters == made.count_params()
    assert card.weights.bytes == (saved / "weights.safetensors").stat().st_size
    assert {"tiny", "tiny.test"} <= set(zoo.list_models()) and zoo.list_models("*.test") == ["tiny.test"]
    loaded = zoo.load("tiny.test")
    np.testing.assert_allclose(loaded(image()), made(image()), rtol=2e-3, atol=2e-3)
    zoo.verify("tiny.test")
    zoo.verify(saved)
    assert sorted(path.name for path in saved.iterdir()) == [
        "README.md",
        "card.json",
        "golden.npz",
        "weights.safetensors",
    ]


def test_saving_leaves_the_model_and_the_policy_alone(made, tmp_path):
    before = safetensors_file.arrays(made)
    save.save(made, tmp_path / "tiny.test", tiny_card(), dtype="float16")
    assert all(np.array_equal(array, before[name]) for name, array in safetensors_file.arrays(made).items())
    assert keras.config.dtype_policy().name == "float32"


def test_half_precision_is_kept_only_where_the_output_allows(tmp_path):
    exact = scramble_weights(tiny(**TINY_ARGUMENTS))
    for variable in exact.weights:
        variable.assign(np.round(np.asarray(variable) * 64) / 64)
    assert zoo.card(save.save(exact, tmp_path / "a" / "tiny.test", tiny_card())).weights.dtype == "float16"
    fine = scramble_weights(tiny(**TINY_ARGUMENTS))
    for path, variable in safetensors_file.variables(fine).items():
        variable.assign(variable * (1e-7 if path == "stem/kernel" else 1))  # float16 has three digits less there
    assert zoo.card(save.save(fine, tmp_path / "b" / "tiny.test", tiny_card())).weights.dtype == "float32"
    np.testing.assert_array_equal(trained_models.load(tmp_path / "b" / "tiny.test")(image()), fine(image()))


def test_what_float16_cannot_hold_is_saved_in_float32(tmp_path):
    large = scramble_weights(tiny(**TINY_ARGUMENTS))
    safetensors_file.variables(large)["left/norm/moving_variance"].assign(np.full(4, 1e6))
    folder = save.save(large, tmp_path / "tiny.test", tiny_card())
    assert zoo.card(folder).weights.dtype == "float32"
    with pytest.raises(ValueError, match=r"holds inf in head/bias at .* save it anew \(in float32"):
        safetensors_file.variables(large)["head/bias"].assign(np.full(3, 1e6))
        save.save(large, tmp_path / "b" / "tiny.test", tiny_card(), dtype="float16")
    assert list((tmp_path / "b").iterdir()) == []


def test_swapped_weights_do_not_load_silently(saved):
    path = saved / "weights.safetensors"
    arrays = safetensors.numpy.load(path.read_bytes())
    arrays["left/conv/kernel"], arrays["right/conv/kernel"] = arrays["right/conv/kernel"], arrays["left/conv/kernel"]
    path.write_bytes(safetensors.numpy.save(arrays))
    with pytest.raises(ValueError, match="has sha256 .* the card says"):
        zoo.load("tiny.test")


def test_swapped_weights_with_a_forged_card_fail_the_golden_output(saved):
    rewrite(
        saved,
        lambda a: {**a, "left/conv/kernel": a["right/conv/kernel"], "right/conv/kernel": a["left/conv/kernel"]},
    )
    zoo.load("tiny.test")
    with pytest.raises(ValueError, match="does not verify: the output differs from golden by .* over 0.0001"):
        zoo.verify("tiny.test")


def test_verify_names_everything_that_differs(saved):
    card = card_file.read(saved)
    card_file.write(dataclasses.replace(card, parameters=7, golden=dataclasses.replace(card.golden, bytes=9)), saved)
    with open(saved / "weights.safetensors", "ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError) as error:
        zoo.verify("tiny.test")
    for part in ("weights.safetensors has", "sha256", "golden.npz has", "the card says 9", "the card says 7"):
        assert part in str(error.value)


def test_verify_names_missing_files(saved):
    (saved / "weights.safetensors").unlink()
    (saved / "golden.npz").unlink()
    with pytest.raises(ValueError, match=r"weights\.safetensors is missing; golden\.npz is missing"):
        zoo.verify("tiny.test")


def test_verify_notices_another_golden_shape_and_rubbish(saved):
    np.savez(saved / "golden.npz", input_0=image(), output_0=np.zeros((1, 2), "float32"))
    with pytest.raises(ValueError, match=r"outputs are \[\(1, 16, 24, 32, 3\)\], the golden ones \[\(1, 2\)\]"):
        zoo.verify("tiny.test")
    (saved / "golden.npz").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="is not a golden npz"):
        zoo.verify("tiny.test")


def test_a_golden_file_of_another_kind_is_an_error(saved):
    for arrays, fault in (
        ({"input_0": image(), "output_0": image()[..., :1].astype("int32")}, "output_0 is of dtype int32"),
        ({"output_0": image()}, "input_0 is missing"),
        ({"input_0": image(), "input_2": image(), "output_0": image()}, "input_1 is missing"),
        ({"input_0": image() * np.float32(np.nan), "output_0": image()}, "input_0 holds nan"),
        ({"input_0": np.array(["text"]), "output_0": image()}, "plain numbers are expected"),
    ):
        np.savez(saved / "golden.npz", **arrays)
        with pytest.raises(ValueError, match=rf"golden\.npz is not a golden npz: .*{fault}"):
            zoo.verify("tiny.test")


@pytest.mark.parametrize("work", [zoo.load, zoo.verify])
def test_a_card_that_asks_for_gigabytes_is_refused_before_they_are_taken(saved, work):
    card = card_file.read(saved)
    wide = dataclasses.replace(card, arguments={**card.arguments, "filters": 20_000})  # 86 GB
    card_file.write(wide, saved)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"stem/kernel is \(3, 3, 3, 2, 4\) in the file, \(3, 3, 3, 2, 20000\) in the"):
        work("tiny.test")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize("arguments", [{"filters": "many"}, {"filters": -3}, {"activation": 7}, {"dropout": [2]}])
def test_arguments_that_build_nothing_are_one_error(saved, arguments):
    card = json.loads((saved / "card.json").read_text())
    card["arguments"] |= arguments
    (saved / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError):
        zoo.load("tiny.test")
    with pytest.raises(ValueError, match=r"tiny\.test at .* does not verify: "):
        zoo.verify("tiny.test")


def test_weights_of_another_size_are_not_read(saved):
    with open(saved / "weights.safetensors", "ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=r"weights\.safetensors has 1099511627776 bytes, the card says \d+\. Delete"):
        zoo.load("tiny.test")


def test_a_broken_header_of_weights_is_an_error(saved):
    size = (saved / "weights.safetensors").stat().st_size
    for start in (b"\xff" * 8, b"\x10" + bytes(7) + b"{", bytes(8)):
        (saved / "weights.safetensors").write_bytes(start.ljust(size, b"x"))
        with pytest.raises(ValueError, match=r"weights\.safetensors is not safetensors \(SafetensorError: "):
            zoo.load("tiny.test")


def test_verify_notices_a_folder_of_another_name(saved):
    saved.rename(saved.with_name("tiny.other"))
    with pytest.raises(ValueError, match="the folder is called 'tiny.other', its card 'tiny.test'"):
        zoo.verify("tiny.other")


@pytest.mark.parametrize("work", [zoo.load, zoo.verify])
def test_nan_weights_with_a_forged_card_neither_load_nor_verify(saved, work):
    rewrite(saved, lambda a: {**a, "head/bias": a["head/bias"] * np.float16([1, 1, np.nan])})
    with pytest.raises(ValueError, match=r"weights\.safetensors holds nan in head/bias at \[2\]: .* Fetch"):
        work("tiny.test")


def test_a_policy_in_force_does_not_change_what_is_verified(saved):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        zoo.verify("tiny.test")
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")


def test_a_model_trained_in_low_precision_can_be_saved(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        low = scramble_weights(tiny(**TINY_ARGUMENTS))
    finally:
        keras.config.set_dtype_policy("float32")
    trained_models.verify(save.save(low, tmp_path / "tiny.test", tiny_card()))


def test_fresh_weights_by_the_name_of_a_builder():
    model = zoo.load("tiny", input_shape=(16, 24, 32, 5), num_classes=4, filters=6, name="mine")
    assert model.input_shape == (None, 16, 24, 32, 5) and model.output_shape[-1] == 4 and model.name == "mine"
    assert zoo.load("tiny").output_shape[-1] == 2


def test_a_trained_model_takes_another_grid_but_no_other_network(saved):
    assert zoo.load("tiny.test", input_shape=(16, 24, 32, 2)).output_shape == (None, 16, 24, 32, 3)
    assert zoo.load("tiny.test", dropout=0.5, num_classes=3, name="mine").name == "mine"
    with pytest.raises(ValueError, match=r"takes 2 channel\(s\), got input_shape=\(None, None, None, 1\)"):
        zoo.load("tiny.test", input_shape=(None, None, None, 1))
    for arguments, text in (({"num_classes": 5}, "num_classes=3"), ({"filters": 8}, "filters=4")):
        with pytest.raises(ValueError, match=f"was trained with {text}, got .* zoo.load"):
            zoo.load("tiny.test", **arguments)
    with pytest.raises(ValueError, match="was trained with activation='relu', got activation='elu'"):
        zoo.load("tiny.test", activation="elu")


def test_unknown_names_and_arguments_name_the_nearest(saved):
    with pytest.raises(ValueError, match="no model 'tinny'. Did you mean 'tiny'"):
        zoo.load("tinny")
    with pytest.raises(ValueError, match=r"no trained model 'tiny\.tset'. Did you mean 'tiny\.test'"):
        zoo.load("tiny.tset")
    for name in ("tiny", "tiny.test"):
        with pytest.raises((TypeError, ValueError), match="'filter'.*'filters'"):
            zoo.load(name, filter=3)


def test_save_refuses_to_replace_unless_told(saved, made):
    with pytest.raises(FileExistsError, match="Pass overwrite=True"):
        zoo.save(made, saved, tiny_card())
    (saved / "mark").write_text("")
    zoo.save(made, saved, tiny_card(description="Anew."), overwrite=True)
    assert zoo.card("tiny.test").description == "Anew." and not (saved / "mark").exists()
    assert [path.name for path in saved.parent.iterdir()] == ["tiny.test"]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"limits": ()}, "limits must name"),
        ({"arguments": {**TINY_ARGUMENTS, "filters": 5}}, "do not make this model"),
        ({"arguments": {**TINY_ARGUMENTS, "activation": "elu"}}, "output differs by"),
    ],
)
def test_a_card_that_does_not_fit_saves_nothing(changes, part, made, tmp_path):
    with pytest.raises(ValueError, match=part):
        zoo.save(made, tmp_path / "tiny.test", tiny_card(**changes))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_name_is_refused(made, tmp_path):
    with pytest.raises(ValueError, match=r"must be called 'tiny\.test' as on the card, got 'mine'"):
        zoo.save(made, tmp_path / "mine", tiny_card())


def test_a_save_that_breaks_leaves_what_was_there(saved, made, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(save, "readme", full)
    with pytest.raises(OSError, match="No space left"):
        zoo.save(made, saved, tiny_card(), overwrite=True)
    assert before == {path.name: path.read_bytes() for path in saved.iterdir()}
    assert [path.name for path in saved.parent.iterdir()] == ["tiny.test"]


def test_a_given_golden_input_is_kept(made, tmp_path):
    golden_input = np.full((1, 16, 24, 32, 2), 0.25, "float32")
    folder = zoo.save(made, tmp_path / "tiny.test", tiny_card(), golden_input=[golden_input])
    (stored,), _ = golden.read(folder / "golden.npz")
    np.testing.assert_array_equal(stored, golden_input)
    zoo.verify(folder)


def test_golden_inputs_fit_divisor_static_sizes_and_vectors():
    inputs = [keras.Input((None, None, None, 2)), keras.Input((5,)), keras.Input((8, None, None, 1))]
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs[1]))
    shapes = [array.shape for array in golden.draw_inputs(model, tiny_card())]
    assert shapes == [(1, 16, 20, 24, 2), (1, 5), (1, 8, 20, 24, 1)]
    wide = dataclasses.replace(tiny_card().input, divisor=(16, 16, 32), patch=(32, 32, 32))
    assert golden.draw_inputs(model, tiny_card(input=wide))[0].shape == (1, 16, 16, 64, 2)


def test_a_read_only_folder_loads(saved):
    for path in (*saved.iterdir(), saved):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        zoo.verify("tiny.test")
    finally:
        saved.chmod(0o755)


JAX = """
import numpy as np, keras
from support.networks import tiny
from zoo import registry
from zoo.hub import safetensors_file, trained_models
registry.builders = lambda: ["tiny"]
registry.builder = lambda name: tiny
assert keras.backend.backend() == "jax"
trained_models.verify({folder!r})
print(__import__("json").dumps(list(safetensors_file.variables(trained_models.load({folder!r})))))
"""


@pytest.mark.slow
def test_jax_reads_what_tensorflow_wrote(saved, made):
    pytest.importorskip("jax", reason="pip install 'zoo3d[test]'")
    code = JAX.format(folder=str(saved))
    settings = {
        "KERAS_BACKEND": "jax",
        "PATH": "",
        "JAX_PLATFORMS": "cpu",
        "ZOO_OFFLINE": "1",
        "PYTHONPATH": str(TESTS),
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=settings)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == list(safetensors_file.variables(made))
