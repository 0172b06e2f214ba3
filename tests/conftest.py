"""Fixtures for all tests; child processes of tests find `support` as the tests do."""

import os
import subprocess
import sys

import pytest
from support.paths import SUPPORT, TESTS
from typer.testing import CliRunner

os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="session")
def trained_ball(tmp_path_factory):
    """Trains the task of balls once for all tests; returns its run folder and what the run printed."""
    out = tmp_path_factory.mktemp("ball") / "run"
    command = [sys.executable, str(SUPPORT / "tasks.py"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return out, done.stderr


@pytest.fixture(scope="module")
def model_folder():
    """Returns the folder of trained models that `zoo_command` finds: none, where a module does not override it."""


@pytest.fixture
def zoo_command(model_folder, monkeypatch):
    """Returns a function that runs the command line in this process, offline: exit code, stdout and stderr."""
    from zoo.cli.main import app

    if model_folder is not None:
        monkeypatch.setenv("ZOO_PATH", str(model_folder))
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    monkeypatch.delenv("ZOO_DEBUG", raising=False)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])
