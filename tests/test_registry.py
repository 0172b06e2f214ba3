import subprocess
import sys

import pytest

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
