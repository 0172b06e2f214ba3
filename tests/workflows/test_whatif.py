"""What if: volumes by hand under every condition, the table, the picture, the command line, and every refusal."""

import csv
import dataclasses

import keras
import nibabel
import numpy as np
import pytest
from keras import layers
from support.cards import make_card

import zoo
from zoo.cli import whatif_command
from zoo.hub.card import Label, Step
from zoo.hub.tabular import Tabular
from zoo.inference import predictor
from zoo.workflows.whatif import whatif

TIME = Tabular("time_to_reperfusion_h", "h", 0, 48, 6, 4)
TICI = Tabular("tici", "", 0, 3, 1, 2, {"0": 0, "2a": 1, "2b": 2, "3": 3})
AGE = Tabular("age", "y", 0, 120, 70, 10)
SHAPE = (10, 16, 19)
LABELS = {0: Label("background", 0), 1: Label("lesion", 1)}


@keras.saving.register_keras_serializable(package="tests")
class Decay(layers.Layer):
    """Lesion where Tmax is above 8 less half a second an hour, plus one second a grade."""

    def call(self, x):
        volume, values = x
        hours, grade = 4 * values[:, 0] + 6, 2 * values[:, 2] + 1
        threshold = (8 - 0.5 * hours + grade)[:, None, None, None, None]
        logit = 10 * (volume - threshold)
        return keras.ops.concatenate([0 * logit, logit], -1)


def model():
    inputs = [keras.Input((None, None, None, 1)), keras.Input((6,))]
    return keras.Model(inputs, Decay()(inputs), name="decay")


def conditioned(**changes):
    fields = {"labels": LABELS, "kind": "segmentation", "activation": "softmax", "channels": ("Tmax",)}
    made = make_card(**{**fields, **changes})
    return dataclasses.replace(made, input=dataclasses.replace(made.input, tabular=(TIME, TICI, AGE)))


def tmax():
    """Seconds from 0.1 to 9.9 in steps of one, on voxels of 2 x 2 x 6.5 mm."""
    data = np.broadcast_to(np.arange(10, dtype=np.float32)[:, None, None], SHAPE) + 0.25
    return nibabel.Nifti1Image(data, np.diag([2, 2, 6.5, 1]))


def expected(hours, grade):
    columns = sum(x + 0.25 > 8 - 0.5 * hours + grade for x in range(10))
    return columns * 16 * 19 * 2 * 2 * 6.5 / 1000


def test_volumes_by_hand(tmp_path):
    grades = ("0", "2a", "2b", "3")
    sweep = whatif(model(), tmax(), {"time_to_reperfusion_h": range(0, 13, 3), "tici": grades}, card=conditioned())
    assert sweep.volumes_ml().shape == (5, 4)
    by_hand = [[expected(hours, grade) for grade in range(4)] for hours in range(0, 13, 3)]
    np.testing.assert_allclose(sweep.volumes_ml("lesion"), by_hand, rtol=1e-9)
    assert sweep.rows[1] == {
        "time_to_reperfusion_h": 0, "tici": "2a", "structure": "lesion", "num_voxels": 304, "volume_ml": expected(0, 1)
    }  # fmt: skip


