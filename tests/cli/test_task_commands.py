"""The verbs about data and tasks: exit codes, messages, and what they hand on."""

import json
import sys

import nibabel
import numpy as np
import pytest
from support.tasks import BALL

from zoo.cli import task_commands, terminal
from zoo.datasets.cases import Case
from zoo.hub import card_file
from zoo.training import fit, local_cluster, network
from zoo.training.run import model_card


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


def test_check_for_a_task_finds_what_its_training_would_refuse(zoo_command, tmp_path, monkeypatch):
    labels = {index: (name, value) for index, (name, value) in enumerate({"background": 0, "ball": 7}.items())}
    monkeypatch.setattr(task_commands, "_find_task", lambda name: BALL.replace(labels=labels))
    for name, fill in (("a", 1.0), ("b", 1.5)):
        write_case(tmp_path / "data" / name, fill=fill)
    (tmp_path / "data" / "notes.txt").write_text("")
    bad = zoo_command("check", tmp_path / "data", "--task", "ball")
    assert bad.exit_code == 1 and "  left out 1 file: notes.txt (not a scan)\n" in bad.output
    assert "error: labels: a: the label map holds the value 1 beside 0 (64 voxels), and 7 is expected" in bad.output
    table = tmp_path / "map.csv"
    table.write_text("value,becomes\n1,ball\n")
    good = zoo_command("check", tmp_path / "data", "--task", "ball", "--label-map", table)
    assert good.exit_code == 0 and "0 errors" in good.output
    alone = zoo_command("check", tmp_path / "data", "--label-map", table)
    assert alone.exit_code == 2 and "add --task NAME" in alone.stderr
    table.write_text("value,becomes\n1,bal\n")
    wrong = zoo_command("check", tmp_path / "data", "--task", "ball", "--label-map", table)
    assert wrong.exit_code == 2 and "Did you mean 'ball'" in wrong.stderr


def test_check_by_pattern_and_at_any_depth(zoo_command, tmp_path):
    for place, name in enumerate(("north/a", "north/b", "south/a")):
        write_case(tmp_path / name, fill=1.0 + place)
    flat = zoo_command("check", tmp_path)
    assert flat.exit_code == 1 and "--recursive" in flat.output
    deep = zoo_command("check", tmp_path, "--recursive")
    assert deep.exit_code == 0 and "3 cases of 3 subjects" in deep.output
    patterns = ("--pattern", "image={site}/{id}/T1w.nii.gz", "--pattern", "labels={site}/{id}/labels.nii.gz")
    outcome = zoo_command("check", tmp_path, *patterns, "--json")
    assert outcome.exit_code == 0
    assert (json.loads(outcome.stdout)["channels"], json.loads(outcome.stdout)["labels"]) == (
        {"image": 3},
        {"0": 3, "1": 3},
    )
    bad = zoo_command("check", tmp_path, "--pattern", "image")
    assert bad.exit_code == 2 and "--pattern takes NAME=PATTERN, got 'image'" in bad.stderr


def test_patterns_name_places_or_what_the_data_set_calls_its_images():
    task = BALL.replace(channels=("T1", "FLAIR"))
    placed = task_commands._read_by_pattern(task, ["T1={id}/t1.nii", "FLAIR={id}/f.nii", "labels={id}/m.nii"])
    assert placed.data.reader == "folder" and placed.data.patterns["labels"] == "{id}/m.nii"
    named = task_commands._read_by_pattern(task, ["T1=acq-high_T1w"])
    assert (named.data.reader, named.data.patterns) == (None, {"T1": "acq-high_T1w"})
    with pytest.raises(terminal.UsageError, match="--pattern is missing for FLAIR: plain folders need one for each"):
        task_commands._read_by_pattern(task, ["T1={id}/t1.nii"])
    with pytest.raises(terminal.UsageError, match="with a name of T1, FLAIR, labels, got 'T2=x'"):
        task_commands._read_by_pattern(task, ["T2=x"])


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


@pytest.mark.parametrize("words", [["--local-workers", "2"], ["--local-workers=2", "--open-ports"]])
def test_a_local_cluster_runs_the_command_without_its_own_options(monkeypatch, words):
    request = {}
    monkeypatch.setattr(local_cluster, "launch", lambda command, **sizes: request.update(sizes, command=command) or 0)
    monkeypatch.setattr(sys, "argv", ["zoo", "train", "ball", *words, "--seed", "3"])
    assert task_commands._launch_cluster(2, len(words) - 1, open_ports="--open-ports" in words) == 0
    assert request["open_ports"] is ("--open-ports" in words)
    assert request["command"][-5:] == ["zoo.cli", "train", "ball", "--seed", "3"]


@pytest.mark.parametrize("words", [("--folds", "2"), ("--local-workers", "2")])
def test_a_release_is_of_one_run(zoo_command, words):
    refused = zoo_command("train", "lacunes", "--release", *words)
    assert refused.exit_code == 2 and "--release ships one run of one process" in refused.stderr


def test_train_with_release_measures_held_out_cases_and_writes_to_pretrained(zoo_command, tmp_path, monkeypatch):
    def list_cases(folder):
        for name, fill in (("a", 1.0), ("b", 1.5)):
            if not (folder / name).exists():
                write_case(folder / name, fill=fill)
        files = {name: {"T1w": folder / name / "T1w.nii.gz"} for name in ("a", "b")}
        return [Case(name, name, channels, folder / name / "labels.nii.gz") for name, channels in files.items()]

    task = BALL.replace(test_cases=list_cases, labels={0: ("background", 0), 1: ("ball", 1)})

    def train(task, source, out, options):
        out.mkdir()
        (out / "config.json").write_text(json.dumps({"source": source, "seed": 0, "steps": 1}))
        model_card.publish(network.build(task, 1), task, out, progress={"seconds": 60.0})

    monkeypatch.setattr(task_commands, "_find_task", lambda name: task)
    monkeypatch.setattr(fit, "run", train)
    monkeypatch.chdir(tmp_path)
    done = zoo_command("train", "ball", "--out", tmp_path / "run", "--release")
    assert done.exit_code == 0, done.output
    card = card_file.read(tmp_path / "pretrained" / "unet3d.ball")
    row = card.metrics["held-out cases, synthetic"]
    assert row["n"] == 2 and 0 <= row["dice"] <= 1
    assert card.training.command == "zoo train unet3d.ball --release"
