"""Stroke from end to end on a folder as ISLES 2017 lays it out: every case back on its own grid, bad ones named."""

import csv
import dataclasses
import json
import re

import keras
import nibabel
import numpy as np
import pytest
from scipy import ndimage
from support.cards import make_card
from support.tasks import BALL

import zoo
from zoo.datasets.cases import cases, fitting
from zoo.hub.card import Label, Step
from zoo.hub.tabular import Tabular
from zoo.inference.cohort import predict_many
from zoo.inference.settings import Settings

CHANNELS = ("ADC", "CBV", "CBF", "MTT", "TTP", "Tmax")
FILES = {"CBV": "rCBV", "CBF": "rCBF"}
GRIDS = {1: (48, 40, 19), 2: (64, 64, 24), 4: (32, 32, 25), 48: (48, 48, 30)}  # 3 is not in the data set
SPACING_MM = {1: (1.2, 1.2, 6.5), 2: (0.9, 0.9, 6.5), 4: (1.8, 1.8, 5.0), 48: (1.2, 1.2, 5.0)}
TABULAR = (
    Tabular("time_to_reperfusion_h", "h", 0, 24, 6, 4),
    Tabular("tici", "", 0, 1, 0.5, 0.4, {"0": 0, "2a": 0.35, "2b": 0.7, "3": 1}),
)
TABLE = "Case,mRS,days,TICI,TSS,TTT\ntraining_1,2,90,2B,201,135\ntraining_2,1,90,3,66,240\ntraining_48,4,88,,90,\n"
NAME = "vnet.tiny_stroke"
IDS = ["training_1", "training_2", "training_4", "training_48"]


def affine(number):
    """Left to right or right to left, tilted as scanners tilt."""
    turn = nibabel.eulerangles.euler2mat(0, 0.05 * number % 0.3, 0.1)
    sides = np.diag([-1 if number % 2 else 1, 1, 1])
    return nibabel.affines.from_matvec(turn @ sides @ np.diag(SPACING_MM[number]), [10 * number, -30, 5])


def write(folder, key, data, at):
    path = folder / key / f"{key}.nii"
    path.parent.mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(data, at), path)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Four cases; of the second the mask is 0 and 255, in the third there is no brain."""
    root = tmp_path_factory.mktemp("ISLES2017") / "Training"
    for number, shape in GRIDS.items():
        folder, at = root / f"training_{number}", affine(number)
        inside = np.zeros(shape, bool)
        inside[4:-4, 5:-3, 1:-1] = True
        for place, name in enumerate(CHANNELS):
            values = np.random.default_rng(10 * number + place).uniform(1, 1000, shape)
            data = np.where(inside, 1000 if number == 4 else values, 0).astype(np.float32)
            write(folder, f"VSD.Brain.XX.O.MR_{FILES.get(name, name)}.{128000 + 10 * number + place}", data, at)
        write(folder, f"VSD.Brain.XX.O.MR_4DPWI.{127000 + number}", np.ones((*shape, 1, 3), np.int16), at)
        lesion = np.zeros(shape, np.uint8)
        lesion[10:20, 10:20, 5:12] = 255 if number == 2 else 1
        write(folder, f"VSD.Brain.XX.O.OT.{129000 + number}", lesion, at)
    (root / "ISLES2017_Training.csv").write_text(TABLE)
    return root


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A folder with a fresh V-Net that shrinks z less than x and y, its FiLM drawn."""
    folder = tmp_path_factory.mktemp("home")
    keras.utils.set_random_seed(3)
    arguments = {
        "input_shape": (None, None, None, 6),
        "num_classes": 2,
        "filters": (2, 3, 4),
        "strides": ((2, 2, 1), (2, 2, 2)),
        "conditioning": 4,
    }
    made = make_card(
        channels=CHANNELS,
        labels={0: Label("background", 0), 1: Label("infarct", 1)},
        kind="segmentation",
        activation="softmax",
        patch=(32, 32, 16),
        divisor=(4, 4, 2),
        preprocessing=(Step("z_score", {"mask": "nonzero"}),),
    )
    card_input = dataclasses.replace(made.input, tabular=TABULAR)
    made = dataclasses.replace(made, name=NAME, builder="vnet", arguments=arguments, input=card_input)
    network = zoo.load("vnet", **arguments)
    draw = np.random.default_rng(1)
    for weight in network.weights:
        if "film" in weight.path:
            weight.assign(draw.normal(0, 0.3, weight.shape))
    zoo.save(network, folder / NAME, made)
    return folder


