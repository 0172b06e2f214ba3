"""Candidates against boxes measured by hand."""

import csv
import math

import numpy as np
import pytest

from zoo.evaluation.candidates import find_candidates, select, write_candidates

AFFINE = np.array([[0, -2.0, 0, 10], [1, 0, 0, -5], [0, 0, 3.0, 7], [0, 0, 0, 1]])


@pytest.fixture
def probability():
    volume = np.zeros((16, 24, 32), np.float32)
    volume[2:6, 4:6, 8:10] = 0.9  # 4 x 2 x 2 voxels: 4 x 4 x 6 mm
    volume[10, 20, 10:22] = 0.7  # a line of 12 voxels: 1 x 2 x 36 mm
    return volume


def test_measures_boxes_in_world_millimetres(probability):
    box, line = find_candidates(probability, AFFINE)
    assert box.centre_mm == pytest.approx((10 - 2 * 4.5, 3.5 - 5, 7 + 3 * 8.5))
    assert box.volume_mm3 == pytest.approx(4 * 4 * 6)
    assert box.diameter_mm == pytest.approx((6 * 96 / math.pi) ** (1 / 3))
    assert (box.elongation, line.elongation) == pytest.approx((6 / 4, 36 / 1))
    assert (box.confidence, line.confidence) == pytest.approx((0.9, 0.7))


def test_selects_by_size_shape_and_place(probability):
    regions = np.zeros(probability.shape, int)
    regions[:8] = 5
    every = find_candidates(probability, AFFINE, regions=regions)
    assert [candidate.region for candidate in every] == [5, 0]
    assert select(every) == every[:1]
    assert select(every, elongation=40) == every
    assert select(every, elongation=40, impossible=[5]) == every[1:]
    assert select(every, diameter_mm=(0, 5.2), elongation=40) == every[1:]


def test_writes_a_row_each_and_a_header_for_none(probability, tmp_path):
    path = write_candidates(find_candidates(probability, AFFINE), tmp_path / "lesions.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [float(row["volume_mm3"]) for row in rows] == [96, 72]
    empty = write_candidates(find_candidates(np.zeros((16, 24, 32)), AFFINE), tmp_path / "none.csv")
    assert empty.read_text().startswith("x_mm,") and not list(csv.DictReader(empty.read_text().splitlines()))


def test_refuses_what_cannot_be_meant(probability):
    with pytest.raises(ValueError, match=r"from 0 to below 1, got 1"):
        find_candidates(probability, AFFINE, threshold=1)
    with pytest.raises(ValueError, match=r"\(8, 8, 8\) and \(16, 24, 32\)"):
        find_candidates(probability, AFFINE, regions=np.zeros((8, 8, 8), int))
