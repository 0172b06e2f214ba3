"""Lesions: draws in their ranges, volumes by hand, places that obey the rule, soft edges, painted means."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from scipy import stats

from zoo.synth import lesion_shapes
from zoo.synth.lesion_shapes import Lesions

SHAPE = (32, 40, 48)


def one(shape="ellipsoid", seed=0, allowed=None, **ranges):
    """A single lesion with sharp edges."""
    arguments = {"count": (1, 1), "softness_mm": (0.01, 0.01)} | ranges
    settings = Lesions(shape=shape, **arguments)
    if allowed is None:
        allowed = np.zeros(SHAPE, bool)
        allowed[16, 20, 24] = True
    params = lesion_shapes.draw(seed, settings)
    return np.asarray(lesion_shapes.apply(ops.convert_to_tensor(allowed), params, settings))[0]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("radius_mm", 1.5, 8), ("length_mm", 5, 30), ("softness_mm", 0.3, 1.5), ("intensity", 0, 250)],
)
def test_draws_follow_their_range(name, low, high):
    drawn = ops.vectorized_map(lambda seed: lesion_shapes.draw(seed, Lesions())[name], ops.arange(10_000))
    for values in np.asarray(drawn).T:
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-4


def test_counts_are_equally_likely():
    drawn = ops.vectorized_map(
        lambda seed: lesion_shapes.draw(seed, Lesions(count=(0, 3)))["present"], ops.arange(10_000)
    )
    counts = np.bincount(np.asarray(drawn).sum(axis=1).astype(int), minlength=4)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_a_ball_has_its_volume_and_its_place():
    ball = one(radius_mm=(6, 6), elongation=1.0)
    assert ball.sum() == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.03)
    np.testing.assert_allclose([places.mean() for places in np.nonzero(ball > 0.5)], [16, 20, 24], atol=0.01)


def test_an_ellipsoid_has_its_axes():
    ranges = Lesions(count=(1, 1), radius_mm=(6, 6), elongation=2.0)
    axes = np.asarray(lesion_shapes.draw(3, ranges)["axes"])[0]
    stretched = one(seed=3, radius_mm=(6, 6), elongation=2.0)
    assert stretched.sum() == pytest.approx(4 / 3 * np.pi * 6**3 * axes.prod(), rel=0.04)
    assert axes.max() / axes.min() <= 2


def test_a_tube_has_its_length_and_cross_section():
    tube = one("tube", seed=1, radius_mm=(2, 2), length_mm=(20, 20))
    places = np.argwhere(tube > 0.5)
    extent = np.linalg.norm(places[:, None] - places[None], axis=-1).max()
    assert 18 < extent < 28
    assert 0.8 < tube.sum() / (np.pi * 4 * 20 + 4 / 3 * np.pi * 8) < 1.6


def test_a_territory_holds_its_lesion():
    allowed = np.zeros(SHAPE, bool)
    allowed[13, 20, 24] = True
    territory = (np.arange(32)[:, None, None] >= 16) * np.ones(SHAPE, np.int32)
    ranges = Lesions(shape="territory", count=(1, 1), radius_mm=(8, 8), softness_mm=(0.01, 0.01))
    params = lesion_shapes.draw(0, ranges)
    arguments = ops.convert_to_tensor(allowed), params, ranges
    mask = np.asarray(lesion_shapes.apply(*arguments, ops.convert_to_tensor(territory)))[0]
    assert mask[:16].sum() > 100 and not mask[16:].any()
    assert np.asarray(lesion_shapes.apply(*arguments))[0][16:].sum() > 100


def test_soft_edges_are_as_wide_as_said():
    sharp, soft = (one(radius_mm=(6, 6), elongation=1.0, softness_mm=(width, width)) for width in (0.01, 3.0))
    between = lambda mask: ((mask > 0.1) & (mask < 0.9)).sum()  # noqa: E731
    assert between(soft) > 5 * max(between(sharp), 1)
    assert soft[16, 20, 24 + 6] == pytest.approx(0.5, abs=1e-3)


def test_placement_obeys_label_and_distance():
    labels = np.zeros(SHAPE, np.int16)
    labels[:, 8:, :], labels[:, :4, :] = 1, 2
    allowed = lesion_shapes.placement(labels, inside=(1,), near=(2,), distance_mm=(6, 10), spacing_mm=1.0)
    assert set(np.flatnonzero(allowed.any(axis=(0, 2)))) == {9, 10, 11, 12, 13}
    for seed in range(10):
        middle, anywhere = lesion_shapes.centre(ops.convert_to_tensor(allowed), seed)
        assert allowed[tuple(np.asarray(middle))] and float(anywhere) == 1


def test_centres_are_spread_evenly():
    allowed = np.zeros((4, 4, 4), bool)
    allowed[::2, ::2, ::2] = True
    centres = ops.vectorized_map(lambda s: lesion_shapes.centre(ops.convert_to_tensor(allowed), s)[0], ops.arange(4000))
    counts = np.unique(np.asarray(centres), axis=0, return_counts=True)[1]
    assert len(counts) == 8 and stats.chisquare(counts).pvalue > 1e-4


def test_nowhere_allowed_gives_no_lesion():
    assert one(allowed=np.zeros(SHAPE, bool)).max() == 0


def test_an_impossible_rule_is_refused():
    with pytest.raises(ValueError, match=r"No voxel has a label of \[1\] and lies 5.0 to 9.0 mm from \[2\]"):
        lesion_shapes.placement(np.ones(SHAPE, np.int16), (1,), near=(2,), distance_mm=(5.0, 9.0))


def test_an_unknown_shape_names_the_nearest():
    with pytest.raises(ValueError, match="no lesion shape 'tubes'. Did you mean 'tube'"):
        lesion_shapes.draw(0, Lesions(shape="tubes"))


def test_paint_blends_by_softness():
    masks = np.zeros((2, *SHAPE), "f")
    masks[0, 1], masks[1, 2] = 1.0, 0.25
    painted = np.asarray(
        lesion_shapes.paint(ops.full(SHAPE, 100.0), ops.convert_to_tensor(masks), np.float32([10, 20]))
    )
    assert (painted[0] == 100).all() and (painted[1] == 10).all() and (painted[2] == 80).all()


@pytest.mark.parametrize("shape", lesion_shapes.SHAPES)
def test_compiled_gives_the_same(shape):
    ranges, allowed = Lesions(shape=shape, count=(2, 2)), ops.ones(SHAPE, "bool")

    def masks(seed):
        return lesion_shapes.apply(allowed, lesion_shapes.draw(seed, ranges), ranges)

    seed = tf.constant(5)
    np.testing.assert_allclose(tf.function(masks, jit_compile=True)(seed), masks(seed), atol=1e-4)
