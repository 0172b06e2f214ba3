"""The package as users get it: quick to import, whole in the wheel, alive outside the checkout."""

import json
import os
import pathlib
import re
import subprocess
import sys
import venv

import pytest

import zoo

CHECKOUT = pathlib.Path(__file__).parent.parent
HEAVY = {"tensorflow", "keras", "jax", "torch", "scipy", "matplotlib"}
QUIET = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV", "ZOO_PATH")}


def run(*command, cwd):
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=QUIET, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("work", ["import zoo; zoo.list_models()", "import zoo.cli.main"])
def test_listing_models_and_the_command_line_load_no_framework(work, tmp_path):
    code = f"import sys; {work}; print(sorted({{name.split('.')[0] for name in sys.modules}}))"
    assert not HEAVY & set(eval(run(sys.executable, "-c", code, cwd=tmp_path)))


def test_public_names_are_found_and_others_refused():
    assert all(callable(getattr(zoo, name)) for name in zoo.__all__)
    with pytest.raises(AttributeError, match="module 'zoo' has no attribute 'laod'"):
        zoo.laod  # noqa: B018


def test_no_module_bears_the_name_of_a_public_function():
    modules = {path.stem for path in (CHECKOUT / "zoo").iterdir() if not path.name.startswith("_")}
    assert not modules & set(zoo.__all__)


def modules(folder):
    """Every module below a folder, the files of packages themselves aside."""
    return [path for path in folder.rglob("*.py") if not path.name.startswith("__")]


def test_the_house_has_few_loose_modules_and_no_long_folder():
    counts = {}
    for path in modules(CHECKOUT / "zoo"):
        room = str(path.parent.relative_to(CHECKOUT))
        counts[room] = counts.get(room, 0) + 1
    assert counts["zoo"] <= 8, counts["zoo"]
    assert {room: count for room, count in counts.items() if count > 16} == {}


def test_no_two_modules_share_a_name():
    places = {}
    for path in modules(CHECKOUT / "zoo"):
        places.setdefault(path.stem, []).append(str(path.relative_to(CHECKOUT)))
    assert [paths for paths in places.values() if len(paths) > 1] == []


def test_modules_are_imported_by_name_only_where_they_are_listed():
    call = re.compile(r"import_module\(f?[\"']zoo")
    callers = {
        str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "zoo").rglob("*.py") if call.search(path.read_text())
    }
    # What these import is found by listing its folder; anything else would hide an import from the linter.
    assert callers == {"zoo/registry.py", "zoo/tasks/__init__.py", "zoo/datasets/cases.py"}


def test_every_package_is_listed_for_the_wheel():
    import configparser

    listed = configparser.ConfigParser()
    listed.read(CHECKOUT / "setup.cfg")
    packages = {line for line in listed["options"]["packages"].split() if line != "zoo.pretrained"}
    folders = {
        str(path.parent.relative_to(CHECKOUT)).replace(os.sep, ".") for path in (CHECKOUT / "zoo").rglob("__init__.py")
    }
    assert packages == folders


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh environment that holds the wheel and what it requires, without TensorFlow."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, CHECKOUT, cwd=folder)
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", next(folder.glob("*.whl")), cwd=folder)
    return python


@pytest.mark.slow
def test_the_wheel_carries_the_trained_models(installed, tmp_path):
    zoo_command = installed.with_name("zoo")
    shipped = {path.parent.name for path in CHECKOUT.glob("pretrained/*/card.json")}
    assert shipped <= {row["name"] for row in json.loads(run(zoo_command, "list", "--json", cwd=tmp_path))}
    code = "import zoo, pathlib; print(zoo.__file__); assert zoo.sample('colin27').exists()"
    assert str(CHECKOUT) not in run(installed, "-c", code, cwd=tmp_path)
    for name in shipped:
        assert name in run(zoo_command, "info", name, cwd=tmp_path)


@pytest.mark.slow
def test_without_a_framework_the_error_says_what_to_install(installed, tmp_path):
    done = subprocess.run(
        [installed.with_name("zoo"), "demo", "--out", tmp_path], env=QUIET, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1 and "pip install 'zoo3d[cpu]'" in done.stderr and "Traceback" not in done.stderr
