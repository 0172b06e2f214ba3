"""What the judges of tools/bench count: overlap, volumes, and their summaries."""

import sys

import numpy as np
import pytest
from support.paths import ROOT


@pytest.fixture(scope="module")
def judges():
    before = list(sys.path)
    sys.path.insert(0, str(ROOT / "tools" / "bench"))
    import brain_masks
    import real_heads

    sys.path[:] = before
    return real_heads, brain_masks


def blocks():
    """Left and right thalamus of 64 voxels each, and the prediction of a right one with 32 voxels too many."""
    reference = np.zeros((20, 12, 8), np.int32)
    reference[2:6, 2:6, 2:6], reference[12:16, 2:6, 2:6] = 10, 49
    predicted = reference.copy()
    predicted[12:16, 6:8, 2:6] = 49
    return predicted, reference


def test_volumes_and_dice_are_means_of_both_sides(judges):
    predicted, reference = blocks()
    table = judges[0].score(predicted, reference, (1, 1, 1), surfaces=False)
    assert table == {"thalamus": {"dice": pytest.approx((1 + 2 * 64 / 160) / 2), "volume_error": pytest.approx(0.25)}}


def test_surfaces_add_a_distance_and_change_nothing_else(judges):
    predicted, reference = blocks()
    plain, full = (judges[0].score(predicted, reference, (1, 1, 1), surfaces=one)["thalamus"] for one in (False, True))
    assert 0.5 < full.pop("hd95_mm") <= 2
    assert full == pytest.approx(plain)


def test_the_summary_has_the_mean_and_the_most_of_the_large_structures(judges):
    table = {name: {"dice": 0.5, "volume_error": 0.1} for name in (*judges[0].SIX, *judges[0].LARGE)}
    table["white"]["volume_error"] = 0.3
    summary = judges[0].summary(table)
    assert summary["volume_error_large"] == pytest.approx(0.14) and summary["volume_error_most"] == 0.3
    del table["white"], table["cortex"]
    assert judges[0].summary(table) == {"dice": 0.5, "dice_six": 0.5}


def test_masks_are_summed_up_by_scan_and_together(judges):
    rows = {
        "head_ecog": {"dice": 0.9, "hd95_mm": 4.0},
        "test people, t1, a": {"dice": 0.8, "hd95_mm": 2.0},
        "test people, t1, b": {"dice": 0.6, "hd95_mm": 4.0},
        "test people, t1_5mm, a": {"dice": 0.4, "hd95_mm": 6.0},
    }
    found = judges[1].summary(rows)
    assert found["head_ecog"] == {"dice": 0.9, "hd95_mm": 4.0, "least_dice": 0.9, "n": 1}
    assert found["test people, t1"] == pytest.approx({"dice": 0.7, "hd95_mm": 3.0, "least_dice": 0.6, "n": 2})
    assert found["test people"] == pytest.approx({"dice": 0.6, "hd95_mm": 4.0, "least_dice": 0.4, "n": 3})


def test_sides_that_were_not_judged_keep_their_numbers(judges, tmp_path):
    path = tmp_path / "masks.json"
    judges[1].write({"a": {"summary": 1}, "b": {"summary": 2, "seconds": 9}}, path)
    judges[1].write({"b": {"summary": 3}}, path)
    judges[1].write({"a": {"seconds": 4}}, path)
    assert judges[1].read(path)["sides"] == {"a": {"summary": 1, "seconds": 4}, "b": {"summary": 3, "seconds": 9}}
    assert judges[1].read(tmp_path / "none.json") == {"sides": {}}
