"""Windows of samples on a sphere: places, numbers and courses of dipoles against those that made them."""

import numpy as np
import pytest

from zoo.eeg import bank, grid
from zoo.eeg.dipole_search import Dipole, DipoleSearch, best_pair, between_places, dipole_position
from zoo.eeg.leadfield import lead_field
from zoo.eeg.sparse_bayes import COMPONENTS, learn_current, make_window
from zoo.eeg.window_sources import find_sources, most_sources

pytest.importorskip("mne")
NAMES = tuple(bank.montage_names("biosemi32"))
TRUE_MM = ((-40.0, -20.0, 50.0), (45.0, -60.0, 35.0))
PLACES = tuple(int(np.linalg.norm(grid.grid()[0] - place, axis=1).argmin()) for place in TRUE_MM)
BASIS = np.linalg.svd(np.eye(len(NAMES)) - 1 / len(NAMES))[2][: len(NAMES) - 1]


@pytest.fixture(scope="module")
def field():
    return lead_field("sphere").montage(NAMES)


def simulate(field, places, *, samples=25, correlation=0.0, noise=0.1, seed=0):
    """Dipoles of equal topographies and noise of this share of their amplitude; whitened as if it were known."""
    random = np.random.default_rng(seed)
    moments = random.standard_normal((len(places), 3))
    parts = np.einsum("cnd,nd->nc", field.matrix[:, list(places)].astype(float), moments)
    parts *= 1e-6 * np.sqrt(len(NAMES)) / np.linalg.norm(parts, axis=1, keepdims=True)
    shared = np.sqrt(correlation) * random.standard_normal((1, samples))
    courses = shared + np.sqrt(1 - correlation) * random.standard_normal((len(places), samples))
    drawn = noise * 1e-6 * random.standard_normal((len(NAMES), samples))
    return parts.T @ courses + drawn - drawn.mean(0), BASIS / (noise * 1e-6)


def distances(field, dipole):
    """From a dipole to the true places, mm."""
    return np.linalg.norm(dipole_position(dipole, field.positions_mm) - field.positions_mm[list(PLACES)], axis=1)


@pytest.mark.parametrize("correlation", [0.0, 0.95])
def test_two_dipoles_are_counted_and_found_whatever_their_courses(field, correlation):
    data, whitening = simulate(field, PLACES, correlation=correlation)
    found = find_sources(make_window(data, field.matrix, whitening))
    assert found.counts.sum() == pytest.approx(1) and found.counts.argmax() == 2 and found.counts[2] > 0.9
    nearest = [distances(field, dipole) for dipole in found.dipoles]
    assert sorted(int(row.argmin()) for row in nearest) == [0, 1] and np.min(nearest, 1).max() < 5
    assert found.noise == pytest.approx(1, abs=0.15) and found.explained > 0.9 and found.chance < 1e-6
    assert found.own.shape == (2,) and found.own[0] >= found.own[1] > 0
    assert found.places.sum(1) == pytest.approx([1, 1])
    peaks, places = field.positions_mm[found.places.argmax(1)], [dipole.place for dipole in found.dipoles]
    assert np.linalg.norm(peaks - field.positions_mm[places], axis=1).max() < 10
    assert found.confidences(np.ones(2)) == pytest.approx([1, 1], abs=0.1)


def test_one_dipole_counts_as_one_and_more_that_are_asked_for_are_not_trusted(field):
    data, whitening = simulate(field, PLACES[:1])
    window = make_window(data, field.matrix, whitening)
    assert find_sources(window).counts.argmax() == 1
    told = find_sources(window, count=3)
    assert len(told.dipoles) == 3 and distances(field, told.dipoles[0])[0] < 10
    sure = told.confidences(np.ones(3))
    assert sure[0] == pytest.approx(1) and (sure[1:] < 0.2).all()


def test_noise_alone_has_a_large_chance(field):
    noise = np.random.default_rng(1).standard_normal((len(NAMES), 25))
    window = make_window(noise - noise.mean(0), field.matrix, BASIS)
    assert find_sources(window).chance > 0.05


