"""Lacunes and their mimics on T1, T2 and FLAIR, against what their definition says, on a made-up brain of blocks."""

import cc3d
import edt
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from support.datasets import box_brain

from zoo.evaluation.candidates import find_candidates
from zoo.synth import contrast, two_scales
from zoo.synth.anatomy.labels import CLASSES, INDEX, NUM_LABELS, sides
from zoo.synth.lacunes import placement, scan
from zoo.synth.lacunes.placement import IMPOSSIBLE, KINDS, REGIONS, TISSUE, Brain
from zoo.synth.lacunes.scan import FIRST, LACUNE, SECOND, Vascular

SHAPE = (40, 40, 40)
NONE = {name: (0, 0) for name in ("lacunes", "perivascular", "sulcal", "hyperintensities", "impossible")}
STILL = {"positive": 1.0, "deep": 1.0, "rotation_deg": 0.0, "scaling": (1.0, 1.0), "jitter_mm": 0.0}


@pytest.fixture(scope="module")
def brain():
    labels = box_brain()
    far = np.minimum(edt.edt(~np.isin(labels, sides("ventricle"))), 255).astype(np.uint8)
    fields = placement._make_fields(labels, placement.zoned(labels), far)
    return Brain(*(ops.convert_to_tensor(field) for field in fields))


def painted(brain, seed, *, scanner=FIRST, **ranges):
    drawn = scan.draw(seed, Vascular(**{**NONE, **STILL, **ranges}), scanner)
    return [np.asarray(each) for each in scan.apply(brain, drawn, SHAPE, scanner)]


def test_zones_follow_their_rules():
    labels = box_brain()
    zones = placement.zoned(labels)
    lacune, tube, sulcal, bright, impossible = ((zones >> k & 1).astype(bool) for k in range(len(KINDS)))
    shell = np.isin(labels, (INDEX["csf"], *sides("cortex"), *sides("ventricle")))
    assert edt.edt(~shell)[lacune].min() >= placement.CLEAR_MM
    stem = labels == INDEX["brainstem"]
    heights = np.flatnonzero((lacune & stem).any((0, 1)))
    assert heights.min() == 10 + round(0.35 * 19) and heights.max() == 10 + round(0.75 * 19)  # the pons alone
    assert not (tube & stem).any() and set(np.unique(labels[bright])) == {sides("white")[0]}
    assert set(np.unique(labels[sulcal])) == {sides("cortex")[0]}
    at_wall = impossible & ~np.isin(labels, sides("cortex"))
    assert at_wall.any() and edt.edt(~np.isin(labels, sides("ventricle")))[at_wall].max() <= placement.WALL_MM
    assert not (lacune & (zones & IMPOSSIBLE > 0)).any() and (zones & TISSUE > 0)[lacune].all()


def test_regions_name_pons_and_white_matter():
    regions = placement.regions(box_brain())
    assert regions[55, 55, 20] == REGIONS.index("pons") and regions[55, 55, 11] == REGIONS.index("elsewhere")
    assert regions[30, 30, 30] == REGIONS.index("white_matter") and regions[0, 0, 0] == 0
    every = placement.regions(np.arange(NUM_LABELS)[:, None, None].repeat(2, 2))
    assert every[sides("putamen")[1], 0, 0] == REGIONS.index("basal_ganglia")


@pytest.mark.parametrize("diameter", [4.0, 10.0])
def test_a_lacune_has_its_size_its_fluid_and_its_rim(brain, diameter):
    limits = {"lacunes": (1, 1), "diameter_mm": (diameter, diameter), "elongation": 1.0}
    image, kinds, _ = painted(brain, [1, 2], **limits, rim=(0.5, 0.5), rim_mm=(2.0, 2.0))
    lacune = kinds == LACUNE
    (candidate,) = find_candidates(lacune.astype(float), np.eye(4))
    assert candidate.diameter_mm == pytest.approx(diameter, rel=0.12)
    if diameter > 5:
        distance = edt.edt(~lacune)
        core = edt.edt(lacune) > 2.5
        around, rim = (distance > 5) & (distance < 8), (distance > 0.9) & (distance < 1.6)
        white = around & (kinds == 0)
        assert image[core, 0].mean() < image[white, 0].mean() - 1  # dark on T1
        assert image[core, 1].mean() > image[white, 1].mean() + 1  # bright on T2
        assert image[core, 2].mean() < image[white, 2].mean() - 1  # dark on FLAIR
        assert image[rim, 2].mean() > image[white, 2].mean() + 0.5  # with a bright rim


