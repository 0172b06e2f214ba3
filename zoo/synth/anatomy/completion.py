"""Completes anatomies whose source leaves out white matter, fluid, brainstem, cerebellum or ventricles."""

from collections.abc import Callable, Mapping

import edt
import numpy as np
from scipy import interpolate, ndimage

from zoo.synth.anatomy.labels import INDEX, LABELS, NUM_LABELS, sides
from zoo.volumes.components import fill_holes, largest_component

CLOSING_MM = 12.0  # bridges every sulcus and the fissures, so that the shell follows the dura
REACH_MM = 25.0  # of a matched point
GAP_MM = 1.5  # holes in a cortical ribbon that a front must not slip through
BORROWED = ("ventricle", "cerebellum_cortex", "cerebellum_white", "brainstem", "ventral_diencephalon")


def closed(mask: np.ndarray, radius_mm: float) -> np.ndarray:
    """Closes a mask of 1 mm voxels by a ball, by two distance transforms, and fills its holes.

    Args:
        mask: (x, y, z) bool.
        radius_mm: radius of the ball.

    Returns:
        (x, y, z) bool, a superset of the mask.
    """
    pad = int(radius_mm) + 2
    padded = np.pad(mask, pad)
    grown = edt.edt(~padded) <= radius_mm
    shrunk = edt.edt(grown) > radius_mm
    return fill_holes(shrunk[pad:-pad, pad:-pad, pad:-pad] | mask)


def add_csf(labels: np.ndarray) -> np.ndarray:
    """Fills the space between the brain and a closed shell one voxel outside it with fluid.

    Args:
        labels: (x, y, z) of the scheme, 1 mm.

    Returns:
        (x, y, z) int16; only background becomes csf.
    """
    shell = closed(labels > 0, CLOSING_MM)
    shell = edt.edt(~shell) <= 1.0
    return np.where((labels == 0) & shell, INDEX["csf"], labels).astype(np.int16)


