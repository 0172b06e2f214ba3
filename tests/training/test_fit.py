"""Runs: learning, resuming, divergence, refusals."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nibabel
import numpy as np
import pytest
import safetensors.numpy
from support.paths import SUPPORT
from support.tasks import BALL

import zoo
from zoo import files
from zoo.training import batches, fit, network
from zoo.training.run import checkpoint, divergence, model_card, run_folder, run_lock


def start(out):
    return subprocess.Popen(
        [sys.executable, str(SUPPORT / "tasks.py"), str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(out):
    process = start(out)
    errors = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 0, errors
    return errors


def wait_for_step(out, step):
    for _ in range(1200):
        if (out / fit.LAST).exists() and checkpoint.progress(out / fit.LAST)["step"] >= step:
            return
        time.sleep(0.05)
    raise TimeoutError(f"no state at step {step} in {out}")


def test_a_run_learns_and_tells_what_it_needs(trained_ball):
    out, printed = trained_ball
    assert "60 steps of" in printed and "GiB of memory" in printed
    rows = run_folder.read_log(out / "log.csv")
    assert [row["step"] for row in rows] == [20, 40, 60]
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "versions.json").read_text())["keras"].startswith("3.")
    assert json.loads((out / "config.json").read_text())["seed"] == 0


def test_a_run_starts_from_the_weights_of_another(trained_ball, tmp_path):
    out, _ = trained_ball
    start, task = tmp_path / "start", BALL.replace(patch=(16, 16, 16))
    fit.train(task, "synthetic", start, steps=1, start_from=out)
    fresh = network.build(task, 1).get_weights()
    reached, trained = (zoo.load(run / "unet3d.ball").get_weights() for run in (start, out))
    far, change_from_fresh = (
        max(np.abs(a - b).max() for a, b in zip(some, trained, strict=True)) for some in (reached, fresh)
    )
    assert far < 0.3 * change_from_fresh
    with pytest.raises(ValueError, match=r"start_from was .*run', now None"):
        fit.train(task, "synthetic", start, steps=1)
    with pytest.raises(ValueError, match="does not fit"):
        fit.train(task.replace(arguments={"filters": (4, 6)}), "synthetic", tmp_path / "other", start_from=out)


def test_a_state_fits_whatever_else_the_process_has_built(trained_ball):
    out, _ = trained_ball
    restored = [network.build(BALL, 60) for _ in range(2)]
    assert restored[0].optimizer.name != restored[1].optimizer.name  # Keras counts them
    for model in restored:
        assert checkpoint.restore(model, out / fit.LAST)["step"] == 60
        checkpoint.restore_weights(model, out / fit.BEST)
    for first, other in zip(*(model.get_weights() for model in restored), strict=True):
        np.testing.assert_array_equal(first, other)
    with pytest.raises(ValueError, match="another network or optimiser"):
        checkpoint.restore(network.build(BALL.replace(optimizer={"name": "sgd"}), 60), out / fit.LAST)


@pytest.mark.parametrize("steps", [(20,), pytest.param((0, 20, 40), marks=pytest.mark.slow)])
def test_killed_runs_end_where_the_whole_run_ends(trained_ball, tmp_path, steps):
    out = tmp_path / "run"
    for step in steps:
        process = start(out)
        wait_for_step(out, step)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    finish(out)
    ours, theirs = (safetensors.numpy.load_file(run / fit.LAST) for run in (out, trained_ball[0]))
    for key in theirs:
        np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
    assert [row["val_loss"] for row in run_folder.read_log(out / "log.csv")] == [
        row["val_loss"] for row in run_folder.read_log(trained_ball[0] / "log.csv")
    ]


@pytest.mark.slow
def test_ctrl_c_keeps_the_very_step(trained_ball, tmp_path):
    out = tmp_path / "run"
    process = start(out)
    wait_for_step(out, 20)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1].decode()
    assert process.returncode != 0 and "the state is in" in errors
    finish(out)
    ours, theirs = (safetensors.numpy.load_file(run / fit.LAST) for run in (out, trained_ball[0]))
    for key in theirs:
        np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)


def test_a_nan_names_the_layer_and_keeps_the_last_good_state(tmp_path):
    task = BALL.replace(arguments={"filters": (4, 8)}, optimizer={"name": "sgd", "learning_rate": 1e30}, steps=25)
    with pytest.raises(
        divergence.DivergedError, match=r"layer '\w+' gave the first value .* at step [1-9]|gradient overflowed"
    ):
        fit.train(task, "synthetic", tmp_path / "run", options=fit.TrainOptions(precision="float32"))
    kept = safetensors.numpy.load_file(tmp_path / "run" / fit.LAST)
    assert all(np.isfinite(value).all() for value in kept.values())


def test_another_runs_folder_is_refused(trained_ball):
    with pytest.raises(
        ValueError, match=r"seed was 0, now 1.*Repeat its settings to resume it, or choose a new folder"
    ):
        fit.train(BALL, "synthetic", trained_ball[0], seed=1, options=fit.TrainOptions(precision="float32"))


def test_only_a_whole_model_folder_ends_a_run(trained_ball, tmp_path, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(trained_ball[0], out)
    folder, options = out / "unet3d.ball", fit.TrainOptions(deterministic=True, precision="float32")
    trained, config = [], json.loads((out / "config.json").read_text())
    monkeypatch.setattr(fit, "run_config", lambda *_, **__: config)  # it was written by another process
    monkeypatch.setattr(fit, "_seed_everything", lambda options: None)
    monkeypatch.setattr(fit, "_build_trainer", lambda *_, **__: pytest.fail("trained again"))
    assert fit.train(BALL, "synthetic", out, options=options) == out
    monkeypatch.setattr(fit, "_build_trainer", lambda *_, **__: argparse.Namespace(writes=False))
    monkeypatch.setattr(fit, "_train_and_publish", lambda *_: trained.append(1))
    content = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(content[:-1] + b"?")
    fit.train(BALL, "synthetic", out, options=options)
    shutil.rmtree(folder)
    folder.mkdir()
    fit.train(BALL, "synthetic", out, options=options)
    assert len(trained) == 2
    network_of_run = zoo.load("unet3d", **BALL.builder_arguments)
    assert model_card.is_published(model_card.publish(network_of_run, BALL, out, progress={"seconds": 6}))


def test_a_run_folder_in_use_is_refused_before_anything_is_made(tmp_path):
    with run_lock.hold(tmp_path), pytest.raises(run_lock.RunInUseError, match="is in use: process"):
        fit.train(BALL, "synthetic", tmp_path, steps=1)
    assert [path.name for path in tmp_path.iterdir()] == [run_lock.FILE]


def test_a_task_without_synthesis_asks_for_a_folder(tmp_path):
    with pytest.raises(ValueError, match=r"Task 'ball' has no synthesis: give a folder"):
        fit.train(
            BALL.replace(samples=None), "synthetic", tmp_path / "run", options=fit.TrainOptions(precision="float32")
        )


def test_shards_cut_the_joined_batch():
    joined = next(iter(batches.synthetic(BALL.replace(batch_size=4), split="train", seed=3, start=5)))
    parts = [next(iter(batches.synthetic(BALL, split="train", seed=3, start=5, shard=(i, 2)))) for i in (0, 1)]
    np.testing.assert_array_equal(joined[0], np.concatenate([x for x, _ in parts]))


def test_splits_never_share_a_sample():
    drawn = {split: next(iter(batches.synthetic(BALL, split=split, seed=0)))[0].numpy() for split in batches.SPLITS}
    assert len({sample.tobytes() for sample in drawn.values()}) == len(drawn)


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "state"
    files.write_whole(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"could not be written \(No space left on device\); what was there is kept"):
        files.write_whole(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_plans_are_whole_epochs():
    assert fit.EpochPlan.of(1000) == fit.EpochPlan(40, 25)
    assert fit.EpochPlan.of(10) == fit.EpochPlan(1, 10)
    assert fit.EpochPlan.of(60).steps == 60 and fit.EpochPlan.of(1001).steps >= 1001


def write_cases(root, number):
    """Subfolders of T1w and label files on different grids, with the label's source value."""
    random = np.random.default_rng(0)
    for case in range(number):
        shape = (24, 28 + case, 32)
        labels = np.zeros(shape, np.uint8)
        labels[8:14, 9:15, 10 + case : 16 + case] = 7
        image = random.normal(100, 5, shape).astype("float32") + 40 * (labels > 0)
        folder = root / f"sub-{case:02d}"
        folder.mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / "T1w.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), folder / "labels.nii.gz")


