"""Surface metrics against MONAI, MedPy and surface-distance (numbers in fixtures), hand arithmetic, and SciPy."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from support.paths import FIXTURES

from zoo.evaluation import overlap, surfaces, surfels

PEERS = json.loads((FIXTURES / "metrics" / "peers.json").read_text())
UNIT = (1.0, 1.0, 1.0)
BOTH = [name for name in PEERS["surfaces"] if not name.endswith("_empty")]
every_case = pytest.mark.parametrize("name", BOTH)


def masks(name):
    with np.load(FIXTURES / "metrics" / "masks.npz") as arrays:
        shape = tuple(arrays[f"{name}/shape"])
        bits = np.unpackbits(arrays[name], count=2 * math.prod(shape))
    return bits.reshape(2, *shape).astype(bool)


def case(name):
    prediction, reference = masks(name)
    return prediction, reference, PEERS["surfaces"][name]


@every_case
def test_equals_monai(name):
    prediction, reference, peers = case(name)
    theirs, spacing = peers["monai"], peers["spacing_mm"]
    ours = surfaces.segmentation_metrics(prediction, reference, spacing)[1]
    assert ours["dice"] == pytest.approx(theirs["dice"], rel=1e-5)
    assert ours["hd_mm"] == pytest.approx(theirs["hd"], rel=1e-5)
    assert ours["hd95_mm"] == pytest.approx(theirs["hd95"], rel=1e-5)
    assert ours["assd_mm"] == pytest.approx(theirs["assd"], rel=1e-5)
    assert ours["nsd"] == pytest.approx(theirs["nsd_subvoxel"], rel=1e-5)


@every_case
def test_equals_medpy(name):
    prediction, reference, peers = case(name)
    theirs, spacing = peers["medpy"], peers["spacing_mm"]
    assert overlap.dice(prediction, reference) == pytest.approx(theirs["dice"])
    assert overlap.iou(prediction, reference) == pytest.approx(theirs["jaccard"])
    assert surfaces.hausdorff(prediction, reference, spacing) == pytest.approx(theirs["hd"], rel=1e-6)
    assert surfaces.assd(prediction, reference, spacing) == pytest.approx(theirs["assd"], rel=1e-6)
    pooled = surfaces.hausdorff_95(prediction, reference, spacing, convention="pooled")
    assert pooled == pytest.approx(theirs["hd95"], rel=1e-6)


@every_case
def test_equals_surface_distance(name):
    prediction, reference, peers = case(name)
    theirs, spacing = peers["surface_distance"], peers["spacing_mm"]
    weighted = surfaces.hausdorff_95(prediction, reference, spacing, convention="area_weighted")
    assert weighted == pytest.approx(theirs["hd95"], rel=1e-6)
    assert surfaces.nsd(prediction, reference, spacing) == pytest.approx(theirs["nsd"], rel=1e-6)
    assert surfaces.nsd(prediction, reference, spacing, tolerance_mm=2) == pytest.approx(theirs["nsd_2mm"], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "hd", "conventions", "assd", "nsd"),
    [
        ("shifted_balls", 3.606, (3.0, 3.0, 3.0), 1.3715, 0.6110),
        ("shifted_balls_anisotropic", None, (4.359, 4.123, 3.742), None, None),
        ("false_ball", None, (3.0, 3.0, 15.033), None, None),
        ("two_voxels", 2.0, (2.0, 2.0, 2.0), 2.0, 0.5),
    ],
)
def test_published_vectors(name, hd, conventions, assd, nsd):
    prediction, reference, peers = case(name)
    metrics = surfaces.segmentation_metrics(prediction, reference, peers["spacing_mm"])[1]
    for key, expected in (("hd_mm", hd), ("assd_mm", assd), ("nsd", nsd)):
        assert expected is None or metrics[key] == pytest.approx(expected, abs=6e-4)
    for convention, expected in zip(surfaces.CONVENTIONS, conventions, strict=True):
        ours = surfaces.segmentation_metrics(prediction, reference, peers["spacing_mm"], hd95=convention)[1]["hd95_mm"]
        assert ours == pytest.approx(expected, abs=6e-4)


def test_pooled_hides_scattered_false_voxels():
    prediction, reference, _ = case("scattered_voxels")
    spread = [surfaces.hausdorff_95(prediction, reference, UNIT, convention=c) for c in surfaces.CONVENTIONS]
    assert spread[0] > 5 and spread[1] == 0.0 and spread[2] > 5


# -- empty masks


def test_empty_masks_follow_the_rules():
    ball = masks("prediction_empty")[1]
    empty = np.zeros_like(ball)
    diagonal = math.sqrt(40**2 + 80**2 + 120**2)
    missed = surfaces.segmentation_metrics(empty, ball, (1, 2, 3))[1]
    assert [missed[key] for key in ("dice", "iou", "nsd")] == [0, 0, 0]
    assert [missed[key] for key in ("hd_mm", "hd95_mm", "assd_mm")] == pytest.approx([diagonal] * 3)
    assert (missed["both_empty"], missed["false_alarm"], missed["missed"]) == (0, 0, 1)
    alarm = surfaces.segmentation_metrics(ball, empty, (1, 2, 3))[1]
    assert [alarm[key] for key in ("dice", "iou", "nsd")] == [0, 0, 0]
    assert all(math.isnan(alarm[key]) for key in ("hd_mm", "hd95_mm", "assd_mm", "volume_error_percent"))
    assert (alarm["both_empty"], alarm["false_alarm"], alarm["missed"]) == (0, 1, 0)
    both = surfaces.segmentation_metrics(empty, empty, (1, 2, 3), labels=[1])[1]
    assert all(math.isnan(both[key]) for key in ("dice", "iou", "nsd", "hd_mm", "hd95_mm", "assd_mm"))
    assert (both["both_empty"], both["false_alarm"], both["missed"]) == (1, 0, 0)
    assert surfaces.segmentation_metrics(empty, empty, UNIT) == {}


@pytest.mark.parametrize("convention", surfaces.CONVENTIONS)
def test_functions_follow_the_same_rules(convention):
    ball = masks("prediction_empty")[1]
    empty = np.zeros_like(ball)
    assert surfaces.hausdorff_95(empty, ball, UNIT, convention=convention) == pytest.approx(40 * math.sqrt(3))
    assert math.isnan(surfaces.hausdorff_95(ball, empty, UNIT, convention=convention))
    assert surfaces.nsd(empty, ball, UNIT) == 0 and math.isnan(surfaces.nsd(empty, empty, UNIT))
    assert math.isnan(overlap.dice(empty, empty)) and overlap.dice(ball, empty) == 0
    assert math.isnan(overlap.iou(empty, empty))


# -- label maps


def test_every_label_equals_its_own_mask_and_the_crop_changes_nothing():
    rng = np.random.default_rng(4)
    noise = ndimage.gaussian_filter(rng.normal(size=(16, 24, 32)), 2)
    reference = np.digitize(noise, np.quantile(noise, [0.5, 0.7, 0.9])).astype(np.int16) * 500
    prediction = np.roll(reference, 1, axis=1)
    result = surfaces.segmentation_metrics(
        prediction, reference, (0.8, 1, 1.5), tolerance_mm={500: 1, 1000: 2, 1500: 0}
    )
    assert list(result) == [500, 1000, 1500]
    for label, tolerance in ((500, 1), (1000, 2), (1500, 0)):
        pair = prediction == label, reference == label
        assert result[label]["dice"] == overlap.dice(*pair)
        assert result[label]["hd_mm"] == surfaces.hausdorff(*pair, (0.8, 1, 1.5))
        assert result[label]["nsd"] == surfaces.nsd(*pair, (0.8, 1, 1.5), tolerance_mm=tolerance)
    padded = [np.pad(array, 5) for array in (prediction, reference)]
    again = surfaces.segmentation_metrics(*padded, (0.8, 1, 1.5), tolerance_mm={500: 1, 1000: 2, 1500: 0})
    assert again == result


def test_large_label_values_and_absent_labels():
    reference = np.zeros((8, 10, 12), np.int64)
    reference[2:5, 2:5, 2:5], reference[6, 6, 6] = 100_000, 7
    result = surfaces.segmentation_metrics(reference, reference, UNIT)
    assert {label: values["dice"] for label, values in result.items()} == {7: 1.0, 100_000: 1.0}
    assert surfaces.segmentation_metrics(reference, reference, UNIT, labels=[3])[3]["both_empty"] == 1


def test_volumes_by_hand():
    prediction, reference = np.zeros((2, 16, 24, 32), bool)
    prediction[:5, :10, :10], reference[:4, :10, :10] = True, True
    result = overlap.volume_error(prediction, reference, (1, 2, 0.5))
    assert result == pytest.approx(
        {"volume_ml": 0.5, "reference_ml": 0.4, "volume_error_ml": 0.1, "volume_error_percent": 25.0}
    )


def test_a_tolerance_of_one_voxel_edge_includes_it():
    mask = np.zeros((16, 24, 32), bool)
    mask[4:8, 4:8, 4:8] = True
    for edge in (0.8, 0.7, 0.49, 1.1):
        assert surfaces.nsd(mask, np.roll(mask, 1, 0), (edge, 5, 5), tolerance_mm=edge) == 1.0


# -- properties


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.sampled_from([0.5, 2.0, 4.0]))
def test_symmetric_scaling_with_spacing_and_blind_to_flips(seed, factor):
    rng = np.random.default_rng(seed)
    prediction, reference = ndimage.gaussian_filter(rng.normal(size=(2, 7, 9, 11)), (0, 1, 1, 1)) > 0.1
    prediction[3, 4, 5] = reference[2, 4, 5] = True
    spacing = (1.0, 0.75, 1.5)
    for convention in surfaces.CONVENTIONS:
        here = surfaces.hausdorff_95(prediction, reference, spacing, convention=convention)
        there = surfaces.hausdorff_95(reference, prediction, spacing, convention=convention)
        assert here == pytest.approx(there)
        scaled = surfaces.hausdorff_95(
            prediction, reference, [size * factor for size in spacing], convention=convention
        )
        assert scaled == pytest.approx(factor * here, rel=1e-5)
        flipped = surfaces.hausdorff_95(prediction[::-1], reference[::-1], spacing, convention=convention)
        assert flipped == pytest.approx(here, rel=1e-6)
        assert surfaces.hausdorff_95(prediction, prediction, spacing, convention=convention) == 0
        if convention != "area_weighted":  # its distances run between the corners of voxels
            assert here <= surfaces.hausdorff(prediction, reference, spacing)


@pytest.mark.parametrize("cost", [0, surfaces.TRANSFORM_COST, math.inf])
def test_far_surfaces_equal_a_distance_transform(monkeypatch, cost):
    monkeypatch.setattr(surfaces, "TRANSFORM_COST", cost)  # tree alone, as it is, transform alone
    grid = np.indices((16, 24, 32))
    first = sum((axis - 4) ** 2 for axis in grid) <= 9
    second = (grid[2] > 20) & (grid[1] > 2)
    spacing = (0.7, 1.0, 1.3)
    there, back = (
        ndimage.distance_transform_edt(~b, sampling=spacing)[a & ~ndimage.binary_erosion(a)]
        for a, b in ((first, second), (second, first))
    )
    assert surfaces.hausdorff(first, second, spacing) == pytest.approx(max(there.max(), back.max()), rel=1e-6)
    assert surfaces.assd(first, second, spacing) == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-6)


# -- surface elements


@pytest.mark.parametrize("spacing", [UNIT, (3.0, 1.0, 2.0), (0.49, 0.8, 0.6)])
def test_all_areas_equal_surface_distance(spacing):
    theirs = PEERS["element_areas"]["x".join(map(str, spacing))]
    np.testing.assert_allclose(surfels.measure_areas(spacing), theirs, rtol=1e-9, atol=1e-12)


def test_areas_by_hand():
    area = surfels.measure_areas((2.0, 3.0, 4.0))
    corner = 0.5 * np.linalg.norm(np.cross([1, -1.5, 0], [1, 0, -2]))  # a triangle between three edge midpoints
    assert area[1] == pytest.approx(corner) and area[254] == pytest.approx(corner)
    assert area[0b00001111] == pytest.approx(3 * 4)  # the half with x = 0: a plane across x
    assert area[0] == area[255] == 0


def test_area_of_a_ball_is_nearly_right():
    radius = 14.3
    inside = sum((axis - 16) ** 2 for axis in np.indices((33, 33, 33))) <= radius**2
    area = surfels.measure_areas(UNIT)[surfels.encode_corners(inside)].sum()
    assert area == pytest.approx(4 * math.pi * radius**2, rel=0.1)


# -- errors


def test_what_does_not_fit_is_refused():
    mask = np.zeros((4, 5, 6), bool)
    with pytest.raises(ValueError, match=r"three positive numbers .* got \(1, 0, 1\)"):
        surfaces.hausdorff(mask, mask, (1, 0, 1))
    with pytest.raises(ValueError, match=r"one shape, got \(4, 5, 6\) and \(4, 5, 7\)"):
        surfaces.assd(mask, np.zeros((4, 5, 7), bool), UNIT)
    with pytest.raises(ValueError, match=r"Did you mean 'pooled'"):
        surfaces.hausdorff_95(mask, mask, UNIT, convention="poled")
    with pytest.raises(ValueError, match="0 and 1 only"):
        overlap.dice(mask + 2.0, mask)
    with pytest.raises(ValueError, match="whole numbers"):
        surfaces.segmentation_metrics(mask + 0.5, mask, UNIT)
    with pytest.raises(ValueError, match="0 \\(background\\) or larger, got -1"):
        surfaces.segmentation_metrics(mask - 1, mask, UNIT)
    with pytest.raises(ValueError, match="tolerance_mm must be 0 or more, got -1"):
        surfaces.nsd(mask, mask, UNIT, tolerance_mm=-1)
    with pytest.raises(TypeError, match="spacing_mm"):
        surfaces.segmentation_metrics(mask, mask)
