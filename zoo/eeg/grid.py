"""Lays out the places of the template's brain: a 7 mm grid of 5,215 in a padded box of 24 x 28 x 24."""

import functools

import numpy as np
from scipy.spatial import cKDTree

from zoo.eeg import head_surfaces

SPACING_MM = 7.0
BOX = (23, 28, 24)
SHAPE = (24, 28, 24)
NUM_PLACES = 5215
DEPTH_MM = 5.0


@functools.cache
def grid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the grid that every network and every kernel uses; `Head.places` moves it into another head.

    The box 23 x 28 x 24 covers fsaverage's inner skull and shares its middle; the first axis is padded by one plane,
    so that three halvings fit. The grid keeps the 5,215 deepest points, which lie 5 mm or more below the inner
    skull: nearer to it, the boundary element method is inaccurate.

    Returns:
        Positions (5215, 3) in mm, MRI coordinates of the template, in C order of the box; mask (24, 28, 24), true
        where a place is; index (5215, 3), the voxel of each place.
    """
    points = np.stack(np.meshgrid(*axes_mm(), indexing="ij"), -1).reshape(-1, 3)
    depth = depth_mm(points)
    deepest = np.sort(np.argsort(-depth, kind="stable")[:NUM_PLACES])
    index = np.stack(np.unravel_index(deepest, SHAPE), 1)
    mask = np.zeros(SHAPE, bool)
    mask[tuple(index.T)] = True
    positions = points[deepest].astype(np.float32)
    for array in (positions, mask, index):
        array.flags.writeable = False
    return positions, mask, index


def axes_mm() -> list[np.ndarray]:
    """Returns the coordinates of the padded box's planes along x, y and z, in mm."""
    centre = head_surfaces.head().warp.centre_mm
    steps = zip(centre, BOX, SHAPE, strict=True)
    return [middle + SPACING_MM * (np.arange(padded) - (size - 1) / 2) for middle, size, padded in steps]


def affine() -> np.ndarray:
    """Returns the matrix (4, 4) from voxels of the padded box to mm of the template's MRI (surface RAS)."""
    matrix = np.diag([SPACING_MM] * 3 + [1.0])
    matrix[:3, 3] = [axis[0] for axis in axes_mm()]
    return matrix


def depth_mm(points_mm: np.ndarray) -> np.ndarray:
    """Measures how far points (n, 3) of the template lie below the inner skull, mm; negative outside."""
    surface, triangles = head_surfaces.inner_skull()
    centre = np.asarray(head_surfaces.head().warp.centre_mm)
    offset = points_mm - centre
    inside = np.linalg.norm(offset, axis=1) < head_surfaces.radius_towards(
        surface - centre, offset, triangles=triangles
    )
    return np.where(inside, 1, -1) * cKDTree(surface).query(points_mm)[0]


def flat_index() -> np.ndarray:
    """Returns each place's index in the flattened padded box, (5215,) int32."""
    return np.ravel_multi_index(tuple(grid()[2].T), SHAPE).astype(np.int32)


def slots() -> np.ndarray:
    """Returns the index of the place in each voxel of the padded box, (16128,) int32; 5215 where there is none.

    To fill the box in any array library, append one zero to the values of the places and index them with the slots.
    """
    filled = np.full(int(np.prod(SHAPE)), NUM_PLACES, np.int32)
    filled[flat_index()] = np.arange(NUM_PLACES, dtype=np.int32)
    return filled


def to_box(values: np.ndarray) -> np.ndarray:
    """Puts values (..., 5215) of the places into volumes (..., 24, 28, 24), zero elsewhere."""
    padded = np.concatenate([values, np.zeros((*values.shape[:-1], 1), values.dtype)], -1)
    return padded[..., slots()].reshape(*values.shape[:-1], *SHAPE)


def from_box(volumes: np.ndarray) -> np.ndarray:
    """Takes the values (..., 5215) of the places out of volumes (..., 24, 28, 24)."""
    return volumes.reshape(*volumes.shape[:-3], -1)[..., flat_index()]
