"""Learners of GANs and auto-encoders: objectives by hand, who moves whom, going on, and what they may not see."""

import functools
import io
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from support import gans
from support.paths import SUPPORT

from zoo.training import adversarial, fit
from zoo.training.adversarial import learner as learners
from zoo.training.adversarial.callbacks import draw_montage
from zoo.training.adversarial.encoders import coarse_noise
from zoo.training.adversarial.inpainting import Visibility, complete
from zoo.training.adversarial.objectives import gradient_penalty, objective
from zoo.training.run import checkpoint


def adam(rate=1e-3):
    return keras.optimizers.Adam(rate, 0.0, 0.9)


def tensors(data):
    return keras.tree.map_structure(tf.constant, data)


@functools.cache
def untrained():
    """One network for the tests that train nothing."""
    keras.utils.set_random_seed(5)
    return gans.network("contextual")


def contextual(network=None, *, seed=3, **setting):
    """A learner; with optimisers where it has a network of its own."""
    setting = adversarial.Setting(hole=(4, 6, 8), **setting)
    if network is not None:
        return adversarial.ContextualGan(network, setting, seed=seed)
    keras.utils.set_random_seed(5)
    made = adversarial.ContextualGan(gans.network("contextual"), setting, seed=seed)
    return made.prepare(keras.optimizers.Adam(1e-3, 0.0, 0.9, use_ema=True), adam(4e-3))


def moved(model, step):
    """Names of the parts whose trainable weights a step changes."""
    parts = [layer for layer in model.network.layers if isinstance(layer, keras.Model)]
    before = {part.name: [np.array(v) for v in part.trainable_variables] for part in parts}
    step()
    return {
        part.name
        for part in parts
        if any((np.array(v) != old).any() for v, old in zip(part.trainable_variables, before[part.name], strict=True))
    }


def test_objectives_by_hand():
    real, fake = np.array([[2.0], [-0.5]]), np.array([[-3.0], [0.5]])
    hinge, wasserstein, plain = (objective(name) for name in ("hinge", "wasserstein", "nonsaturating"))
    assert float(hinge.critic(real, fake)) == pytest.approx((0 + 1.5) / 2 + (0 + 1.5) / 2)
    assert float(wasserstein.critic(real, fake)) == pytest.approx(-1.25 - 0.75)
    softplus = lambda x: np.log1p(np.exp(x))  # noqa: E731
    assert float(plain.critic(real, fake)) == pytest.approx(softplus(-real).mean() + softplus(fake).mean(), rel=1e-5)
    assert float(plain.generator(fake)) == pytest.approx(softplus(-fake).mean(), rel=1e-5)
    assert float(hinge.generator(fake)) == float(wasserstein.generator(fake)) == pytest.approx(1.25)
    with pytest.raises(ValueError, match="no objective 'hing'. Did you mean 'hinge'"):
        objective("hing")


@pytest.mark.parametrize("length", [0.0, 0.25, 1.0, 3.0])
def test_the_gradient_penalty_of_a_linear_critic_is_exact(length):
    weights = np.random.default_rng(0).normal(size=(24, 1)).astype(np.float32)
    weights *= length / np.linalg.norm(weights)
    real, fake = np.random.default_rng(1).normal(size=(2, 5, 2, 3, 4)).astype(np.float32)
    linear = lambda x: tf.matmul(tf.reshape(x, (5, 24)), weights)  # noqa: E731
    penalty = gradient_penalty(linear, tf.constant(real), tf.constant(fake), np.full((5, 1, 1, 1), 0.3, np.float32))
    assert float(penalty) == pytest.approx((length - 1) ** 2, abs=3e-6)


def test_the_gradient_penalty_looks_between_real_and_fake():
    real, fake = np.full((2, 3), 1.0, np.float32), np.full((2, 3), 3.0, np.float32)
    square = lambda x: tf.reduce_sum(x**2, axis=1, keepdims=True) / 2  # noqa: E731 - the slope is x itself
    mix = np.array([[0.0], [0.5]], np.float32)
    penalty = gradient_penalty(square, tf.constant(real), tf.constant(fake), mix)
    assert float(penalty) == pytest.approx(np.mean([(np.sqrt(3) - 1) ** 2, (2 * np.sqrt(3) - 1) ** 2]), rel=1e-5)


