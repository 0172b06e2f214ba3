"""What `model.save` wrote is read by `keras.saving.load_model` in a new process that imports zoo and no more."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from support.builder_table import TABLE, build_once, to_arrays

import zoo
from zoo.hub import keras_objects

HOUSE = Path(zoo.__file__).parent
READ_ALL = """
import sys, pathlib
import zoo, keras, numpy as np, json
assert not any(name.startswith("zoo.models") for name in sys.modules)
faults = {}
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.keras")):
    try:
        model = keras.saving.load_model(path)
        with np.load(path.with_suffix(".npz")) as stored:
            weights = [stored[f"w{i}"] for i in range(len(model.weights))]
            same = all(np.array_equal(w, x.numpy()) for w, x in zip(weights, model.weights))
        faults[path.stem] = "" if same and len(stored.files) == len(weights) else "other weights"
        model.save(path.with_name(path.stem + ".again.keras"))
    except Exception as error:
        faults[path.stem] = f"{type(error).__name__}: {error}"[:400]
print(json.dumps(faults))
"""


@pytest.fixture(scope="module")
def read_anew(tmp_path_factory):
    """Saves a model of every row, reads all in one new process, and returns the folder and what was wrong with each."""
    folder = tmp_path_factory.mktemp("keras")
    for name in TABLE:
        model = build_once(name)
        np.savez(folder / f"{name}.npz", **{f"w{i}": weight.numpy() for i, weight in enumerate(model.weights)})
        model.save(folder / f"{name}.keras")
    command = [sys.executable, "-c", READ_ALL, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", TABLE)
def test_a_saved_model_of_every_builder_loads_after_import_zoo(name, read_anew):
    folder, faults = read_anew
    assert faults[name] == ""
    model, inputs = build_once(name), TABLE[name].inputs(build_once(name))
    again = keras.saving.load_model(folder / f"{name}.again.keras")
    for array, expected in zip(to_arrays(again(inputs)), to_arrays(model(inputs)), strict=True):
        np.testing.assert_allclose(array, expected, atol=1e-5)


def registered():
    """Returns module -> names of what the source registers with Keras, read without importing it."""
    objects = {}
    sources = {path: path.read_text(encoding="utf-8") for path in HOUSE.rglob("*.py")}
    for path, source in sources.items():
        for node in ast.walk(ast.parse(source)) if "register_keras" in source else ():
            for decorator in getattr(node, "decorator_list", ()):
                text = ast.unparse(decorator)
                if text.startswith(("keras.saving.register", "register")) and "verb" not in text:
                    module = ".".join(("zoo", *path.relative_to(HOUSE).with_suffix("").parts))
                    objects.setdefault(module, set()).add(node.name)
    return objects


def test_the_table_names_all_that_zoo_registers_with_keras():
    assert {module: set(names) for module, names in keras_objects.OBJECTS.items()} == registered()


def test_a_deferred_class_makes_what_the_class_makes():
    deferred = keras_objects.DeferredClass("zoo.losses.composition", "Combined")
    assert deferred.resolve() is zoo.losses.composition.Combined
    pool = keras_objects.DeferredClass("keras.layers", "MaxPooling3D")
    assert isinstance(pool(3), keras.layers.MaxPooling3D) and pool.from_config({"pool_size": 2}).pool_size == (2, 2, 2)


def test_a_table_keeps_what_is_in_it():
    table = dict(keras.saving.get_custom_objects())
    keras_objects.fill_table(keras)
    assert keras.saving.get_custom_objects() == table
    assert {f"zoo>{name}" for names in keras_objects.OBJECTS.values() for name in names} <= set(table)


def test_functions_are_deferred_as_functions():
    dice = keras_objects._defer_function("numpy", "negative")
    assert dice.__name__ == "negative" and dice(3) == -3


def test_only_keras_is_found_differently():
    finder = keras_objects.KerasFinder()
    assert finder.find_spec("kerastuner") is None
    assert finder.find_spec("keras").origin == keras.__file__