def test_files(tmp_path):
    sweep = {"tici": ["3", "0"], "time_to_reperfusion_h": [0, 6.5, None]}
    answer = whatif(model(), tmax(), sweep, tabular={"age": 71}, card=conditioned(), out=tmp_path / "new" / "out")
    rows = list(csv.DictReader((tmp_path / "new" / "out" / "whatif.csv").read_text().splitlines()))
    assert list(rows[0]) == ["tici", "time_to_reperfusion_h", "structure", "num_voxels", "volume_ml"]
    assert [row["time_to_reperfusion_h"] for row in rows] == ["0", "6.5", ""] * 2
    assert float(rows[4]["volume_ml"]) == pytest.approx(expected(6.5, 0)) and answer.fixed == {"age": 71}
    picture = (tmp_path / "new" / "out" / "whatif.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and len(picture) > 10_000
    assert len(list((tmp_path / "new" / "out").iterdir())) == 2


def test_the_images_are_read_once_and_the_network_is_traced_once(monkeypatch):
    seen = {"ready": 0, "trace": 0}
    ready, call = predictor.Predictor.prepare, Decay.call

    def counted(self, images):
        seen["ready"] += 1
        return ready(self, images)

    def traced(self, x):
        seen["trace"] += 1
        return call(self, x)

    made = model()
    monkeypatch.setattr(predictor.Predictor, "prepare", counted)
    monkeypatch.setattr(Decay, "call", traced)
    whatif(made, tmax(), {"time_to_reperfusion_h": [1]}, card=conditioned())
    once = seen["trace"]
    whatif(made, tmax(), {"time_to_reperfusion_h": [1, 2, 3], "tici": ["0", "3"]}, card=conditioned())
    assert seen == {"ready": 2, "trace": 2 * once}


@pytest.mark.parametrize(
    ("sweep", "fixed", "message"),
    [
        ({}, {}, "There is nothing to vary. Name values of time_to_reperfusion_h, tici, age"),
        ({"tici": []}, {}, "There are no values of tici to try"),
        ({"time": [1]}, {}, "There is no tabular value 'time'. Did you mean 'time_to_reperfusion_h'?"),
        ({"tici": ["0"]}, {"tici": "3"}, "tici is varied and fixed to '3' at once"),
        ({"time_to_reperfusion_h": [0, -1]}, {}, "time_to_reperfusion_h is -1 h, and it goes from 0 to 48 h"),
        ({"tici": ["2d"]}, {}, "There is no grade of tici '2d'"),
        ({"tici": ["0"]}, {"sex": 1}, "There is no tabular value 'sex'"),
    ],
)
def test_refusals_before_anything_is_read(sweep, fixed, message):
    with pytest.raises(ValueError) as caught:
        whatif(model(), "nowhere.nii.gz", sweep, tabular=fixed, card=conditioned())
    assert message in str(caught.value)


def test_a_model_without_labels_has_no_volumes():
    with pytest.raises(ValueError, match="gives no labels but regression"):
        whatif(model(), tmax(), {"tici": ["0"]}, card=conditioned(kind="regression"))


def test_the_public_name():
    assert zoo.whatif is whatif


@pytest.mark.parametrize(
    ("field", "text", "values"),
    [
        (TIME, "0:12:4", [0, 4, 8, 12]),
        (TIME, "0:1:0.3", [0, 0.3, 0.6, 0.9]),
        (TIME, "3", [3]),
        (TIME, " 1 , 2.5", [1, 2.5]),
        (TICI, "0,2a,3", ["0", "2a", "3"]),
    ],
)
def test_ranges(field, text, values):
    assert whatif_command.parse_values(field, text) == pytest.approx(values) if field is TIME else values


@pytest.mark.parametrize(
    ("field", "text"), [(TIME, ""), (TIME, "0:12"), (TIME, "0:12:0"), (TIME, "5:1:1"), (TIME, "a"), (TICI, "0:3:1")]
)
def test_bad_ranges_are_told_with_an_example(field, text):
    with pytest.raises(whatif_command.UsageError, match=f"--{field.name}") as caught:
        whatif_command.parse_values(field, text)
    assert repr(text) in str(caught.value)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A folder with a tiny V-Net of two channels and two tabular values, and a case for it."""
    folder = tmp_path_factory.mktemp("home")
    keras.utils.set_random_seed(0)
    arguments = {"input_shape": (None, None, None, 2), "num_classes": 2, "filters": (2, 3), "conditioning": 6}
    made = conditioned(channels=("ADC", "Tmax"), preprocessing=(Step("z_score", {"mask": "nonzero"}),))
    made = dataclasses.replace(made, name="vnet.tiny_stroke", builder="vnet", arguments=arguments)
    network = zoo.load("vnet", **arguments)
    for weight in network.weights:
        if "film" in weight.path:
            weight.assign(np.random.default_rng(1).normal(0, 0.3, weight.shape))
    zoo.save(network, folder / made.name, made)
    for number, name in enumerate(("ADC", "Tmax")):
        data = np.random.default_rng(number).uniform(1, 2, (16, 16, 16)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), folder / f"{name}.nii.gz")
    return folder


def scans(model_folder):
    return [f"{name}={model_folder / name}.nii.gz" for name in ("ADC", "Tmax")]


def test_the_command(model_folder, zoo_command, tmp_path):
    words = ["--time", "0:12:6", "--tici=0,3", "--precision", "float32", "--out", tmp_path]
    done = zoo_command("whatif", "vnet.tiny_stroke", *scans(model_folder), *words)
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((tmp_path / "whatif.csv").read_text().splitlines()))
    assert [(row["time_to_reperfusion_h"], row["tici"]) for row in rows] == [
        (f"{hours}.0", grade) for hours in (0, 6, 12) for grade in ("0", "3")
    ]
    images = {name: model_folder / f"{name}.nii.gz" for name in ("ADC", "Tmax")}
    for row in (rows[0], rows[-1]):
        values = {name: row[name] for name in ("time_to_reperfusion_h", "tici")}
        predicted = zoo.predict("vnet.tiny_stroke", images, tabular=values)
        assert int(row["num_voxels"]) == np.asanyarray(predicted.dataobj).sum()
    assert "6 rows" in done.output and (tmp_path / "whatif.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Say what to vary: --time_to_reperfusion_h 0:48:6 --tici 0,2a,2b,3"),
        (("--t", "1"), "--t could be time_to_reperfusion_h or tici"),
        (("--nihss", "1"), "There is no option or tabular value 'nihss'"),
        (("--time", "-1:3:1"), "time_to_reperfusion_h is -1 h"),
        (("--tici", "0", "--tici", "3"), "--tici is given twice"),
        (("--tici", "0", "--tabular", "age=200"), "age is 200 y"),
        (("--tici", "0", "--tabular", "age"), "--tabular is NAME=VALUE"),
    ],
)
def test_the_command_refuses_in_one_line(model_folder, zoo_command, words, message):
    done = zoo_command("whatif", "vnet.tiny_stroke", *scans(model_folder), *words)
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1
