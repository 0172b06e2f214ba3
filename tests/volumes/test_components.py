"""Components and holes: shapes drawn by hand, and SciPy on random masks."""

import numpy as np
import pytest
from scipy import ndimage

from zoo.volumes.components import fill_holes, label_components, largest_component

SHAPE = (16, 24, 32)
STRUCTURES = {6: 1, 18: 2, 26: 3}


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_components_against_scipy(connectivity):
    mask = np.random.default_rng(connectivity).random(SHAPE) > 0.85
    labels, num = label_components(mask, connectivity)
    oracle, oracle_num = ndimage.label(mask, ndimage.generate_binary_structure(3, STRUCTURES[connectivity]))
    assert num == oracle_num
    pairs = np.unique(np.stack([labels[mask], oracle[mask]]), axis=1)
    assert pairs.shape[1] == num
    assert (labels[~mask] == 0).all()
    largest = largest_component(mask, connectivity)
    assert largest.dtype == bool
    assert largest.sum() == np.bincount(oracle[mask])[1:].max()
    assert len(np.unique(oracle[largest])) == 1


def test_a_corner_connects_only_with_26_neighbours():
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:4, 2:4, 2:4] = 3
    mask[4, 4, 4] = 5
    assert label_components(mask, 26)[1] == 1
    assert label_components(mask, 18)[1] == 2
    assert largest_component(mask, 6).sum() == 8
    assert largest_component(mask).sum() == 9


def test_empty_and_full_masks():
    empty, full = np.zeros(SHAPE, bool), np.ones(SHAPE, bool)
    assert label_components(empty)[1] == 0
    assert not largest_component(empty).any()
    assert not fill_holes(empty).any()
    assert largest_component(full).all()
    assert fill_holes(full).all()


def test_holes():
    mask = np.zeros(SHAPE, bool)
    mask[2:9, 2:9, 2:9] = True
    mask[4:6, 4:6, 4:6] = False  # enclosed
    mask[8, 8, 8] = False  # a dent in a corner
    mask[7, 2:4, 7] = False  # a shaft from the outside
    filled = fill_holes(mask)
    assert filled.sum() == mask.sum() + 8
    assert filled[4:6, 4:6, 4:6].all()
    # What the edge of the volume closes is open: the rule of scipy.ndimage.binary_fill_holes.
    at_edge = np.zeros(SHAPE, bool)
    at_edge[0:5, 2:9, 2:9] = True
    at_edge[0:3, 4:6, 4:6] = False
    assert np.array_equal(fill_holes(at_edge), at_edge)


def test_holes_against_scipy():
    mask = np.random.default_rng(5).random(SHAPE) > 0.3
    assert np.array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


def test_refusals():
    with pytest.raises(ValueError, match="There is no connectivity 8.*Choose from: 18, 26, 6"):
        label_components(np.ones(SHAPE), 8)
    for function in (label_components, largest_component, fill_holes):
        with pytest.raises(ValueError, match=r"A mask is 3D \(x, y, z\), got shape \(16, 24"):
            function(np.ones((16, 24)))
