"""Losses against hand arithmetic, MONAI's and Keras' numbers, finite differences, and themselves compiled."""

import functools
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage
from support import loss_table
from support.loss_table import SPACING, ball
from support.paths import FIXTURES

from zoo import losses

DATA = loss_table.arrays()
TABLE = loss_table.table(DATA["weight"])
every_loss = pytest.mark.parametrize("name", TABLE)


def value(name, labels=DATA["labels"], logits=DATA["logits"], **more):
    function, options = TABLE[name]
    return function(labels, logits, **{**options, **more}).numpy()


@pytest.fixture(scope="module")
def monai():
    numbers = json.loads((FIXTURES / "metrics" / "peers.json").read_text())["losses"]
    with np.load(FIXTURES / "metrics" / "losses.npz") as arrays:
        return numbers, dict(arrays)


# -- promises of every loss


@every_loss
def test_one_float32_value_a_sample(name):
    result = value(name)
    assert result.shape == (2,) and result.dtype == np.float32 and np.isfinite(result).all()


@every_loss
def test_bfloat16_logits_are_computed_in_float32(name):
    logits = tf.cast(DATA["logits"], tf.bfloat16)
    result = value(name, logits=logits)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, value(name, logits=tf.cast(logits, tf.float32)), rtol=1e-6)


@every_loss
def test_one_hot_targets_give_the_same(name):
    one_hot = np.eye(3, dtype=np.float32)[DATA["labels"][..., 0]]
    np.testing.assert_allclose(value(name, labels=one_hot), value(name), rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in TABLE if name != "dice_batch"])
def test_a_sample_does_not_see_its_neighbours(name):
    function, options = TABLE[name]
    if "weight" in options:
        options = {"weight": options["weight"][:1]}
    alone = function(DATA["labels"][:1], DATA["logits"][:1], **options).numpy()
    np.testing.assert_allclose(alone, value(name)[:1], rtol=1e-5)


@every_loss
def test_padding_behind_a_mask_changes_nothing(name):
    pad = [(0, 0), (0, 4), (0, 2), (0, 3), (0, 0)]
    labels, logits = np.pad(DATA["labels"], pad, constant_values=1), np.pad(DATA["logits"], pad, constant_values=2.5)
    more = {"mask": np.pad(np.ones_like(DATA["weight"]), pad)}
    if name == "location_penalty":
        more["weight"] = np.pad(DATA["weight"], pad, constant_values=9)
    if name == "boundary":  # padding must not look like a lesion to the distance
        labels = np.pad(DATA["labels"], pad)
    np.testing.assert_allclose(value(name, labels=labels, logits=logits, **more), value(name), rtol=1e-5, atol=1e-7)


@every_loss
@pytest.mark.parametrize("confidence", [-60.0, 0.0, 60.0])
@pytest.mark.parametrize("label", [0, 1])
def test_empty_and_full_masks_stay_finite(name, confidence, label):
    function, options = TABLE[name]
    labels = np.full_like(DATA["labels"], label)
    logits = np.stack([np.full(loss_table.SHAPE, part * confidence, np.float32) for part in (-1, 1, 0)], axis=-1)
    assert np.isfinite(function(labels, logits, **options).numpy()).all()
    assert np.isfinite(loss_table.gradient(functools.partial(function, **options), labels, logits)).all()


@every_loss
def test_gradient_equals_finite_differences(name):
    function, options = TABLE[name]
    slope = loss_table.gradient(functools.partial(function, **options), DATA["labels"], DATA["logits"])
    norm = np.linalg.norm(slope)
    assert norm > 0
    rng = np.random.default_rng(5)
    for direction in (slope / norm, slope * rng.integers(0, 2, slope.shape) / norm):
        step = 0.05 * direction / np.abs(direction).max()
        ahead, behind = (value(name, logits=DATA["logits"] + sign * step).astype(np.float64).sum() for sign in (1, -1))
        expected = float((slope * step).sum())
        noise = 2e-7 * max(1.0, float(np.abs(value(name)).sum()))
        assert (ahead - behind) / 2 == pytest.approx(expected, rel=0.02, abs=noise)