def test_a_penalty_needs_critics_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network, precise = gans.network("contextual"), gans.network("wgan_gp")
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(ValueError, match="critics that compute in float32, got bfloat16 in 'critic_local_"):
        adversarial.ContextualGan(network, adversarial.Setting(hole=(4, 4, 4), penalty=10.0))
    adversarial.PlainGan(precise)  # the critic of a WGAN-GP is float32 in any precision


def test_spectral_norms_of_both_critics_after_fifty_iterations():
    model = contextual(gans.network("contextual"))
    around, patch = tensors(gans.context_batch())
    iterate = tf.function(lambda: model.judge(patch, around, training=True)[1])
    for _ in range(50):
        iterate()
    kernels = [v for v in model.variables_of("critic") if v.path.endswith("kernel")]
    assert len(kernels) == 2 + 1 + 3 + 1
    for kernel in kernels:
        norm = np.linalg.svd(np.reshape(kernel, (-1, kernel.shape[-1])), compute_uv=False)[0]
        assert 0.95 <= norm <= 1.05, kernel.path


def test_holes_have_their_size_and_some_patches_have_none():
    masks = np.asarray(contextual(untrained(), whole=0.5).holes(64))
    sums = masks.sum(axis=(1, 2, 3, 4))
    assert set(sums) == {0.0, 4 * 6 * 8}
    assert 0.25 < (sums == 0).mean() < 0.75
    first = {tuple(np.argwhere(mask[..., 0]).min(0)) for mask in masks[sums > 0]}
    last = [np.argwhere(mask[..., 0]).max(0) - np.argwhere(mask[..., 0]).min(0) for mask in masks[sums > 0]]
    assert len(first) > 10 and all(tuple(size) == (3, 5, 7) for size in last)
    with pytest.raises(ValueError, match=r"fit into the patch of \(8, 12, 16\), got \(9, 1, 1\)"):
        adversarial.ContextualGan(untrained(), adversarial.Setting(hole=(9, 1, 1)))


def test_what_is_hidden_changes_nothing():
    model = contextual(untrained())
    (context, position), patch = gans.context_batch()
    position = 0 * position
    hole = np.zeros((gans.BATCH, *gans.PATCH, 1), np.float32)
    hole[:, 2:6, 3:9, 4:12] = 1
    other = np.where(hole > 0, 7.0, patch).astype(np.float32)
    under = np.asarray(model.part("paste")([hole, 0 * context, position])) > 1e-6
    elsewhere = np.where(under, -5.0, context).astype(np.float32)
    assert under.any() and not under.all()
    fill = lambda p, c: np.asarray(model.fill(tf.constant(p), tensors((c, position)), tf.constant(hole))[0])  # noqa: E731
    usual = fill(patch, context)
    np.testing.assert_array_equal(fill(other, context), usual)
    np.testing.assert_array_equal(fill(patch, elsewhere), usual)
    assert (fill(np.where(hole > 0, patch, patch + 1), context) != usual).any()
    assert (fill(patch, np.where(under, context, context + 1)) != usual).any()


@pytest.mark.parametrize("sight", [Visibility(), Visibility(context=False), Visibility(position=False)])
def test_ablations_take_away_what_they_say(sight):
    model = contextual(untrained(), sight=sight)
    for film in (layer for layer in model.part("generator").layers if layer.name.endswith("film")):
        film.kernel.assign(0.1 + 0 * film.kernel)  # an untrained place changes nothing
    (context, position), patch = gans.context_batch()
    hole = tf.constant(np.zeros((gans.BATCH, *gans.PATCH, 1), np.float32))
    fill = lambda c, p: np.asarray(model.fill(tf.constant(patch), tensors((c, p)), hole)[0])  # noqa: E731
    usual = fill(context, position)
    assert (fill(context + 1, position) != usual).any() == sight.context
    assert (fill(context, position + 0.3) != usual).any() == sight.position
    assert len(model.critics) == (2 if sight.context else 1)


def test_a_patch_without_a_hole_is_shown_as_generated():
    patch, filled = np.zeros((2, 4, 4, 4, 1), np.float32), np.ones((2, 4, 4, 4, 1), np.float32)
    hole = np.zeros_like(patch)
    hole[0, :2] = 1
    shown = np.asarray(complete(patch, filled, hole))
    assert shown[0, :2].all() and not shown[0, 2:].any() and shown[1].all()


