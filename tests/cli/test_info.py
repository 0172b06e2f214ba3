"""`zoo info`: the headline of a card as tables that fit, every number with --all."""

import dataclasses
import re

import pytest
from support.cards import tiny_card
from typer.testing import CliRunner

import zoo
from zoo.cli.info_metrics import find_families, format_number, list_headline
from zoo.cli.info_page import card_page
from zoo.cli.main import app
from zoo.cli.terminal import tell

TRAINED = [name for name in zoo.list_models("*.*")]
LACUNES = {
    "n": 4,
    "f1": 0.7,
    "fp_per_image": 1,
    "lacunes": 13,
    "sensitivity": 0.8,
    **{f"sensitivity_at_{rate}_fp": 0.5 for rate in (1, 2, 4, 8)},
    "fp_sulcal": 0.2,
    "fp_elsewhere": 0.1,
}


def info(name, *words):
    done = CliRunner().invoke(app, ["info", name, *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_four_numbers_of_a_kind_are_a_family_and_the_known_ones_come_first():
    assert find_families(LACUNES) == {"sensitivity_at": [f"sensitivity_at_{rate}_fp" for rate in (1, 2, 4, 8)]}
    assert list_headline(LACUNES) == ["f1", "sensitivity", "fp_per_image", "lacunes", "fp_sulcal", "fp_elsewhere"]
    parts = {f"hd95_mm_{part}": 1.0 for part in "abcd"} | {"hd95_mm": 2.0}
    assert list(find_families(parts)) == ["hd95_mm"] and list_headline(parts) == ["hd95_mm"]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.76923, "0.769"), (0.0, "0"), (1.0, "1"), (1865.246, "1865"), (99.96, "100"), (-1.0, "-1")]
)
def test_numbers_have_three_digits_that_count(value, shown):
    assert format_number(value) == shown


@pytest.mark.parametrize("name", TRAINED)
def test_every_card_fits_80_columns_and_tells_the_first_number_of_each_data_set(name):
    text = info(name)
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    for metrics in zoo.card(name).metrics.values():
        for metric in list_headline(metrics)[:1]:
            assert format_number(metrics[metric]) in text.split()
    assert "- Not for diagnosis." in text or "not for diagnosis" in " ".join(text.split())


@pytest.mark.parametrize("name", TRAINED)
def test_all_shows_every_number(name):
    text = info(name, "--all")
    assert max(map(len, text.splitlines())) <= 80
    words = re.split(r"\s{2,}|\n", text)
    for metrics in zoo.card(name).metrics.values():
        for metric, value in metrics.items():
            assert f"{metric} {format_number(value)}" in words
    assert "--all shows" not in text


def test_what_is_left_out_is_named_and_tables_of_the_card_are_shown_with_all(capsys):
    card = dataclasses.replace(
        tiny_card(),
        parameters=3,
        metrics={"scans": LACUNES},
        tables={"Ablation": ({"channels": "T1", "f1": "0.5"}, {"channels": "all", "f1": "0.7"})},
    )
    tell(None, card_page(card), False)
    assert "shows the rest: sensitivity at (4), fp elsewhere, ablation." in " ".join(capsys.readouterr().out.split())
    tell(None, card_page(card, everything=True), False)
    shown = capsys.readouterr().out
    assert "Ablation" in shown and re.search(r"all +0\.7", shown)


def test_gates_are_counted_and_those_that_were_missed_are_told(capsys):
    gates = (
        {"gate": "Dice", "goal": ">= 0.8", "measured": "0.9", "": "passed"},
        {"gate": "AUC", "goal": ">= 0.7", "measured": "0.5", "": "MISSED"},
    )
    card = dataclasses.replace(tiny_card(), parameters=3, tables={"Gates": gates})
    tell(None, card_page(card), False)
    shown = capsys.readouterr().out
    assert "Of 2 gates 1 passed; missed:\n  - AUC: 0.5, goal >= 0.7\n" in shown and "Dice:" not in shown
    tell(None, card_page(dataclasses.replace(card, tables={"Gates": gates[:1]})), False)
    assert "Of 1 gates 1 passed.\n" in capsys.readouterr().out
    tell(None, card_page(card, everything=True), False)
    assert "MISSED" in capsys.readouterr().out


def test_labels_of_both_sides_are_told_once():
    text = " ".join(info("unet3d.brain_structures").split())
    assert "fourth_ventricle, brainstem; left and right white, cortex, ventricle," in text