@every_loss
@pytest.mark.parametrize("xla", [False, True])
def test_compiled_equals_eager(name, xla):
    function, options = TABLE[name]
    compiled = tf.function(lambda y, x: function(y, x, **options), jit_compile=xla, reduce_retracing=True)
    result = compiled(tf.constant(DATA["labels"]), tf.constant(DATA["logits"])).numpy()
    np.testing.assert_allclose(result, value(name), rtol=1e-4, atol=1e-6)


@every_loss
def test_open_shapes_inside_a_graph(name):
    function, options = TABLE[name]
    shape = (None, None, None, None)
    signature = [tf.TensorSpec((*shape, 1), tf.int32), tf.TensorSpec((*shape, 3), tf.float32)]
    compiled = tf.function(lambda y, x: function(y, x, **options), input_signature=signature)
    np.testing.assert_allclose(compiled(DATA["labels"], DATA["logits"]).numpy(), value(name), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_jax_gives_the_same_values_and_gradients(tmp_path):
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    script = [sys.executable, loss_table.__file__, str(tmp_path / "jax.npz")]
    subprocess.run(script, check=True, env=environment, timeout=300)
    ours = loss_table.values_and_gradients()
    with np.load(tmp_path / "jax.npz") as theirs:
        assert set(theirs.files) == set(ours)
        for name in ours:
            np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-3, atol=2e-6, err_msg=name)


# -- the same as others where the definition is the same


@pytest.mark.parametrize(
    ("name", "function", "options"),
    [
        ("dice", losses.dice, {"include_background": True}),
        ("dice_foreground", losses.dice, {}),
        ("dice_squared", losses.dice, {"include_background": True, "squared": True}),
        ("dice_batch", losses.dice, {"include_background": True, "batch": True}),
        ("dice_cross_entropy", losses.dice_cross_entropy, {}),
        ("tversky", losses.tversky, {}),
        ("tversky_batch", losses.tversky, {"include_background": True, "batch": True, "alpha": 0.5, "beta": 0.5}),
        ("generalised_dice", losses.generalised_dice, {}),
        ("generalised_dice_batch", losses.generalised_dice, {"batch": True}),
        ("focal", losses.focal, {}),
    ],
)
def test_equals_monai(monai, name, function, options):
    numbers, arrays = monai
    np.testing.assert_allclose(function(arrays["labels"], arrays["logits"], **options), numbers[name], rtol=2e-5)


def test_single_logit_losses_equal_monai(monai):
    numbers, arrays = monai
    logit = arrays["logits"][..., :1]
    np.testing.assert_allclose(losses.dice(arrays["lesion"], logit), numbers["dice_sigmoid"], rtol=1e-5)
    result = losses.boundary(arrays["lesion"], logit, spacing_mm=(1, 1, 1), reach_mm=30.0)
    np.testing.assert_allclose(result, numbers["boundary"], rtol=1e-5)


def test_cross_entropies_equal_keras():
    one_hot, logits = np.eye(3, dtype=np.float32)[DATA["labels"][..., 0]], DATA["logits"]
    mean = functools.partial(np.mean, axis=(1, 2, 3))
    categorical = keras.losses.CategoricalCrossentropy(from_logits=True, reduction=None)(one_hot, logits)
    np.testing.assert_allclose(value("cross_entropy"), mean(categorical), rtol=1e-5)
    focal = keras.losses.CategoricalFocalCrossentropy(from_logits=True, reduction=None, alpha=1.0)(one_hot, logits)
    np.testing.assert_allclose(value("focal"), mean(focal), rtol=1e-4)
    y, logit = np.minimum(DATA["labels"], 1).astype(np.float32), DATA["one_logit"]
    binary = keras.losses.BinaryCrossentropy(from_logits=True, reduction=None)(y, logit)
    np.testing.assert_allclose(losses.cross_entropy(y, logit), mean(binary), rtol=1e-5)
    np.testing.assert_allclose(losses.binary_cross_entropy(y, logit), mean(binary), rtol=1e-5)
    focal = keras.losses.BinaryFocalCrossentropy(
        from_logits=True, reduction=None, apply_class_balancing=True, alpha=0.25
    )(y, logit)
    np.testing.assert_allclose(losses.focal(y, logit, class_weights=(0.75, 0.25)), mean(focal), rtol=1e-4)


# -- formulas by hand


