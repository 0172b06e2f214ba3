"""Patch centres: exact fractions, weights and repeatability."""

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from zoo.pipeline.sampler import ANYWHERE, HARD, Sampling, mine, plan

COUNTS = np.array([[900, 5, 0], [800, 0, 0], [700, 1, 30], [0, 8, 0]])
IDS = ["a", "b", "c", "d"]


def drawn(num, sampling, seed=0, counts=COUNTS, ids=IDS):
    made = plan(counts, ids, sampling)
    numbers = tf.data.Dataset.range(num)
    return np.array([[int(part) for part in place] for place in numbers.map(lambda n: made.draw(n, seed))])


@pytest.mark.parametrize("fraction", [0.0, 1 / 3, 0.5, 0.37, 1.0])
def test_the_fraction_of_foreground_is_exact_after_every_patch(fraction):
    kinds = drawn(60, Sampling(positive_fraction=fraction))[:, 1]
    for num in range(1, 61):
        assert (kinds[:num] > 0).sum() == np.floor(num * fraction + 1e-9)


def test_places_exist():
    for case, kind, rank in drawn(300, Sampling(positive_fraction=0.5)):
        assert kind == ANYWHERE or rank < COUNTS[case, kind]
        assert kind != ANYWHERE or case == 3


def test_the_rest_visits_every_case_once_a_round():
    rest = drawn(40, Sampling(positive_fraction=0.0))[:, 0].reshape(10, 4)
    assert (np.sort(rest, 1) == np.arange(4)).all()
    assert len({tuple(row) for row in rest.tolist()}) > 3


def test_classes_are_drawn_by_weight():
    equal = Counter(drawn(600, Sampling(positive_fraction=1.0))[:, 1].tolist())
    assert set(equal) == {1, 2}
    assert abs(equal[1] - 300) < 60  # five standard deviations of a fair coin
    skewed = Counter(drawn(600, Sampling(positive_fraction=1.0, class_weights={1: 9.0, 2: 1.0}))[:, 1].tolist())
    assert abs(skewed[1] - 540) < 37
    only = Counter(drawn(50, Sampling(positive_fraction=1.0, class_weights={2: 1.0}))[:, 1].tolist())
    assert only == {2: 50}


def test_cases_with_a_class_are_drawn_alike():
    sampling = Sampling(positive_fraction=1.0, class_weights={1: 1.0})
    cases = Counter(drawn(600, sampling)[:, 0].tolist())
    assert set(cases) == {0, 2, 3}
    assert all(abs(count - 200) < 58 for count in cases.values())


def test_the_same_number_is_the_same_place_in_any_order():
    made = plan(COUNTS, IDS, Sampling())
    forward = drawn(20, Sampling(), seed=5)
    backward = [[int(part) for part in made.draw(tf.constant(n, tf.int64), 5)] for n in reversed(range(20))]
    np.testing.assert_array_equal(forward, backward[::-1])
    assert (drawn(20, Sampling(), seed=6) != forward).any()


def test_hard_places_take_their_share_of_the_rest():
    hard = {"b": np.array([[1, 2, 3]]), "d": np.array([[4, 5, 6], [7, 8, 9]])}
    sampling = Sampling(positive_fraction=0.5, hard_fraction=0.5, hard_places=hard)
    places = drawn(80, sampling)
    assert [(places[:, 1] == HARD).sum(), (places[:, 1] > 0).sum()] == [20, 40]
    made = plan(COUNTS, IDS, sampling)
    np.testing.assert_array_equal(made.hard, [[1, 1, 2, 3], [3, 4, 5, 6], [3, 7, 8, 9]])
    rows = places[places[:, 1] == HARD]
    np.testing.assert_array_equal(made.hard[rows[:, 2], 0], rows[:, 0])


def test_mining_finds_the_most_probable_false_positives():
    probability, labels = np.zeros((16, 24, 32)), np.zeros((16, 24, 32), int)
    probability[1, 2, 3], probability[4, 5, 6], probability[7, 8, 9], probability[9, 9, 9] = 0.6, 0.9, 0.99, 0.4
    labels[7, 8, 9] = 1
    np.testing.assert_array_equal(mine(probability, labels, num=5), [[4, 5, 6], [1, 2, 3]])
    np.testing.assert_array_equal(mine(probability, labels, num=1), [[4, 5, 6]])
    assert mine(probability, labels, num=5, threshold=0.95).shape == (0, 3)
    with pytest.raises(ValueError, match="Use the same grid"):
        mine(probability, labels[1:], num=5)


def test_without_labels_every_place_is_anywhere():
    places = drawn(8, Sampling(), counts=np.zeros((2, 0)), ids=["a", "b"])
    assert set(places[:, 1]) == {ANYWHERE}


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (lambda: Sampling(positive_fraction=1.5), "positive_fraction goes from 0 to 1, got 1.5"),
        (lambda: Sampling(jitter=0.6), "jitter goes from 0 to 0.5, got 0.6"),
        (lambda: Sampling(hard_fraction=0.2), "needs hard_places, and there are none"),
        (lambda: Sampling(class_weights={3: 1.0}), "no foreground class in the labels: 3.* Choose from: 1, 2"),
        (lambda: Sampling(class_weights={1: -1.0}), "weight of class 1 must be 0 or more, got -1"),
        (lambda: Sampling(class_weights={1: 0.0}), "class_weights are all 0"),
        (lambda: Sampling(hard_fraction=0.1, hard_places={"x": [[1, 2, 3]]}), "no case for hard_places: 'x'"),
    ],
)
def test_settings_that_cannot_be(sampling, message):
    with pytest.raises(ValueError, match=message):
        plan(COUNTS, IDS, sampling())


def test_foreground_asked_for_where_there_is_none():
    with pytest.raises(ValueError, match=r"No case of 2 has a voxel of foreground, and positive_fraction=0\.333"):
        plan(np.array([[9], [9]]), ["a", "b"], Sampling())
