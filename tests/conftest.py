"""Fixtures for all tests; child processes of tests find `support` as the tests do."""

import os

import pytest
from support.paths import TESTS
from typer.testing import CliRunner

os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))


@pytest.fixture
def zoo_command(monkeypatch):
    """Runs the command line in this process, offline; returns exit code, stdout and stderr."""
    from zoo.cli.main import app

    monkeypatch.setenv("ZOO_OFFLINE", "1")
    monkeypatch.delenv("ZOO_DEBUG", raising=False)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])
