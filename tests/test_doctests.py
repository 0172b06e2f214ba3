"""Runs the examples in the docstrings of every public module."""

import doctest
import importlib
import pkgutil

import pytest

import zoo

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# Packages of the extras; a module that imports one of them is skipped where it is absent, any other failure is a fault.
EXTRAS = {"h5py", "huggingface_hub", "jax", "jinja2", "matplotlib", "mne", "nilearn", "onnx", "onnxruntime", "openvino",
          "optuna", "pandas", "ray", "sklearn", "tf2onnx", "torch"}  # fmt: skip


def list_public_modules():
    modules = (module.name for module in pkgutil.walk_packages(zoo.__path__, "zoo."))
    return ["zoo", *(name for name in modules if not any(part.startswith("_") for part in name.split(".")))]


@pytest.mark.parametrize("name", list_public_modules())
def test_examples_of(name):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        pytest.skip(f"{error.name} is not installed")
    assert doctest.testmod(module, optionflags=OPTIONS).failed == 0
