"""Ablation studies: what is measured once, how criteria and tables are written, short trainings on shared batches."""

import dataclasses
import json

import numpy as np
import pytest
from support.tasks import BALL

from zoo.training.experiments import study
from zoo.training.experiments.study import Criterion, StudyResult

RESULT = StudyResult(
    [
        Criterion("Dice beats entropy", ">= 0.1", "0.2", True),
        Criterion("it is quick", "< 1 s", "2 s", False, "On one core."),
    ],
    {"Losses": [{"setting": "Dice", "score": np.float32(0.5)}, {"setting": "entropy", "seeds": 3}]},
    {"seeds": 3, "steps": 10},
)


def test_a_part_is_measured_once(tmp_path):
    path, calls = tmp_path / "work" / "part.json", []

    def measure():
        calls.append(1)
        return {"dice": np.float32(0.5)}

    assert study.load_or_measure(path, measure) == study.load_or_measure(path, measure) == {"dice": 0.5}
    assert len(calls) == 1 and [entry.name for entry in path.parent.iterdir()] == ["part.json"]


def test_a_part_that_fails_leaves_no_file(tmp_path):
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        study.load_or_measure(tmp_path / "part.json", fail)
    assert not list(tmp_path.iterdir())


def test_settings_are_measured_seed_by_seed(tmp_path, capsys):
    order = []

    def measure(name, seed):
        order.append((name, seed))
        return {"dice": seed + len(name)}

    rows = study.measure_settings(["a", "bb"], 2, tmp_path, measure, first_seed_only={"bb"})
    assert rows == {"a": [{"dice": 1}, {"dice": 2}], "bb": [{"dice": 2}]}
    assert order == [("a", 0), ("bb", 0), ("a", 1)]
    assert study.measure_settings(["a"], 3, tmp_path, measure)["a"][2] == {"dice": 3}
    assert order[3:] == [("a", 2)]
    assert "bb 0 {'dice': 2}" in capsys.readouterr().err


def test_a_spread_is_mean_and_sample_deviation():
    assert study.format_spread([0.25]) == "0.250"
    assert study.format_spread([1.0, 2.0, 3.0]) == "2.000 +- 1.000"


def test_a_page_shows_criteria_remarks_and_tables():
    lines = study.format_markdown("toys", RESULT).splitlines()
    assert lines[0] == "# Criteria of toys"
    assert lines[4:6] == [
        "| Dice beats entropy | >= 0.1 | 0.2 | passed |",
        "| it is quick | < 1 s | 2 s | MISSED |",
    ]
    assert "- it is quick: On one core." in lines
    table = lines.index("## Losses")
    assert lines[table + 2] == "| setting | score | seeds |"
    assert lines[table + 4 : table + 6] == ["| Dice | 0.5 |  |", "| entropy |  | 3 |"]
    assert lines[-1].startswith("Settings: seeds 3; steps 10. Processor: ")
    assert not RESULT.passed and dataclasses.replace(RESULT, criteria=RESULT.criteria[:1]).passed


def test_a_result_keeps_the_form_that_cards_are_made_of(tmp_path):
    path = study.write_result("toys", RESULT, tmp_path / "results")
    content = json.loads(path.read_text())
    assert list(content) == ["criteria", "tables", "settings", "what", "processor"]
    assert content["criteria"][0] == {
        "name": "Dice beats entropy",
        "goal": ">= 0.1",
        "measured": "0.2",
        "passed": True,
        "remark": "",
    }
    assert content["tables"]["Losses"][0] == {"setting": "Dice", "score": 0.5}
    assert path.with_suffix(".md").read_text() == study.format_markdown("toys", RESULT)


SMALL = BALL.replace(arguments={"filters": (2, 4)}, optimizer={"name": "sgd", "learning_rate": 0.1, "use_ema": True})


@pytest.fixture(scope="module")
def samples():
    """Two half-precision batches of a bright box in noise."""
    rng = np.random.default_rng(0)
    labels = np.zeros((2, 1, 8, 12, 16, 1), np.uint8)
    labels[:, :, 2:6, 3:8, 4:10] = 1
    images = (labels + 0.1 * rng.normal(size=labels.shape)).astype(np.float16)
    return list(zip(images, labels, strict=True))


def test_equal_seeds_train_equal_networks_and_averaging_changes_them(samples):
    first, again, averaged = (
        study.train_on(SMALL, samples, seed=3, precision="float32", averaged=averaged).get_weights()
        for averaged in (False, False, True)
    )
    for weight, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(weight, two)
    assert any(np.any(weight != two) for weight, two in zip(first, averaged, strict=True))


def test_a_network_goes_on_from_another(samples):
    task = SMALL.replace(optimizer={"name": "sgd", "learning_rate": 0.0})
    first = study.train_on(task, samples[:1], seed=0, precision="float32", averaged=False)
    second = study.train_on(task, samples[:1], seed=9, precision="float32", start=first, averaged=False)
    for variable, two in zip(first.trainable_variables, second.trainable_variables, strict=True):
        np.testing.assert_array_equal(variable, two)
    share = np.mean([labels for _, labels in samples[:1]])
    bias = np.asarray(first.get_layer("logits").bias)
    assert bias[1] - bias[0] == pytest.approx(np.log(share / (1 - share)), abs=1e-5)
