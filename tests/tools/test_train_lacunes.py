"""`tools/train_lacunes`: what it measures of probability maps, and how threshold and filters are chosen."""

import nibabel
import numpy as np
import pytest
from support.scripts import load_script

from zoo.datasets.cases import Case
from zoo.synth.lacunes.placement import KINDS, REGIONS

SHAPE = (24, 32, 40)


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/train_lacunes")


@pytest.fixture
def case(tmp_path):
    """A scan of two lacunes of 5 voxels a side in the first region, and a perivascular space in the second."""
    kinds, regions = np.zeros((2, *SHAPE), np.uint8)
    kinds[3:8, 3:8, 3:8] = kinds[3:8, 15:20, 3:8] = 1 + KINDS.index("lacune")
    kinds[15:20, 3:8, 3:8] = 1 + KINDS.index("perivascular")
    regions[:10], regions[10:] = 1, 2
    lacunes = (kinds == 1 + KINDS.index("lacune")).astype(np.uint8)
    for name, array in {"kinds": kinds, "regions": regions, "lacunes": lacunes}.items():
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii.gz")
    return Case("a", "a", {}, tmp_path / "lacunes.nii.gz", {"scanner": "first"})


@pytest.fixture
def probability(case):
    """The first lacune at 0.7, the mimic at 0.4, and a long tube outside both at 0.9."""
    values = np.zeros(SHAPE, np.float32)
    values[3:8, 3:8, 3:8], values[15:20, 3:8, 3:8] = 0.7, 0.4
    values[21:23, 29:31, 2:38] = 0.9
    return values


def test_scores_and_errors_by_hand(tool, case, probability):
    masks = [probability > 0.3]
    scores = tool.score(masks, [case])
    assert (scores["n"], scores["lacunes"], scores["sensitivity"], scores["fp_per_image"]) == (1, 2, 0.5, 2)
    errors = tool.describe_errors(masks, [case])
    assert (errors["fp_perivascular"], errors["fp_elsewhere"], errors["fp_sulcal"]) == (1, 1, 0)
    assert errors["sensitivity_5_to_8_mm"] == 0.5 and errors[f"sensitivity_{REGIONS[1]}"] == 0.5


def test_the_froc_counts_the_tube_first(tool, case, probability):
    row = tool.measure_froc([probability], [case])
    assert row["sensitivity_at_0.5_fp"] == 0 and row["sensitivity_at_1_fp"] == 0.5


def test_threshold_and_filter_leave_the_lacune_alone(tool, case, probability):
    threshold, step = tool.choose([probability], [case])
    assert 0.4 <= threshold < 0.7
    kept = tool.filter_mask(probability > threshold, [step])
    np.testing.assert_array_equal(np.argwhere(kept).min(0), [3, 3, 3])
    assert kept.sum() == 125


def test_a_scanner_has_a_row_as_shipped_and_one_before_the_filters(tool, case, probability, monkeypatch):
    monkeypatch.setattr(tool.task, "SCANNERS", {"first": None})
    rows = tool.measure([probability], [case], tool.make_step(2.0), 0.5)
    shipped, bare = rows.values()
    assert list(rows) == [
        "held-out donors, first scanner",
        "held-out donors, first scanner, before the candidate filters",
    ]
    assert (shipped["precision"], bare["precision"]) == (1, 0.5) and "froc_mean_sensitivity" in bare