def by_hand(probability, *, shape=(4, 5, 6)):
    """A single-logit prediction of one probability everywhere, and a reference of ten voxels."""
    y = np.zeros((1, *shape, 1), np.float32)
    y.reshape(-1)[:10] = 1
    logit = np.full((1, *shape, 1), np.log(probability / (1 - probability)), np.float32)
    return y, logit


def test_foreground_of_a_softmax_is_one_minus_the_background():
    p = tf.nn.softmax(DATA["logits"]).numpy()
    y = np.minimum(DATA["labels"][..., 0], 1)
    inside = 1 - p[..., 0]
    expected = -2 * (y * inside).sum((1, 2, 3)) / (y.sum((1, 2, 3)) + inside.sum((1, 2, 3)))
    np.testing.assert_allclose(value("negative_dice", epsilon=0.0), expected, rtol=1e-5)


def test_two_class_dice_by_hand():
    y, logit = by_hand(0.25)  # 120 voxels: sum p = 30, sum py = 2.5, sum (1-p)(1-y) = 82.5
    expected = 1 - (2.5 + 1) / (40 + 1) - (82.5 + 1) / (200 + 1)
    assert losses.two_class_dice(y, logit).numpy() == pytest.approx([expected], rel=1e-5)


def test_balanced_weight_is_the_ratio_of_voxels_and_is_capped():
    y, logit = by_hand(0.25)
    expected = lambda weight: -(10 * weight * np.log(0.25) + 110 * np.log(0.75)) / 120  # noqa: E731
    assert losses.binary_cross_entropy(y, logit, positive_weight=None).numpy() == pytest.approx(
        [expected(11)], rel=1e-5
    )
    capped = losses.binary_cross_entropy(y, logit, positive_weight=None, largest_weight=4.0)
    assert capped.numpy() == pytest.approx([expected(4)], rel=1e-5)


def test_class_weights_by_hand():
    y, logit = by_hand(0.25)
    expected = -(10 * 7 * np.log(0.25) + 110 * 2 * np.log(0.75)) / 120
    assert losses.cross_entropy(y, logit, class_weights=(2, 7)).numpy() == pytest.approx([expected], rel=1e-5)
    with pytest.raises(ValueError, match=r"one weight a class, background first: 2, got \(1, 2, 3\)"):
        losses.cross_entropy(y, logit, class_weights=(1, 2, 3))


def test_a_balanced_cross_entropy_by_hand():
    y, logit = by_hand(0.25)  # shares 110/120 and 10/120
    weight = np.array([110 / 120, 10 / 120]) ** -0.5
    weight /= (weight * [110 / 120, 10 / 120]).sum()
    expected = -(10 * weight[1] * np.log(0.25) + 110 * weight[0] * np.log(0.75)) / 120
    assert losses.cross_entropy(y, logit, balance=0.5).numpy() == pytest.approx([expected], rel=1e-5)
    by_class = -(np.log(0.25) + np.log(0.75)) / 2
    assert losses.cross_entropy(y, logit, balance=1.0).numpy() == pytest.approx([by_class], rel=1e-5)
    assert losses.dice_cross_entropy(y, logit, balance=0.5).numpy() == pytest.approx(
        [expected + losses.dice(y, logit).numpy()[0]], rel=1e-5
    )
    with pytest.raises(ValueError, match=r"balance must be 0 .* to 1 .*, got 2"):
        losses.cross_entropy(y, logit, balance=2)


@pytest.mark.parametrize(
    ("bounds", "expected"), [((20, 40), 0.0), ((0, 20), 100 / 120), ((45, 50), 225 / 120), ((30, 30), 0.0)]
)
def test_size_penalty_by_hand(bounds, expected):
    y, logit = by_hand(0.25)  # V = 30
    result = losses.size_penalty(y, logit, bounds_voxels=bounds).numpy()
    assert result == pytest.approx([expected], rel=1e-4, abs=1e-6)
    assert losses.size_penalty(0 * y, logit, bounds_voxels=bounds).numpy() == pytest.approx([900 / 120], rel=1e-4)


def test_size_bounds_are_checked():
    with pytest.raises(ValueError, match=r"0 <= smallest <= largest, got \(9, 3\)"):
        losses.size_penalty(*by_hand(0.5), bounds_voxels=(9, 3))


