"""The verbs about data and tasks: exit codes, messages, and what they hand on."""

import json
import sys

import nibabel
import numpy as np
import pytest

from zoo.cli import task_commands
from zoo.training import local_cluster


def write_case(folder, labels=True, fill=1.0):
    folder.mkdir(parents=True)
    image = np.random.default_rng(0).normal(100 * fill, 5, (16, 24, 32)).astype("float32")
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / "T1w.nii.gz")
    if labels:
        mask = np.zeros(image.shape, np.uint8)
        mask[4:8, 4:8, 4:8] = 1
        nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), folder / "labels.nii.gz")


def test_check_ends_with_0_on_a_good_folder_and_1_on_errors(zoo_command, tmp_path):
    write_case(tmp_path / "data" / "a")
    write_case(tmp_path / "data" / "b", fill=1.5)
    good = zoo_command("check", tmp_path / "data")
    assert good.exit_code == 0 and "2 cases of 2 subjects" in good.output and "0 errors" in good.output
    (tmp_path / "data" / "b" / "T1w.nii.gz").write_bytes(b"not a scan")
    bad = zoo_command("check", tmp_path / "data", "--json")
    assert bad.exit_code == 1 and json.loads(bad.stdout)["num_errors"] >= 1


def test_bad_arguments_end_with_2(zoo_command, tmp_path):
    missing = zoo_command("check", tmp_path / "none")
    assert missing.exit_code == 2 and "There is no folder" in missing.stderr
    unknown = zoo_command("train", "brain_structure")
    assert unknown.exit_code == 2 and "Did you mean 'brain_structures'" in unknown.stderr


def test_train_without_a_task_lists_them(zoo_command):
    listed = zoo_command("train")
    assert listed.exit_code == 0 and "brain_structures" in listed.output.split()


def test_evaluate_of_an_unfinished_run_says_so(zoo_command, tmp_path):
    done = zoo_command("evaluate", "brain_structures", tmp_path)
    assert done.exit_code == 1 and "holds no finished unet3d.brain_structures" in done.stderr


@pytest.mark.parametrize("words", [["--local-workers", "2"], ["--local-workers=2", "--parameter-servers=1"]])
def test_a_local_cluster_runs_the_command_without_its_own_options(monkeypatch, words):
    asked = {}
    monkeypatch.setattr(local_cluster, "launch", lambda command, **sizes: asked.update(sizes, command=command) or 0)
    monkeypatch.setattr(sys, "argv", ["zoo", "train", "ball", *words, "--seed", "3"])
    assert task_commands._launch_cluster(2, len(words) - 1) == 0
    assert asked["command"][-5:] == ["zoo.cli", "train", "ball", "--seed", "3"]
