"""Steps after arg-max, on maps small enough to count."""

import numpy as np
import pytest

from zoo.hub.card import Label, Step
from zoo.inference.postprocessing import postprocess

NAMES = {0: Label("background", 0), 1: Label("Left-Thalamus", 10), 2: Label("Right-Thalamus", 49)}
SPACING = (1.0, 1.0, 2.0)


def run(labels, *steps):
    before = labels.copy()
    result = postprocess(labels, steps, NAMES, spacing_mm=SPACING)
    np.testing.assert_array_equal(labels, before)
    assert result.dtype == labels.dtype
    return result


@pytest.fixture
def two_of_each():
    labels = np.zeros((16, 24, 32), np.uint8)
    labels[1:4, 1:4, 1:4], labels[6:8, 6:8, 6:8] = 10, 10
    labels[1:3, 10:12, 10:12], labels[8:13, 10:15, 10:15] = 49, 49
    return labels


def test_nothing_to_do(two_of_each):
    np.testing.assert_array_equal(run(two_of_each), two_of_each)


def test_the_largest_component_of_all_or_of_each(two_of_each):
    result = run(two_of_each, Step("largest_component"))
    assert (result == 10).sum() == 0 and (result == 49).sum() == 125
    result = run(two_of_each, Step("largest_component", {"labels": (1, "Right-Thalamus")}))
    assert (result == 10).sum() == 27 and (result == 49).sum() == 125
    result = run(two_of_each, Step("largest_component", {"labels": (1,)}))
    assert (result == 10).sum() == 27 and (result == 49).sum() == 133
    np.testing.assert_array_equal(run(two_of_each * 0, Step("largest_component")), 0)


def test_connectivity():
    labels = np.zeros((16, 24, 32), np.uint8)
    labels[1, 1, 1] = labels[2, 2, 2] = 10
    labels[8, 8, 8:10] = 10
    assert run(labels, Step("largest_component")).sum() == 20
    labels[3, 3, 3] = 10
    assert run(labels, Step("largest_component")).sum() == 30
    assert run(labels, Step("largest_component", {"connectivity": 6})).sum() == 20


def test_holes_are_filled_and_other_labels_in_them_stay():
    labels = np.zeros((16, 24, 32), np.int16)
    labels[2:9, 2:9, 2:9] = 49
    labels[4:6, 4:6, 4:6] = 0
    labels[4, 4, 4] = 10
    result = run(labels, Step("fill_holes", {"labels": ("Right-Thalamus",)}))
    assert (result == 49).sum() == 7**3 - 1 and (result == 10).sum() == 1
    assert (run(labels, Step("fill_holes")) == 49).sum() == 7**3 - 1


def test_small_pieces_by_volume(two_of_each):
    """8 voxels are 0.016 ml, 27 are 0.054 ml at 2 cubic millimetres each."""
    result = run(two_of_each, Step("remove_small", {"minimum_ml": 0.05}))
    assert [(result == value).sum() for value in (10, 49)] == [27, 125]
    result = run(two_of_each, Step("remove_small", {"minimum_ml": 0.016}))
    assert [(result == value).sum() for value in (10, 49)] == [35, 133]


def test_steps_follow_one_another(two_of_each):
    result = run(two_of_each, Step("remove_small", {"minimum_ml": 0.05}), Step("largest_component", {"labels": (2,)}))
    assert [(result == value).sum() for value in (10, 49)] == [27, 125]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step("largest_componet"), "There is no postprocessing step 'largest_componet'. Did you mean"),
        (Step("fill_holes", {"labels": ("Left-Talamus",)}), "Did you mean 'Left-Thalamus'?"),
        (Step("fill_holes", {"labels": (3,)}), "There is no label 3"),
        (Step("remove_small", {"minimum": 1}), "Did you mean 'minimum_ml'?"),
    ],
)
def test_unknown_steps_labels_and_parameters_are_named(step, message, two_of_each):
    with pytest.raises(ValueError) as caught:
        run(two_of_each, step)
    assert message in str(caught.value)


def test_candidates_stay_by_size_and_shape_in_mm():
    labels = np.zeros((16, 24, 32), np.uint8)
    labels[1:3, 1:3, 1:2] = 10  # 8 mm3, a ball of 2.5 mm
    labels[6:10, 6:10, 6:8] = 10  # 4 x 4 x 4 mm, a ball of 5 mm
    labels[14, 2, 2:14] = 49  # 1 x 1 x 24 mm, a ball of 3.6 mm drawn out
    result = run(labels, Step("select_candidates", {"diameter_mm": [3.0, 15.0], "elongation": 3.0}))
    assert (result == 10).sum() == 32 and (result == 49).sum() == 0
    np.testing.assert_array_equal(
        run(labels, Step("select_candidates", {"diameter_mm": [1, 9], "elongation": 99})), labels
    )
    result = run(labels, Step("select_candidates", {"labels": ["Right-Thalamus"]}))
    assert (result == 10).sum() == 36 and (result == 49).sum() == 0