def voxels(path):
    return np.asanyarray(nibabel.load(path).dataobj)


def maps(tree, number):
    training_case = next(case for case in fitting(tree, CHANNELS) if case.id == f"training_{number}")
    return dict(training_case.channels)


def test_the_raw_series_is_left_out_and_every_case_has_six_maps(tree):
    listed = cases(tree)
    assert [case.id for case in listed] == IDS
    assert all(len(case.channels) == 6 and "4DPWI" not in str(case.files) for case in listed)
    assert nibabel.load(next((tree / "training_1").glob("*4DPWI*/*.nii"))).shape == (*GRIDS[1], 1, 3)
    assert listed[0].tabular["time_to_reperfusion_h"] == 2.25 and "tici" not in listed[3].tabular


def test_a_cohort_comes_back_on_its_own_grids_under_its_own_values(tree, model_folder, tmp_path):
    settings = Settings(overlap=0.0, probabilities=True)
    report = predict_many(model_folder / NAME, fitting(tree, CHANNELS), tmp_path, settings=settings)
    assert list(report.done) == ["training_1", "training_2", "training_48"]
    assert re.search(r"There is no brain in .*ADC.*: no channel", str(report.failed["training_4"]))
    tabular = {1: {"time_to_reperfusion_h": 2.25, "tici": "2b"}, 2: {"time_to_reperfusion_h": 4, "tici": "3"}, 48: {}}
    for number, values in tabular.items():
        image = nibabel.load(report.done[f"training_{number}"])
        assert image.shape == (*GRIDS[number], 2)
        np.testing.assert_allclose(image.affine, affine(number), atol=1e-5)
        predicted = zoo.predict(model_folder / NAME, maps(tree, number), tabular=values, settings=settings)
        np.testing.assert_array_equal(voxels(report.done[f"training_{number}"]), np.asanyarray(predicted.dataobj))
    other = zoo.predict(model_folder / NAME, maps(tree, 1), settings=settings)
    assert np.abs(np.asanyarray(other.dataobj) - voxels(report.done["training_1"])).max() > 1e-3  # the values count


def test_the_command_on_a_data_set(tree, zoo_command, tmp_path):
    done = zoo_command(
        "predict", NAME, tree, "--out", tmp_path, "--tabular", "time_to_reperfusion_h=4,tici=2b", "--json"
    )
    assert done.exit_code == 1 and "training_4: There is no brain in " in done.stderr
    rows = json.loads(done.stdout)
    assert [row["case"] for row in rows] == IDS and "error" in rows[2]
    assert sorted(path.name for path in tmp_path.glob("*.nii.gz")) == [
        f"{name}_tiny_stroke.nii.gz" for name in ("training_1", "training_2", "training_48")
    ]


def test_the_command_on_one_case(tree, model_folder, zoo_command, tmp_path):
    words = [f"{name}={path}" for name, path in maps(tree, 1).items()]
    done = zoo_command(
        "predict", NAME, *words, "--out", tmp_path / "x.nii.gz", "--tabular", "time_to_reperfusion_h=4,tici=2b"
    )
    assert done.exit_code == 0, done.output
    values = {"time_to_reperfusion_h": 4, "tici": "2b"}
    expected = zoo.predict(model_folder / NAME, maps(tree, 1), tabular=values)
    np.testing.assert_array_equal(voxels(tmp_path / "x.nii.gz"), np.asanyarray(expected.dataobj))