def test_location_penalty_by_hand():
    y, logit = by_hand(0.25)
    weight = np.where(y > 0, 100.0, 2.0).astype(np.float32)
    assert losses.location_penalty(y, logit, weight=weight).numpy() == pytest.approx([110 * 0.25 * 2 / 120], rel=1e-5)


def test_classes_without_reference():
    labels = np.zeros((1, 4, 5, 6, 1), np.int32)
    labels[0, 0, 0, 0] = 1  # class 2 is not there
    perfect = 50 * np.eye(3, dtype=np.float32)[labels[..., 0]] - 25
    invented = perfect.copy()
    invented[0, 1, 1, 1] = (-25, -25, 25)
    assert losses.dice(labels, perfect).numpy() == pytest.approx([0.0], abs=1e-5)
    assert losses.dice(labels, invented).numpy() == pytest.approx([0.5], abs=1e-4)
    assert losses.dice(labels, invented, ignore_empty=True).numpy() == pytest.approx([0.0], abs=1e-5)
    assert losses.dice(0 * labels, invented, ignore_empty=True).numpy() == pytest.approx([0.0])


def test_batch_dice_pools_the_samples():
    y, logit = by_hand(0.25)
    two, empty = np.concatenate([y, 0 * y]), np.concatenate([logit, logit])
    expected = 1 - 2 * 2.5 / (10 + 30 + 30)
    np.testing.assert_allclose(losses.dice(two, empty, batch=True), [expected, expected], rtol=1e-4)


def test_signed_distance_equals_scipy():
    lesion = np.stack([ball((3, 4, 5), 2.6), ball((5, 5, 9), 1.5) | ball((1, 8, 2), 1)])
    distances = losses.signed_distance_mm(lesion[..., None], SPACING, reach_mm=30.0).numpy()[..., 0]
    for distance, mask in zip(distances, lesion, strict=True):
        outside = ndimage.distance_transform_edt(~mask, sampling=SPACING)
        inside = ndimage.distance_transform_edt(mask, sampling=SPACING)
        np.testing.assert_allclose(distance, np.where(mask, min(SPACING) - inside, outside), rtol=1e-5, atol=1e-6)
    capped = losses.signed_distance_mm(lesion[..., None], SPACING, reach_mm=3.0).numpy()[..., 0]
    np.testing.assert_allclose(capped, np.minimum(distances, 3.0), rtol=1e-5, atol=1e-6)
    assert not losses.signed_distance_mm(np.ones((1, 4, 5, 6, 1)), SPACING).numpy().any()


# -- components


def test_components_equal_scipy_even_for_a_snake():
    rng = np.random.default_rng(8)
    snake = np.zeros((16, 24, 32), bool)
    snake[::4, :, ::4] = True
    snake[::4, 0, :] = True
    snake[:, -1, 0] = True
    for mask in (snake, rng.random((16, 24, 32)) < 0.08, rng.random((16, 24, 32)) < 0.03):
        labels = losses.label_components(mask[None, ..., None]).numpy()[0, ..., 0]
        expected, count = ndimage.label(mask, np.ones((3, 3, 3)))
        assert len(np.unique(labels)) == count + 1
        assert len(np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1).T) == count + 1


def components_by_hand(p, spacing, low=3.0, high=15.0, ratio=None):
    labels, count = ndimage.label(p > 0.5, np.ones((3, 3, 3)))
    total = 0.0
    for number in range(1, count + 1):
        here = labels == number
        diameter = (6 * here.sum() * np.prod(spacing) / np.pi) ** (1 / 3)
        factor = max((low - diameter) / low, 0) + max((diameter - high) / high, 0)
        if ratio:
            points = np.argwhere(here) * np.array(spacing)
            spread = np.cov(points.T, bias=True).reshape(3, 3) if len(points) > 1 else np.zeros((3, 3))
            axes = np.linalg.eigvalsh(spread + np.diag(np.square(spacing) / 12))
            factor += min(max(np.sqrt(axes[-1] / axes[0]) / ratio - 1, 0), 1)
        total += factor * p[here].mean()
    return total


