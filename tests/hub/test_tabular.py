"""Tabular values: the vector by hand, what a card says of them, and every refusal."""

import dataclasses
import json

import numpy as np
import pytest
from support.cards import tiny_card
from support.networks import TINY_ARGUMENTS

from zoo.hub import card_file
from zoo.hub.card import Golden, Weights
from zoo.hub.model_readme import readme
from zoo.hub.tabular import Tabular, encode

TIME = Tabular("time_to_reperfusion_h", "h", 0, 48, 6, 4)
TICI = Tabular("tici", "", 0, 5, 2.5, 2, {"0": 0, "1": 1, "2a": 2, "2b": 3, "2c": 4, "3": 5})
AGE = Tabular("age", "y", 0, 120, 70, 10)
FIELDS = (TIME, TICI, AGE)


def test_the_vector_by_hand():
    vector = encode(FIELDS, {"tici": "2b", "time_to_reperfusion_h": 4})
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector, np.float32([-0.5, 0, 0.25, 0, 0, 1]))


@pytest.mark.parametrize("missing", [None, float("nan"), "n/a", "", "NaN"])
def test_what_is_missing_is_zero_with_its_flag(missing):
    np.testing.assert_array_equal(encode(FIELDS, dict.fromkeys(("tici", "age"), missing)), np.float32([0, 1] * 3))


def test_numbers_may_come_as_words_and_grades_as_numbers():
    words, numbers = {"tici": "3", "age": " 81.5 "}, {"tici": 3.0, "age": 81.5}
    np.testing.assert_array_equal(encode(FIELDS, words), encode(FIELDS, numbers))
    np.testing.assert_allclose(encode(FIELDS, numbers), [0, 1, 1.25, 0, 1.15, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"time_to_reperfusion": 4}, r"no tabular value 'time_to_reperfusion'. Did you mean 'time_to_reperfusion_h'?"),
        ({"time_to_reperfusion_h": -1}, r"time_to_reperfusion_h is -1 h, and it goes from 0 to 48 h"),
        ({"age": 121}, r"age is 121 y, and it goes from 0 to 120 y"),
        ({"age": float("inf")}, r"age is inf y"),
        ({"tici": "2d"}, r"no grade of tici '2d'. Did you mean '2[abc]'\? Choose from: 0, 1, 2a, 2b, 2c, 3"),
        ({"age": "old"}, r"age is 'old', and a number in y is expected"),
    ],
)
def test_refusals(values, message):
    with pytest.raises(ValueError, match=message):
        encode(FIELDS, values)


def card(**changes):
    card_input = dataclasses.replace(tiny_card().input, tabular=FIELDS)
    measured = {"weights": Weights("weights.safetensors", 24_000_000, "a" * 64, "float16"), "parameters": 12345}
    fields = {
        "input": card_input,
        "arguments": {**TINY_ARGUMENTS, "conditioning": 6},
        "golden": Golden("g.npz", 1, "b" * 64),
    }
    return tiny_card(**{**measured, **fields, **changes})


def test_a_card_with_tabular_values_comes_back_equal(tmp_path):
    assert card_file.read(card_file.write(card(), tmp_path)) == card()


def test_a_card_from_before_there_were_any_is_read(tmp_path):
    path = card_file.write(card(input=tiny_card().input, arguments=TINY_ARGUMENTS), tmp_path)
    plain = json.loads(path.read_text())
    del plain["input"]["tabular"]
    path.write_text(json.dumps(plain))
    assert card_file.read(path).input.tabular == ()


def test_faults_of_a_card_are_named():
    fields = (TIME, TIME, dataclasses.replace(AGE, sd=0), dataclasses.replace(TICI, high=4))
    with pytest.raises(ValueError, match="4 fault") as error:
        card_file.check(card(input=dataclasses.replace(tiny_card().input, tabular=fields)))
    for part in ("names that differ", "age needs finite", "tici has grades outside 0 to 4", "conditioning must be 8"):
        assert part in str(error.value)


def test_the_readme_tells_what_to_pass():
    text = readme(card())
    assert 'tabular={"time_to_reperfusion_h": 6, "tici": "3", "age": 70}' in text
    assert "| tici | - | 0, 1, 2a, 2b, 2c, 3 | 2.5 |" in text and "| age | y | 0 to 120 | 70 |" in text
    assert "Values beside the images" not in readme(card(input=tiny_card().input, arguments=TINY_ARGUMENTS))