BAD = {
    "missing channel": ([0, 1, 2, 3, 4], "", "takes ADC=FILE", "Tmax is missing in"),
    "unknown name": (range(6), "tim=4", "There is no tabular value 'tim'. Did you mean 'time_to_reperfusion_h'?", ""),
    "time below zero": (range(6), "time_to_reperfusion_h=-1", "time_to_reperfusion_h is -1 h", "from 0 to 24 h"),
    "unknown grade": (range(6), "tici=4", "There is no grade of tici '4'", "Choose from: 0, 2a, 2b, 3"),
    "a word for a number": (range(6), "time_to_reperfusion_h=soon", "'soon', and a number in h is expected", ""),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_arguments_are_one_line_and_code_2(tree, zoo_command, what):
    places, tabular, *messages = BAD[what]
    channels = list(maps(tree, 1).items())
    done = zoo_command("predict", NAME, *(f"{channels[k][0]}={channels[k][1]}" for k in places), "--tabular", tabular)
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
    assert all(message in done.stderr for message in messages), done.stderr


def test_channels_on_two_grids_are_refused_with_the_difference(tree, zoo_command, tmp_path):
    channels = maps(tree, 1)
    moved = affine(1)
    moved[0, 3] += 1.7
    nibabel.save(nibabel.Nifti1Image(voxels(channels["TTP"]), moved), tmp_path / "TTP.nii")
    done = zoo_command(
        "predict", NAME, *(f"{name}={path}" for name, path in {**channels, "TTP": tmp_path / "TTP.nii"}.items())
    )
    assert done.exit_code == 1 and done.stderr.count("\n") == 1
    assert "'TTP' and 'ADC' lie on different grids: the same voxel is up to 1.70 mm apart" in done.stderr


def test_evaluation_measures_the_good_cases_and_names_the_bad(tree, model_folder, tmp_path):
    task = BALL.replace(
        name="tiny_stroke",
        builder="vnet",
        channels=CHANNELS,
        labels={0: ("background", 0), 1: ("infarct", 1)},
        lesions=("infarct",),
        preprocessing=({"name": "z_score", "mask": "nonzero"},),
    )
    evaluation = zoo.evaluate(task, model_folder / NAME, tree, out=tmp_path, settings=Settings(overlap=0.0))
    assert list(evaluation.scores) == ["training_1", "training_48"]
    assert (
        "holds the value 255 beside 0 (700 voxels), and 1 is expected. Divide a mask of 0 and 255 by 255"
        in evaluation.failed["training_2"]
    )
    assert "There is no brain" in evaluation.failed["training_4"]
    truth = voxels(next((tree / "training_48").glob("*.OT.*/*.nii")))
    predicted = voxels(tmp_path / "predictions" / "training_48.nii.gz")
    overlap = 2 * (truth * predicted).sum() / (truth.sum() + predicted.sum())
    assert evaluation.scores["training_48"][1]["dice"] == pytest.approx(overlap)
    pieces, num_pieces = ndimage.label(predicted, np.ones((3, 3, 3)))
    scores = evaluation.scores["training_48"][1]
    hits = np.unique(pieces[truth > 0])
    assert scores["lesion_lesions"] == 1 and scores["lesion_sensitivity"] == float(overlap > 0)
    assert scores["lesion_false_positives"] == num_pieces - (hits > 0).sum()
    rows = list(csv.DictReader((tmp_path / "cases.csv").read_text().splitlines()))
    assert [row["case"] for row in rows] == ["training_1", "training_48", "training_2", "training_4"]
    summary = {row["metric"] for row in csv.DictReader((tmp_path / "summary.csv").read_text().splitlines())}
    assert {"dice", "hd_mm", "assd_mm", "volume_error_ml", "lesion_f1"} <= summary
