"""Tables of lesions: boxes measured by hand through the whole way from file to CSV, one scan and a cohort."""

import csv
import dataclasses
import math

import nibabel
import numpy as np
import pytest
from support.cards import make_card
from support.networks import linear, threshold

import zoo
from zoo.hub.card import Label, Step
from zoo.inference.cohort import predict_many
from zoo.inference.predictor import Predictor
from zoo.workflows.lesion_tables import LesionWriter, read_lesions, read_regions, table_of, write_lesions

# Left to the first axis' end, the second axis downwards, voxels of 2 x 1 x 1.5 mm.
AFFINE = np.array([[-2.0, 0, 0, 30], [0, 0, 1.5, -20], [0, -1.0, 0, 40], [0, 0, 0, 1]])
BALL = 4 * 4 * 2  # voxels of the compact lesion, 3 mm3 each


def lesion_card(**changes):
    names = {0: Label("background", 0), 1: Label("lacune", 5)}
    return make_card(kind="segmentation", activation="softmax", labels=names, **changes)


def scan(path=None):
    data = np.full((16, 24, 32), 0.01, np.float32)
    data[2:6, 10:14, 8:10] = 1.0  # 8 x 4 x 3 mm
    data[10, 3, 4:24] = 1.0  # 2 x 1 x 30 mm
    image = nibabel.Nifti1Image(data, AFFINE)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(image, path)
    return image if path is None else path


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A trained model of one convolution that calls bright voxels lacunes."""
    folder = tmp_path_factory.mktemp("home")
    arguments = {"input_shape": (None, None, None, 1), "num_classes": 2, "filters": (2, 4)}
    for name, task in (("unet3d.tiny_lacunes", "tests"), ("unet3d.tiny_structures", "brain_structures")):
        made = dataclasses.replace(lesion_card(), name=name, builder="unet3d", arguments=arguments, task=task)
        zoo.save(zoo.load("unet3d", **arguments), folder / name, made)
    return folder


def test_each_lesion_by_hand_in_world_millimetres():
    ball, line = zoo.lesions(threshold(), scan(), card=lesion_card())
    assert [ball["lesion"], line["lesion"]] == [1, 2] and ball["label"] == "lacune" and ball["region"] == "unknown"
    centre = AFFINE @ [3.5, 11.5, 8.5, 1]
    assert [ball["x_mm"], ball["y_mm"], ball["z_mm"]] == pytest.approx(centre[:3].tolist(), abs=1e-4)
    assert ball["volume_mm3"] == pytest.approx(BALL * 3)
    assert ball["diameter_mm"] == pytest.approx((6 * BALL * 3 / math.pi) ** (1 / 3))
    assert (ball["elongation"], line["elongation"]) == pytest.approx((8 / 3, 30 / 1), rel=1e-3)
    assert ball["confidence"] == pytest.approx(1 / (1 + math.exp(-20)), abs=1e-6)


def test_a_scan_of_turned_axes_is_filtered_by_its_true_shape():
    """The step sees each axis with its own spacing: 8 x 4 x 3 mm is 2.7 times as long as wide, and no more."""
    for limit, left in ((2.5, 0), (2.8, 1)):
        step = Step("select_candidates", {"diameter_mm": [3, 15], "elongation": limit})
        assert len(zoo.lesions(threshold(), scan(), card=lesion_card(postprocessing=(step,)))) == left


def test_labels_and_confidence_are_those_of_prediction():
    predictor = Predictor(threshold(0.3), card=lesion_card())
    labels, sure = predictor.predict_with_confidence(predictor.prepare(scan()))
    again = zoo.predict(threshold(0.3), scan(), card=lesion_card())
    np.testing.assert_array_equal(labels.dataobj, again.dataobj)
    both = np.asanyarray(zoo.predict(threshold(0.3), scan(), card=lesion_card(), probabilities=True).dataobj)
    np.testing.assert_array_equal(sure.dataobj, both[..., 1])
    np.testing.assert_array_equal(sure.affine, AFFINE)


def test_regions_on_another_grid_by_a_table_beside_them(tmp_path):
    places = np.zeros((20, 20, 20), np.uint8)
    at = AFFINE @ [3.5, 11.5, 8.5, 1]
    affine = np.diag([3.0, 3, 3, 1])
    affine[:3, 3] = at[:3] - 30  # the compact lesion lies in voxel 10
    places[10, 10, 10] = 2
    nibabel.save(nibabel.Nifti1Image(places, affine), tmp_path / "places.nii.gz")
    lesions = zoo.lesions(threshold(), scan(), card=lesion_card(), regions=tmp_path / "places.nii.gz")
    assert [row["region"] for row in lesions] == ["left_white", "outside"]
    (tmp_path / "places.tsv").write_text("index\tname\n2\tthalamus\n")
    assert read_regions(tmp_path / "places.nii.gz").name_at(at[:3]) == "thalamus"
    assert read_regions(tmp_path / "places.nii.gz").name_at([1e4, 0, 0]) == "outside"
    (tmp_path / "places.tsv").write_text("value\tname\n2\tthalamus\n")
    with pytest.raises(ValueError, match="must have the columns index"):
        read_regions(tmp_path / "places.nii.gz")


def test_one_label_of_several_and_no_other():
    both = make_card(
        kind="segmentation",
        activation="softmax",
        labels={0: Label("background", 0), 1: Label("lacune", 5), 2: Label("wmh", 6)},
    )
    network = linear([[-20.0, 20.0, 0.0]], [10.0, -10.0, -5.0])
    assert {row["label"] for row in zoo.lesions(network, scan(), card=both, labels=["lacune"])} == {"lacune"}
    assert zoo.lesions(network, scan(), card=both, labels=["wmh"]) == []
    with pytest.raises(ValueError, match="Did you mean 'lacune'"):
        zoo.lesions(network, scan(), card=both, labels=["lacun"])


def test_a_cohort_goes_on_where_a_map_or_its_table_is_missing(tmp_path):
    for name in ("a", "b", "c"):
        scan(tmp_path / "scans" / f"{name}.nii.gz")
    (tmp_path / "scans" / "d.nii.gz").write_bytes(b"no scan")
    writer = LesionWriter(None, None)
    options = {"card": lesion_card(), "writer": writer}
    first = predict_many(threshold(), tmp_path / "scans", tmp_path / "out", **options)
    assert list(first.done) == ["a", "b", "c"] and list(first.failed) == ["d"]
    table_of(tmp_path / "out" / "b_test.nii.gz").unlink()
    again = predict_many(threshold(), tmp_path / "scans", tmp_path / "out", **options)
    assert list(again.done) == ["b"] and list(again.kept) == ["a", "c"]
    rows = read_lesions(table_of(tmp_path / "out" / "b_test.nii.gz"))
    assert [row["case"] for row in rows] == ["b_test", "b_test"] and float(rows[0]["volume_mm3"]) == BALL * 3
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_a_case_whose_name_is_a_formula_is_quoted_and_its_numbers_are_not(tmp_path):
    rows = zoo.lesions(threshold(), scan(), card=lesion_card())
    path = write_lesions(tmp_path / "all.csv", {"=HYPERLINK(1)": rows, "-2": rows})
    read = read_lesions(path)
    assert [row["case"] for row in read] == ["'=HYPERLINK(1)"] * 2 + ["-2"] * 2
    assert [float(row["y_mm"]) for row in read[:2]] == pytest.approx([row["y_mm"] for row in rows], abs=1e-3)


def test_the_command_writes_one_table_of_all_scans(zoo_command, tmp_path):
    paths = [scan(tmp_path / f"{name}.nii.gz") for name in ("a", "b")]
    done = zoo_command(
        "predict", "unet3d.tiny_lacunes", *paths, "--out", tmp_path / "out", "--lesions", tmp_path / "all.csv"
    )
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((tmp_path / "all.csv").read_text().splitlines()))
    beside = [read_lesions(tmp_path / "out" / f"{name}_tiny_lacunes_lesions.csv") for name in ("a", "b")]
    assert [row["case"] for row in rows] == ["a"] * len(beside[0]) + ["b"] * len(beside[1])
    assert [row["x_mm"] for row in rows] == [row["x_mm"] for part in beside for row in part]
    outcome = zoo_command(
        "predict", "unet3d.tiny_lacunes", paths[0], "--out", tmp_path / "x.nii.gz", "--lesions", tmp_path / "x.csv"
    )
    assert outcome.exit_code == 0 and (tmp_path / "x.csv").read_text().startswith("case,lesion,label,x_mm")


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("unet3d.tiny_lacunes", ["--regions", "x.nii"], "add --lesions"),
        ("unet3d.tiny_lacunes", ["--lesions", "x.csv", "--regions", "nowhere.nii"], "nowhere.nii"),
        ("unet3d.tiny_lacunes", ["--lesions", "x.csv", "--probabilities"], "leave --probabilities out"),
        ("unet3d.tiny_structures", ["--lesions", "x.csv"], "finds no lesions"),
    ],
)
def test_bad_arguments_are_named_with_code_2(zoo_command, tmp_path, model, words, message):
    done = zoo_command("predict", model, scan(tmp_path / "a.nii.gz"), "--out", tmp_path / "out", *words)
    assert done.exit_code == 2 and message in done.output