def test_lacunes_keep_within_their_ratio_and_tissue(brain):
    for seed in range(3):
        image, kinds, impossible = painted(brain, [3, seed], lacunes=(3, 3), diameter_mm=(6.0, 15.0))
        assert not (image[kinds == LACUNE] == 0).all(-1).any()
        for candidate in find_candidates((kinds == LACUNE).astype(float), np.eye(4)):
            assert candidate.diameter_mm < 16.5
        share = impossible[kinds == LACUNE].mean()
        assert share < 0.5  # centres keep clear of cortex and fluid; only the rim of a large one comes near


def test_tubes_are_thin_long_and_radial(brain):
    image, kinds, _ = painted(brain, [5, 1], perivascular=(1, 1), tube_radius_mm=(1.5, 1.5), tube_mm=(18.0, 18.0))
    mask = kinds == 1 + KINDS.index("perivascular")
    (candidate,) = find_candidates(mask.astype(float), np.eye(4))
    assert candidate.elongation > 3
    assert np.ptp(np.argwhere(mask), axis=0).max() >= 9
    rim = (edt.edt(~mask) > 0.9) & (edt.edt(~mask) < 1.6)
    away = (edt.edt(~mask) > 4) & (edt.edt(~mask) < 7)
    assert abs(image[rim, 2].mean() - image[away, 2].mean()) < 0.6  # no rim


def test_hyperintensities_are_bright_on_flair_and_impossible_balls_lie_where_none_can_be(brain):
    image, kinds, _ = painted(brain, [6, 1], hyperintensities=(2, 2), hyperintensity_mm=(10.0, 12.0))
    mask = kinds == 1 + KINDS.index("hyperintensity")
    white = (edt.edt(~mask) > 5) & (edt.edt(~mask) < 8)
    assert mask.any() and image[mask, 2].mean() > image[white, 2].mean() + 1
    hits = []
    for seed in range(4):
        drawn = painted(brain, [7, seed], impossible=(1, 1), diameter_mm=(4.0, 4.0), deep=0.0)
        hits.append(drawn[2][drawn[1] == 1 + KINDS.index("impossible")])
    assert np.concatenate(hits).mean() > 0.6


def test_the_share_of_samples_with_lacunes_is_the_one_asked_for():
    ranges = Vascular(**{**NONE, "lacunes": (1, 3)}, positive=0.25)
    draw = tf.function(lambda seed: scan.draw(seed, ranges)["present"])
    present = [np.asarray(draw(tf.constant([9, seed]))).any() for seed in range(60)]
    assert np.mean(present) == pytest.approx(0.25, abs=0.12)
    assert not np.asarray(scan.draw([9, 1], Vascular(positive=0.0))["present"])[:3].any()


def test_same_seed_same_scan_and_another_scanner_another_contrast(brain):
    left, again = (painted(brain, [11, 3], lacunes=(2, 2)) for _ in range(2))
    for first, second in zip(left, again, strict=True):
        np.testing.assert_array_equal(first, second)
    other = painted(brain, [11, 3], scanner=SECOND, lacunes=(2, 2))
    np.testing.assert_array_equal(left[1], other[1])  # the same lacunes
    assert np.abs(left[0] - other[0]).mean() > 0.1
    white = left[1] == 0
    assert abs(left[0][white].mean()) < 1.5 and 0.2 < left[0][white].std() < 3


