"""The row of a card that a release states: means by hand, and refusals."""

import math
from types import SimpleNamespace

import pytest
from support.tasks import BALL

from zoo.workflows import held_out

SCORES = {
    "a": {1: {"dice": 0.5, "hd95_mm": 4.0}, 2: {"dice": 1.0, "hd95_mm": math.nan}},
    "b": {1: {"dice": 0.25, "hd95_mm": 2.0}, 2: {"dice": math.nan, "hd95_mm": math.nan}},
}


def test_a_row_averages_labels_then_cases_and_leaves_out_what_is_not_defined():
    row = held_out.average_scores(SCORES, {1: "left", 2: "right"})
    assert row == {"n": 2, "dice": 0.5, "hd95_mm": 3.0, "dice_left": 0.375, "dice_right": 1.0}


def test_one_label_has_no_row_of_its_own():
    assert held_out.average_scores({"a": {7: {"dice": 0.5}}}, {7: "ball"}) == {"n": 1, "dice": 0.5}


def test_the_row_of_a_run_names_its_labels(monkeypatch):
    evaluation = SimpleNamespace(scores={"a": {7: {"dice": 0.5}}}, failed={})
    monkeypatch.setattr(held_out, "evaluate", lambda task, run, source: evaluation)
    assert held_out.measure_held_out(BALL, "run") == {held_out.TITLE: {"n": 1, "dice": 0.5}}


def test_a_case_that_failed_stops_a_release(monkeypatch):
    evaluation = SimpleNamespace(scores={}, failed={"a": "it is empty"})
    monkeypatch.setattr(held_out, "evaluate", lambda task, run, source: evaluation)
    with pytest.raises(ValueError, match=r"1 held-out cases could not be measured, such as 'a': it is empty"):
        held_out.measure_held_out(BALL, "run")
