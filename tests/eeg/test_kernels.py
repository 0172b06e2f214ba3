"""Kernels against mne's inverses and against definitions; test sets against what they promise."""

import keras
import numpy as np
import pytest

from zoo.eeg import classical, generator, grid, head_surfaces, kernels, leadfield

mne = pytest.importorskip("mne", reason="EEG needs MNE-Python: pip install 'zoo3d[eeg]'")

NAMES = mne.channels.make_standard_montage("biosemi32").ch_names


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def field():
    """32 channels on the sphere, all 5,215 places."""
    return leadfield.lead_field("sphere").montage(NAMES)


@pytest.fixture(scope="module")
def few():
    """The same at 131 places."""
    return leadfield.lead_field("sphere", points_mm=grid.grid()[0][::40]).montage(NAMES)


@pytest.fixture(scope="module")
def own(field):
    return kernels.kernels(field)


@pytest.fixture(scope="module")
def problem(few):
    return classical.problem(few, head_surfaces.head("sphere"))


def topographies(field, num=6, noise=0.0, seed=0):
    random = np.random.default_rng(seed)
    places = random.choice(len(field.positions_mm), num, replace=False)
    clean = np.einsum("cnd,nd->nc", field.matrix[:, places].astype(float), random.standard_normal((num, 3)))
    noisy = clean + noise * np.abs(clean).max() * random.standard_normal(clean.shape)
    return noisy - noisy.mean(1, keepdims=True), places


def test_sources_without_noise_are_found_at_their_place_by_every_channel(field, own):
    data, places = topographies(field)
    maps = grid.from_box(np.moveaxis(own.apply(data), -1, 1))
    np.testing.assert_array_equal(np.square(maps[:, :3]).sum(1).argmax(1), places)
    for channel in (3, 4, 5):
        np.testing.assert_array_equal(maps[:, channel].argmax(1), places)
        np.testing.assert_allclose(maps[:, channel].max(1), 1, atol=1e-5)
        assert maps[:, channel].min() >= 0


def test_scale_and_reference_of_a_topography_do_not_matter_and_its_sign_turns_the_current(field, own):
    data, _ = topographies(field, noise=0.2)
    before, after = own.apply(data), own.apply(-3e-6 * data + 2e-5)
    np.testing.assert_allclose(after[..., :3], -before[..., :3], atol=2e-4)
    np.testing.assert_allclose(after[..., 3:], before[..., 3:], atol=2e-4)


def test_dipole_fit_is_the_variance_explained_by_least_squares(field, own):
    data, _ = topographies(field, num=2, noise=0.5)
    maps = grid.from_box(np.moveaxis(own.apply(data), -1, 1))
    for place in (0, 999, 5214):
        columns = field.matrix[:, place].astype(float)
        left = data[0] - columns @ np.linalg.lstsq(columns, data[0], rcond=None)[0]
        explained = 1 - np.square(left).sum() / np.square(data[0]).sum()
        assert maps[0, 5, place] ** 2 == pytest.approx(explained, abs=1e-4)


def test_sloreta_is_the_minimum_norm_over_its_resolution(field, own):
    data, _ = topographies(field, num=1, noise=0.5)
    scaled, basis = kernels.normalised(field)
    inverse = scaled.T @ np.linalg.inv(scaled @ scaled.T + 0.3 * np.eye(len(basis)))
    bound = (basis @ data[0]) @ np.linalg.solve(scaled @ scaled.T + 0.3 * np.eye(len(basis)), basis @ data[0])
    maps = grid.from_box(np.moveaxis(own.apply(data), -1, 1))
    for place in (7, 2500, 5000):
        rows = slice(3 * place, 3 * place + 3)
        current = inverse[rows] @ basis @ data[0]
        power = current @ np.linalg.solve(inverse[rows] @ scaled[:, rows], current)
        assert maps[0, 3, place] == pytest.approx(np.sqrt(power / bound), rel=1e-3)


def test_eloreta_and_minimum_norm_are_those_of_mne(few, problem):
    data, _ = topographies(few, noise=0.3)
    scaled, basis = kernels.normalised(few)
    evoked = mne.EvokedArray(data.T, problem.info, verbose="ERROR").set_eeg_reference(projection=True, verbose="ERROR")
    noise = mne.make_ad_hoc_cov(evoked.info, {"eeg": 1.0}, verbose="ERROR")
    operator = mne.minimum_norm.make_inverse_operator(
        evoked.info, problem.forward, noise, loose=1.0, depth=None, rank="info", verbose="ERROR"
    )
    kernel = kernels.eloreta(scaled, 0.1)
    minimum = scaled.T @ np.linalg.inv(scaled @ scaled.T + 0.1 * np.eye(len(basis)))
    for method, matrix in (("eLORETA", kernel), ("MNE", minimum)):
        extra = {"method_params": {"eps": 1e-8, "max_iter": 40}} if method == "eLORETA" else {}
        theirs = mne.minimum_norm.apply_inverse(
            evoked, operator, 0.1, method, pick_ori="vector", verbose="ERROR", **extra
        ).data
        ours = (matrix @ basis @ data.T).reshape(theirs.shape)
        ours, theirs = ours / np.linalg.norm(ours), theirs / np.linalg.norm(theirs)
        assert np.linalg.norm(ours - theirs) < 1e-5, method


