"""The EEG generator: places, extents, noise and targets, against numbers computed another way."""

import numpy as np
import pytest
from keras import ops

from zoo.synth import eeg_topographies

SHAPE = (6, 8, 10)
CHANNELS = 24
MM = 7.0


@pytest.fixture(scope="module")
def space():
    axes = [np.arange(n) for n in SHAPE]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    keep = np.linalg.norm((index - (np.array(SHAPE) - 1) / 2) / SHAPE, axis=1) < 0.45
    slots = np.full(len(index), keep.sum(), np.int32)
    slots[keep] = np.arange(keep.sum())
    positions = index[keep].astype(np.float32) * MM
    return eeg_topographies.Space(ops.convert_to_tensor(positions), ops.convert_to_tensor(slots), SHAPE, MM)


@pytest.fixture(scope="module")
def head(space):
    draw = np.random.default_rng(0)
    num = space.positions_mm.shape[0]
    field = draw.normal(size=(CHANNELS, num * 3)).astype(np.float32)
    present = np.ones(CHANNELS, np.float32)
    present[20:] = 0
    field[20:] = 0
    field[:20] -= field[:20].mean(0)
    covariance = field @ field.T
    values, vectors = np.linalg.eigh(covariance)
    colour = vectors * np.sqrt(np.maximum(values, 0) * 20 / values.sum())
    return field, present, colour.astype(np.float32)


def drawn(space, seed=3, size=512, **changes):
    return eeg_topographies.draw(seed, size, space, eeg_topographies.Recipe(**changes), channels=CHANNELS)


def test_the_number_of_sources_is_weighed_by_its_inverse(space):
    counts = ops.convert_to_numpy(drawn(space, size=4000, empty=0.1)["count"])
    shares = np.bincount(counts, minlength=6) / 4000
    expected = np.array([0.1, *(0.9 / n / (137 / 60) for n in range(1, 6))])
    assert np.abs(shares - expected).max() < 4 * np.sqrt(0.25 / 4000)


def test_sources_lie_apart_and_strengths_end_with_the_count(space):
    params = {key: ops.convert_to_numpy(value) for key, value in drawn(space, apart_mm=14.0).items()}
    first_two = params["centres_mm"][:, :2]
    gaps = np.linalg.norm(first_two[:, 0] - first_two[:, 1], axis=1)
    assert (gaps >= 14).mean() > 0.99
    assert ((params["strengths"] > 0).sum(1) == params["count"]).all()
    assert np.allclose(np.linalg.norm(params["moments"], axis=-1), 1, atol=1e-5)
    assert abs(params["moments"].mean()) < 0.05  # both signs alike


def test_a_dipole_is_shared_linearly_and_a_patch_is_gaussian(space):
    positions = ops.convert_to_numpy(space.positions_mm)
    middle = positions[np.linalg.norm(positions - positions.mean(0), axis=1).argmin()]
    centres = np.tile(middle + np.array([1.75, 0, 0]), (1, 5, 1)).astype(np.float32)
    params = {"centres_mm": centres, "sd_mm": np.array([[0, 7, 7, 7, 7]], np.float32)}
    dipole, patch = ops.convert_to_numpy(eeg_topographies.spread(params, space))[0, :2]
    assert dipole @ positions == pytest.approx(centres[0, 0], abs=0.05)
    assert np.sort(dipole)[-2:] == pytest.approx([0.25, 0.75], abs=5e-3)
    away = np.linalg.norm(positions - centres[0, 0], axis=1)
    expected = np.exp(-0.5 * (away / 7) ** 2) * (away < 21)
    assert patch == pytest.approx(expected / expected.sum(), abs=2e-3)


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
@pytest.mark.parametrize("coloured", [0.0, 1.0])
def test_noise_has_the_power_that_was_drawn(space, head, snr_db, coloured):
    field, present, colour = head
    same = {"empty": 0.0, "snr_db": (snr_db, snr_db), "coloured": coloured, "patches": 0.0}
    params = drawn(space, **same)
    noisy = ops.convert_to_numpy(eeg_topographies.apply(params, space, field, present, colour))
    clean = ops.convert_to_numpy(
        eeg_topographies.apply({**params, "snr_db": params["snr_db"] * 0 + 200.0}, space, field, present, colour)
    )
    cosine = (noisy * clean).sum(1)  # of unit vectors: cos^2 is about S / (S + N)
    ratio = 10 * np.log10(np.mean(cosine**2) / (1 - np.mean(cosine**2)))
    assert ratio == pytest.approx(snr_db, abs=0.7)
    assert np.abs(noisy.sum(1)).max() < 1e-4 and not noisy[:, 20:].any()
    assert np.linalg.norm(noisy, axis=1) == pytest.approx(np.ones(len(noisy)), abs=1e-4)


def test_a_topography_is_the_sum_of_its_dipoles(space, head):
    field, present, colour = head
    params = drawn(space, size=4, empty=0.0, patches=0.0, snr_db=(200.0, 200.0))
    result = ops.convert_to_numpy(eeg_topographies.apply(params, space, field, present, colour))
    weights = ops.convert_to_numpy(eeg_topographies.spread(params, space))
    moments, strengths = (ops.convert_to_numpy(params[key]) for key in ("moments", "strengths"))
    for case in range(4):
        total = np.zeros(CHANNELS)
        for source in range(5):
            potential = field @ (weights[case, source][:, None] * moments[case, source]).reshape(-1)
            total += strengths[case, source] * potential / np.linalg.norm(potential)
        assert result[case] == pytest.approx(total / np.linalg.norm(total), abs=1e-4)


@pytest.mark.parametrize("kind", eeg_topographies.TARGETS)
def test_targets_hold_equal_mass_a_source(space, kind):
    recipe = eeg_topographies.Recipe(target=kind)
    params = drawn(space, size=64)
    volume = ops.convert_to_numpy(eeg_topographies.target(params, space, recipe))
    counts = ops.convert_to_numpy(params["count"])
    assert volume.shape == (64, *SHAPE, 6)
    assert (volume[..., 5] == counts[:, None, None, None]).all()  # in every voxel, those outside the brain among them
    mass = volume[..., 0].sum((1, 2, 3))
    if kind == "points":  # a source beyond the last place of the brain has no voxel
        assert (mass <= 1 + 1e-5).all()
    else:
        assert mass == pytest.approx((counts > 0).astype(float), abs=1e-4)
    single = np.flatnonzero(counts == 1)
    moment = volume[single][..., 1:4].sum((1, 2, 3)) / np.maximum(mass[single, None], 1e-9)
    expected = ops.convert_to_numpy(params["moments"])[single, 0]
    assert moment[mass[single] > 0.5] == pytest.approx(expected[mass[single] > 0.5], abs=1e-4)
    if kind == "dilated":
        inside = (volume[single][..., 0] > 0).sum((1, 2, 3))
        centres = ops.convert_to_numpy(params["centres_mm"])[single, 0]
        away = np.abs(centres[:, None] - ops.convert_to_numpy(space.positions_mm)).max(-1)
        assert inside.tolist() == (away <= 2.5 * MM).sum(1).tolist()  # 5 voxels along each axis


def test_samples_are_functions_of_their_seed(space, head):
    first, again, other = (eeg_topographies.apply(drawn(space, seed, 8), space, *head) for seed in (5, 5, 6))
    assert np.array_equal(first, again) and np.abs(np.asarray(first) - np.asarray(other)).max() > 0.01
    with pytest.raises(ValueError, match="target"):
        eeg_topographies.Recipe(target="gauss")
