import os
import subprocess
import sys

import pytest

import zoo
import zoo.models
from zoo import errors, registry


def test_builders_are_the_files_of_the_room():
    assert registry.builders() == ["gan3d", "resunet", "siamese", "unet3d", "vnet"]


def test_a_new_file_is_a_new_builder(tmp_path, monkeypatch):
    (tmp_path / "newnet.py").write_text("def newnet(input_shape, *, filters=(4,)):\n    return 'built'\n")
    monkeypatch.setattr(zoo.models, "__path__", [*zoo.models.__path__, str(tmp_path)])
    assert "newnet" in registry.builders()
    assert registry.builder("newnet")(None) == "built"


def test_finding_builders_loads_no_framework():
    code = (
        "import sys, zoo.registry; zoo.registry.builders(); "
        "sys.exit(bool({'keras', 'tensorflow', 'jax'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", registry.builders())
def test_a_builder_bears_the_name_of_its_file(name):
    assert registry.builder(name).__name__ == name


def test_an_unknown_builder_answers_with_the_nearest():
    with pytest.raises(ValueError, match=r"There is no builder 'unet'\. Did you mean 'unet3d'\? Choose from: gan3d,"):
        registry.builder("unet")


def test_an_unknown_argument_answers_with_the_nearest():
    message = r"There is no argument of vnet 'filter'\. Did you mean 'filters'\? Choose from: activation, any_size,"
    with pytest.raises(ValueError, match=message):
        registry.check_arguments(registry.builder("vnet"), {"num_classes": 3, "filter": (4, 8)})


def test_known_arguments_pass():
    registry.check_arguments(registry.builder("vnet"), {"input_shape": (16, 24, 32, 1), "variant": "released"})


def test_a_far_name_gets_no_hint():
    assert "Did you mean" not in str(errors.unknown_choice("norm", "qqqqq", ["batch", "group"]))


@pytest.mark.parametrize("backend", ["torch", "numpy", "openvino"])
def test_another_backend_is_told_before_keras_looks_for_it(backend, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    for work in (registry.require_backend, lambda: registry.builder("unet3d"), lambda: zoo.load("unet3d")):
        with pytest.raises(
            ValueError, match=rf"backend '{backend}', and zoo runs on tensorflow or jax\. Set KERAS_BAC"
        ):
            work()


def test_a_backend_that_a_file_of_keras_sets_is_told_too(monkeypatch):
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    with pytest.raises(ValueError, match=r"backend 'numpy', .* or correct ~/\.keras/keras\.json"):
        registry.require_backend()


def test_channels_first_is_told():
    import keras

    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(
            ValueError, match=r"layout 'channels_first', and zoo needs channels_last\. Call keras\.config"
        ):
            zoo.load("unet3d", filters=(4, 6))
    finally:
        keras.config.set_image_data_format("channels_last")
    registry.require_backend()


def test_a_fork_of_a_process_that_used_a_network_is_told_and_does_not_hang(monkeypatch):
    registry.require_backend()
    assert registry._used_by == [os.getpid()]
    monkeypatch.setattr(registry, "_used_by", [1])
    with pytest.raises(RuntimeError, match=r'forked from one .* hangs .* \(multiprocessing\.get_context\("spawn"\)\)'):
        zoo.load("unet3d", filters=(4, 6))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("torch", "No module named 'torch': Keras is set to the backend 'torch', and zoo runs on tensorflow or jax"),
        ("jax", "Install it, or set KERAS_BACKEND=tensorflow"),
        ("tensorflow", r"Install it: pip install 'zoo3d\[cpu\]'"),
    ],
)
def test_a_framework_that_is_missing_is_told_by_every_public_name(name, text, monkeypatch):
    def fail(module):
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(ImportError, match=text):
        zoo.predict  # noqa: B018
