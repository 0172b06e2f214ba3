"""Lesion-wise scores against hand-made examples, SciPy's labelling and MONAI's numbers."""

import json
import math

import numpy as np
import pytest
from support.paths import FIXTURES

from zoo.evaluation import lesions

PEERS = json.loads((FIXTURES / "metrics" / "peers.json").read_text())["lesions"]
UNIT = (1.0, 1.0, 1.0)
SHAPE = (16, 24, 32)


def boxes(*corners, size=2):
    """A mask with one cube of a few voxels at each corner."""
    mask = np.zeros(SHAPE, bool)
    for x, y, z in corners:
        mask[x : x + size, y : y + size, z : z + size] = True
    return mask


def nothing():
    return np.zeros(SHAPE, bool)


# Three lesions. The first is met by two detections, the second by none, the third by one voxel; one detection is false.
REFERENCE = boxes((2, 2, 2), (2, 12, 2), (10, 2, 20))
PREDICTION = boxes((1, 2, 2), (11, 3, 21), (10, 18, 20))
PREDICTION[4, 4, 4] = True  # touches the first lesion's corner but shares no voxel


def test_overlap_by_hand():
    metrics = lesions.lesion_metrics(PREDICTION, REFERENCE, UNIT)
    assert metrics["lesions"] == 3 and metrics["detections"] == 4
    assert metrics["found"] == 2 and metrics["false_positives"] == 2
    assert metrics["sensitivity"] == pytest.approx(2 / 3) and metrics["precision"] == 0.5
    assert metrics["f1"] == pytest.approx(2 * 2 / 3 * 0.5 / (2 / 3 + 0.5))
    assert metrics["dice_of_hits"] == pytest.approx((2 * 4 / 16 + 2 * 1 / 16) / 2)
    assert (metrics["panoptic_quality"], metrics["recognition_quality"]) == (0, 0)
    assert math.isnan(metrics["segmentation_quality"])


def test_centres_by_hand():
    # Centres (voxels): lesions (2.5, 2.5, 2.5), ...; detections 1 and 1.73 voxels away, and (4, 4, 4), 2.6 away.
    metrics = lesions.lesion_metrics(PREDICTION, REFERENCE, UNIT, match="centre")
    assert metrics["found"] == 2 and metrics["false_positives"] == 1
    strict = lesions.lesion_metrics(PREDICTION, REFERENCE, UNIT, match="centre", centre_mm=1.5)
    assert strict["found"] == 1 and strict["false_positives"] == 3
    coarse = lesions.lesion_metrics(PREDICTION, REFERENCE, (4, 1, 1), match="centre")
    assert coarse["found"] == 0
    wide = lesions.lesion_metrics(PREDICTION, REFERENCE, (4, 1, 1), match="centre", centre_mm=4.3)
    assert wide["found"] == 2


def test_spacing_gives_volumes_and_diameters():
    matching = lesions.match_lesions(PREDICTION, REFERENCE, (0.5, 1, 2))
    first = matching.reference[0]
    assert first.voxels == 8 and first.volume_ml == pytest.approx(0.008)
    assert first.diameter_mm == pytest.approx((48 / math.pi) ** (1 / 3)) and first.centre == (2.5, 2.5, 2.5)


def test_connectivity_joins_corners():
    mask = boxes((2, 2, 2), (4, 4, 4))
    counts = [lesions.lesion_metrics(mask, mask, UNIT, connectivity=c)["lesions"] for c in (6, 18, 26)]
    assert counts == [2, 2, 1]


def test_empty_masks():
    some, none = REFERENCE, nothing()
    missed = lesions.lesion_metrics(none, some, UNIT)
    assert missed["sensitivity"] == 0 and missed["f1"] == 0 and missed["panoptic_quality"] == 0
    assert math.isnan(missed["precision"]) and missed["missed"] == 1
    alarm = lesions.lesion_metrics(some, none, UNIT)
    assert alarm["precision"] == 0 and alarm["f1"] == 0 and alarm["false_positives"] == 3
    assert math.isnan(alarm["sensitivity"]) and math.isnan(alarm["dice_of_hits"]) and alarm["false_alarm"] == 1
    both = lesions.lesion_metrics(none, none, UNIT)
    assert all(math.isnan(both[key]) for key in ("sensitivity", "precision", "f1", "panoptic_quality"))
    assert both["both_empty"] == 1 and both["false_positives"] == 0