@pytest.mark.parametrize("ratio", [None, 3.0])
def test_component_penalty_by_hand(ratio):
    rng = np.random.default_rng(9)
    shape = (16, 24, 32)
    inside = ball((8, 8, 8), 4, shape) | ball((3, 20, 5), 1, shape)
    inside[12, 2:22, 28] = True  # a vessel
    inside[2, 3, 20] = True  # a speck
    diagonal = np.arange(8)
    inside[diagonal, diagonal + 12, diagonal + 15] = True
    p = np.where(inside, rng.uniform(0.6, 0.99, shape), rng.uniform(0.01, 0.4, shape))
    logit = np.log(p / (1 - p)).astype(np.float32)[None, ..., None]
    result = losses.component_penalty(0 * logit, logit, spacing_mm=(1, 1, 1.5), largest_ratio=ratio)
    assert result.numpy() == pytest.approx([components_by_hand(p, (1, 1, 1.5), ratio=ratio)], rel=1e-4)


def test_component_gradient_runs_through_probabilities_alone():
    function = functools.partial(losses.component_penalty, spacing_mm=(1, 1, 1))
    logit = np.full((1, 8, 10, 12, 1), -3.0, np.float32)
    logit[0, 2, 3, 4] = 1.0
    slope = loss_table.gradient(function, 0 * logit, logit)
    assert slope[0, 2, 3, 4, 0] > 0 and np.count_nonzero(slope) == 1


def test_component_settings_are_checked():
    with pytest.raises(ValueError, match=r"got \(5, 3\)"):
        losses.component_penalty(*by_hand(0.5), spacing_mm=(1, 1, 1), diameters_mm=(5, 3))
    with pytest.raises(ValueError, match="median"):
        losses.component_penalty(*by_hand(0.5), spacing_mm=(1, 1, 1), reduction="median")


@pytest.mark.parametrize("precomputed", [False, True])
def test_blob_loss_by_hand(precomputed):
    labels = np.minimum(DATA["labels"], 1)
    p = 1 / (1 + np.exp(-DATA["one_logit"].astype(np.float64)))[..., 0]
    numbers = np.stack([ndimage.label(sample[..., 0], np.ones((3, 3, 3)))[0] for sample in labels])
    expected = []
    for sample, lesions in zip(p, numbers, strict=True):
        scores = []
        for number in range(1, lesions.max() + 1):
            kept = (lesions == 0) | (lesions == number)
            target = (lesions == number)[kept]
            scores.append(1 - 2 * (sample[kept] * target).sum() / (sample[kept].sum() + target.sum()))
        expected.append(np.mean(scores))
    more = {"components": numbers[..., None].astype(np.float32)} if precomputed else {}
    np.testing.assert_allclose(losses.blob(labels, DATA["one_logit"], **more), expected, rtol=1e-4)
    assert losses.blob(0 * labels, DATA["one_logit"]).numpy() == pytest.approx([0, 0])


# -- composition


def test_combined_hands_maps_to_those_that_take_them():
    target = np.concatenate([DATA["labels"], DATA["weight"], DATA["mask"]], axis=-1).astype(np.float32)
    terms = [(2.0, losses.dice), (0.5, losses.location_penalty), (1.0, losses.size_penalty, {"bounds_voxels": (1, 9)})]
    loss = losses.Combined(terms, maps=("weight", "mask"))
    mask = DATA["mask"]
    expected = 2 * value("dice", mask=mask) + 0.5 * value("location_penalty", mask=mask)
    expected += value("size_penalty", mask=mask, bounds_voxels=(1, 9))
    assert float(loss(target, DATA["logits"])) == pytest.approx(expected.mean(), rel=1e-5)
    again = losses.Combined.from_config(json.loads(json.dumps(loss.get_config())))
    assert float(again(target, DATA["logits"])) == pytest.approx(expected.mean(), rel=1e-5)


def test_combined_refuses_what_no_term_takes():
    with pytest.raises(ValueError, match="maks.*Did you mean 'mask'"):
        losses.Combined([(1.0, losses.dice)], maps=("maks",))
    with pytest.raises(ValueError, match="at least one term"):
        losses.Combined([])


