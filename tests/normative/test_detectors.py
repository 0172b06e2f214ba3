"""Detectors: exact where arithmetic is known, as scikit-learn's where it has the same; leaving one out is real."""

import io
import json
import zipfile

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import OneClassSVM

from zoo.normative import detectors, one_class_svm
from zoo.normative.calibration import Calibration
from zoo.normative.model import NormativeModel, find_neighbours, find_places, fit, gather, make_detector

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


@pytest.fixture
def stored(tmp_path):
    """The arrays of a small normative model's file, and a function that writes others and reads the model."""
    region = np.ones((4, 5, 6), np.uint8)
    where = find_places(region > 0, step=2)
    codes = np.random.default_rng(0).standard_normal((6, len(where), 3)).astype(np.float32)
    path = fit(codes, where, make_detector("moments", axes=2), step=2, template=region).write(tmp_path / "own.npz")
    with np.load(path) as file:
        arrays = dict(file)

    def read(**changes):
        np.savez(path, **{name: array for name, array in (arrays | changes).items() if array is not None})
        return NormativeModel.read(path)

    return arrays, read


def told(arrays, **changes):
    header = json.loads(arrays["told"].tobytes()) | changes
    return np.frombuffer(json.dumps(header).encode(), np.uint8)


def test_arrays_that_do_not_belong_together_are_named(stored):
    arrays, read = stored
    assert read().controls == 6
    sd, mean = arrays["null_sd"], arrays["state_mean"]
    for changes, fault in (
        ({"places": arrays["places"] + np.int16(9)}, r"places must be one or more indices into a grid of \(2, 3, 3\)"),
        ({"places": arrays["places"][:, :2]}, r"places has shape \(18, 2\), and \(any, 3\) is expected"),
        ({"null_sd": sd[:-1]}, "null_sd has 17 rows for 18 places"),
        ({"null_sd": 0 * sd}, "null_sd must be positive"),
        ({"null_steps": arrays["null_steps"][::-1]}, "null_steps must be 1 to .* numbers that rise"),
        ({"state_mean": mean[:3]}, "state_mean has 3 rows for 18 places"),
        ({"state_mean": mean * np.float16("nan")}, r"state_mean holds nan at \[0, 0\]"),
        ({"state_factor": arrays["state_factor"][:, :2]}, "its arrays are none of 'moments'"),
        ({"shared_axes": None}, "its arrays are none of 'moments'"),
        ({"template": arrays["template"][:3]}, r"template has shape \(3, 5, 6\), told.shape is \[4, 5, 6\]"),
        ({"odd": sd}, "'odd' is not expected in it"),
        ({"told": np.frombuffer(b"[" * 100_000, np.uint8)}, "told is not JSON"),
        ({"told": told(arrays, format=2)}, "it has format 2, and this version reads 1"),
        ({"told": told(arrays, controls=10**12)}, "told.controls must be a whole number from 3 to 1000000"),
        (
            {"told": told(arrays, intensities="raw")},
            r"told.intensities must be one of \['local', 'tissue'\], got 'raw'",
        ),
        ({"told": told(arrays, step=0)}, "told.step must be a whole number from 1 to 1000, got 0"),
        ({"told": told(arrays, settings={"detector": "momnts"})}, "There is no detector 'momnts'. Did you mean"),
        ({"told": told(arrays, settings={"detector": "moments", "k": 3})}, "told.settings of moments has 'k'"),
    ):
        with pytest.raises(ValueError, match=rf"own\.npz is no normative model: .*{fault}"):
            read(**changes)


def test_an_encoder_that_gives_nan_is_an_error_and_no_healthy_brain(stored):
    model = stored[1]()
    codes = np.zeros((2, 3, 3, 3), np.float32)
    assert np.isfinite(model.z_map(codes)).all()
    codes[1, 2, 0, 1] = np.nan
    with pytest.raises(ValueError, match=r"The encoder gives nan in code 1 at \[1, 2, 0\] of its grid\. Check"):
        model.z_map(codes)


def test_a_normative_model_that_unpacks_to_gigabytes_is_refused(stored, tmp_path):
    arrays, _ = stored
    rows = (1 << 31) // 600 + 1
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f2", "fortran_order": False, "shape": (rows, 300)})
    np.savez_compressed(tmp_path / "whole.npz", **arrays)
    with zipfile.ZipFile(tmp_path / "whole.npz") as whole, zipfile.ZipFile(tmp_path / "bomb.npz", "w", 8) as bomb:
        for name in whole.namelist():
            if name != "state_factor.npy":
                bomb.writestr(name, whole.read(name))
        info = zipfile.ZipInfo("state_factor.npy")
        bomb.writestr(info, stream.getvalue())
        info.file_size += rows * 600  # the list of the archive announces what would take seconds to pack here
    with pytest.raises(ValueError, match=r"bomb\.npz is no normative model: it unpacks to 2048 MiB, and at most 2048"):
        NormativeModel.read(tmp_path / "bomb.npz")


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