def control_points(points: Mapping[int, np.ndarray], others: Mapping[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the centroids of the structures that two anatomies share, one row per structure."""
    shared = sorted(set(points) & set(others))
    return np.stack([points[code] for code in shared]), np.stack([others[code] for code in shared])


def centroids(codes: np.ndarray) -> dict[int, np.ndarray]:
    """Returns the centre of each label other than 0, in voxels."""
    labels = np.unique(codes[codes > 0])
    centres = ndimage.center_of_mass(np.ones(codes.shape, np.uint8), codes, labels)
    return {int(code): np.asarray(centre) for code, centre in zip(labels, centres, strict=True)}


def fit_bend(target: np.ndarray, source: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fits the way from one brain to another: an affine through matched points, bent where points are near.

    The bend is a sum of Gaussians, so that the cerebellum, far from every point, moves by the affine alone.

    Args:
        target: (points, 3) in the new brain.
        source: (points, 3), the same places in the other.

    Returns:
        A function from places (n, 3) in the new brain to those in the other, (n, 3).
    """
    affine = np.linalg.lstsq(np.c_[target, np.ones(len(target))], source, rcond=None)[0]
    residual = source - np.c_[target, np.ones(len(target))] @ affine
    bend = interpolate.RBFInterpolator(
        target, residual, kernel="gaussian", epsilon=1 / REACH_MM, smoothing=0.5, degree=-1
    )
    return lambda places: np.c_[places, np.ones(len(places))] @ affine + bend(places)


def warp(labels: np.ndarray, target: np.ndarray, source: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Carries a label map to another brain by matched points, the way that `fit_bend` fits.

    Args:
        labels: (x, y, z) to carry.
        target: (points, 3) voxels in the new grid.
        source: (points, 3) voxels in `labels`.
        shape: of the new grid.

    Returns:
        `shape`, nearest labels; 0 outside.
    """
    step = 6
    nodes = [np.arange(0, size + step, step) for size in shape]
    grid = np.stack(np.meshgrid(*nodes, indexing="ij"), -1)
    coarse = fit_bend(target, source)(grid.reshape(-1, 3).astype(float)).reshape(grid.shape)
    fine = np.stack(np.meshgrid(*[np.arange(size) / step for size in shape], indexing="ij"))
    where = [ndimage.map_coordinates(coarse[..., axis], fine, order=1) for axis in range(3)]
    return ndimage.map_coordinates(labels, where, order=0)


def complete(labels: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Completes cortex and nuclei to a whole brain: derives white matter, and takes the rest from a template.

    Grey matter encloses white matter. Two fronts start deep in the template's white matter and outside the brain, run
    through all voxels that are not grey, and meet at the border. Sulci belong to the outer front.

    Args:
        labels: (x, y, z) of the scheme, cortex and nuclei of one person.
        template: the same grid, a whole brain warped to that person.

    Returns:
        (x, y, z) int16 with white matter, ventricles, brainstem and cerebellum.
    """
    labels = np.where(largest_component(closed(labels > 0, 2.0)), labels, 0)
    result = labels.copy()
    borrowed = np.isin(template, [index for name in BORROWED for index in sides(name)]) & (labels == 0)
    result[borrowed] = template[borrowed]
    free = result == 0
    depth = edt.edt(~(labels > 0))
    white = np.isin(template, sides("white"))
    inner = free & white & (depth > 2.0) & (edt.edt(white) > 2.0)
    outer = free & ~closed(result > 0, CLOSING_MM)
    grey = labels > 0
    wide = free & ~(edt.edt(edt.edt(~grey) <= GAP_MM) > GAP_MM)
    inner, outer = _race_fronts(inner & wide, outer & wide, wide)
    inside = largest_component(_race_fronts(inner, outer, free)[0])
    left, right = sides("white")
    sided = _find_nearest_side(labels)
    result[inside] = np.where(sided[inside] == 0, left, right)
    return result.astype(np.int16)


def _race_fronts(first: np.ndarray, second: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns where each front arrives first; both move one voxel per step through free voxels."""
    first, second = first.copy(), second.copy()
    for _ in range(200):
        open_voxels = free & ~first & ~second
        # The outer front moves first: a voxel that both reach at once is at the mouth of a gap in the ribbon.
        new_second = _grow(second) & open_voxels
        new_first = _grow(first) & open_voxels & ~new_second
        if not (new_first.any() or new_second.any()):
            break
        first |= new_first
        second |= new_second
    return first, second


def _grow(mask: np.ndarray) -> np.ndarray:
    """Dilates by one voxel through faces; slices are ten times as fast here as `scipy.ndimage`."""
    result = mask.copy()
    for axis in range(3):
        before, after = np.moveaxis(mask, axis, 0), np.moveaxis(result, axis, 0)
        after[1:] |= before[:-1]
        after[:-1] |= before[1:]
    return result


def _find_nearest_side(labels: np.ndarray) -> np.ndarray:
    """Returns 0 for voxels nearer to a left structure, 1 for voxels nearer to a right one."""
    names = [label.name for label in LABELS]
    left = np.array([name.startswith("left_") for name in names])
    right = np.array([name.startswith("right_") for name in names])
    return (edt.edt(~right[labels]) < edt.edt(~left[labels])).astype(np.int8)


def split_sides(codes: np.ndarray, labels: np.ndarray, midline: tuple[int, ...], name: str) -> np.ndarray:
    """Assigns codes of the midline (the callosum) to the left or right structure, whichever side is nearer."""
    here = np.isin(codes, midline)
    left, right = sides(name)
    return np.where(here, np.where(_find_nearest_side(labels) == 0, left, right), labels).astype(np.int16)


def volumes_ml(labels: np.ndarray, voxel_ml: float) -> dict[str, float]:
    """Returns the volume of each structure that occurs, in ml."""
    counts = np.bincount(labels.ravel(), minlength=NUM_LABELS)
    return {LABELS[index].name: float(counts[index] * voxel_ml) for index in np.nonzero(counts)[0]}
