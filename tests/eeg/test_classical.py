"""Every classical inverse finds what it must find, on a sphere with 131 places and little noise."""

import numpy as np
import pytest

from zoo.eeg import classical, grid, head_surfaces, leadfield

mne = pytest.importorskip("mne", reason="EEG needs MNE-Python: pip install 'zoo3d[eeg]'")

NAMES = mne.channels.make_standard_montage("biosemi32").ch_names
PLACES = (30, 110)


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        field = leadfield.lead_field("sphere", points_mm=grid.grid()[0][::40]).montage(NAMES)
    return classical.problem(field, head_surfaces.head("sphere"))


def data(problem, places, *, samples=0, sd=0.01, seed=0):
    """Dipoles at places, each topography of norm 1 uV; (channels,) or a segment of uncorrelated courses."""
    random = np.random.default_rng(seed)
    moments = random.standard_normal((len(places), 3))
    parts = np.einsum("cnd,nd->nc", problem.field.matrix[:, list(places)].astype(float), moments)
    parts /= np.linalg.norm(parts, axis=1, keepdims=True) * 1e6
    courses = random.standard_normal((len(places), samples)) if samples else np.ones((len(places), 1))
    clean = parts.T @ courses
    noise = sd * 1e-6 * random.standard_normal(clean.shape)
    noisy = clean + noise - noise.mean(0)
    return noisy if samples else noisy[:, 0]


@pytest.mark.parametrize("method", ["sLORETA", "eLORETA"])
def test_loretas_find_one_source(problem, method):
    topographies = np.stack([data(problem, [place], sd=1e-4) for place in PLACES])
    power = classical.linear(problem, topographies, method, lambda2=0.1)
    assert power.shape == (2, len(problem.field.positions_mm))
    peaks = problem.field.positions_mm[power.argmax(1)]
    errors = np.linalg.norm(peaks - problem.field.positions_mm[list(PLACES)], axis=1)
    assert errors.max() < (1e-3 if method == "eLORETA" else 45)


@pytest.mark.parametrize("method", ["MNE", "dSPM"])
def test_minimum_norms_lie_on_the_side_of_the_source(problem, method):
    topographies = np.stack([data(problem, [place]) for place in PLACES])
    power = classical.linear(problem, topographies, method)
    centres = power @ problem.field.positions_mm / power.sum(1, keepdims=True)
    towards = problem.field.positions_mm[list(PLACES)] - problem.head.warp.centre_mm
    assert ((centres - problem.head.warp.centre_mm) * towards).sum(1).min() > 0


@pytest.mark.parametrize("method", classical.SPARSE)
def test_sparse_inverses_are_sparse_and_near(problem, method):
    power = classical.sparse(problem, data(problem, [PLACES[0]]), 1e-8, method)
    assert 1 <= (power > 1e-6 * power.max()).sum() < 20
    assert np.linalg.norm(problem.field.positions_mm[power.argmax()] - problem.field.positions_mm[PLACES[0]]) < 30


def test_sparse_bayes_and_alternating_projections_find_two_places(problem):
    topography = data(problem, PLACES)
    chosen = classical.alternating_projections(problem.field, topography, 2)
    assert sorted(chosen) == sorted(PLACES)
    power = classical.sparse_bayes(problem.field, topography, 1e-8)
    assert sorted(power.argsort()[-2:]) == sorted(PLACES)


def test_alternating_projections_of_one_is_the_best_fit_of_all(problem):
    topography = data(problem, PLACES, sd=0.3)
    matrix = problem.field.matrix.astype(float)
    left = [np.linalg.lstsq(matrix[:, place], topography, rcond=None)[1][0] for place in range(matrix.shape[1])]
    assert classical.alternating_projections(problem.field, topography, 1)[0] == np.argmin(left)


def test_segments_separate_uncorrelated_sources(problem):
    segment = data(problem, PLACES, samples=50, sd=0.05)
    true = problem.field.positions_mm[list(PLACES)]
    found = classical.rap_music(problem, segment, 5e-8, 2)
    np.testing.assert_allclose(sorted(found.tolist()), sorted(true.tolist()), atol=0.1)
    power = classical.lcmv(problem, segment, 5e-8)
    assert np.linalg.norm(problem.field.positions_mm[power.argmax()] - true, axis=1).min() < 20
    with pytest.raises(ValueError, match="2 or more samples"):
        classical.lcmv(problem, segment[:, 0], 5e-8)


def test_dipole_fit_is_continuous_and_in_the_coordinates_of_the_mri(problem):
    topographies = np.stack([data(problem, [place], sd=1e-4) for place in PLACES])
    found = classical.dipole_fit(problem, topographies, 1e-9)
    np.testing.assert_allclose(found, problem.field.positions_mm[list(PLACES)], atol=1.5)


def test_the_forward_is_the_lead_field_in_head_coordinates(problem):
    """A head whose coordinates are turned: moments along the MRI's axes give the same potentials both ways."""
    random = np.random.default_rng(0)
    few = grid.grid()[0][::500]
    names = tuple(NAMES)
    made = leadfield.LeadField(random.standard_normal((32, len(few), 3)).astype(np.float32), names, few, "random")
    turned = classical.problem(made, head_surfaces.head())
    moment = np.array([0.0, 0.0, 1.0])  # up in the MRI
    trans = mne.read_trans(head_surfaces.shipped("fsaverage-trans.fif"))["trans"]
    in_head = np.linalg.inv(trans)[:3, :3] @ moment
    columns = turned.forward["sol"]["data"].reshape(32, -1, 3)
    np.testing.assert_allclose(columns @ in_head, made.matrix[..., 2], atol=1e-5)


def test_bad_names_are_named(problem):
    with pytest.raises(ValueError, match="There is no linear inverse 'eloreta'"):
        classical.linear(problem, np.ones((1, 32)), "eloreta")
    with pytest.raises(ValueError, match="There is no sparse inverse 'gamma_map'"):
        classical.sparse(problem, np.ones(32), 1.0, "gamma_map")
