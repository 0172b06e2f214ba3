"""A card or a name from anywhere is shown as text, a bad one costs one line, and any failure ends in one line."""

import json
import shutil

import pytest
import typer
from support.paths import TESTS
from typer.testing import CliRunner

from zoo.cli import main, model_commands
from zoo.hub import card_file

SHIPPED = TESTS.parent / "pretrained" / "unet3d.brain_mask_t1" / "card.json"


@pytest.fixture
def model_folder(tmp_path):
    """A folder with two trained models whose cards are those of a shipped one under other names."""
    for tag in ("good", "other"):
        write_card(tmp_path / "models", tag)
    return tmp_path / "models"


def write_card(folder, tag, change=lambda card: card):
    card = json.loads(SHIPPED.read_text()) | {"name": f"unet3d.{tag}"}
    home = folder / f"unet3d.{tag}"
    home.mkdir(parents=True, exist_ok=True)
    content = change(card)
    (home / "card.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return home


def test_markup_in_a_card_is_text(zoo_command, model_folder):
    text = "[/foo] [bold]not[/bold] [link=http://x]y[/link] :smile: [red"
    changes = {"description": text, "limits": [text], "metrics": {text: {"dice": 0.5, "n": 3}}}
    changes |= {"tables": {text: [{text: text}]}}
    write_card(model_folder, "good", lambda card: card | changes)
    words = zoo_command("list", "unet3d.good").stdout.split()
    assert words[words.index("[/foo]") :] == text.split()
    done = zoo_command("info", "unet3d.good", "--all")
    assert done.exit_code == 0 and done.stdout.count(":smile:") >= 5 and done.stdout.count("[/foo]") >= 5


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda card: "{", "card.json is not JSON"),
        (lambda card: "", "card.json is not JSON"),
        (lambda card: "[" * 100_000, "card.json nests lists without end, so it is no card"),
        (lambda card: json.dumps(card) + " " * (1 << 20), "card.json is longer than 1048576 bytes, so it is no card"),
        (lambda card: card | {"arguments": {"x": 10**400}}, "arguments.x must be a number of 64 bits, got one of 1329"),
        (
            lambda card: card | {"metrics": {"a": {"n": 10**400}}},
            "metrics.a.n must be a number of 64 bits, got one of 1329",
        ),
        (
            lambda card: card | {"description": "red \x1b[31m"},
            r"description must be plain text without control characters, got 'red \x1b[31m'",
        ),
        (
            lambda card: card | {"metrics": {"a\u202e": {"n": 1}}},
            r"a name in metrics must be plain text without control characters, got 'a\u202e'",
        ),
        (
            lambda card: card | {"arguments": {"x": ["\x9b2J"]}},
            r"arguments.x must be plain text without control characters, got '\x9b2J'",
        ),
    ],
)
def test_a_bad_card_is_one_line_of_warning_beside_the_list(change, fault, zoo_command, model_folder):
    write_card(model_folder, "bad", change)
    done = zoo_command("list", "unet3d.[bgo]*")
    assert done.exit_code == 0
    assert "unet3d.good " in done.stdout and "unet3d.other " in done.stdout and "unet3d.bad " not in done.stdout
    assert done.stderr.startswith("zoo: warning: unet3d.bad is left out: ") and done.stderr.count("\n") == 1
    assert fault in done.stderr
    rows = {row["name"]: row["error"] for row in json.loads(zoo_command("list", "unet3d.*", "--json").stdout)}
    assert fault in rows["unet3d.bad"] and rows["unet3d.good"] is None
    assert zoo_command("info", "unet3d.bad").exit_code == 1


def test_steps_and_tables_of_any_form_are_shown(zoo_command, model_folder):
    step = {"name": "resample", "parameters": {"spacing_mm": [[1, 2], "a"], "x": {"y": [None]}}}
    changes = {"preprocessing": [step], "tables": {"Gates": [{"": "failed"}, {"gate": "dice"}]}}
    write_card(model_folder, "good", lambda card: card | changes)
    done = zoo_command("info", "unet3d.good")
    assert done.exit_code == 0 and "Of 2 gates 0 passed; missed:" in done.stdout


class OpError(Exception):
    """As TensorFlow's errors are: of no class that Python has."""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "zoo: MemoryError"),
        (KeyError("shape"), "zoo: KeyError: 'shape'"),
        (StopIteration(), "zoo: StopIteration"),
        (RecursionError("maximum recursion depth exceeded"), "zoo: maximum recursion depth exceeded"),
        (OpError("first\n  second\x1b[0m"), r"zoo: OpError: first second\u001b[0m"),
        (ValueError("a.nii has no voxels."), "zoo: a.nii has no voxels."),
        (typer.Abort(), "zoo: stopped."),
    ],
)
def test_every_failure_is_one_line(error, line, zoo_command, monkeypatch):
    def fail(name):
        raise error

    monkeypatch.setattr(model_commands, "find_model", fail)
    done = zoo_command("info", "unet3d.good")
    assert (done.stderr, done.stdout) == (f"{line}\n", "")
    assert done.exit_code == (130 if isinstance(error, typer.Abort) else 1)


def test_debugging_shows_where_an_error_came_from(zoo_command, monkeypatch):
    monkeypatch.setattr(model_commands, "find_model", lambda name: {}["shape"])
    monkeypatch.setenv("ZOO_DEBUG", "1")
    assert isinstance(CliRunner().invoke(main.app, ["info", "unet3d.good"]).exception, KeyError)


def test_a_name_that_steers_the_terminal_is_written_out(zoo_command, model_folder):
    home = write_card(model_folder, "good")
    shutil.copytree(home, model_folder / "red\x1b[31m")
    (model_folder / "red\x1b[31m" / "card.json").write_text("{")
    done = zoo_command("info", model_folder / "red\x1b[31m")
    assert r"red\u001b[31m/card.json is not JSON" in done.stderr and "\x1b" not in done.stderr
    assert card_file.read(home).name == "unet3d.good"