def test_a_folder_of_real_cases_trains_and_resumes_its_split(tmp_path, capsys):
    write_cases(tmp_path / "data", 5)
    steps = ({"name": "resample", "spacing_mm": [1.0, 1.0, 1.0]}, {"name": "z_score"})
    task = BALL.replace(samples=None, steps=25, preprocessing=steps, positive_fraction=1.0, batch_size=1)
    out = fit.train(task, tmp_path / "data", tmp_path / "run", options=fit.TrainOptions(precision="float32"))
    split = json.loads((out / "splits.json").read_text())["folds"][0]
    assert len(split["train"]) == 4 and len(split["validation"]) == 1
    assert run_folder.read_log(out / "log.csv")[-1]["val_accuracy"] > 0.9
    card = zoo.card(out / "unet3d.ball")
    assert not card.training.synthetic and card.output.labels[1].value == 7
    zoo.verify(out / "unet3d.ball")


def test_a_folder_without_labels_is_refused(tmp_path):
    write_cases(tmp_path / "data", 2)
    for path in (tmp_path / "data").glob("*/labels.nii.gz"):
        path.unlink()
    with pytest.raises(ValueError, match=r"None of the 2 cases in .* has a label map: training needs them"):
        fit.train(BALL, tmp_path / "data", tmp_path / "run", options=fit.TrainOptions(precision="float32"))


def test_a_segmentation_that_names_no_metric_has_the_dice_that_it_is_chosen_by():
    model = network.build(BALL.replace(metrics=list, monitor="dice"), 60)
    images = np.random.default_rng(0).random((1, 16, 24, 32, 1), np.float32)
    labels = (images > 0.5).astype(np.int32)
    metrics = model.evaluate(images, labels, verbose=0, return_dict=True)
    predicted, truth = model.predict(images, verbose=0).argmax(-1) == 1, labels[..., 0] == 1
    assert metrics["dice"] == pytest.approx(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()), abs=1e-6)
    assert "dice" not in network.build(BALL, 60).evaluate(images, labels, verbose=0, return_dict=True)