def test_deep_supervision_weighs_and_downsamples():
    labels = DATA["labels"]
    halves = DATA["logits"][:, ::2, ::2, ::2]
    deep = losses.DeepSupervision(losses.dice)
    picked = labels[:, 1::2, 1::2, 1::2]
    expected = value("dice") * 2 / 3 + losses.dice(picked, halves).numpy() / 3
    assert float(deep(labels, [DATA["logits"], halves])) == pytest.approx(expected.mean(), rel=1e-5)
    assert losses.supervision_weights(3) == pytest.approx((4 / 7, 2 / 7, 1 / 7))
    again = losses.DeepSupervision.from_config(json.loads(json.dumps(deep.get_config())))
    assert float(again(labels, [DATA["logits"], halves])) == pytest.approx(expected.mean(), rel=1e-5)
    anisotropic = DATA["logits"][:, ::2, ::2, :]
    assert float(deep(labels, anisotropic)) == pytest.approx(
        float(np.mean(losses.dice(labels[:, 1::2, 1::2, :], anisotropic))), rel=1e-5
    )
    with pytest.raises(ValueError, match="3 weights and got 1 outputs"):
        losses.DeepSupervision(losses.dice, weights=(1, 2, 3))(labels, [DATA["logits"]])


def test_losses_train_in_keras_with_one_and_with_many_outputs():
    inputs = keras.Input((8, 8, 16, 1))
    fine = keras.layers.Conv3D(3, 1, name="fine")(inputs)
    coarse = keras.layers.Conv3D(3, 2, strides=2, name="coarse")(inputs)
    x, y = np.random.default_rng(1).normal(size=(2, 8, 8, 16, 1)), np.zeros((2, 8, 8, 16, 1), np.int32)
    y[:, 2:4] = 1
    single = keras.Model(inputs, fine)
    single.compile(optimizer="sgd", loss=losses.Combined([(1.0, losses.dice), (1.0, losses.cross_entropy)]))
    first = single.fit(x, y, epochs=3, verbose=0).history["loss"]
    assert first[-1] < first[0]
    deep = losses.DeepSupervision(losses.dice_cross_entropy)
    many = keras.Model(inputs, [fine, coarse])
    many.compile(optimizer="sgd", loss=[deep] * 2, loss_weights=list(losses.supervision_weights(2)))
    history = many.fit(x, [y, y], epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_a_compiled_model_is_saved_with_its_loss(tmp_path):
    inputs = keras.Input((8, 8, 16, 1))
    model = keras.Model(inputs, keras.layers.Conv3D(2, 1)(inputs))
    model.compile(loss=losses.Combined([(1.0, losses.dice, {"squared": True})], maps=("mask",)))
    model.train_on_batch(np.ones((2, 8, 8, 16, 1)), np.ones((2, 8, 8, 16, 2)))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.loss.maps == ("mask",) and again.loss.terms[0][2] == {"squared": True}


def test_shapes_that_do_not_fit_are_refused():
    logits = DATA["logits"]
    with pytest.raises(ValueError, match=r"got \(2, 8, 10, 12, 2\).*maps"):
        losses.dice(np.zeros((2, 8, 10, 12, 2)), logits)
    with pytest.raises(ValueError, match="same batch and voxels.*DeepSupervision"):
        losses.dice(np.zeros((2, 4, 5, 6, 1)), logits)


# -- the collapse that the stroke network is known for


def learns(loss, steps=200):
    """Descends from p = 2e-9 everywhere, three of four patches empty: how far p inside rises above p outside."""
    rng = np.random.default_rng(2)
    y = np.zeros((4, 16, 16, 16, 1), np.float32)
    y[0, ball((8, 8, 8), 3, (16, 16, 16)), 0] = 1
    x = (y + rng.normal(scale=0.3, size=y.shape)).astype(np.float32)
    slope, bias = tf.Variable(0.0), tf.Variable(-20.0)
    optimizer = keras.optimizers.Adam(0.2)
    optimizer.build([slope, bias])

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            total = tf.reduce_mean(loss(tf.constant(y), slope * x + bias))
        optimizer.apply_gradients(zip(tape.gradient(total, [slope, bias]), [slope, bias], strict=True))

    for _ in range(steps):
        step()
    p = tf.sigmoid(slope * x + bias).numpy()
    return float(p[y > 0].mean() - p[y == 0].mean())


def test_cross_entropy_with_dice_escapes_where_dice_alone_does_not():
    source = functools.partial(losses.negative_dice, epsilon=0.0)
    assert learns(source) < 1e-6
    assert learns(lambda y, x: source(y, x) + losses.binary_cross_entropy(y, x)) > 0.5
