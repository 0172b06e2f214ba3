"""Measures distances between the surfaces of two label maps in mm, each definition under its own name.

Everything is computed in the box that holds both masks, and one search in each direction serves all metrics.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import edt
import numpy as np
from scipy.spatial import cKDTree

from zoo.errors import unknown_choice
from zoo.evaluation import overlap, surfels

CONVENTIONS = ("per_direction_max", "pooled", "area_weighted")
NEAR_VOXELS = 4  # how far the search tree looks at first
TRANSFORM_COST = 10  # of a distance transform, for each voxel, in comparisons of two points
Box = tuple[slice, ...]


def segmentation_metrics(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Sequence[float],
    *,
    labels: Sequence[int] | None = None,
    tolerance_mm: float | Mapping[int, float] = 1.0,
    hd95: str = "per_direction_max",
) -> dict[int, dict[str, float]]:
    """Returns overlap, surface distances and volumes for every label of a pair of label maps.

    Empty masks: both empty, every score is NaN and `both_empty` is 1. Reference empty, Dice, IoU and NSD are 0,
    distances are NaN and `false_alarm` is 1. Prediction empty, Dice, IoU and NSD are 0, distances are the volume's
    diagonal and `missed` is 1. A mean over cases should be shown with the counts of the cases it leaves out.

    Args:
        prediction: label map (x, y, z), whole numbers >= 0; 0 is background.
        reference: the same shape, on the same grid.
        spacing_mm: voxel size along each axis, in mm.
        labels: the labels to compare; by default every label above 0 in either map.
        tolerance_mm: distance in mm that NSD forgives, > 0; a number or one for each label.
        hd95: definition of `hd95_mm`, see `hausdorff_95`.

    Returns:
        `{label: {"dice", "iou", "hd_mm", "hd95_mm", "assd_mm", "nsd", "volume_ml", "reference_ml", "volume_error_ml",
        "volume_error_percent", "both_empty", "false_alarm", "missed"}}`, floats; the last three are 0 or 1.

    Raises:
        ValueError: the maps do not fit together, or a setting is out of range.

    Example:
        >>> prediction, reference = np.zeros((2, 16, 24, 32), int)
        >>> prediction[2:6, 2:6, 2:6] = reference[4:8, 2:6, 2:6] = 3
        >>> metrics = segmentation_metrics(prediction, reference, (1, 1, 1))
        >>> metrics[3]["dice"], metrics[3]["hd_mm"], metrics[3]["volume_ml"]
        (0.5, 2.0, 0.064)
    """
    prediction, reference = overlap.check_label_maps(prediction, reference)
    spacing = overlap.check_spacing(spacing_mm)
    _check_convention(hd95)
    ours, theirs = overlap.find_boxes(prediction), overlap.find_boxes(reference)
    metrics = {}
    for label in sorted(ours.keys() | theirs.keys()) if labels is None else labels:
        tolerance = _check_tolerance(tolerance_mm[label] if isinstance(tolerance_mm, Mapping) else tolerance_mm)
        box = _enclose(ours.get(label), theirs.get(label))
        ours_here, theirs_here = (np.equal(volume[box], label, order="C") for volume in (prediction, reference))
        pair = _Pair(ours_here, theirs_here, spacing, prediction.shape)
        metrics[int(label)] = {
            **pair.overlaps(),
            "hd_mm": pair.hausdorff(),
            "hd95_mm": pair.hausdorff_95(hd95),
            "assd_mm": pair.assd(),
            "nsd": pair.nsd(tolerance),
            **pair.volumes_and_flags(),
        }
    return metrics


def hausdorff(prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """Returns the Hausdorff distance: the largest distance from a surface voxel of one mask to the other surface.

    A surface voxel is one with a face neighbour outside the mask (or outside the volume); distances run between voxel
    centres. One stray voxel decides the value: prefer `hausdorff_95`, and read neither without Dice.

    Args:
        prediction: boolean or 0/1, (x, y, z).
        reference: the same shape.
        spacing_mm: voxel size along each axis, in mm.

    Returns:
        mm, >= 0; the volume's diagonal where only the prediction is empty, NaN where the reference is.

    Source:
        Equals MONAI 1.6 and MedPy 0.5 for masks that are not empty.

    Example:
        >>> prediction, reference = np.zeros((2, 16, 24, 32), bool)
        >>> prediction[2:6, 2:6, 2:6] = reference[4:8, 2:6, 2:6] = True
        >>> hausdorff(prediction, reference, (1, 1, 2))
        2.0
    """
    return _crop_pair(prediction, reference, spacing_mm).hausdorff()


def hausdorff_95(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Sequence[float],
    *,
    convention: str = "per_direction_max",
) -> float:
    """Returns the 95th percentile Hausdorff distance; the three in use differ by far more than a method gains.

    Args:
        prediction: boolean or 0/1, (x, y, z).
        reference: the same shape.
        spacing_mm: voxel size along each axis, in mm.
        convention: `"per_direction_max"`, the larger of the percentiles of the two directions (MONAI);
            `"pooled"`, the percentile of both directions' distances together (MedPy), which hides scattered false
            voxels; `"area_weighted"`, as the first, but over surface area (DeepMind's surface-distance).

    Returns:
        mm, >= 0; empty masks as `hausdorff`.

    Raises:
        ValueError: the convention is none of the three.

    Example:
        >>> prediction, reference = np.zeros((2, 16, 24, 32), bool)
        >>> prediction[2:6, 2:6, 2:6] = reference[4:8, 2:6, 2:6] = True
        >>> hausdorff_95(prediction, reference, (1, 1, 2))
        2.0
    """
    _check_convention(convention)
    return _crop_pair(prediction, reference, spacing_mm).hausdorff_95(convention)


def assd(prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """Returns the average symmetric surface distance: the mean over the surface voxels of both masks together.

    Arguments, surface and empty masks as `hausdorff`; equals MedPy 0.5 `assd` and MONAI 1.6 with `symmetric=True`.

    Example:
        >>> prediction, reference = np.zeros((2, 16, 24, 32), bool)
        >>> prediction[2:6, 2:6, 2:6] = reference[4:8, 2:6, 2:6] = True
        >>> round(assd(prediction, reference, (1, 1, 1)), 3)
        0.857
    """
    return _crop_pair(prediction, reference, spacing_mm).assd()


def nsd(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], *, tolerance_mm: float = 1.0
) -> float:
    """Returns the normalised surface Dice: the share of both surfaces' area within a tolerance of the other.

    Args:
        prediction: boolean or 0/1, (x, y, z).
        reference: the same shape.
        spacing_mm: voxel size along each axis, in mm.
        tolerance_mm: distance in mm that counts as the same place, >= 0; as far as two raters disagree, for example.

    Returns:
        0 to 1; 0 where one mask is empty, NaN where both are.

    Source:
        Nikolov et al., JMIR 2021, doi 10.2196/26151; equals surface-distance and MONAI's `use_subvoxels=True`.

    Example:
        >>> prediction, reference = np.zeros((2, 16, 24, 32), bool)
        >>> prediction[2:6, 2:6, 2:6] = reference[4:8, 2:6, 2:6] = True
        >>> nsd(prediction, reference, (1, 1, 1), tolerance_mm=2)
        1.0
    """
    return _crop_pair(prediction, reference, spacing_mm).nsd(_check_tolerance(tolerance_mm))


def _crop_pair(prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]) -> "_Pair":
    prediction, reference = overlap.check_masks(prediction, reference)
    spacing = overlap.check_spacing(spacing_mm)
    box = _enclose(overlap.find_boxes(prediction).get(1), overlap.find_boxes(reference).get(1))
    return _Pair(np.ascontiguousarray(prediction[box]), np.ascontiguousarray(reference[box]), spacing, prediction.shape)


@dataclasses.dataclass(frozen=True)
class _Pair:
    """Two masks in the box that holds both; shared results are computed once, on first use."""

    prediction: np.ndarray
    reference: np.ndarray
    spacing_mm: overlap.Spacing
    volume_shape: tuple[int, ...]

    @functools.cached_property
    def counts(self) -> tuple[int, int, int]:
        return overlap.count_voxels(self.prediction, self.reference)

    @functools.cached_property
    def empty_distance(self) -> float | None:
        """Returns the distance that stands for all when a mask is empty; None when neither is."""
        size, reference_size, _ = self.counts
        if size and reference_size:
            return None
        extent = np.multiply(self.volume_shape, self.spacing_mm)
        return float(np.linalg.norm(extent)) if reference_size else float("nan")

    @functools.cached_property
    def distances(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns distances in mm from each surface voxel to the other surface, prediction first."""
        ours, theirs = _find_shell(self.prediction), _find_shell(self.reference)
        return _search_both_ways(ours, theirs, self.spacing_mm)

    @functools.cached_property
    def weighted(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Returns `distances` between surface elements at the corners of voxels, each with its area in mm^2."""
        area = surfels.measure_areas(self.spacing_mm)
        codes = [surfels.encode_corners(np.pad(mask, 1)) for mask in (self.prediction, self.reference)]
        ours, theirs = ((code != 0) & (code != 255) for code in codes)
        there, back = _search_both_ways(ours, theirs, self.spacing_mm)
        return (there, area[codes[0][ours]]), (back, area[codes[1][theirs]])

    def overlaps(self) -> dict[str, float]:
        return {"dice": overlap.dice_of_counts(*self.counts), "iou": overlap.iou_of_counts(*self.counts)}

    def volumes_and_flags(self) -> dict[str, float]:
        size, reference_size, _ = self.counts
        return {
            **overlap.volumes_of_counts(size, reference_size, self.spacing_mm),
            "both_empty": float(not size and not reference_size),
            "false_alarm": float(bool(size) and not reference_size),
            "missed": float(bool(reference_size) and not size),
        }

    def hausdorff(self) -> float:
        if self.empty_distance is not None:
            return self.empty_distance
        return float(max(distances.max() for distances in self.distances))

    def hausdorff_95(self, convention: str) -> float:
        if self.empty_distance is not None:
            return self.empty_distance
        if convention == "pooled":
            return float(np.percentile(np.concatenate(self.distances), 95))
        if convention == "area_weighted":
            return max(_area_percentile(distances, areas, 0.95) for distances, areas in self.weighted)
        return float(max(np.percentile(distances, 95) for distances in self.distances))

    def assd(self) -> float:
        if self.empty_distance is not None:
            return self.empty_distance
        return float(np.concatenate(self.distances).mean(dtype=np.float64))

    def nsd(self, tolerance_mm: float) -> float:
        if self.empty_distance is not None:
            return 0.0 if any(self.counts) else float("nan")
        reach = tolerance_mm * (1 + 1e-6)  # distances are float32: one voxel of 0.8 mm must lie within 0.8 mm
        near = sum(areas[distances <= reach].sum() for distances, areas in self.weighted)
        return float(near / sum(areas.sum() for _, areas in self.weighted))


def _find_shell(mask: np.ndarray) -> np.ndarray:
    """Returns the voxels of a mask with a face neighbour outside it; outside the box counts as outside the mask."""
    padded = np.pad(mask, 1)
    core = padded[1:-1, 1:-1, 1:-1].copy()
    for axis in range(3):
        for start in (0, 2):
            window = [slice(1, -1)] * 3
            window[axis] = slice(start, start + mask.shape[axis])
            core &= padded[tuple(window)]
    return mask & ~core


def _search_both_ways(
    first: np.ndarray, second: np.ndarray, spacing_mm: overlap.Spacing
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distance in mm from each point of one mask to the nearest of the other, and the other way round."""
    ours, theirs = (cKDTree(np.argwhere(mask) * spacing_mm, balanced_tree=False) for mask in (first, second))
    there = _nearest_distances(ours, theirs, (first, second), spacing_mm)
    return there, _nearest_distances(theirs, ours, (second, first), spacing_mm)


def _nearest_distances(
    here: cKDTree, there: cKDTree, masks: tuple[np.ndarray, np.ndarray], spacing_mm: overlap.Spacing
) -> np.ndarray:
    """Returns distances in mm from the points of one tree to the other's.

    A tree is quickest for what lies near, which is most of two surfaces that agree; for many far points it may look
    at all others, and one distance transform of the box is cheaper than that.
    """
    distances, _ = there.query(here.data, distance_upper_bound=NEAR_VOXELS * max(spacing_mm))
    far = np.flatnonzero(np.isinf(distances))
    if len(far) * there.n < TRANSFORM_COST * masks[0].size:
        distances[far] = there.query(here.data[far])[0]
    else:
        transform = edt.edt((~masks[1]).view(np.uint8), anisotropy=spacing_mm)
        distances[far] = transform[masks[0]][far]
    return distances


def _area_percentile(distances: np.ndarray, areas: np.ndarray, share: float) -> float:
    """Returns the smallest distance within which at least this share of the area lies."""
    order = np.argsort(distances, kind="stable")
    covered = np.cumsum(areas[order])
    place = np.searchsorted(covered, share * covered[-1])
    return float(distances[order][min(int(place), len(order) - 1)])


def _enclose(first: Box | None, second: Box | None) -> Box:
    """Returns the box that holds both boxes; an empty one without either."""
    boxes = [box for box in (first, second) if box is not None]
    if not boxes:
        return (slice(0, 0),) * 3
    return tuple(
        slice(min(side.start for side in sides), max(side.stop for side in sides)) for sides in zip(*boxes, strict=True)
    )


def _check_convention(convention: str) -> None:
    if convention not in CONVENTIONS:
        raise unknown_choice("HD95 convention", convention, CONVENTIONS)


def _check_tolerance(tolerance_mm: float) -> float:
    if not tolerance_mm >= 0:
        raise ValueError(
            f"tolerance_mm must be 0 or more, got {tolerance_mm!r}. 1.0 is a common choice at 1 mm voxels."
        )
    return float(tolerance_mm)
