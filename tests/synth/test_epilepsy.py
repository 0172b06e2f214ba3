"""Synthetic controls and patients: each lesion is where and what it says, and a control has none."""

import dataclasses
import functools

import numpy as np
import pytest
from keras import ops

from zoo.synth import acquisition, epilepsy
from zoo.synth.anatomy import common_space
from zoo.synth.anatomy.labels import INDEX
from zoo.synth.geometry import IDENTITY

SHAPE = (40, 44, 48)
# Without movement and without a scanner, what differs between two kinds of one seed is the lesion.
STILL = dataclasses.replace(
    epilepsy.DEFAULT, people=IDENTITY, acquisitions=(acquisition.IDENTITY,) * 2, radius_mm=(6, 8), body_mm=(8, 10)
)


def anatomy():
    """A ball of white matter in cortex and fluid, with two grey bodies in it."""
    x, y, z = np.indices(SHAPE)
    radius = np.sqrt((x - 20) ** 2 + (y - 22) ** 2 + (z - 24) ** 2)
    labels = np.zeros(SHAPE, np.int32)
    for name, most in (("csf", 19), ("left_cortex", 17.5), ("left_white", 14.5)):
        labels[radius < most] = INDEX[name]
    labels[(x > 19) & (radius < 17.5)] += 1  # the right side's label is one more
    for name, centre in (("left_putamen", (13, 22, 24)), ("right_putamen", (27, 22, 24))):
        away = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2)
        labels[away < 4] = INDEX[name]
    return labels


@functools.cache
def painted(kind, seed=3, ranges=STILL):
    labels = anatomy()
    images, lesion = epilepsy.apply(ops.convert_to_tensor(labels), epilepsy.draw(seed, SHAPE, kind=kind, ranges=ranges))
    return labels, np.array(images), np.array(lesion)[..., 0] > 0


@pytest.fixture(scope="module")
def control():
    return painted("control")


def test_control_has_no_lesion_and_air_is_zero(control):
    labels, images, lesion = control
    assert images.shape == (*SHAPE, 2) and not lesion.any()
    assert np.all(images[labels == 0] == 0) and images.min() >= 0 and images.max() <= 1
    white, grey = labels == INDEX["left_white"], labels == INDEX["left_cortex"]
    assert images[white, 0].mean() > images[grey, 0].mean()  # T1
    assert images[white, 1].mean() < images[grey, 1].mean()  # FLAIR


def levelled(images, lesion):
    """Images over their own mean outside the lesion: the range is that of the brightest voxel, lesion or not."""
    brain = (anatomy() > 0) & ~lesion
    return images / images[brain].mean(axis=0)


@pytest.mark.parametrize("kind", epilepsy.KINDS[1:])
def test_lesion_is_in_the_ball_and_the_rest_is_untouched(kind, control):
    labels, images, lesion = painted(kind)
    assert 5 < lesion.sum() < 4500
    assert np.all(np.ptp(np.argwhere(lesion), axis=0) <= 31)
    apart = np.abs(levelled(images, lesion) - levelled(control[1], lesion)).max(-1)
    assert np.median(apart[lesion]) > 3 * np.median(apart[(labels > 0) & ~lesion])
    tissue = np.isin(labels, [index for name, index in INDEX.items() if name.endswith(("white", "cortex", "putamen"))])
    assert np.all(tissue[lesion])


def test_nodule_is_grey_in_white_matter():
    labels, images, lesion = painted("heterotopia")
    assert np.all(np.isin(labels[lesion], [INDEX["left_white"], INDEX["right_white"]]))
    assert (4 / 3 * np.pi * 2**3) * 0.4 < lesion.sum() < 4 / 3 * np.pi * 5**3 * 1.4
    grey = np.isin(labels, [INDEX["left_cortex"], INDEX["right_cortex"]])
    white = np.isin(labels, [INDEX["left_white"], INDEX["right_white"]]) & ~lesion
    levels = [images[part, 0].mean() for part in (grey, lesion, white)]
    assert abs(levels[1] - levels[0]) < abs(levels[1] - levels[2])


def test_bright_flair_leaves_t1_alone(control):
    _, images, lesion = painted("flair")
    np.testing.assert_allclose(images[..., 0], control[1][..., 0], atol=1e-5)
    after, before = (levelled(one, lesion)[lesion, 1].mean() for one in (images, control[1]))
    assert 1.02 < after / before < 1.25


def test_texture_keeps_the_mean(control):
    _, images, lesion = painted("texture")
    after, before = (levelled(one, lesion)[lesion, 0] for one in (images, control[1]))
    assert 0.03 < (after / before).std() < 0.2
    assert after.mean() == pytest.approx(before.mean(), rel=0.08)


def test_context_lesion_is_a_body_from_elsewhere():
    labels, images, lesion = painted("context")
    body = np.isin(labels, [INDEX["left_putamen"], INDEX["right_putamen"]])
    assert not np.any(body & lesion)
    white = np.isin(labels, [INDEX["left_white"], INDEX["right_white"]]) & ~lesion
    levels = [images[part, 0].mean() for part in (body, lesion, white)]
    assert abs(levels[1] - levels[0]) < abs(levels[1] - levels[2])


def test_kinds_are_dealt_evenly_and_unknown_ones_told():
    assert sorted(epilepsy.kinds_of(6)) == sorted(epilepsy.KINDS[1:])
    assert len(epilepsy.kinds_of(20)) == 20
    with pytest.raises(ValueError, match="heterotopia"):
        epilepsy.draw(0, SHAPE, kind="heterotopa")


def test_labels_move_as_the_anatomy_that_is_painted():
    labels, params = anatomy(), epilepsy.draw(5, SHAPE)
    moved = np.array(epilepsy.move(ops.convert_to_tensor(labels), params))
    images = np.array(epilepsy.apply(ops.convert_to_tensor(labels), params)[0])
    assert np.any(moved != labels) and set(np.unique(moved)) <= set(np.unique(labels))
    np.testing.assert_array_equal(images.any(axis=-1) & (moved == 0), False)


def test_people_have_the_structures_of_the_template_alone():
    names = ("scalp", "third_ventricle", "right_inferior_ventricle", "left_choroid", "right_lesion", "left_vessel")
    found = common_space.as_template(np.array([INDEX[name] for name in names], np.int16))
    expected = (None, "csf", "right_ventricle", "left_ventricle", "right_white", "left_white")
    assert found.dtype == np.int16 and found.tolist() == [INDEX[name] if name else 0 for name in expected]
