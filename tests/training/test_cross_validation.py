"""Folds by subject, out-of-fold predictions, the ensemble, and going on."""

import nibabel
import numpy as np
import pytest
from support.tasks import BALL

from zoo.datasets import splits
from zoo.training import fit
from zoo.training.experiments import cross_validation

STEPS = ({"name": "resample", "spacing_mm": [1.0, 1.0, 1.0]}, {"name": "z_score"})
TASK = BALL.replace(
    samples=None, preprocessing=STEPS, patch=(16, 16, 16), arguments={"filters": (2, 4)}, validation_batches=1
)
OPTIONS = fit.TrainOptions(steps=25, precision="float32")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for case in range(4):
        labels = np.zeros((16, 20, 24), np.uint8)
        labels[4:10, 5:11, 6 + case : 12 + case] = 7
        noise = np.random.default_rng(case).normal(100, 3, labels.shape)
        (root / f"sub-{case}").mkdir()
        for name, array in (("T1w", (noise + 10 * labels).astype("float32")), ("labels", labels)):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), root / f"sub-{case}" / f"{name}.nii.gz")
    return root


@pytest.fixture(scope="module")
def validated(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("folds")
    return out, cross_validation.cross_validate(TASK, data, out, folds=2, options=OPTIONS)


@pytest.mark.slow
def test_every_case_is_predicted_by_a_model_that_has_not_seen_it(validated):
    out, rows = validated
    parts = splits.read(out / "splits.json")
    assert sorted(case for part in parts for case in part.validation) == [f"sub-{case}" for case in range(4)]
    assert not any(set(part.train) & set(part.validation) for part in parts)
    assert len(list((out / cross_validation.OUT_OF_FOLD).glob("*_ball.nii.gz"))) == 4
    dice = next(row for row in rows if row["label"] == "ball" and row["metric"] == "dice")
    assert dice["n"] == 4 and 0 <= dice["mean"] <= 1


@pytest.mark.slow
def test_repeating_keeps_finished_folds(validated, data, monkeypatch):
    out, rows = validated
    monkeypatch.setattr(fit.LocalTrainer, "fit", lambda *_: pytest.fail("trained again"))
    again = cross_validation.cross_validate(TASK, data, out, folds=2, options=OPTIONS)
    assert repr(again) == repr(rows)  # in words, for NaN is not NaN
    with pytest.raises(ValueError, match=r"has 2 folds, asked for 3"):
        cross_validation.cross_validate(TASK, data, out, folds=3, options=OPTIONS)


@pytest.mark.slow
def test_the_ensemble_is_the_mean_of_the_folds(validated, data):
    out, _ = validated
    ensemble = cross_validation.Ensemble.of(out, TASK)
    scan = data / "sub-1" / "T1w.nii.gz"
    mean = np.mean([np.asanyarray(member(scan).dataobj) for member in ensemble.members], axis=0)
    averaged = ensemble(scan)
    np.testing.assert_array_equal(np.asanyarray(averaged.dataobj), 7 * (mean.argmax(-1) == 1))
    np.testing.assert_array_equal(averaged.affine, nibabel.load(scan).affine)


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match=r"synthetic data have none: give a folder"):
        cross_validation.cross_validate(BALL, "synthetic", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"No fold in .* has a finished unet3d.ball"):
        cross_validation.Ensemble.of(tmp_path, TASK)
