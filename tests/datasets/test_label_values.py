"""Every value of a label map counts as something that is stated, or is refused with its voxels."""

from pathlib import Path

import numpy as np
import pytest
from support.datasets import SHAPE

from zoo.datasets.images import class_indices
from zoo.datasets.label_values import FOLDS, add_label_map, count_values, explain_values, read_label_map
from zoo.datasets.left_out import tell_once

ASEG = {value: value for value in (0, 2, 3, 4, 5, 10, 24, 28, 41, 42, 43, 44, 49, 60)}


def halves(*values):
    """Left white matter and cortex, then the right ones, along x; and a few voxels of other values in the left."""
    array = np.zeros(SHAPE, np.int32)
    array[2:5], array[5:8], array[8:11], array[11:14] = 3, 2, 41, 42
    for place, value in enumerate(values):
        array[4, 4, 4 + place] = value
    return array


def lut_names():
    """FreeSurfer's own table, as MNE carries it: value -> name."""
    mne = pytest.importorskip("mne")
    lines = (Path(mne.__file__).parent / "data" / "FreeSurferColorLUT.txt").read_text().splitlines()
    rows = [line.split() for line in lines]
    return {int(row[0]): row[1] for row in rows if row and row[0].isdigit()}


@pytest.mark.parametrize(
    ("prefixes", "between", "becomes"),
    [
        (("ctx-lh-", "ctx_lh_"), (1000, 12200), 3),
        (("ctx-rh-", "ctx_rh_"), (1000, 12200), 42),
        (("wm-lh-", "wm_lh_", "Left-UnsegmentedWhiteMatter"), (3000, 14200), 2),
        (("wm-rh-", "wm_rh_", "Right-UnsegmentedWhiteMatter"), (3000, 14200), 41),
        (("Left-choroid-plexus",), (0, 200), 4),
        (("Right-WM-hypo", "Right-non-WM-hypo"), (0, 200), 41),
        (("CC_", "Corpus_Callosum"), (0, 300), None),
    ],
)
def test_freesurfers_own_names_agree_with_the_folds(prefixes, between, becomes):
    codes = [c for c, name in lut_names().items() if name.startswith(prefixes) and between[0] <= c < between[1]]
    codes = [code for code in codes if not 9000 <= code < 9600]  # lobes, which no segmentation of FreeSurfer writes
    explained = explain_values(dict.fromkeys([*codes, 2, 41], 1), ASEG)
    assert codes and not explained.unknown
    assert {explained.becomes[code] for code in codes} == {(2, 41) if becomes is None else (becomes,)}


def test_each_code_is_folded_once_and_none_that_is_a_target():
    codes = [code for fold in FOLDS for code in fold.codes]
    assert len(codes) == len(set(codes))
    assert not set(codes) & {target for fold in FOLDS for target in fold.becomes}


def test_a_parcellated_cortex_is_cortex_and_that_is_stated_once(capsys):
    tell_once.cache_clear()
    array = halves(1035, 11101, 9)
    array[12, 3, 3:6] = 2001, 12175, 48
    for _ in range(2):
        converted = class_indices(array, ASEG, "aparc")
    expected = halves(3, 3, 10)
    expected[12, 3, 3:6] = 42, 42, 49
    np.testing.assert_array_equal(converted, expected)
    assert capsys.readouterr().err.splitlines() == [
        "label maps: FreeSurfer's codes of left cortical parcels (aparc, DKT, a2009s) count as 3",
        "label maps: FreeSurfer's codes of right cortical parcels (aparc, DKT, a2009s) count as 42",
        "label maps: FreeSurfer's codes of left thalamus by its old code count as 10",
        "label maps: FreeSurfer's codes of right thalamus by its old code count as 49",
    ]


