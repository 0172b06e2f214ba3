"""Strokes in perfusion maps: what the maps hold, what is lost, and when."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from zoo.synth import stroke
from zoo.synth.anatomy import territories
from zoo.synth.anatomy.labels import INDEX

GRID = ((16, 24, 32), (4.0, 3.0, 2.0))
RANGES = stroke.Perfusion(grids=(GRID,), radius_mm=(14.0, 20.0), centred=1.0, rotation_deg=0.0, scaling=(1.0, 1.0))


def block():
    """A brain of grey matter, whose left half is one middle frontal territory and the right half the other."""
    codes = np.zeros((60, 70, 64), np.uint8)
    codes[4:56, 4:66, 4:60] = territories.TISSUES.index("cortex")
    codes[4:30, 4:66, 4:60] += territories.CODE * territories.TERRITORIES["middle_frontal"]
    codes[30:56, 4:66, 4:60] += territories.CODE * (territories.TERRITORIES["middle_frontal"] + 1)
    codes[24:36, 30:40, 28:36] = territories.TISSUES.index("csf")
    return codes


@pytest.fixture
def brain():
    places = np.zeros((len(territories.OCCLUSIONS), 2, territories.NUM_PLACES, 3), np.float32)
    places[:, 0], places[:, 1] = (16, 35, 32), (44, 35, 32)
    return stroke.Brain(ops.convert_to_tensor(block()), ops.convert_to_tensor(places))


def drawn(seed, **changes):
    params = stroke.draw(seed, RANGES, grades=(0.0, 0.5, 1.0))
    fixed = {"occlusion": ops.cast(1, "int32"), "flip": ops.zeros(()), "noise": ops.zeros(()), "old_mm": -15.0}
    return params | fixed | changes


def lost(brain, time_h, recanalised):
    params = drawn(5, time_h=float(time_h), recanalised=float(recanalised))
    return int(ops.sum(stroke.apply(brain, params, GRID[0], RANGES)[1]))


def test_survival_is_the_law_by_hand():
    assert float(stroke.survival_s(0.0, 1.0)) == 12.0
    assert float(stroke.survival_s(10.0, 0.5)) == pytest.approx(4 + 4 / np.e, rel=1e-6)
    assert float(stroke.survival_s(3.0, 0.0)) == 4.0


def test_more_is_lost_with_time_and_less_with_a_better_grade(brain):
    times = [lost(brain, hours, 0.7) for hours in (0.5, 4, 9, 24)]
    grades = [lost(brain, 2, grade) for grade in (0.0, 0.35, 0.7, 1.0)]
    assert times == sorted(times) and times[0] < 0.8 * times[-1]
    assert grades == sorted(grades, reverse=True) and grades[-1] < 0.6 * grades[0]
    assert lost(brain, 1, 0) == lost(brain, 24, 0)  # without reperfusion there is no time to it


def test_the_core_is_lost_whatever_is_done_and_lies_in_what_is_late(brain):
    params = drawn(7, time_h=0.0, recanalised=1.0, peak_s=11.9, side=ops.cast(0, "int32"))
    maps, saved, _ = (np.asarray(each) for each in stroke.apply(brain, params, GRID[0], RANGES))
    _, all_lost, _ = stroke.apply(brain, params | {"recanalised": 0.0}, GRID[0], RANGES)
    saved, all_lost = saved[..., 0] > 0, np.asarray(all_lost)[..., 0] > 0
    assert 0 < saved.sum() < all_lost.sum() and not (saved & ~all_lost).any()
    adc, flow, tmax = maps[..., 0], maps[..., 2], maps[..., 5]
    rest = (maps[..., 0] != 0) & ~all_lost
    assert np.median(adc[saved]) < 0.75 * np.median(adc[rest])
    assert np.median(tmax[all_lost]) > 4 > np.median(tmax[rest]) + 1
    assert np.median(flow[all_lost]) < 0.7 * np.median(flow[rest])


def test_the_territory_and_its_side_bound_the_lesion(brain):
    for side, half in ((0, slice(0, 8)), (1, slice(8, 16))):
        params = drawn(3, recanalised=0.0, side=ops.cast(side, "int32"))
        _, lesion, _ = stroke.apply(brain, params, GRID[0], RANGES)
        inside = np.asarray(lesion)[..., 0]
        assert inside.sum() > 20 and inside[half].sum() == inside.sum()


def test_air_is_exactly_zero_and_a_small_scan_lies_in_the_middle_of_a_large_patch(brain):
    maps, _, scan = (np.asarray(each) for each in stroke.apply(brain, drawn(2), (16, 24, 40), RANGES))
    np.testing.assert_array_equal(scan[0, 0, :, 0], [0] * 4 + [1] * 32 + [0] * 4)
    assert not maps[..., :4, :].any() and maps.shape == (16, 24, 40, 6)
    assert np.isfinite(maps).all() and (maps[..., 5] != 0).any()


def test_a_seed_gives_one_scan_eager_and_compiled(brain):
    def paint(seed):
        return stroke.apply(brain, stroke.draw(seed, RANGES), (8, 12, 16), RANGES)

    compiled = tf.function(paint, jit_compile=True)
    eager, other = paint(tf.constant([1, 2])), paint(tf.constant([1, 3]))
    for ours, theirs in zip(eager, compiled(tf.constant([1, 2])), strict=True):
        # At a border between tissues a rounding may pick the other voxel.
        assert (np.abs(np.asarray(ours) - np.asarray(theirs)) > 1e-2).mean() < 0.01
    assert np.abs(np.asarray(eager[0]) - np.asarray(other[0])).max() > 1


def test_means_are_those_of_the_whole_scan(brain):
    params = drawn(4)
    maps, _, _ = stroke.apply(brain, params, GRID[0], RANGES)
    head = np.asarray(maps)[np.asarray(maps)[..., 0] != 0]
    mean, sd = (np.asarray(each) for each in stroke.moments(brain, params))
    np.testing.assert_allclose(mean, head.mean(0), rtol=0.1)
    assert (sd > 0).all()


def test_a_head_that_is_turned_back_is_where_it_was():
    matrix = np.array([[0.9, 0.2, -0.1], [-0.3, 1.1, 0.05], [0.1, -0.2, 0.95]], np.float32)
    np.testing.assert_allclose(stroke._invert(ops.convert_to_tensor(matrix)), np.linalg.inv(matrix), atol=1e-5)


def test_sides_follow_the_structures():
    labels = np.zeros((3, 1, 1), np.int16)
    labels[:, 0, 0] = INDEX["left_cortex"], INDEX["right_cortex"], INDEX["csf"]
    values = np.full((3, 1, 1), territories.TERRITORIES["middle_frontal"] + 1, np.uint8)
    np.testing.assert_array_equal(territories.sided(values, labels)[:, 0, 0], [7, 8, 0])


def test_occlusions_are_of_one_side():
    for name in territories.OCCLUSIONS:
        left, right = territories.members(name)
        assert left.any() and not (left & right).any()
        np.testing.assert_array_equal(left[1:-1:2], right[2::2])
    with pytest.raises(ValueError, match=r"no occlusion 'm3'. Did you mean 'm1'"):
        territories.members("m3")


def test_a_brain_without_a_territory_is_refused():
    with pytest.raises(ValueError, match=r"no voxel in the territory of 'm2_inferior'"):
        territories.places(block())
