"""Fixtures for all tests; child processes of tests find `support` as the tests do."""

import os

import pytest
from support.paths import TESTS
from typer.testing import CliRunner

os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="module")
def model_folder():
    """Returns the folder of trained models that `zoo_command` finds; a module with models of its own overrides it."""
    return None


@pytest.fixture
def zoo_command(model_folder, monkeypatch):
    """Returns a function that runs the command line in this process, offline: exit code, stdout and stderr."""
    from zoo.cli.main import app

    if model_folder is not None:
        monkeypatch.setenv("ZOO_PATH", str(model_folder))
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    monkeypatch.delenv("ZOO_DEBUG", raising=False)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])