@pytest.mark.parametrize("match", lesions.MATCHES)
def test_a_perfect_answer(match):
    metrics = lesions.lesion_metrics(REFERENCE, REFERENCE, UNIT, match=match)
    ones = ("sensitivity", "precision", "f1", "dice_of_hits", "panoptic_quality", "segmentation_quality")
    assert [metrics[key] for key in ones] == [1.0] * 6


@pytest.mark.parametrize("number", range(3))
def test_panoptic_quality_equals_monai(number):
    name = f"lesions_{number}"
    with np.load(FIXTURES / "metrics" / "masks.npz") as arrays:
        shape = tuple(arrays[f"{name}/shape"])
        bits = np.unpackbits(arrays[name], count=2 * math.prod(shape))
    prediction, reference = bits.reshape(2, *shape).astype(bool)
    metrics = lesions.lesion_metrics(prediction, reference, UNIT)
    expected = PEERS[name]
    assert expected["rq"] > 0
    ours = [metrics[key] for key in ("panoptic_quality", "segmentation_quality", "recognition_quality")]
    assert ours == pytest.approx([expected["pq"], expected["sq"], expected["rq"]], rel=1e-5)


def test_groups_by_size_and_region():
    regions = np.zeros(SHAPE, np.int16)
    regions[8:] = 5
    reference = boxes((2, 2, 2), (10, 2, 20)) | boxes((2, 12, 2), size=5)
    matching = lesions.match_lesions(PREDICTION, reference, UNIT, regions=regions)
    by_region = lesions.sensitivity_by([matching, matching], lambda lesion: lesion.region)
    assert [row["group"] for row in by_region] == [0, 5]
    assert [(row["lesions"], row["found"], row["false_positives"]) for row in by_region] == [(4, 2, 2), (2, 2, 2)]
    by_size = lesions.sensitivity_by([matching], lesions.size_bin((2, 3)))
    assert [row["group"] for row in by_size] == [(0.0, 2), (2, 3), (3, math.inf)]
    assert [row["lesions"] for row in by_size] == [0, 2, 1]
    assert math.isnan(by_size[0]["sensitivity"]) and by_size[1]["sensitivity"] == 1 and by_size[2]["sensitivity"] == 0


def test_pooled_scores_by_hand():
    # 2 of 3 lesions found by 4 detections of which 2 are true; then an image of no lesion and 3 detections.
    matchings = [
        lesions.match_lesions(PREDICTION, REFERENCE, UNIT),
        lesions.match_lesions(REFERENCE, nothing(), UNIT),
        lesions.match_lesions(nothing(), nothing(), UNIT),
    ]
    scores = lesions.pool_scores(matchings)
    assert (scores["n"], scores["lesions"], scores["found"], scores["detections"]) == (3, 3, 2, 7)
    assert scores["sensitivity"] == pytest.approx(2 / 3) and scores["precision"] == pytest.approx(2 / 7)
    assert scores["f1"] == pytest.approx(2 * (2 / 3) * (2 / 7) / (2 / 3 + 2 / 7))
    assert scores["fp_per_image"] == pytest.approx(5 / 3)
    assert scores["dice_of_hits"] == pytest.approx((2 * 4 / 16 + 2 * 1 / 16) / 2)


def test_pooled_scores_that_are_not_defined():
    silent = lesions.pool_scores([lesions.match_lesions(nothing(), REFERENCE, UNIT)])
    assert (silent["sensitivity"], silent["f1"], silent["fp_per_image"]) == (0, 0, 0)
    assert math.isnan(silent["precision"]) and math.isnan(silent["dice_of_hits"])
    alarm = lesions.pool_scores([lesions.match_lesions(REFERENCE, nothing(), UNIT)])
    assert math.isnan(alarm["sensitivity"]) and (alarm["precision"], alarm["f1"], alarm["fp_per_image"]) == (0, 0, 3)
    empty = lesions.pool_scores([lesions.match_lesions(nothing(), nothing(), UNIT)])
    assert all(math.isnan(empty[key]) for key in ("sensitivity", "precision", "f1")) and empty["fp_per_image"] == 0
    with pytest.raises(ValueError, match="at least one image"):
        lesions.pool_scores([])


def test_bad_choices_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'overlap'"):
        lesions.match_lesions(PREDICTION, REFERENCE, UNIT, match="overlaps")
    with pytest.raises(ValueError, match="connectivity"):
        lesions.match_lesions(PREDICTION, REFERENCE, UNIT, connectivity=8)
    with pytest.raises(ValueError, match="spacing_mm"):
        lesions.lesion_metrics(PREDICTION, REFERENCE, (1, 1))