def test_a_step_moves_every_part_and_each_loss_only_its_own():
    model, data = contextual(), tensors(gans.context_batch())
    assert moved(model, lambda: model.train_step(data)) == {"encoder", "generator", "critic_local", "critic_global"}
    assert moved(model, lambda: model._train_critics(data[1], data[1] + 1.0, data[0])) == {
        "critic_local",
        "critic_global",
    }
    only = contextual(sight=Visibility(context=False))
    assert "critic_global" not in moved(only, lambda: only.train_step(data))
    images = tf.constant(gans.images())
    encoder = adversarial.GanEncoder(gans.network("f_anogan")).prepare(adam())
    assert moved(encoder, lambda: encoder.train_step((images, images))) == {"encoder"}
    plain = adversarial.PlainGan(gans.network("wgan_gp"), critic_steps=2).prepare(adam(), adam())
    assert moved(plain, lambda: plain._train_critic(images)) == {"critic"}
    assert moved(plain, lambda: plain.train_step((images, images))) == {"generator", "critic"}
    with pytest.raises(ValueError, match="must be fixed and a multiple of 2, got 3"):
        plain.train_step((images[:3], images[:3]))
    with pytest.raises(ValueError, match="needs 2 optimisers, for generator, critic, got 1"):
        plain.prepare(adam())


def test_the_terms_of_the_loss_by_hand():
    model = contextual(untrained())
    patch = np.zeros((2, *gans.PATCH, 1), np.float32)
    hole, filled = np.zeros_like(patch), np.full_like(patch, 2.0)
    hole[:, :4, :6, :8] = 1
    filled[hole > 0] = 0.5
    code = np.array([[3.0, 4.0], [4.0, -3.0]], np.float32)
    terms = model._compute_terms(*map(tf.constant, (patch, filled, hole, code)))
    assert {name: round(float(value), 5) for name, value in terms.items()} == {
        "masked": 0.5,
        "visible": 2.0,
        "cosine": 1.0,
    }


def test_all_optimisers_and_the_average_are_kept_so_that_going_on_equals_never_having_stopped(tmp_path):
    data = tensors(gans.context_batch())
    model = contextual(seed=1)
    for _ in range(2):
        model.train_step(data)
    checkpoint.save(model, tmp_path / "last.safetensors", {"step": 2})
    other = contextual(seed=2)
    assert checkpoint.restore(other, tmp_path / "last.safetensors") == {"step": 2}
    keys = checkpoint.variables(model)
    assert {"model", "generator", "critic"} == {key.split("/")[0] for key in keys}
    assert any("average" in key for key in keys if key.startswith("generator"))
    for each in (model, other):
        each.train_step(data)
    for (key, variable), two in zip(keys.items(), checkpoint.variables(other).values(), strict=True):
        np.testing.assert_array_equal(np.array(variable), np.array(two), err_msg=key)


def test_noise_is_coarse_of_its_sd_and_on_tissue_alone():
    luck = keras.random.SeedGenerator(1)
    noise = np.asarray(coarse_noise((16, 24, 32), 8, (64, 1), luck))
    assert noise.shape == (64, 16, 24, 32, 1)
    assert 0.15 < np.var(noise) < 0.45  # (2/3)^3 of the nodes' variance, which interpolation takes away
    steps = np.abs(np.diff(noise, 2, axis=3))
    assert np.median(steps) < 1e-5  # straight between nodes
    keras.utils.set_random_seed(0)
    model = adversarial.AutoEncoder(gans.network("f_anogan"), noise=0.5, cell=4, seed=1)
    images = gans.images()
    images[:, :3] = 0
    noisy = np.asarray(model.add_noise(tf.constant(images)))
    assert not noisy[:, :3].any() and (noisy[:, 3:] != images[:, 3:]).mean() > 0.99


def test_an_auto_encoder_learns_and_tells_its_psnr():
    keras.utils.set_random_seed(0)
    model = adversarial.AutoEncoder(gans.network("f_anogan"), noise=0.1, cell=4).prepare(adam(5e-3))
    smooth = np.broadcast_to(np.linspace(-1, 1, gans.PATCH[0])[:, None, None, None], (4, *gans.PATCH, 1))
    images = tf.constant((smooth * np.array([1, 2, 3, 4.0])[:, None, None, None, None]).astype(np.float32))
    losses = [float(model.train_on_batch(images, images, return_dict=True)["loss"]) for _ in range(25)]
    assert losses[-1] < 0.75 * losses[0]  # both are means since the beginning
    metrics = model.test_step((images, images))
    error = np.mean((np.asarray(model.restore(images)) - images) ** 2)
    span = float(np.ptp(images))
    assert float(metrics["psnr"]) == pytest.approx(10 * np.log10(span**2 / error), rel=1e-3)