def test_location_channels_tell_place_and_distance(brain):
    drawn = scan.draw([12, 1], Vascular(**{**NONE, **STILL}), FIRST)
    image = np.asarray(scan.apply(brain, drawn, SHAPE, whole=True, location=True)[0])
    assert image.shape == (*SHAPE, 7)
    along = image[15:25, 20, 20, 3]
    assert abs(abs(along[-1] - along[0]) - 9 / float(brain.extent[0])) < 0.05
    middle = np.asarray(brain.middle) - 16  # the sample is the middle 40 of 72 voxels
    x, y, z = (round(float(v)) for v in middle)
    assert image[max(x, 0), max(y, 0), z, 6] < 0.3 < image[25, 25, z, 6]


def test_signals_come_from_relaxation():
    drawn = scan.draw([13, 1], Vascular(), FIRST)
    means = np.asarray(drawn["means"])
    assert means.shape == (3, len(contrast.TISSUES))
    fluid, white, grey = (int(CLASSES[index]) for index in (INDEX["csf"], sides("white")[0], sides("cortex")[0]))
    assert means[0, white] > means[0, grey] > means[0, fluid]  # T1
    assert means[1, fluid] > means[1, grey] > means[1, white]  # T2
    assert means[2, fluid] < 0.3 * means[2, white] < means[2, grey]  # FLAIR
    assert np.asarray(drawn["hyperintensity"])[2] > means[2, grey]


@pytest.mark.slow
def test_compiled_equals_eager(brain):
    ranges = Vascular(lacunes=(1, 1), positive=1.0, perivascular=(1, 1), sulcal=(0, 0), hyperintensities=(0, 0),
                      impossible=(0, 0))  # fmt: skip
    paint = lambda seed: scan.apply(brain, scan.draw(seed, ranges), (24, 24, 24))  # noqa: E731
    eager = paint(tf.constant([1, 1]))
    compiled = tf.function(paint, jit_compile=True)(tf.constant([1, 1]))
    for first, other in zip(eager, compiled, strict=True):
        np.testing.assert_allclose(np.asarray(first, float), np.asarray(other, float), atol=2e-3)


def test_ranges_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="positive is a share"):
        Vascular(positive=1.2)
    with pytest.raises(ValueError, match="perivascular is"):
        Vascular(perivascular=(3, 1))
    assert keras.config.backend() == "tensorflow"


def test_what_lies_around_lies_around_and_changes_nothing_that_was_drawn_before(brain):
    ranges, few = (
        Vascular(**{**NONE, **STILL, "lacunes": (1, 1)}),
        Vascular(**{**NONE, "lacunes": (4, 4), "positive": 1.0}),
    )
    alone, both = scan.draw([14, 1], ranges), scan.draw([14, 1], ranges, around=few)
    np.testing.assert_array_equal(both["around"], [False] + 4 * [True])
    for name in ("axes_mm", "seeds"):
        np.testing.assert_array_equal(np.asarray(both[name])[:1], alone[name])
    for drawn, count in ((alone, 1), (both, 5)):
        _, kinds, _ = scan.apply(brain, drawn, SHAPE, inner=(16, 16, 16))
        components = cc3d.connected_components(np.asarray(kinds) == LACUNE, connectivity=26)
        centres = cc3d.statistics(components)["centroids"][1:]
        inside = (np.abs(centres - 19.5) < 8.5).all(-1)
        assert inside.sum() == 1 and 1 <= len(centres) <= count and (count == 1 or len(centres) > 1)


def test_two_scales_of_one_painting():
    wide = np.random.default_rng(0).normal(size=(16, 24, 32, 3)).astype(np.float32)
    kinds = np.arange(16 * 24 * 32).reshape(16, 24, 32)
    both, middle = two_scales.two_scales(ops.convert_to_tensor(wide), ops.convert_to_tensor(kinds), ratio=2)
    np.testing.assert_array_equal(both[..., :3], wide[4:12, 6:18, 8:24])
    np.testing.assert_allclose(both[..., 3:], wide.reshape(8, 2, 12, 2, 16, 2, 3).mean((1, 3, 5)), atol=1e-6)
    np.testing.assert_array_equal(middle, kinds[4:12, 6:18, 8:24])
