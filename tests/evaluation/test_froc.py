"""FROC against hand-made examples and MONAI's numbers."""

import json
import math

import numpy as np
import pytest
from support.paths import FIXTURES

from zoo.evaluation.froc import Detections, detections, froc, mean_sensitivity

PEERS = json.loads((FIXTURES / "metrics" / "peers.json").read_text())["lesions"]


def hand_made():
    """Three lesions in two images, four detections: 0.9 finds, 0.8 is false, 0.6 finds another, 0.3 is false."""
    return [
        Detections(scores=[0.9, 0.8], hits=[(0,), ()], num_lesions=2),
        Detections(scores=[0.3, 0.6], hits=[(), (0,)], num_lesions=1),
    ]


def test_froc_by_hand():
    curve = froc(hand_made())
    assert curve.thresholds.tolist() == [math.inf, 0.9, 0.8, 0.6, 0.3]
    assert curve.false_positives.tolist() == [0, 0, 0.5, 0.5, 1.0]
    assert curve.sensitivity == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert mean_sensitivity(curve) == pytest.approx(2 / 3)
    assert mean_sensitivity(curve, at=(0.25, 0.5)) == pytest.approx((1 / 3 + 2 / 3) / 2)


def test_froc_of_a_candidate_that_hits_two_lesions():
    """Three lesions, four candidates: 0.9 hits the first, 0.8 nothing, 0.7 the second and third, 0.6 nothing."""
    curve = froc([Detections([0.9, 0.8], [(0,), ()], 1), Detections([0.7, 0.6], [(0, 1), ()], 2)])
    assert curve.thresholds.tolist() == [math.inf, 0.9, 0.8, 0.7, 0.6]
    assert curve.false_positives.tolist() == [0, 0, 0.5, 0.5, 1]
    assert curve.sensitivity == pytest.approx([0, 1 / 3, 1 / 3, 1, 1])
    assert mean_sensitivity(curve, at=(0, 0.5, 1)) == pytest.approx((1 / 3 + 1 + 1) / 3)


def test_froc_equals_monai():
    curve = froc(hand_made())
    theirs = set(zip(PEERS["froc"]["false_positives"], np.round(PEERS["froc"]["sensitivity"], 6), strict=True))
    assert set(zip(curve.false_positives, np.round(curve.sensitivity, 6), strict=True)) <= theirs
    assert mean_sensitivity(curve) == pytest.approx(PEERS["froc"]["interpolated"], rel=1e-6)


def test_froc_counts_a_lesion_once_and_ties_together():
    images = [Detections([0.7, 0.7, 0.7], [(0,), (0, 1), ()], 2)]
    curve = froc(images)
    assert curve.thresholds.tolist() == [math.inf, 0.7]
    assert curve.false_positives.tolist() == [0, 1] and curve.sensitivity.tolist() == [0, 1]
    assert mean_sensitivity(curve, at=(0.5, 1)) == 0.5  # 0 within half a false positive, 1 within one


def test_froc_without_lesions_or_images():
    empty = froc([Detections([], [], 1)])
    assert mean_sensitivity(empty) == 0
    assert math.isnan(mean_sensitivity(froc([Detections([0.5], [()], 0)])))
    assert math.isnan(mean_sensitivity(froc([Detections([], [], 0)])))
    with pytest.raises(ValueError, match="at least one image"):
        froc([])


def test_detections_of_a_probability_map():
    probability, reference = np.full((16, 24, 32), 0.05), np.zeros((16, 24, 32), bool)
    reference[2:4, 2:4, 2:4] = reference[2:4, 12:14, 2:4] = reference[10:12, 2:4, 20:22] = True
    probability[1:3, 2:4, 2:4], probability[11:13, 3:5, 21:23] = 0.4, 0.4  # the second lesion is missed
    probability[1, 2, 2], probability[10, 18, 20] = 0.9, 0.7
    candidates = detections(probability, reference, (1, 1, 1), threshold=0.1)
    assert candidates.num_lesions == 3
    assert sorted(zip(candidates.scores, candidates.hits, strict=True)) == [(0.4, (2,)), (0.7, ()), (0.9, (0,))]
