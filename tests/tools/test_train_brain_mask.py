"""`tools/train_brain_mask`: first weights from the trunk of another network, and what decides whether a run ships."""

import numpy as np
import pytest
from support.scripts import load_script

import zoo


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/train_brain_mask")


def network(num_classes, filters=(4, 8)):
    return zoo.load("unet3d", input_shape=(None, None, None, 1), num_classes=num_classes, filters=filters, fold=2)


def test_all_but_the_head_is_carried_over(tool):
    theirs, ours = network(5), network(2)
    head = np.array(ours.get_layer("logits").kernel)
    tool.copy_trunk(theirs, ours)
    stored = {variable.path: np.asarray(variable) for variable in theirs.variables}
    for variable in ours.variables:
        if not variable.path.startswith("logits/"):
            np.testing.assert_array_equal(variable, stored[variable.path], err_msg=variable.path)
    np.testing.assert_array_equal(ours.get_layer("logits").kernel, head)
    assert stored["logits/kernel"].shape != head.shape


def test_another_trunk_is_refused_with_the_first_weight_that_differs(tool):
    with pytest.raises(
        ValueError, match=r"fit encoder_0_conv_0/kernel of shape \(3, 3, 3, 8, 4\), got \(3, 3, 3, 8, 6\)"
    ):
        tool.copy_trunk(network(5, (6, 8)), network(2))
    with pytest.raises(ValueError, match=r"of shape .*, got none\. Take one that was trained"):
        tool.copy_trunk(network(5), network(2, (4, 8, 8)))


def judged(people, head):
    return {"summary": {"test people": {"dice": people}, "head_ecog": {"dice": head}}}


@pytest.mark.parametrize(
    ("theirs", "scans"),
    [
        (None, []),
        (judged(0.95, 0.93), []),
        (judged(0.97, 0.93), ["test people"]),
        (judged(0.97, 0.95), ["test people", "head_ecog"]),
        ({"summary": {"head_ecog": {"dice": 0.95}}}, ["head_ecog"]),
    ],
)
def test_a_run_ships_where_it_is_behind_on_nothing(tool, theirs, scans):
    assert tool.worse_than(judged(0.96, 0.94), theirs) == scans


def test_the_card_begins_with_all_painted_scans_and_ends_with_the_real_head(tool):
    summary = {"head_ecog": {"dice": 0.9}, "test people, t1": {"dice": 0.8}, "test people": {"dice": 0.7}}
    rows = tool.rows(summary)
    assert list(rows) == [
        "test people, five contrasts and 5 mm",
        "test people, t1",
        "real head, T1, against FreeSurfer",
    ]
    assert [row["dice"] for row in rows.values()] == [0.7, 0.8, 0.9]
