"""The help of every command at 80 columns, and what the shell is offered to complete."""

import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from zoo.cli.main import app

COMMANDS = typer.main.get_command(app).commands
COMPLETING = """
import sys
from zoo.cli.main import main
sys.argv = ["zoo"]
try:
    main()
except SystemExit:
    loaded = {"keras", "tensorflow", "jax", "torch", "nibabel", "scipy"} & set(sys.modules)
    print(*sorted(loaded), file=sys.stderr)
"""


@pytest.fixture(autouse=True)
def columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def shown(*words):
    done = CliRunner().invoke(app, [*words, "--help"], prog_name="zoo")
    assert done.exit_code == 0
    return done.stdout.splitlines()


def test_every_command_is_listed_with_its_whole_first_line():
    lines = shown()
    assert max(map(len, lines)) <= 80
    for name, command in COMMANDS.items():
        first = command.help.split("\n")[0]
        assert first.endswith(".")
        assert any(line.split() == [name, *first.split()] for line in lines), f"{name} is cut"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_help_of_a_command_reads_well_at_80_columns(name):
    lines = shown(name)
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"Usage: zoo {name} ")
    assert not any("…" in line or line.endswith("...") for line in lines[1:])
    words = " ".join(lines).split()
    for parameter in COMMANDS[name].params:
        help_words = (getattr(parameter, "help", None) or "").split()
        assert help_words, f"{name} says nothing of {parameter.name}"
        assert " ".join(help_words) in " ".join(words), f"{name} cuts {parameter.name}"


def completed(*words):
    """What the shell is offered for the last word, by a process of its own, and what that process loaded."""
    completion = {
        "_ZOO_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["zoo", *words]),
        "COMP_CWORD": str(len(words)),
    }
    environment = {**os.environ, **completion}
    done = subprocess.run(
        [sys.executable, "-c", COMPLETING], env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout.split(), done.stderr.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("info", "unet3d.l"), ["unet3d.lacunes"]),
        (("info", "vn"), ["vnet", "vnet.eeg_sources", "vnet.stroke_outcome"]),
        (("predict", "vn"), ["vnet.eeg_sources", "vnet.stroke_outcome"]),
        (("verify", "unet3d.lacunes", "resunet.q"), ["resunet.qsm_nuclei"]),
        (("bids", "raw", "out", "participant", "--model", "unet3d.brain_m"), ["unet3d.brain_mask"]),
        (("train", "stroke"), ["stroke_outcome"]),
        (("ev",), ["evaluate"]),
    ],
)
def test_the_shell_completes_names_without_a_framework(words, offered):
    names, loaded = completed(*words)
    assert set(offered) <= set(names)
    assert all(name.startswith(words[-1]) for name in names)
    assert loaded == []


def test_the_completion_can_be_installed():
    assert "--install-completion" in "\n".join(shown())
    done = subprocess.run(
        [sys.executable, "-m", "zoo.cli", "--show-completion", "bash"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "complete -o default -F" in done.stdout
