"""Detectors: exact where arithmetic is known, as scikit-learn's where it has the same; leaving one out is real."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import OneClassSVM

from zoo.normative import detectors, one_class_svm
from zoo.normative.calibration import Calibration
from zoo.normative.model import NormativeModel, find_places, fit, gather, make_detector

COUNT, VOXELS, SIZE = 12, 5, 7


def latents(seed=0, count=COUNT):
    draw = np.random.default_rng(seed)
    mix = draw.standard_normal((VOXELS, SIZE, SIZE)) / 2 + np.eye(SIZE)
    codes = np.einsum("nvd,vde->nve", draw.standard_normal((count, VOXELS, SIZE)), mix)
    return (codes + draw.standard_normal((1, VOXELS, SIZE)) * 3).astype(np.float32)


def fresh(chosen, codes, out):
    """The score of one control by a detector that never saw it."""
    others = np.delete(codes, out, axis=0)
    return chosen.fit(others).score(codes[out : out + 1])[0]


@pytest.mark.parametrize("chosen", [detectors.Centre(), detectors.Nearest(k=3)], ids=lambda one: one.name)
def test_leaving_one_out_is_what_a_fresh_fit_gives(chosen):
    codes = latents()
    fitted = chosen.fit(codes)
    for out in (0, 5, COUNT - 1):
        np.testing.assert_allclose(fitted.null[out], fresh(chosen, codes, out), rtol=3e-3)


def test_mahalanobis_against_the_matrix_itself():
    codes, others, shrinkage = latents(), latents(1, 3), 0.3
    fitted = detectors.Mahalanobis(shrinkage).fit(codes)
    found = fitted.score(others)
    for voxel in range(VOXELS):
        some = codes[:, voxel].astype(float)
        covariance = np.cov(some.T, bias=True)
        ball = shrinkage * np.trace(covariance) / SIZE * np.eye(SIZE)
        inverse = np.linalg.inv((1 - shrinkage) * covariance + ball)
        away = others[:, voxel] - some.mean(0)
        np.testing.assert_allclose(found[:, voxel], np.sqrt(np.einsum("nd,de,ne->n", away, inverse, away)), rtol=2e-3)
        left = np.delete(some, 4, axis=0)
        inverse = np.linalg.inv((1 - shrinkage) * np.cov(left.T, bias=True) + ball)
        away = some[4] - left.mean(0)
        assert fitted.null[4, voxel] == pytest.approx(np.sqrt(away @ inverse @ away), rel=2e-3)


def test_moments_along_all_axes_are_mahalanobis():
    codes, others = latents(), latents(1, 3)
    wanted = detectors.Mahalanobis(0.2).fit(codes)
    found = detectors.Moments(0.2, axes=None).fit(codes)
    np.testing.assert_allclose(found.score(others), wanted.score(others), rtol=5e-3)
    np.testing.assert_allclose(found.null, wanted.null, rtol=5e-3)


def test_moments_keep_the_axes_of_most_variance():
    codes = latents(count=40) * np.array([1, 30, 1, 20, 1, 1, 1], np.float32)
    fitted = detectors.Moments(0.1, axes=2).fit(codes)
    kept = np.linalg.norm(fitted.shared["axes"], axis=1)
    assert set(np.argsort(kept)[-2:]) == {1, 3} and kept[[1, 3]].min() > 0.98
    assert fitted.state["mean"].shape == (VOXELS, 2) and fitted.state["factor"].shape == (VOXELS, 3)
    alone = detectors.Mahalanobis(0.1).fit(codes @ fitted.shared["axes"])
    np.testing.assert_allclose(fitted.null, alone.null, rtol=1e-4)


def test_nearest_against_scikit_learn():
    codes, others = latents(), latents(3, 4)
    found = detectors.Nearest(k=3).fit(codes).score(others)
    for voxel in range(VOXELS):
        wanted, _ = NearestNeighbors(n_neighbors=3).fit(codes[:, voxel]).kneighbors(others[:, voxel])
        np.testing.assert_allclose(found[:, voxel], wanted.mean(1), rtol=3e-3)


@pytest.mark.parametrize("nu", [0.03, 0.1, 0.5])
def test_one_class_machines_against_scikit_learn(nu):
    codes, others = latents(count=30), latents(3, 4)
    found = detectors.OneClass(nu=nu).fit(codes).score(others)
    for voxel in range(VOXELS):
        machine = OneClassSVM(nu=nu, tol=1e-6).fit(codes[:, voxel].astype(float))
        np.testing.assert_allclose(found[:, voxel], -machine.decision_function(others[:, voxel]), atol=4e-3)


def test_one_class_null_never_saw_the_control():
    codes = latents(count=30)
    fitted = detectors.OneClass(nu=0.1).fit(codes)
    gamma = float(one_class_svm.scale_gamma(np.swapaxes(codes, 0, 1))[2])
    machine = OneClassSVM(nu=0.1, gamma=gamma, tol=1e-6).fit(np.delete(codes[:, 2], 7, axis=0).astype(float))
    assert fitted.null[7, 2] == pytest.approx(-machine.decision_function(codes[7:8, 2])[0], abs=5e-3)


def test_one_machine_a_patient_finds_what_is_rare():
    codes = np.random.default_rng(0).standard_normal((500, 4)).astype(np.float32)
    codes[123] += 9
    assert np.argmax(detectors.score_within_person(codes, nu=0.1)) == 123


def test_projection_onto_the_capped_simplex():
    found = one_class_svm.project(np.array([[3.0, 0.2, -1.0], [0.0, 0.0, 0.0]]), np.ones(3), 1.5)
    np.testing.assert_allclose(found, [[1.0, 0.5, 0.0], [0.5, 0.5, 0.5]], atol=1e-5)


def test_shards_are_kept_and_used(tmp_path, monkeypatch):
    codes = latents()
    monkeypatch.setattr(detectors, "BLOCK", 2)
    whole = detectors.Centre().fit(codes, shards=tmp_path)
    assert len(list(tmp_path.glob("centre_*.npz"))) == 3

    def never(*_):
        raise AssertionError("a finished block was made again")

    monkeypatch.setattr(detectors.Centre, "learn", never)
    again = detectors.Centre().fit(codes, shards=tmp_path)
    np.testing.assert_array_equal(again.null, whole.null)


def test_calibrated_share_of_controls_and_of_others():
    draw = np.random.default_rng(0)
    null = draw.gamma(2.0, size=(40, 20000)) * np.linspace(1, 5, 20000)
    calibration = Calibration.of(null)
    others = draw.gamma(2.0, size=(20, 20000)) * np.linspace(1, 5, 20000)
    for z, share in ((1.6449, 0.05), (3.0902, 0.001)):
        assert np.mean(calibration.z(others) > z) == pytest.approx(share, rel=0.35)
    beyond = calibration.z(np.stack([null.max(0) * 2, null.max(0) * 4]))
    assert np.all(beyond[1] > beyond[0])


def test_normative_model_comes_back_from_its_file(tmp_path):
    region = np.zeros((6, 7, 8), bool)
    region[1:5, 2:6, 1:7] = True
    where = find_places(region, step=2)
    assert where.shape[1] == 3
    assert all(region[tuple(2 * place)] for place in where.astype(int))
    draw = np.random.default_rng(0)
    grids = draw.standard_normal((11, 3, 4, 4, SIZE)).astype(np.float32)
    codes = np.stack([gather(one, where) for one in grids])
    template = np.ones((6, 7, 8), np.uint8)
    for name in detectors.DETECTORS:
        model = fit(codes, where, make_detector(name), step=2, template=template)
        back = NormativeModel.read(model.write(tmp_path / f"{name}.npz"))
        np.testing.assert_array_equal(back.z_map(grids[0]), model.z_map(grids[0]))
        assert back.fitted.detector == model.fitted.detector
        assert np.all(model.z_map(grids[0])[~region[::2, ::2, ::2]] == 0)


def test_bad_input_is_told(tmp_path):
    with pytest.raises(ValueError, match="of 3 controls or more, got shape"):
        detectors.Centre().fit(np.zeros((2, 4, 3), np.float32))
    with pytest.raises(ValueError, match="knows 5 voxels"):
        detectors.Centre().fit(latents()).score(np.zeros((1, 4, SIZE), np.float32))
    with pytest.raises(ValueError, match="over 0 and at most 1, got 0"):
        detectors.OneClass(nu=0).fit(latents())
    with pytest.raises(ValueError, match="nearest"):
        make_detector("nearst")
    (tmp_path / "other.npz").write_bytes(b"no npz")
    with pytest.raises(ValueError, match="is no normative model"):
        NormativeModel.read(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError, match="zoo fit-normative FOLDER"):
        NormativeModel.read(tmp_path / "nothing.npz")
