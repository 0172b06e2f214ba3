"""The number of sources: by the residual in units of a known noise, against noise that is alike in many channels."""

import numpy as np
import pytest

from zoo.eeg import bank, decode, grid
from zoo.eeg.leadfield import lead_field
from zoo.source_imaging import noise

pytest.importorskip("mne")
TRUE = [600, 2500, 4300]


@pytest.fixture(scope="module")
def field():
    return lead_field("sphere").montage(bank.montage_names("biosemi64"))


def background(field, times, seed):
    """Brain activity of few patterns: correlated between channels."""
    random = np.random.default_rng(seed)
    places = np.random.default_rng(5).integers(grid.NUM_PLACES, size=30)
    patterns = field.matrix[:, places].reshape(len(field.names), -1).astype(float)
    data = patterns @ random.standard_normal((90, times))
    data = data / data.std() + 0.3 * random.standard_normal((len(field.names), times))
    return 1e-6 * (data - data.mean(0))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_sources_are_counted_in_units_of_correlated_noise(field, number):
    whitening = noise.measure_noise(background(field, 300, 1), "the baseline").whiten()
    probability = np.full(grid.NUM_PLACES, 1e-6)
    probability[TRUE] = [0.5, 0.3, 0.2]
    probability[[1500, 3500]] = 0.1
    moments = np.random.default_rng(2).standard_normal((3, 3))
    parts = [field.matrix[:, place].astype(float) @ moment for place, moment in zip(TRUE, moments, strict=True)]
    clean = sum((4e-6 * 8 * part / np.linalg.norm(part) for part in parts[:number]), np.zeros(64))
    whitened = np.einsum("wc,cpd->wpd", whitening.matrix, field.matrix, optimize=True)
    found = []
    for seed in range(4):
        topography = whitening.matrix @ (clean + background(field, 1, 10 + seed)[:, 0])
        told = decode.count_above_noise(probability, topography, whitened, freedom=whitening.freedom, reach_mm=0)
        assert told.sum() == pytest.approx(1) and told.shape == (6,)
        found.append(int(told.argmax()))
    assert found.count(number) >= 3, found


def test_more_than_64_channels_count_as_64(field):
    """A cap of which every electrode is there four times tells no more than the cap."""
    probability = np.zeros(grid.NUM_PLACES)
    probability[TRUE] = [0.5, 0.3, 0.2]
    random = np.random.default_rng(3)
    topography = field.matrix[:, TRUE[0]].astype(float) @ [1.0, 2.0, 3.0]
    topography += 0.3 * topography.std() * random.standard_normal(64)
    dense = decode.count_by_fit(probability, np.tile(topography, 4), np.tile(field.matrix, (4, 1, 1)), reach_mm=0)
    assert dense == pytest.approx(decode.count_by_fit(probability, topography, field.matrix, reach_mm=0), abs=1e-3)
