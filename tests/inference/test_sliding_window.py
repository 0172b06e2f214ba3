"""Windows, blending, mirroring, skipping, folding and the memory that a window needs."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from zoo import devices
from zoo.inference import window_memory
from zoo.inference.batch_norm_folding import fold_batch_norm
from zoo.inference.compiled_network import first_bad_layer, prepare
from zoo.inference.sliding_window import NotFiniteError, activate, centred_window, sliding_window
from zoo.models.unet3d import unet3d
from zoo.volumes.patches import gaussian_weight

SHAPE = (16, 24, 32)


def identity(channels=1):
    inputs = keras.Input((None, None, None, channels))
    return keras.Model(inputs, layers.Activation("linear")(inputs))


def noise(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def draw_weights(model, seed=0):
    draw = np.random.default_rng(seed)
    for variable in model.weights:
        low = 0.5 if "variance" in variable.path else -0.3
        variable.assign(draw.uniform(low, low + 0.8, variable.shape))
    return model


@pytest.mark.parametrize("mirror_axes", [(), (0,), (0, 1, 2)])
@pytest.mark.parametrize("batch_size", [1, 3, None])
@pytest.mark.parametrize("patch", [8, (8, 16, 24), (32, 24, 16)])
def test_identity_comes_back_bit_for_bit(patch, batch_size, mirror_axes):
    volume = noise((*SHAPE, 2))
    result = sliding_window(
        identity(2), volume, patch=patch, batch_size=batch_size, mirror_axes=mirror_axes, activation="linear"
    )
    assert result.dtype == np.float32 and result.flags.c_contiguous
    np.testing.assert_array_equal(result, volume)


def test_windows_are_blended_by_a_gaussian_by_hand():
    calls = iter([1.0, 3.0])
    volume = np.zeros((8, 8, 12), np.float32)
    result = sliding_window(
        lambda windows: np.full((1, 8, 8, 8, 1), next(calls), np.float32), volume, patch=8, activation="linear"
    )
    weight = gaussian_weight(8)
    first, second = weight[..., 4:], weight[..., :4]
    expected = (1 * first + 3 * second) / (first + second)
    np.testing.assert_allclose(result[..., 4:8, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(result[..., :4, 0], 1)
    np.testing.assert_array_equal(result[..., 8:, 0], 3)


def test_a_network_sees_one_shape_only():
    shapes = set()

    def network(windows):
        shapes.add(windows.shape)
        return windows

    seen = []
    sliding_window(
        network, noise((20, 24, 33)), patch=16, batch_size=5, activation="linear", progress=lambda *x: seen.append(x)
    )
    assert shapes == {(5, 16, 16, 16, 1)}
    num = 2 * 2 * 4
    assert seen == [(5, num), (10, num), (15, num), (num, num)]


def test_a_prepared_network_compiles_once():
    traced = []
    inputs = keras.Input((None, None, None, 1))

    class Spy(layers.Layer):
        def call(self, x):
            traced.append(x.shape)
            return x

    forward = prepare(keras.Model(inputs, Spy()(inputs)))
    before = len(traced)
    for shape in (SHAPE, (24, 16, 16)):
        sliding_window(forward, noise(shape), patch=16, batch_size=2, activation="linear")
    assert len(traced) - before <= 1 + (len(traced) == before)


def sides():
    """Logits of (background, left, right) from the place in the window: a network that knows x alone."""
    inputs = keras.Input((16, 8, 8, 1))
    x = layers.Conv3D(3, 1, name="sides")(inputs)
    model = keras.Model(inputs, x)
    model.get_layer("sides").set_weights([np.array([0, -1, 1], np.float32).reshape(1, 1, 1, 1, 3), np.zeros(3)])
    return model


def test_mirroring_swaps_left_and_right():
    x = np.linspace(-1, 1, 16, dtype=np.float32)  # the intensity is the coordinate: < 0 is left
    volume = np.broadcast_to(x[:, None, None], (16, 8, 8))
    plain = sliding_window(sides(), volume, patch=(16, 8, 8))
    assert (plain[:8].argmax(-1) == 1).all() and (plain[8:].argmax(-1) == 2).all()

    def by_place(windows):  # blind to intensity, it answers by place: a flip must bring the other label
        logits = np.zeros((*windows.shape[:4], 3), np.float32)
        logits[:, :8, ..., 1], logits[:, 8:, ..., 2] = 4, 4
        return logits

    settings = {"patch": (16, 8, 8), "mirror_axes": (0,), "activation": "linear"}
    swapped = sliding_window(by_place, volume, flip_labels=(0, 2, 1), **settings)
    np.testing.assert_array_equal(swapped, sliding_window(by_place, volume, patch=(16, 8, 8), activation="linear"))
    blurred = sliding_window(by_place, volume, **settings)
    np.testing.assert_array_equal(blurred[..., 1:], 2)  # without the swap left and right cancel


def test_mirroring_along_other_axes_leaves_labels():
    def by_place(windows):
        logits = np.zeros((*windows.shape[:4], 2), np.float32)
        logits[:, :, :4, :, 0] = 2
        return logits

    result = sliding_window(
        by_place, noise((8, 8, 8)), patch=8, mirror_axes=(1,), flip_labels=(1, 0), activation="linear"
    )
    np.testing.assert_array_equal(result[..., 0], 1)
    np.testing.assert_array_equal(result[..., 1], 0)


def test_windows_outside_the_mask_are_not_run():
    calls = []

    def network(windows):
        calls.append(windows)
        return np.repeat(windows, 2, -1)

    mask = np.zeros((8, 8, 32), bool)
    mask[4, 4, 2] = True
    result = sliding_window(network, noise((8, 8, 32)), patch=8, overlap=0, skip=mask)
    assert len(calls) == 1
    np.testing.assert_array_equal(result[..., 8:, :], np.broadcast_to([1, 0], (8, 8, 24, 2)))
    nothing = sliding_window(network, noise((8, 8, 32)), patch=8, overlap=0, skip=mask & False, activation="sigmoid")
    assert nothing.shape == (8, 8, 32, 2)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("softmax", keras.activations.softmax),
        ("sigmoid", keras.activations.sigmoid),
        ("tanh", keras.activations.tanh),
        ("relu", keras.activations.relu),
        ("softplus", keras.activations.softplus),
        ("linear", keras.activations.linear),
    ],
)
def test_activations_are_those_of_keras(activation, function):
    logits = 5 * noise((*SHAPE, 3))
    expected = ops.convert_to_numpy(function(ops.convert_to_tensor(logits)))
    np.testing.assert_allclose(activate(logits.copy(), activation), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "sofmax"}, "Did you mean 'softmax'"),
        ({"mirror_axes": (0, 3)}, "mirror_axes must be some of 0, 1, 2, each once; got"),
        ({"mirror_axes": (0,), "flip_labels": (0, 0)}, "flip_labels must name each of the 1 channels once"),
        ({"skip": np.ones((4, 4, 4), bool)}, "skip must be a mask on the volume's grid"),
        ({"overlap": 1.0}, "overlap must be in"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        sliding_window(lambda x: x, noise((8, 8, 8)), patch=8, **settings)


def test_a_network_that_shrinks_is_refused():
    with pytest.raises(ValueError, match='build it with padding="same"'):
        sliding_window(lambda x: x[:, 1:], noise((8, 8, 8)), patch=8)


def small(**arguments):
    return draw_weights(unet3d((None, None, None, 2), 3, filters=(4, 8), **arguments))


@pytest.mark.parametrize("arguments", [{}, {"activation": "prelu"}, {"norm": "instance"}, {"deep_supervision": True}])
def test_folding_keeps_the_function(arguments):
    model = small(**arguments)
    windows = noise((2, *SHAPE, 2))
    expected = keras.tree.flatten(model(windows, training=False))
    folded = fold_batch_norm(model)
    outputs = keras.tree.flatten(folded(windows, training=False))
    for output, other in zip(outputs, expected, strict=True):
        scale = float(ops.max(ops.abs(other)))
        np.testing.assert_allclose(output, other, atol=1e-5 * scale)
    left = [layer for layer in folded.layers if isinstance(layer, layers.BatchNormalization)]
    assert not left
    assert not any(isinstance(layer, layers.Concatenate) for layer in folded.layers)
    assert {tuple(t.shape) for t in folded.inputs} == {tuple(t.shape) for t in model.inputs}


def test_folding_leaves_what_it_must():
    inputs = keras.Input((None, None, None, 2))
    shared = layers.Conv3D(2, 3, padding="same", name="shared")
    norm = layers.BatchNormalization(name="after_two_calls")(shared(shared(inputs)))
    curved = layers.Conv3D(2, 3, padding="same", activation="relu", name="curved")(norm)
    norm = layers.BatchNormalization(name="after_activation")(curved)
    read_twice = layers.Conv3D(2, 3, padding="same", name="read_twice")(norm)
    norm = layers.BatchNormalization(name="beside")(read_twice)
    up = layers.Conv3DTranspose(3, 2, strides=2, name="up")(layers.Add(name="add")([norm, read_twice]))
    folds = layers.BatchNormalization(name="folds", center=False, scale=False)(up)
    model = draw_weights(keras.Model(inputs, folds))
    folded = fold_batch_norm(model)
    left = [layer.name for layer in folded.layers if isinstance(layer, layers.BatchNormalization)]
    assert left == ["after_two_calls", "after_activation", "beside"]
    windows = noise((1, *SHAPE, 2))
    expected = ops.convert_to_numpy(model(windows, training=False))
    np.testing.assert_allclose(folded(windows, training=False), expected, atol=1e-5 * np.abs(expected).max())


def test_a_concatenation_is_taken_apart_only_for_convolutions():
    inputs = keras.Input((None, None, None, 2))
    other = layers.Conv3D(3, 1, name="other")(inputs)
    taken = layers.Concatenate(name="taken")([inputs, other, inputs])
    first = layers.Conv3D(4, 3, padding="same", use_bias=False, name="first")(taken)
    second = layers.Conv3D(4, 1, name="second")(taken)
    kept = layers.Concatenate(name="kept")([first, second])
    conv = layers.Conv3D(4, 3, padding="same", name="reads_kept")(kept)
    curved = layers.Conv3D(4, 3, padding="same", activation="relu", name="curved")(
        layers.Concatenate(name="for_curved")([conv, first])
    )
    model = draw_weights(keras.Model(inputs, [layers.Activation("relu")(kept), curved]))
    folded = fold_batch_norm(model)
    assert [layer.name for layer in folded.layers if isinstance(layer, layers.Concatenate)] == ["kept", "for_curved"]
    windows = noise((1, *SHAPE, 2))
    for result, expected in zip(folded(windows), model(windows), strict=True):
        np.testing.assert_allclose(result, expected, atol=1e-5 * float(ops.max(ops.abs(expected))))


def test_folding_reaches_into_nested_models():
    inner = small()
    inputs = keras.Input((None, None, None, 2))
    model = keras.Model(inputs, layers.Rescaling(2.0)(inner(inputs)))
    folded = fold_batch_norm(model)
    windows = noise((1, 8, 8, 8, 2))
    np.testing.assert_allclose(folded(windows, training=False), model(windows, training=False), rtol=1e-4, atol=1e-4)
    nested = folded.get_layer(inner.name)
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in nested.layers)


def test_bfloat16_gives_float32_logits_near_those_of_float32():
    model = small()
    windows = noise((1, *SHAPE, 2))
    exact, rounded = prepare(model)(windows), prepare(model, precision="bfloat16")(windows)
    assert rounded.dtype == np.float32
    error = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert 1e-6 < error < 0.05


def test_conditioning_reaches_the_network():
    model = draw_weights(unet3d((None, None, None, 1), 2, filters=(4, 8), conditioning=3))
    windows = noise((2, 8, 8, 8, 1))
    expected = model([windows, np.array([[1.0, 2, 3]] * 2, np.float32)], training=False)
    forward = prepare(model)
    np.testing.assert_allclose(forward(windows, (1, 2, 3)), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="takes 3 tabular values beside the volume, got 0"):
        forward(windows)
    with pytest.raises(ValueError, match="takes no tabular values, got 1. Leave conditioning out"):
        prepare(small())(windows, conditioning=(1,))


def test_other_tabular_values_do_not_compile_anew():
    traces = []

    @keras.saving.register_keras_serializable(package="tests")
    class Traced(layers.Layer):
        def call(self, x):
            traces.append(1)
            volume, values = x
            return volume * values[:, None, None, None, :]

    inputs = [keras.Input((None, None, None, 1)), keras.Input((1,))]
    forward = prepare(keras.Model(inputs, Traced()(inputs)))
    windows = noise((2, 4, 4, 4, 1))
    np.testing.assert_array_equal(forward(windows, (2,)), 2 * windows)
    traced = len(traces)
    np.testing.assert_array_equal(forward(windows, (3,)), 3 * windows)
    assert len(traces) == traced
    forward(noise((2, 4, 4, 8, 1)), (3,))
    assert len(traces) == traced + 1


def test_the_memory_of_a_window_by_hand():
    inputs = keras.Input((None, None, None, 1))
    x = layers.Conv3D(8, 3, padding="same")(inputs)  # 1 + 8 channels
    x = layers.Conv3D(4, 3, padding="same")(x)  # 8 + 4
    model = keras.Model(inputs, layers.Conv3D(2, 3, padding="same")(x))
    assert window_memory.window_bytes(model, SHAPE) == 12 * 4 * np.prod(SHAPE)


def test_a_window_that_does_not_fit_is_refused_with_numbers():
    with pytest.raises(ValueError, match=r"A window of \(16, 24, 32\) voxels .* needs about 1 MiB, and 0 MiB are free"):
        window_memory.choose_batch_size(small(), SHAPE, free=1000)
    assert window_memory.choose_batch_size(small(), SHAPE, free=2**40) in (1, window_memory.MAX_BATCH)
    assert 0 < devices.machine_bytes() < 2**50


def test_precision_and_compiler_follow_the_hardware(tmp_path):
    assert devices.policy("bfloat16") == "mixed_bfloat16"
    assert devices.policy("auto") in ("float32", "mixed_bfloat16")
    with pytest.raises(ValueError, match="Did you mean 'bfloat16'"):
        devices.policy("bfloat61")
    assert devices.use_jit(True) and not devices.use_jit(False)
    with pytest.raises(ValueError, match='jit must be True, False or "auto"'):
        devices.use_jit("yes")
    if not devices.accelerators():
        (tmp_path / "old").write_text("flags\t\t: fpu avx512f\n")
        (tmp_path / "new").write_text("flags\t\t: fpu avx512f avx512_bf16\n")
        assert not devices.has_fast_bfloat16(str(tmp_path / "old"))
        assert devices.has_fast_bfloat16(str(tmp_path / "new"))
        assert not devices.has_fast_bfloat16(str(tmp_path / "none"))
        assert not devices.use_jit("auto")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_an_error_and_no_background(value):
    def network(windows):
        logits = np.concatenate([windows, windows], -1)
        logits[-1, 1, 2, 3, 1] = value
        return logits

    with pytest.raises(NotFiniteError, match=rf"The network gives {value} in output channel 1\. Check") as error:
        sliding_window(network, noise(SHAPE), patch=8)
    assert error.value.windows.shape == (1, 8, 8, 8, 1)


def test_what_fills_the_last_batch_is_not_judged():
    def network(windows):
        return np.where(windows.any((1, 2, 3, 4), keepdims=True), windows, np.nan)

    result = sliding_window(network, np.ones((8, 8, 20)), patch=8, batch_size=4, activation="linear")
    assert (result == 1).all()


def test_the_first_layer_that_is_not_finite_is_found_with_tabular_values_too():
    image, values = keras.Input((None, None, None, 1)), keras.Input((2,))
    gain = layers.Reshape((1, 1, 1, 2), name="gain")(values)
    scaled = layers.Multiply(name="scaled")([layers.Concatenate(name="twice")([image, image]), gain])
    function = ops.negative(scaled)  # no layer, and its output counts all the same
    model = keras.Model([image, values], layers.Activation("relu", name="last")(function))
    ones = np.ones((1, 4, 6, 8, 1), np.float32)
    assert first_bad_layer(model, ones, [1.0, 2.0]) is None
    assert first_bad_layer(model, ones, [np.inf, 2.0]) == "gain"
    assert first_bad_layer(model, 1e30 * ones, [1e30, 1.0]) == "scaled"


class MeanTells:
    """A network of two classes that finds voxels above the mean of its window, so that each window answers its own."""

    def __init__(self):
        self.windows = []

    def __call__(self, windows):
        self.windows.append(windows[0, ..., 0].copy())
        values = windows - windows.mean((1, 2, 3), keepdims=True)
        return np.concatenate([-values, values], -1)


def test_the_window_that_counts_has_the_foreground_in_its_middle():
    volume, network = np.zeros((40, 40, 40), np.float32), MeanTells()
    volume[17:29, 17:29, 19:31] = 1 + noise((12, 12, 12)) / 10
    result = centred_window(network, volume, patch=16, batch_size=1)
    np.testing.assert_array_equal(network.windows[-1], volume[15:31, 15:31, 17:33])
    alone = sliding_window(MeanTells(), volume[15:31, 15:31, 17:33], patch=16)
    np.testing.assert_array_equal(result[15:31, 15:31, 17:33], alone)
    result[15:31, 15:31, 17:33] = [1, 0]
    np.testing.assert_array_equal(result, np.broadcast_to(np.float32([1, 0]), result.shape))


def test_a_foreground_longer_than_a_window_is_covered_by_several():
    volume, network = np.zeros((48, 16, 20), np.float32), MeanTells()
    volume[6:40, 4:12, 6:14] = 1
    result = centred_window(network, volume, patch=16, batch_size=1)
    np.testing.assert_array_equal(result.argmax(-1), volume)
    assert len(network.windows) == 6 + 4  # 3 x 1 x 2 side by side, then 38 voxels with half an overlap


def test_where_nothing_is_found_all_is_background_and_small_volumes_keep_their_size():
    result = centred_window(lambda windows: np.concatenate([windows + 1, windows], -1), np.zeros((9, 30, 12)), patch=16)
    assert result.shape == (9, 30, 12, 2)
    assert (result[..., 0] > result[..., 1]).all()