def test_the_window_keeps_ten_components_and_counts_independent_samples(field):
    data, whitening = simulate(field, PLACES, samples=40)
    every, half = (make_window(data, field.matrix, whitening, independent=number) for number in (None, 20))
    assert every.data.shape == (len(NAMES) - 1, COMPONENTS) and every.samples == 40 and half.samples == 20
    assert half.power == pytest.approx(every.power / 2) and every.power > np.square(every.data).sum()
    assert every.freedom == 40 * (len(NAMES) - 1) and most_sources(every) == 3
    assert np.square(every.columns).sum() == pytest.approx(grid.NUM_PLACES, rel=1e-4)


def test_sparse_bayes_gives_the_current_to_the_places_of_the_sources(field):
    data, whitening = simulate(field, PLACES)
    current = learn_current(make_window(data, field.matrix, whitening))
    near = np.zeros(grid.NUM_PLACES, bool)
    for place in PLACES:
        near |= np.linalg.norm(field.positions_mm - field.positions_mm[place], axis=1) < 20
    assert current[near].sum() > 0.8 * current.sum()


def test_a_scan_is_the_sum_of_squares_of_a_fit(field):
    data, whitening = simulate(field, PLACES)
    search = DipoleSearch(make_window(data, field.matrix, whitening))
    other, place = Dipole(PLACES[0]), 2222
    both = np.concatenate([search.columns_of([other]), search.columns_of([Dipole(place)])], 1).astype(float)
    left = search.window.data - both @ np.linalg.lstsq(both, search.window.data, rcond=None)[0]
    expected = np.square(search.window.data).sum() - np.square(left).sum()
    assert search.explained([other]) + search.scan([other])[place] == pytest.approx(expected, rel=1e-3)
    assert search.scan([other])[PLACES[0]] == -np.inf


def test_a_source_between_places_is_found_there(field):
    """The column is the mean of two neighbours': halfway between them."""
    place = 2500
    neighbour = int(np.flatnonzero((grid.grid()[2] == grid.grid()[2][place] + [1, 0, 0]).all(1))[0])
    between = field.matrix[:, [place, neighbour]].astype(float).mean(1) @ [1.0, -2.0, 0.5]
    data = np.outer(between / np.linalg.norm(between), np.ones(3))
    search = DipoleSearch(make_window(data - data.mean(0), field.matrix, BASIS * 100))
    dipole = search.alternate([place])[0]
    found, expected = dipole_position(dipole, field.positions_mm), field.positions_mm[[place, neighbour]].mean(0)
    assert np.linalg.norm(found - expected) < 2.0  # the nearest places are 3.5 mm away
    assert search.alternate([place], between=False)[0].offset == (0.0, 0.0, 0.0)


def test_a_dipole_without_all_its_neighbours_stays_at_its_place(field):
    place = int(grid.grid()[0][:, 2].argmax())
    assert between_places(np.zeros(grid.NUM_PLACES), place) == Dipole(place)


def test_places_outside_have_no_sources(field):
    data, whitening = simulate(field, PLACES[:1])
    inside = np.linalg.norm(field.positions_mm - field.positions_mm[PLACES[0]], axis=1) > 20
    found = find_sources(make_window(data, field.matrix, whitening), count=1, inside=inside)
    assert inside[found.dipoles[0].place] and found.places[0][~inside].sum() == 0


def test_a_pair_mirrors_itself_in_the_midline(field):
    positions = grid.grid()[0]
    left = int(np.linalg.norm(positions - [-45, -20, 5], axis=1).argmin())
    right = int(np.linalg.norm(positions - positions[left] * [-1, 1, 1], axis=1).argmin())
    data, whitening = simulate(field, (left, right), samples=5)
    pair = best_pair(DipoleSearch(make_window(data, field.matrix, whitening)))
    found = np.array([positions[dipole.place] for dipole in pair])
    assert np.abs(found[0] * [-1, 1, 1] - found[1]).max() <= grid.SPACING_MM
    assert np.linalg.norm(found[0] - positions[left]) < 10