def test_features_are_the_same_in_a_graph(field, own):
    data, _ = topographies(field, num=3, noise=0.3)
    arrays = [own.eloreta, own.blocks, own.energy, own.constant, own.slots]
    tensors = [keras.ops.convert_to_tensor(one) for one in arrays]
    unit = kernels.checked(data, len(NAMES))
    found = kernels.features(*tensors, topographies=keras.ops.convert_to_tensor(unit), ops=keras.ops)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), own.apply(data), atol=1e-5)


def test_constant_channels(own):
    volumes = own.apply(topographies_any(own))
    assert volumes.shape == (1, 24, 28, 24, len(kernels.CHANNELS))
    assert volumes.dtype == np.float32
    np.testing.assert_array_equal(volumes[0, ..., 6] > 0, grid.grid()[1])
    assert not volumes[0][~grid.grid()[1]].any()
    x = grid.from_box(volumes[0, ..., 7])
    np.testing.assert_allclose(np.ptp(x) * 100, np.ptp(grid.grid()[0][:, 0]), rtol=1e-5)


def test_steps_of_sparse_bayes_come_after_the_linear_channels(field, own):
    data, places = topographies(field, noise=0.02)
    volumes = kernels.kernels(field, (2, 9)).apply(data)
    assert volumes.shape[-1] == 12 == len(kernels.channel_names((2, 9)))
    np.testing.assert_array_equal(volumes[..., :10], own.apply(data))
    assert kernels.channel_names((2, 9))[10:] == ("sbl_2", "sbl_9")
    found = grid.from_box(volumes[..., 11]).argmax(1)
    assert (np.linalg.norm(field.positions_mm[found] - field.positions_mm[places], axis=1) < 15).all()


def topographies_any(own):
    return np.random.default_rng(0).standard_normal((1, len(own.names)))


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (np.ones((2, 31)), r"shape \(n, 32\)"),
        (np.ones((2, 32)), "Topography 0 is flat"),
        (np.full((2, 32), np.nan), "NaN or infinity"),
    ],
)
def test_bad_topographies_are_named(own, bad, told):
    with pytest.raises(ValueError, match=told):
        own.apply(bad)


def test_bad_fields_are_named(few, field):
    with pytest.raises(ValueError, match=r"5215 places of the grid, got a lead field of shape \(32, 131, 3\)"):
        kernels.kernels(few)
    with pytest.raises(ValueError, match="6 or more channels"):
        kernels.kernels(field.montage(NAMES[:5]))


@pytest.fixture(scope="module")
def truth():
    return generator.truth("sphere", split="validation")


@pytest.mark.parametrize("name", list(generator.SETS))
def test_sets_are_what_they_promise(truth, name):
    fewest, most, patches = generator.SETS[name]
    cases = generator.make_set(name, truth, NAMES, seed=5, size=40)
    assert set(cases.num_sources) == set(range(fewest, most + 1))
    for sources in cases.sources_mm:
        apart = np.linalg.norm(sources[:, None] - sources, axis=2)[np.triu_indices(len(sources), 1)]
        assert (apart > 0.8 * generator.APART_MM).all()  # 30 mm in the template, less where the sphere is narrower
    np.testing.assert_allclose(cases.topographies.mean(1), 0, atol=1e-13)
    assert (cases.snr_db >= 5).all()
    assert (cases.snr_db <= 20).all()
    assert (np.nan_to_num(cases.sd_mm) > 0).any() == patches
    assert np.nanmin(cases.depth_mm) >= generator.CLOUD_DEPTH_MM


def test_the_noise_has_the_power_that_is_told(truth):
    cases = generator.make_set("D2", truth, NAMES, seed=1, size=300)
    noise = np.square(cases.topographies - cases.clean).sum(1)
    told = np.square(cases.clean).sum(1) / 10 ** (cases.snr_db / 10)
    assert (noise / told).mean() == pytest.approx(1, abs=4 * np.sqrt(2 / 31 / 300))


def test_topographies_are_the_lead_field_times_the_moments(truth):
    cases = generator.make_set("D3", truth, NAMES, seed=2, size=5)
    field = truth.field.montage(NAMES)
    for case in range(5):
        places = [np.linalg.norm(field.positions_mm - one, axis=1).argmin() for one in cases.positions_mm[case]]
        parts = np.einsum("cnd,nd->nc", field.matrix[:, places].astype(float), cases.moments[case])
        np.testing.assert_allclose(parts.sum(0), cases.clean[case], atol=1e-12)
        norms = np.linalg.norm(parts, axis=1)
        assert norms.max() == pytest.approx(1e-9, rel=1e-4)
        assert norms.min() > 0.499e-9


def test_splits_share_no_place_and_seeds_repeat(truth):
    test, validation = (generator.cloud(generator.SEEDS[split]) for split in ("test", "validation"))
    assert not set(map(tuple, test.tolist())) & set(map(tuple, validation.tolist()))
    assert not set(map(tuple, test.tolist())) & set(map(tuple, grid.grid()[0].tolist()))
    first, again, other = (generator.make_set("D1", truth, NAMES, seed=s, size=4).topographies for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    with pytest.raises(ValueError, match="There is no set 'D4'"):
        generator.make_set("D4", truth, NAMES, seed=0)
    with pytest.raises(ValueError, match="There is no split 'train'"):
        generator.truth("sphere", split="train")