def test_fakes_that_are_all_alike_stop_the_training():
    watch = adversarial.CollapseWatch()
    bad, good = ({f"val_{learners.SSIM_FAKE}": fake, f"val_{learners.SSIM_REAL}": 0.3} for fake in (0.36, 0.34))
    for epoch, logs in enumerate((bad, bad, good, bad, {}, bad)):
        watch.on_epoch_end(epoch, logs)
    with pytest.raises(adversarial.CollapsedError, match=r"3 validations in a row .* at last 0.360 against 0.300"):
        watch.on_epoch_end(6, bad)


def test_a_young_generator_may_repeat_itself():
    watch = adversarial.CollapseWatch(young=0.4)
    watch.set_params({"epochs": 10})
    bad = {f"val_{learners.SSIM_FAKE}": 0.9, f"val_{learners.SSIM_REAL}": 0.3}
    for epoch in range(6):
        watch.on_epoch_end(epoch, bad)
    with pytest.raises(adversarial.CollapsedError):
        watch.on_epoch_end(6, bad)


def test_a_montage_is_a_picture_and_leaves_the_luck_alone(tmp_path):
    from matplotlib import image

    rows = {"real": gans.images(3), "fake": gans.images(3, seed=1)}
    shown = image.imread(io.BytesIO(draw_montage(rows)))
    assert shown.ndim == 3 and shown[..., :3].std() > 0.1
    with pytest.raises(ValueError, match="one row of images at least, got none"):
        draw_montage({})
    keras.utils.set_random_seed(0)
    model = adversarial.PlainGan(gans.network("dcgan"), "hinge", penalty=0.0, seed=3).prepare(adam(), adam())
    look = adversarial.Montage(tmp_path / "samples", [(gans.images(), gans.images())])
    look.set_model(model)
    before = np.array(model.seed_generator.state)
    look.on_epoch_begin(6)
    look.on_test_end()
    np.testing.assert_array_equal(np.array(model.seed_generator.state), before)
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["epoch_007.png"]


def trainer(out):
    return subprocess.Popen(
        [sys.executable, SUPPORT / "gans.py", str(out), "26"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


@pytest.mark.slow
def test_a_killed_run_ends_where_the_whole_run_ends(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = trainer(whole)
    assert process.communicate(timeout=900)[1] is not None and process.returncode == 0
    process = trainer(cut)
    until = time.monotonic() + 900
    while time.monotonic() < until:
        if (cut / fit.LAST).exists() and checkpoint.progress(cut / fit.LAST)["step"] >= 13:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    process = trainer(cut)
    errors = process.communicate(timeout=900)[1].decode()
    assert process.returncode == 0 and "Going on at step" in errors
    ours, theirs = (safetensors.numpy.load_file(run / fit.LAST) for run in (cut, whole))
    for key in theirs:
        np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
    assert sorted(path.name for path in (whole / "samples").iterdir()) == ["epoch_001.png", "epoch_002.png"]
    assert (whole / "gan3d.ramps" / "card.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wgan_gp", "contextual", "f_anogan"])
def test_steps_compile_with_xla(kind):
    keras.utils.set_random_seed(0)
    network, image = gans.network(kind), gans.images()
    if kind == "contextual":
        setting = adversarial.Setting(hole=(4, 6, 8), goal="wasserstein", penalty=10.0)
        model, data = adversarial.ContextualGan(network, setting), gans.context_batch()
    elif kind == "wgan_gp":
        model, data = adversarial.PlainGan(network, critic_steps=2), (image, image)
    else:
        model, data = adversarial.GanEncoder(network), (image, image)
    model.prepare(*(adam() for _ in model.trained), jit=True)
    assert np.isfinite(model.train_on_batch(*data, return_dict=True)["loss"])
    assert np.isfinite(model.test_on_batch(*data, return_dict=True)["psnr"])