def by_people(count=5, scans=3, seed=0):
    """Codes of people with several scans that are nearly alike, and whose each is."""
    people = np.repeat(latents(seed, count), scans, axis=0)
    codes = people + np.random.default_rng(seed + 1).normal(0, 0.05, people.shape).astype(np.float32)
    return codes, [f"person_{number // scans}" for number in range(len(codes))]


@pytest.mark.parametrize("name", detectors.DETECTORS)
def test_a_control_is_scored_by_other_people_alone(name):
    codes, people = by_people()
    chosen = make_detector(name, **({"axes": None} if name == "moments" else {}))
    fitted = chosen.fit(codes, people=people)
    others = chosen.fit(codes[3:])
    # Half precision keeps what is stored; the null is measured before that.
    np.testing.assert_allclose(fitted.null[:3], others.score(codes[:3]), rtol=2e-2, atol=4e-3)
    assert np.median(fitted.null / chosen.fit(codes).null) > 1.1 or name == "one_class"


def test_one_scan_a_person_is_leaving_one_scan_out():
    codes = latents()
    for name in detectors.DETECTORS:
        plain = make_detector(name).fit(codes).null
        np.testing.assert_array_equal(make_detector(name).fit(codes, people=list("abcdefghijkl")).null, plain)


def test_neighbours_pool_the_controls_codes_and_score_the_place_alone():
    codes, people = by_people()
    near = np.array([[0, 1], [1, 0], [2, 3], [3, 2], [4, 4]])
    fitted = detectors.Moments(0.2, axes=None).fit(codes, people=people, neighbours=near)
    both = np.concatenate([codes[:, :1], codes[:, 1:2]])
    expected = detectors.Moments(0.2, axes=None).fit(both)
    np.testing.assert_allclose(fitted.score(codes)[:, 0], expected.score(codes[:, :1])[:, 0], rtol=1e-2)
    others = np.concatenate([codes[3:, :1], codes[3:, 1:2]])
    left_out = detectors.Moments(0.2, axes=None).fit(others)
    np.testing.assert_allclose(fitted.null[:3, 0], left_out.score(codes[:3, :1])[:, 0], rtol=1e-2)


def test_neighbours_of_places():
    places = find_places(np.ones((4, 3, 3), bool), step=1)
    near = find_neighbours(places, 2)
    assert near.shape == (36, 33)
    np.testing.assert_array_equal(near[:, 0], np.arange(36))
    apart = np.linalg.norm(places[near].astype(int) - places[:, None].astype(int), axis=-1)
    assert apart.max() == 2
    middle = int(np.flatnonzero((places == [1, 1, 1]).all(axis=1))[0])
    assert len(set(near[middle])) == np.sum(np.linalg.norm(places.astype(int) - [1, 1, 1], axis=1) <= 2)


def test_z_of_new_people_is_normal_only_where_people_are_left_out():
    draw = np.random.default_rng(0)
    scans = lambda count: np.repeat(draw.standard_normal((count, 600, 4)), 3, axis=0)  # noqa: E731
    noisy = lambda codes: (codes + 0.1 * draw.standard_normal(codes.shape)).astype(np.float32)  # noqa: E731
    codes, unseen = noisy(scans(14)), noisy(scans(8))
    people, where = [str(number // 3) for number in range(len(codes))], np.argwhere(np.ones((6, 10, 10), bool))
    share = {}
    for way, names in (("person", people), ("scan", None)):
        own = fit(codes, where, detectors.Moments(0.1, axes=None), step=1, template=np.ones((6, 10, 10), np.uint8),
                  people=names)  # fmt: skip
        share[way] = np.mean(own.calibration.z(own.fitted.score(unseen)) > 2.3263)
    assert share["person"] == pytest.approx(0.01, abs=0.008) and share["scan"] > 0.1


def test_normalisation_comes_back_from_the_file(tmp_path):
    codes, where = latents(), np.argwhere(np.ones((1, 1, VOXELS), bool))
    template = np.ones((1, 1, VOXELS), np.uint8)
    for way in ("local", "tissue"):
        model = fit(codes, where, detectors.Centre(), step=1, template=template, intensities=way)
        assert NormativeModel.read(model.write(tmp_path / f"{way}.npz")).intensities == way


def test_people_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match="Name the person of each of the 12 controls, got 2 names"):
        detectors.Centre().fit(latents(), people=["a", "b"])
    with pytest.raises(ValueError, match="Controls of 3 people or more are needed, got 2"):
        detectors.Centre().fit(latents(), people=["a", "b"] * 6)
