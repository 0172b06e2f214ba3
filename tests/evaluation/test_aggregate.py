"""Tables of many cases against hand arithmetic."""

import math
import warnings

import numpy as np
import pytest

from zoo.evaluation import aggregate

NAN = float("nan")


def entry(dice, **flags):
    return {"dice": dice, "both_empty": 0.0, "false_alarm": 0.0, "missed": 0.0, **flags}


CASES = {
    "a": {1: entry(0.8), 2: entry(0.2)},
    "b": {1: entry(0.6), 2: entry(NAN, both_empty=1.0)},
    "c": {1: entry(0.0, missed=1.0), 2: entry(0.0, false_alarm=1.0)},
    "d": {1: entry(0.9)},  # its label 2 was not looked for
}


def row(rows, label, metric="dice"):
    return next(row for row in rows if row["label"] == label and row["metric"] == metric)


def test_means_counts_and_both_aggregations():
    rows = aggregate.summarise(CASES, names={1: "lacune"}, resamples=50)
    first, second = row(rows, "lacune"), row(rows, "2")
    assert first["mean"] == pytest.approx(2.3 / 4) and first["n"] == 4 and first["missed"] == 1
    assert first["median"] == pytest.approx(0.7) and first["sd"] == pytest.approx(np.std([0.8, 0.6, 0, 0.9], ddof=1))
    assert second["mean"] == pytest.approx(0.1) and second["n"] == 2
    assert (second["both_empty"], second["false_alarm"], second["missed"]) == (1, 1, 0)
    cases = row(rows, aggregate.MEAN_OF_CASES)
    assert cases["mean"] == pytest.approx((0.5 + 0.6 + 0.0 + 0.9) / 4) and cases["n"] == 4
    classes = row(rows, aggregate.MEAN_OF_CLASS_MEANS)
    assert classes["mean"] == pytest.approx((2.3 / 4 + 0.1) / 2) and classes["n"] == 2
    assert (classes["both_empty"], classes["false_alarm"], classes["missed"]) == (1, 1, 1)


def test_an_all_nan_mean_is_nan_without_a_warning():
    cases = {"a": {1: entry(NAN, both_empty=1.0)}, "b": {1: entry(NAN, both_empty=1.0)}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = aggregate.summarise(cases)
    for statistics in rows:
        assert all(math.isnan(statistics[key]) for key in ("mean", "low", "high", "sd", "median"))
        assert statistics["n"] == 0 and statistics["both_empty"] == 2
    assert math.isnan(aggregate.mean([])) and math.isnan(aggregate.mean([NAN])) and aggregate.mean([NAN, 2.0]) == 2.0


def test_bootstrap_interval_is_that_of_a_normal_mean():
    rng = np.random.default_rng(6)
    values = rng.normal(0.7, 0.1, 400)
    cases = {str(number): {1: entry(float(value))} for number, value in enumerate(values)}
    wide = row(aggregate.summarise(cases, resamples=4000), "1")
    half = 1.96 * values.std(ddof=1) / 20
    assert wide["low"] == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert wide["high"] == pytest.approx(values.mean() + half, abs=0.1 * half)
    narrow = row(aggregate.summarise(cases, confidence=0.5), "1")
    assert wide["low"] < narrow["low"] < narrow["mean"] < narrow["high"] < wide["high"]


def test_the_same_seed_gives_the_same_table_and_one_case_no_interval():
    assert str(aggregate.summarise(CASES, seed=3)) == str(aggregate.summarise(CASES, seed=3))
    assert str(aggregate.summarise(CASES, seed=3, resamples=9)) != str(aggregate.summarise(CASES, seed=4, resamples=9))
    single = row(aggregate.summarise({"a": CASES["a"]}), "1")
    assert single["mean"] == 0.8 and math.isnan(single["low"]) and math.isnan(single["sd"])


def test_metrics_can_be_chosen():
    rows = aggregate.summarise(CASES, metrics=["hd95_mm"])
    assert {statistics["metric"] for statistics in rows} == {"hd95_mm"} and all(
        math.isnan(statistics["mean"]) for statistics in rows
    )


def test_case_rows():
    rows = aggregate.case_rows(CASES, names={2: "space"})
    assert [(entry_of_case["case"], entry_of_case["label"]) for entry_of_case in rows[:3]] == [
        ("a", "1"),
        ("a", "space"),
        ("b", "1"),
    ]
    assert rows[0]["dice"] == 0.8 and len(rows) == 7


@pytest.mark.parametrize("bad", [{"confidence": 1.0}, {"resamples": 0}, {"cases": {}}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match="at least one case, a confidence between 0 and 1"):
        aggregate.summarise(**{"cases": CASES, **bad})
