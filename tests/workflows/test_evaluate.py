"""Evaluation end to end: tables, report, a bad case, an interrupted run, a network that is right by construction."""

import csv
import json
import shutil

import keras
import nibabel
import numpy as np
import pytest
from support.tasks import BALL

import zoo
from zoo.hub import card as cards
from zoo.inference import structure_volumes
from zoo.inference.settings import Settings
from zoo.training.run import model_card
from zoo.workflows import evaluate

STEPS = ({"name": "resample", "spacing_mm": [1.0, 1.0, 1.0]},)
TASK = BALL.replace(arguments={"filters": (2, 4)}, preprocessing=STEPS, patch=(16, 16, 16))
CONFIG = {"source": "synthetic", "seed": 0, "steps": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three cases on different grids; the third has labels on another grid."""
    root = tmp_path_factory.mktemp("data")
    for number, shape in enumerate([(16, 24, 32), (24, 16, 20), (20, 20, 20)]):
        labels = np.zeros(shape, np.uint8)
        labels[4:9, 5:10, 6 + number : 11 + number] = 7
        image = labels / 7 * 4 - 2 + 0.1
        folder = root / f"sub-{number:02d}"
        folder.mkdir()
        affine = np.diag([2.0, 1, 1, 1]) if number == 1 else np.eye(4)
        nibabel.save(nibabel.Nifti1Image(image.astype("float32"), affine), folder / "T1w.nii.gz")
        affine = np.diag([1.0, 1, 3, 1]) if number == 2 else affine
        nibabel.save(nibabel.Nifti1Image(labels, affine), folder / "labels.nii.gz")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder whose network thresholds the image at 0: the answer is the truth."""
    out = tmp_path_factory.mktemp("run")
    model = zoo.load("unet3d", input_shape=(None, None, None, 1), num_classes=2, filters=(2, 4), dropout=0.1)
    for weight in model.weights:
        if "seed" not in weight.path:
            weight.assign(keras.ops.ones_like(weight) if "variance" in weight.path else keras.ops.zeros_like(weight))
    for name, layer in ((layer.name, layer) for layer in model.layers):
        if "norm" in name:
            layer.gamma.assign(keras.ops.ones_like(layer.gamma))
        elif name in ("encoder_0_conv_0", "encoder_0_conv_1", "decoder_0_conv_0", "decoder_0_conv_1"):
            kernel = np.zeros(layer.kernel.shape, "float32")
            # The first channel is carried from layer to layer; the decoder finds it behind the up-sampled ones.
            kernel[1, 1, 1, 4 if name == "decoder_0_conv_0" else 0, 0] = 1
            layer.kernel.assign(kernel)
    model.get_layer("logits").kernel.assign(np.array([-1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 1, 2, 2))
    model.get_layer("logits").bias.assign([0.5, -0.5])
    task = TASK.replace(arguments={"filters": (2, 4), "dropout": 0.1})
    (out / "config.json").write_text(json.dumps(CONFIG))
    model_card.publish(model, task, out, progress={"seconds": 60})
    return out


@pytest.fixture(scope="module")
def evaluation(run, data):
    return zoo.evaluate(TASK, run, data)


def test_a_right_network_scores_one_on_every_grid(evaluation):
    assert {case: scores[7]["dice"] for case, scores in evaluation.scores.items()} == {"sub-00": 1.0, "sub-01": 1.0}
    assert evaluation.scores["sub-01"][7]["volume_ml"] == pytest.approx(0.25)


def test_a_bad_case_is_named_and_the_rest_finish(evaluation):
    assert list(evaluation.failed) == ["sub-02"] and "mm" in evaluation.failed["sub-02"]
    rows = list(csv.DictReader((evaluation.folder / "cases.csv").read_text().splitlines()))
    assert [row["case"] for row in rows] == ["sub-00", "sub-01", "sub-02"] and rows[2]["error"]
    summary = json.loads((evaluation.folder / "summary.json").read_text())
    assert summary["cases"] == 2 and "sub-02" in summary["failed"]


def test_the_report_holds_everything(evaluation):
    page = (evaluation.folder / "report.html").read_text()
    for heading in ("Summary", "Distributions", "Calibration", "Every case and structure", "Left out", "Runtime"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("data:image/png;base64,") >= 3


def test_an_interrupted_evaluation_goes_on(evaluation, run, data, monkeypatch):
    def only_the_bad_one(_, case, path, lesions):
        assert case.id == "sub-02", f"{case.id} was measured again"
        raise ValueError("still bad")

    monkeypatch.setattr(evaluate, "_measure", only_the_bad_one)
    again = zoo.evaluate(TASK, run, data)
    assert again.scores == evaluation.scores


def test_scores_of_other_settings_or_files_are_measured_again(evaluation, run, data, tmp_path, monkeypatch, capsys):
    out, own, measured = tmp_path / "evaluation", tmp_path / "data", []
    shutil.copytree(evaluation.folder, out)
    shutil.copytree(data, own)
    shutil.rmtree(own / "sub-02")

    def note(predictor, case, path, task):
        measured.append(case.id)
        return {key: json.loads(path.read_text())[key] for key in ("seconds", "scores", "candidates")}

    monkeypatch.setattr(evaluate, "_measure", note)
    monkeypatch.setattr(evaluate, "_write_report", lambda *_: None)
    zoo.evaluate(TASK, run, own, out=out)
    assert measured == []  # the same files in another place
    (own / "sub-01" / "labels.nii.gz").write_bytes((own / "sub-00" / "labels.nii.gz").read_bytes())
    zoo.evaluate(TASK, run, own, out=out)
    assert measured == ["sub-01"]
    zoo.evaluate(TASK, run, own, out=out, settings=Settings(overlap=0.25))
    assert measured == ["sub-01", "sub-00", "sub-01"]
    assert (
        "sub-00 was measured with other weights, settings or files, and is measured again." in capsys.readouterr().err
    )


def test_labels_of_other_values_are_refused_or_mapped(run, data, tmp_path):
    for number in range(2):
        folder = tmp_path / "data" / f"sub-0{number}"
        shutil.copytree(data / folder.name, folder)
        labels = nibabel.load(folder / "labels.nii.gz")
        other = np.where(np.asanyarray(labels.dataobj) == 7, 9, 0).astype(np.float32)
        other[0, 0, 0] = 0.4 * number
        nibabel.save(nibabel.Nifti1Image(other, labels.affine), folder / "labels.nii.gz")
    with pytest.raises(
        ValueError, match=r"None of the 2 cases .*sub-00 holds the value 9 beside 0 \(125 voxels\), and 7"
    ):
        evaluate.evaluate(TASK, run, tmp_path / "data", out=tmp_path / "out")
    mapped = evaluate.evaluate(TASK.replace(label_map={9: 7}), run, tmp_path / "data", out=tmp_path / "out")
    assert mapped.scores["sub-00"][7]["dice"] == 1 and "holds 0.4 (1 voxels are not whole)" in mapped.failed["sub-01"]
    dropped = evaluate.evaluate(TASK.replace(label_map={9: 0}), run, tmp_path / "data", out=tmp_path / "out")
    assert dropped.scores["sub-00"][7]["dice"] == 0


def test_refusals(run, data, tmp_path):
    with pytest.raises(ValueError, match=r"Task 'ball' has no test cases of its own"):
        zoo.evaluate(TASK, run, "synthetic")
    with pytest.raises(ValueError, match=r"holds no finished unet3d.ball"):
        zoo.evaluate(TASK, tmp_path, data)


def test_volumes_and_asymmetry_by_hand(tmp_path):
    labels = {
        0: cards.Label("background", 0),
        1: cards.Label("left_putamen", 12),
        2: cards.Label("right_putamen", 51),
        3: cards.Label("brainstem", 16),
    }
    card = type("Card", (), {"output": cards.Output("segmentation", "softmax", labels)})
    array = np.zeros((16, 24, 32), np.uint8)
    array[:3, 0, 0], array[0, :5, 1], array[0, 0, 2:10] = 12, 51, 16
    image = nibabel.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0]))
    rows = {row["structure"]: row for row in structure_volumes.volumes(image, card)}
    assert rows["left_putamen"]["volume_ml"] == pytest.approx(3 * 6 / 1000)
    assert rows["right_putamen"]["asymmetry_percent"] == pytest.approx(200 * (3 - 5) / 8)
    assert rows["brainstem"]["asymmetry_percent"] == "" and rows["brainstem"]["num_voxels"] == 8
    text = structure_volumes.write_volumes(tmp_path / "v.csv", image, card).read_text().splitlines()
    assert text[0].startswith("structure,value") and text[1] == "left_putamen,12,3,0.0180,-50.0000"
