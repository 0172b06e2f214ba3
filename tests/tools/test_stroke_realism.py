"""The study of how real drawn infarcts are: its counts by hand."""

import numpy as np
import pytest
from support import infarcts
from support.scripts import load_script

from zoo.synth.stroke_infarcts import mask_folder, outlines


@pytest.fixture(scope="module")
def study():
    return load_script("studies/stroke_realism.py")


def test_places_are_counted_in_their_cells_and_those_outside_in_none(study):
    low = study.LOW_MM
    places = np.array([low + 0.1, low + 3.9, low + np.array([4.0, 0, 0]), low - 0.1, study.HIGH_MM + 5]).T
    counts = study.count_cells(places)
    assert counts.shape == study.SHAPE and counts.sum() == 3
    assert counts[0, 0, 0] == 2 and counts[1, 0, 0] == 1


def test_the_mean_mask_holds_the_mean_volume_of_the_infarcts(study, monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ZOO_INFARCTS", str(infarcts.write_folder(tmp_path / "masks")))
    mean = study.mean_mask(outlines.load())
    masks = np.mean([mask_folder.read(name)[0] for name in mask_folder.names()], axis=0)
    assert mean.sum() * study.CELL_MM**3 == pytest.approx(masks.sum())
    corner = ((np.array(infarcts.ORIGIN) - study.LOW_MM) / study.CELL_MM).astype(int)
    first = (study.LOW_MM + corner * study.CELL_MM - infarcts.ORIGIN).astype(int) + 3 * study.CELL_MM
    block = masks[tuple(slice(start, start + study.CELL_MM) for start in first)]
    assert mean[tuple(corner + 3)] == pytest.approx(block.mean())


def test_territories_of_both_sides_are_one(study):
    shares = study._shares([1, 2, 7, 0])
    assert shares["anterior"] == 0.5 and shares["middle_frontal"] == 0.25 and shares["none"] == 0.25
    assert sum(shares.values()) == 1