def test_codes_without_a_side_take_the_nearer_one():
    array = halves()
    array[6:10, 8, 8] = 251, 77, 192, 255  # left of the middle, left, right, right
    converted = class_indices(array, {code: index for index, code in enumerate(ASEG)}, "aseg")
    assert converted[6:10, 8, 8].tolist() == [1, 1, 8, 8]
    far = np.zeros((64, 8, 8), np.int16)
    far[0, 0, 0], far[63, 0, 0], far[40, 4, 4] = 2, 41, 77  # both sides lie outside the neighbourhood
    assert class_indices(far, ASEG, "aseg")[40, 4, 4] == 41
    lone = halves(77)
    lone[8:] = 0
    with pytest.raises(ValueError, match=r"aseg holds values that are no label: 77 \(1 voxel\)"):
        class_indices(lone, ASEG, "aseg")


def test_labels_of_another_scheme_are_not_folded():
    with pytest.raises(
        ValueError, match=r"lesions holds values that are no label: 77 \(1 voxel\), 1001 \(1 voxel\), and"
    ):
        class_indices(np.array([[[0, 2, 3, 77, 1001]]]), {2: 1, 3: 2}, "lesions")


def test_unknown_values_are_named_with_their_voxels():
    array = halves(*range(600, 607))
    array[5, 4, 4:7] = 700
    with pytest.raises(
        ValueError, match=r"map of a holds values that are no label: 600 \(1 voxel\), .* and 3 more, and"
    ):
        class_indices(array, ASEG, "The label map of a")
    with pytest.raises(
        ValueError, match=r"2, 3, 4, 5, 10 and 8 more is expected\. Or say .*value,becomes .*--label-map"
    ):
        class_indices(array, ASEG, "a")
    np.testing.assert_array_equal(class_indices(array, {**ASEG, "*": 0}, "a"), np.where(array > 500, 0, array))
    assert count_values(np.array([-3, 4, 4])) == {-3: 1, 4: 2}
    assert count_values(np.array([0, 4, 2**30, 4])) == {0: 1, 4: 2, 2**30: 1}
    assert class_indices(np.array([0, 4, 2**30]), {4: 1, 2**30: 2}, "far").tolist() == [0, 1, 2]


def test_values_a_little_off_are_rounded_and_others_refused():
    array = halves().astype(np.float32)
    array[4, 4, 4] = 2.9995
    assert class_indices(array, ASEG, "scaled")[4, 4, 4] == 3
    array[4, 4, 4:6] = 2.99, np.nan
    with pytest.raises(
        ValueError, match=r"scaled holds 2\.99 \(2 voxels are not whole\), and labels are whole numbers"
    ):
        class_indices(array, ASEG, "scaled")


def test_a_table_of_ones_own(tmp_path):
    labels = {0: ("background", 0), 1: ("left_cortex", 3), 2: ("right_cortex", 42)}
    path = tmp_path / "map.csv"
    path.write_text("value,becomes\n7, left_cortex\n8,42\n9,0\n*,background\n")
    table = read_label_map(path, labels)
    assert table == {7: 3, 8: 42, 9: 0, "*": 0}
    values = add_label_map({0: 0, 3: 1, 42: 2}, table)
    assert class_indices(np.array([0, 3, 42, 7, 8, 9, 77]), values, "x").tolist() == [0, 1, 2, 1, 2, 0, 0]
    (tmp_path / "map.tsv").write_text("name\tvalue\nright_cortex\t5\n")
    assert read_label_map(tmp_path / "map.tsv", labels) == {5: 42}
    for text, message in {
        "value,becomes\n7,left_cortx\n": r"no label in .* 'left_cortx'\. Did you mean 'left_cortex'",
        "value,becomes\n7,41\n": r"no label value in .* '41'",
        "value,becomes\n7,3\n7,42\n": "two rows for the value 7",
        "value,becomes\n7.5,3\n": r"the value '7\.5', and a whole number or \* is expected",
        "7,3\n": "needs the columns value,becomes",
        "": "needs the columns value,becomes",
    }.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_label_map(path, labels)
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none\.csv"):
        read_label_map(tmp_path / "none.csv", labels)
    with pytest.raises(ValueError, match=r"label_map turns 9 into 41, which is no label here\. Choose from: 0, 3"):
        add_label_map({3: 1}, {9: 41})
