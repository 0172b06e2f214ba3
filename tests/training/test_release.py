"""Releases: the card that a run ships with."""

import json
import math

import numpy as np
import pytest
from support.tasks import BALL

import zoo
from zoo.hub import card_file
from zoo.training import network
from zoo.training.run import model_card, run_folder
from zoo.training.run.release import finite, next_minor, release

ROWS = {"held-out cases": {"n": 3, "dice": 0.5, "hd95_mm": math.nan}}
COMMAND = "zoo train ball --release"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder as training leaves it, with weights that nothing was taught."""
    out = tmp_path_factory.mktemp("release") / "run"
    out.mkdir()
    settings = {"source": "synthetic", "seed": 4, "steps": 60}
    (out / "config.json").write_text(json.dumps(settings))
    model_card.publish(network.build(BALL, 1), BALL, out, progress={"seconds": 90.0})
    return out


def test_a_release_is_the_run_with_metrics_commit_and_command(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run_folder, "commit", lambda: "0123456789ab+changes")
    home = release(run, BALL, ROWS, command=COMMAND, pretrained=tmp_path)
    assert home == tmp_path / "unet3d.ball"
    zoo.verify(home)
    before, card = zoo.card(run / "unet3d.ball"), zoo.card(home)
    assert card.metrics == {"held-out cases": {"n": 3, "dice": 0.5}}
    assert card.training.command == COMMAND and card.training.seed == 4 and card.training.minutes == 1.5
    assert card.training.commit == "0123456789ab"
    assert card.weights.sha256 == before.weights.sha256
    assert json.loads(capsys.readouterr().err) == card.metrics
    assert "0.5" in (home / "README.md").read_text()


def test_a_release_replaces_the_one_before(run, tmp_path):
    for dice in (0.1, 0.2):
        home = release(run, BALL, {"cases": {"n": 1, "dice": dice}}, command=COMMAND, pretrained=tmp_path)
    assert zoo.card(home).metrics == {"cases": {"n": 1, "dice": 0.2}}
    assert [path.name for path in tmp_path.iterdir()] == ["unet3d.ball"]


def test_a_release_may_ship_another_network_and_files(run, tmp_path):
    model = zoo.load(run / "unet3d.ball")
    model.get_layer("logits").bias.assign([1.0, -2.0])
    home = release(
        run,
        BALL,
        ROWS,
        command=COMMAND,
        pretrained=tmp_path,
        model=model,
        attachments={"moments.bin": lambda path: path.write_bytes(b"moments")},
    )
    np.testing.assert_array_equal(zoo.load(home).get_layer("logits").bias, [1.0, -2.0])
    assert [file.file for file in zoo.card(home).attached] == ["moments.bin"]
    zoo.verify(home)


def test_a_file_that_cannot_be_attached_leaves_the_release_before(run, tmp_path):
    release(run, BALL, ROWS, command=COMMAND, pretrained=tmp_path)
    files = {path: path.read_bytes() for path in (tmp_path / "unet3d.ball").iterdir()}

    def write(path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"unet3d\.ball could not be written \(No space left on device\)"):
        release(run, BALL, {}, command=COMMAND, pretrained=tmp_path, attachments={"moments.bin": write})
    assert {path: path.read_bytes() for path in (tmp_path / "unet3d.ball").iterdir()} == files
    assert [path.name for path in tmp_path.iterdir()] == ["unet3d.ball"]


def test_changes_reach_the_card_and_its_training(run, tmp_path):
    before = card_file.read(run / "unet3d.ball")
    changes = {"postprocessing": (), "training": {"steps": 90, "minutes": 3.0}}
    task = BALL.replace(limits=("Balls only.",))
    card = zoo.card(release(run, task, {}, command=COMMAND, pretrained=tmp_path, changes=changes))
    assert card.limits == ("Balls only.",)
    assert (card.training.steps, card.training.minutes, card.training.seed) == (90, 3.0, 4)
    assert card.training.command == COMMAND and card.training.data == before.training.data


def test_a_trained_model_ships_again_under_the_next_minor_version(run, tmp_path):
    home = release(run, BALL, ROWS, command=COMMAND, pretrained=tmp_path)
    before = zoo.card(home)
    changes = next_minor(before, "Measured on more balls.")
    again = release(tmp_path, BALL, {"cases": {"n": 9}}, command="again", pretrained=tmp_path, changes=changes)
    card = zoo.card(again)
    zoo.verify(again)
    assert again == home and card.metrics == {"cases": {"n": 9}} and card.weights.sha256 == before.weights.sha256
    assert card.version == "1.1.0" and card.training.seed == 4 and card.training.command == "again"
    assert dict(card.changelog) == dict(before.changelog) | {"1.1.0": "Measured on more balls."}


def test_a_run_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no finished unet3d\.ball\. Let the training finish"):
        release(tmp_path, BALL, ROWS, command=COMMAND, pretrained=tmp_path / "pretrained")
    assert not (tmp_path / "pretrained").exists()


def test_values_that_are_not_finite_are_left_out():
    rows = {"a": {"n": 2, "dice": math.nan, "far": math.inf}, "b": {"dice": 0.0}}
    assert finite(rows) == {"a": {"n": 2}, "b": {"dice": 0.0}}
