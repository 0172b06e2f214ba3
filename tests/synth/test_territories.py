"""The arterial territories on a real anatomy: needs the data packages."""

import numpy as np
import pytest

from zoo.synth import stroke
from zoo.synth.anatomy import sources, territories
from zoo.synth.anatomy.labels import sides


@pytest.fixture(scope="module")
def held_out():
    try:
        territories.locate()
        return sources.anatomy("donor_15496", allow_test=True), territories.territories("donor_15496")
    except FileNotFoundError as error:
        pytest.skip(f"{error}")


def share(anatomy, zones, structure, names):
    """Of a structure on the left, the share that lies in some territories of the left."""
    here = zones[anatomy.labels == sides(structure)[0]]
    return np.isin(here, [territories.TERRITORIES[name] for name in names]).mean()


def test_structures_lie_in_their_arteries_territories(held_out):
    assert share(*held_out, "putamen", ["lateral_lenticulostriate"]) > 0.6
    assert share(*held_out, "thalamus", ["posterior_thalamic", "anterior_thalamic"]) > 0.85
    assert share(*held_out, "cerebellum_cortex", ["superior_cerebellar", "inferior_cerebellar"]) > 0.9


def test_both_sides_are_about_equal_and_all_tissue_belongs_to_one(held_out):
    anatomy, zones = held_out
    volumes = np.bincount(zones.ravel(), minlength=31)
    left, right = volumes[1:30:2], volumes[2:31:2]
    assert (np.abs(left - right) < 0.25 * (left + right)).all() and left.min() > 1000
    assert (zones[np.isin(anatomy.labels, [*sides("cortex"), *sides("white")])] > 0).all()
    assert not zones[np.isin(anatomy.labels, [*sides("csf"), *sides("ventricle")])].any()


def test_a_patch_is_scaled_about_as_its_whole_scan_would_be(held_out):
    codes, places = (np.asarray(each)[0] for each in territories.coded(("donor_15496",)))
    brain, ranges = stroke.Brain(codes, places), stroke.Perfusion(grids=stroke.GRIDS[2:3])
    parts = []
    for seed in (1, 2, 4):
        params = stroke.draw(seed, ranges)
        maps = np.asarray(stroke.apply(brain, params, ranges.grids[0][0], ranges)[0])
        inside = maps[maps[..., 0] != 0]
        mean, sd = (np.asarray(each) for each in stroke.moments(brain, params))
        np.testing.assert_allclose(inside.mean(0), mean, rtol=0.05)
        parts.append(inside.std(0) / sd)
    np.testing.assert_allclose(np.mean(parts, 0), 1, atol=0.2)
