"""Sources against sources: every number by hand, the transport against the linear programme itself."""

import itertools

import numpy as np
import pytest
from scipy import optimize

from zoo.evaluation import source_localisation
from zoo.evaluation.source_localisation import count_sources

TRUE = np.array([[0.0, 0, 0], [30, 0, 0]])


def test_pairs_are_those_with_the_smallest_sum():
    predicted = np.array([[26.0, 0, 0], [0, 3, 0]])
    assert sorted(source_localisation.localisation_errors(predicted, TRUE)) == [3.0, 4.0]


def test_every_dot_serves_once():
    # Nearest first would pair 14 with 10 and leave 16 beyond 0; the best sum is 14 + 6, not 4 + 16.
    predicted, true = np.array([[14.0, 0, 0], [16, 0, 0]]), np.array([[0.0, 0, 0], [10, 0, 0]])
    assert source_localisation.localisation_errors(predicted, true).sum() == 20


def test_one_dot_between_two_sources_finds_both_only_literally():
    between = np.array([[15.0, 0, 0]])
    counts = count_sources(between, TRUE, radius_mm=15, convention="literal")
    assert counts == source_localisation.Counts(2, -1, 0)
    assert count_sources(between, TRUE, radius_mm=15) == source_localisation.Counts(1, 0, 1)


def test_counts_by_hand():
    predicted = np.array([[0.0, 0, 9], [100, 0, 0], [30, 0, 21]])
    assert count_sources(predicted, TRUE, radius_mm=10) == source_localisation.Counts(1, 2, 1)
    assert count_sources(predicted, TRUE, radius_mm=21) == source_localisation.Counts(2, 1, 0)
    assert source_localisation.Counts(1, 2, 1).f1 == pytest.approx(2 / 5)


def test_the_matching_is_the_largest():
    # Greedy from the first dot would take the source that only the second dot reaches.
    predicted = np.array([[5.0, 0, 0], [-5, 0, 0]])
    true = np.array([[0.0, 0, 0], [10, 0, 0]])
    assert count_sources(predicted, true, radius_mm=6).tp == 2


def test_nothing_predicted_and_nothing_there():
    empty = np.zeros((0, 3))
    assert count_sources(empty, TRUE, radius_mm=10) == source_localisation.Counts(0, 0, 2)
    assert count_sources(TRUE, empty, radius_mm=10) == source_localisation.Counts(0, 2, 0)
    assert source_localisation.localisation_errors(empty, TRUE).size == 0
    assert np.isnan(source_localisation.Counts(0, 0, 0).f1)


def test_dispersion_by_hand():
    places = np.array([[0.0, 0, 0], [3, 4, 0], [30, 0, 2]])
    mass = np.array([2.0, 1, 1])
    assert source_localisation.dispersion(mass, places, TRUE) == pytest.approx(np.sqrt((25 + 4) / 4))


def test_auc_is_the_share_of_pairs_in_order():
    random = np.random.default_rng(3)
    places, mass = random.uniform(0, 60, (40, 3)), random.integers(1, 6, 40).astype(float)
    near = np.linalg.norm(places - [30, 30, 30], axis=1) <= 25
    pairs = [(a > b) + (a == b) / 2 for a, b in itertools.product(mass[near], mass[~near])]
    assert source_localisation.auc(mass, places, np.array([[30.0, 30, 30]]), radius_mm=25) == pytest.approx(
        np.mean(pairs)
    )
    assert np.isnan(source_localisation.auc(mass, places, np.array([[500.0, 0, 0]])))


@pytest.mark.parametrize("num", [1, 2, 3, 5])
def test_transport_equals_its_linear_programme(num):
    random = np.random.default_rng(num)
    places, true, mass = random.uniform(0, 90, (24, 3)), random.uniform(0, 90, (num, 3)), random.random(24) ** 3
    shares = random.uniform(0.2, 1, num)
    distances = np.linalg.norm(places[:, None] - true, axis=2)
    rows = np.kron(np.eye(24), np.ones(num))
    columns = np.kron(np.ones(24), np.eye(num))
    limits = np.concatenate([mass / mass.sum(), shares / shares.sum()])
    whole = optimize.linprog(distances.ravel(), A_eq=np.vstack([rows, columns]), b_eq=limits, method="highs")
    assert source_localisation.earth_movers(mass, places, true, shares=shares) == pytest.approx(whole.fun, abs=2e-3)


def test_transport_by_hand():
    places = np.array([[0.0, 0, 0], [30, 0, 0], [0, 8, 0]])
    assert source_localisation.earth_movers(np.array([1.0, 1, 0]), places, TRUE) == pytest.approx(0, abs=1e-3)
    assert source_localisation.earth_movers(np.array([0.0, 1, 1]), places, TRUE) == pytest.approx(4, abs=1e-3)
    assert source_localisation.earth_movers(np.array([1.0, 0, 0]), places, TRUE) == pytest.approx(15, abs=1e-3)


def test_random_dots_hit_as_often_as_their_share_of_the_space():
    random = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*[np.arange(10.0)] * 3), -1).reshape(-1, 3)
    hits = [
        count_sources(source_localisation.draw_dots(1, places, random), places[:1], radius_mm=3.2).tp
        for _ in range(2000)
    ]
    share = (np.linalg.norm(places - places[0], axis=1) <= 3.2).mean()
    assert np.mean(hits) == pytest.approx(share, abs=4 * np.sqrt(share / 2000))
    assert len(np.unique(source_localisation.draw_dots(1000, places, random), axis=0)) == 1000


def test_summary_by_hand():
    predicted = [TRUE + np.array([0, 6, 0]), np.array([[0.0, 0, 0]])]
    true = [TRUE, np.array([[0.0, 0, 15], [90, 0, 0]])]
    places = np.concatenate([TRUE, [[90.0, 0, 0]]])
    maps = np.array([[1.0, 1, 0], [0, 0, 1]])
    result = source_localisation.summarise(predicted, true, maps=maps, places_mm=places)
    assert (result.cases, result.le_mean_mm, result.le_median_mm) == (2, pytest.approx(9), 6)
    assert result.recall == {10.0: 0.5, 20.0: 0.75}
    assert result.counts["one_to_one", 20.0] == (1.5, 0, 0.5)
    assert result.f1[20.0] == pytest.approx(6 / 7)
    assert result.dispersion_mm == 0
    assert result.earth_movers_mm == pytest.approx(np.hypot(90, 15) / 2 / 2, abs=1e-2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: count_sources(TRUE, TRUE, radius_mm=0), "radius_mm must be above 0"),
        (lambda: count_sources(TRUE, TRUE, radius_mm=1, convention="literaly"), "Did you mean 'literal'"),
        (
            lambda: source_localisation.localisation_errors(TRUE[:, :2], TRUE),
            r"predicted_mm must be finite and of shape \(n, 3\)",
        ),
        (lambda: source_localisation.localisation_errors(TRUE, TRUE * np.nan), "true_mm must be finite"),
        (lambda: source_localisation.dispersion(np.array([0.0, 0]), TRUE, TRUE), "not all 0"),
        (lambda: source_localisation.dispersion(np.array([1.0, -1]), TRUE, TRUE), ">= 0"),
        (lambda: source_localisation.auc(np.ones(2), TRUE, np.zeros((0, 3))), "1 or more true sources"),
        (lambda: source_localisation.summarise([], []), "one prediction a case"),
        (lambda: source_localisation.summarise([TRUE], [TRUE], maps=np.ones((1, 2))), "maps need places_mm"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
