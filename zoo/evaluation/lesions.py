"""Lesions found, missed and invented: each connected component is one, however many voxels it has."""

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np

from zoo.errors import unknown_choice
from zoo.evaluation import overlap
from zoo.volumes.components import label_components

MATCHES = ("overlap", "centre")
FALSE_POSITIVE_RATES = (0.5, 1, 2, 4, 8, 16)


@dataclasses.dataclass(frozen=True)
class Lesion:
    """One connected component of a mask.

    Attributes:
        voxels: its size.
        volume_ml: its volume.
        diameter_mm: diameter of the ball of that volume.
        centre: its centre of mass in voxels (x, y, z).
        matches: numbers of the components of the other mask that it is matched with; none means missed or invented.
        dice: Dice of this component with all that it is matched with together; 0 where there is none.
        region: label of the region that its centre lies in, 0 without regions.
    """

    voxels: int
    volume_ml: float
    diameter_mm: float
    centre: tuple[float, float, float]
    matches: tuple[int, ...]
    dice: float
    region: int


@dataclasses.dataclass(frozen=True)
class Matching:
    """The lesions of one image: those of the reference, those predicted, and the IoU of each overlapping pair."""

    reference: tuple[Lesion, ...]
    prediction: tuple[Lesion, ...]
    ious: dict[tuple[int, int], float]


@dataclasses.dataclass(frozen=True)
class Detections:
    """Scored candidates of one image.

    Attributes:
        scores: one number a candidate, larger is surer.
        hits: for each candidate the numbers of the lesions that it finds; none makes it a false positive.
        num_lesions: lesions in the image.
    """

    scores: Sequence[float]
    hits: Sequence[Sequence[int]]
    num_lesions: int


@dataclasses.dataclass(frozen=True)
class Froc:
    """Free-response operating characteristic: an operating point for each threshold, strictest first."""

    thresholds: np.ndarray
    false_positives: np.ndarray
    sensitivity: np.ndarray


def match_lesions(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Sequence[float],
    *,
    match: str = "overlap",
    centre_mm: float = 3.0,
    connectivity: int = 26,
    regions: np.ndarray | None = None,
) -> Matching:
    """Pairs the lesions of two masks.

    Args:
        prediction: boolean or 0/1, (x, y, z).
        reference: the same shape.
        spacing_mm: voxel size along each axis, in mm.
        match: `"overlap"`, one common voxel makes a pair; `"centre"`, centres of mass within `centre_mm`.
        centre_mm: for `"centre"`, in mm, >= 0.
        connectivity: 6, 18 or 26 neighbours join voxels to a lesion.
        regions: label map on the same grid that names where a lesion lies.

    Returns:
        The matching; lesions are numbered from 0 in each mask.

    Raises:
        ValueError: the masks do not fit together, or a setting is not among the choices.
    """
    prediction, reference = overlap.masks(prediction, reference)
    spacing = overlap.spacing(spacing_mm)
    if match not in MATCHES:
        raise unknown_choice("way to match lesions", match, MATCHES)
    theirs, ours = (_components(mask, connectivity) for mask in (reference, prediction))
    common = _common_voxels(theirs, ours)
    if match == "overlap":
        pairs = common > 0
    else:
        gaps = (theirs.centres[:, None] - ours.centres[None]) * np.array(spacing)
        pairs = np.linalg.norm(gaps, axis=-1) <= centre_mm
    unions = theirs.voxels[:, None] + ours.voxels[None] - common
    return Matching(
        reference=_lesions(theirs, ours, pairs, common, spacing, regions),
        prediction=_lesions(ours, theirs, pairs.T, common.T, spacing, regions),
        ious={(int(r), int(p)): float(common[r, p] / unions[r, p]) for r, p in np.argwhere(common)},
    )


def lesion_metrics(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Sequence[float],
    *,
    match: str = "overlap",
    centre_mm: float = 3.0,
    connectivity: int = 26,
) -> dict[str, float]:
    """Lesion-wise scores of one image.

    A reference lesion is found when it is matched, a predicted one is true when it is; several may match one. So
    `sensitivity = found / lesions`, `precision = true / detections`, and F1 is their harmonic mean.

    Args:
        prediction: boolean or 0/1, (x, y, z).
        reference: the same shape.
        spacing_mm: voxel size along each axis, in mm.
        match: `"overlap"` or `"centre"`, see `match_lesions`.
        centre_mm: for `"centre"`, in mm.
        connectivity: 6, 18 or 26.

    Returns:
        `lesions`, `detections`, `found`, `false_positives` (counts); `sensitivity` (NaN without lesions), `precision`
        (NaN without detections), `f1` and `panoptic_quality` (NaN without either, 0 with one of them);
        `segmentation_quality` and `recognition_quality`, the factors of the panoptic quality (a pair counts above
        IoU 1/2; the first is NaN without such a pair); `dice_of_hits`, mean Dice of the found lesions (NaN without);
        and the flags `both_empty`, `false_alarm`, `missed` of the whole image.

    Raises:
        ValueError: the masks do not fit together, or a setting is not among the choices.

    Source:
        Panoptic quality: Kirillov et al., CVPR 2019, arXiv 1801.00868.
    """
    matching = match_lesions(
        prediction, reference, spacing_mm, match=match, centre_mm=centre_mm, connectivity=connectivity
    )
    return metrics_of_matching(matching)


def metrics_of_matching(matching: Matching) -> dict[str, float]:
    """The entries of `lesion_metrics` of a matching."""
    lesions, detections = len(matching.reference), len(matching.prediction)
    found = [lesion for lesion in matching.reference if lesion.matches]
    true = sum(bool(lesion.matches) for lesion in matching.prediction)
    sensitivity, precision = _ratio(len(found), lesions), _ratio(true, detections)
    return {
        "lesions": float(lesions),
        "detections": float(detections),
        "found": float(len(found)),
        "false_positives": float(detections - true),
        "sensitivity": sensitivity,
        "precision": precision,
        "f1": _f1(sensitivity, precision),
        "dice_of_hits": _ratio(sum(lesion.dice for lesion in found), len(found)),
        **_panoptic(matching),
        "both_empty": float(not lesions and not detections),
        "false_alarm": float(bool(detections) and not lesions),
        "missed": float(bool(lesions) and not detections),
    }


def sensitivity_by(
    matchings: Iterable[Matching], group: Callable[[Lesion], Hashable]
) -> list[dict[str, float | Hashable]]:
    """Sensitivity and false positives over many images, for each group of lesions.

    Args:
        matchings: one an image.
        group: names the group of a lesion: `size_bin((3, 5, 10))`, or `lambda lesion: lesion.region`.

    Returns:
        Rows of `group`, `lesions`, `found`, `sensitivity` (NaN without lesions), `detections`, `false_positives`,
        sorted by group. A detection belongs to the group that it has itself.
    """
    rows: dict[Hashable, dict] = {}
    for matching in matchings:
        for side, total, hits in (("reference", "lesions", "found"), ("prediction", "detections", "true")):
            for lesion in getattr(matching, side):
                row = rows.setdefault(group(lesion), {"lesions": 0, "found": 0, "detections": 0, "true": 0})
                row[total] += 1
                row[hits] += bool(lesion.matches)
    return [
        {
            "group": name,
            "lesions": row["lesions"],
            "found": row["found"],
            "sensitivity": _ratio(row["found"], row["lesions"]),
            "detections": row["detections"],
            "false_positives": row["detections"] - row["true"],
        }
        for name, row in sorted(rows.items())
    ]


def size_bin(edges_mm: Sequence[float]) -> Callable[[Lesion], tuple[float, float]]:
    """Groups lesions by diameter: `[0, first edge)`, ..., `[last edge, inf)`, in mm."""
    edges = [0.0, *sorted(edges_mm), math.inf]

    def group(lesion: Lesion) -> tuple[float, float]:
        place = int(np.searchsorted(edges, lesion.diameter_mm, side="right"))
        return edges[place - 1], edges[place]

    return group


def detections(
    probability: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Sequence[float],
    *,
    threshold: float = 0.1,
    match: str = "overlap",
    centre_mm: float = 3.0,
    connectivity: int = 26,
) -> Detections:
    """Candidates of a probability map: components above a low threshold, scored by their largest probability.

    Args:
        probability: (x, y, z), 0 to 1.
        reference: boolean or 0/1, the same shape.
        spacing_mm: voxel size along each axis, in mm.
        threshold: what lies above it is a candidate; the lower, the further the FROC curve reaches, and the more
            neighbours grow together.
        match: `"overlap"` or `"centre"`, see `match_lesions`.
        centre_mm: for `"centre"`, in mm.
        connectivity: 6, 18 or 26.

    Returns:
        The candidates with what they hit.

    Raises:
        ValueError: the volumes do not fit together, or a setting is not among the choices.
    """
    probability = np.asarray(probability)
    candidates = probability > threshold
    matching = match_lesions(
        candidates, reference, spacing_mm, match=match, centre_mm=centre_mm, connectivity=connectivity
    )
    numbers, _ = label_components(candidates, connectivity)
    scores = np.zeros(len(matching.prediction) + 1)
    np.maximum.at(scores, numbers[candidates], probability[candidates])
    hits = [lesion.matches for lesion in matching.prediction]
    return Detections(scores=scores[1:].tolist(), hits=hits, num_lesions=len(matching.reference))


def froc(images: Sequence[Detections]) -> Froc:
    """Sensitivity against false positives an image, as the threshold on the score falls.

    A lesion counts once however many candidates hit it; a candidate that hits a lesion is no false positive.

    Args:
        images: the candidates of every image, those without any too.

    Returns:
        One point above all scores and one for each distinct score, strictest first: thresholds (a candidate counts at
        or above it), false positives an image, and sensitivity over all lesions (NaN where there are none).

    Raises:
        ValueError: no image.
    """
    if not images:
        raise ValueError("froc needs at least one image, got none. Pass one Detections an image, empty ones too.")
    num_lesions = sum(image.num_lesions for image in images)
    ranked = sorted(
        (
            (score, number, hit)
            for number, image in enumerate(images)
            for score, hit in zip(image.scores, image.hits, strict=True)
        ),
        key=lambda candidate: -candidate[0],
    )
    points = {math.inf: (0.0, _ratio(0, num_lesions))}
    found: set[tuple[int, int]] = set()
    false = 0
    for score, number, hit in ranked:
        found.update((number, lesion) for lesion in hit)
        false += not len(hit)
        points[score] = (false / len(images), _ratio(len(found), num_lesions))
    values = np.array(list(points.values()))
    return Froc(np.array(list(points)), values[:, 0], values[:, 1])


def mean_sensitivity(curve: Froc, *, at: Sequence[float] = FALSE_POSITIVE_RATES) -> float:
    """Mean over false positive rates of the best sensitivity that stays within each rate, 0 where none does.

    No interpolation: only thresholds that exist count. MONAI and LUNA16 interpolate and come out a little higher.

    Args:
        curve: from `froc`.
        at: false positives an image.

    Returns:
        0 to 1; NaN where there are no lesions.
    """
    return float(np.mean([curve.sensitivity[curve.false_positives <= rate].max() for rate in at]))


@dataclasses.dataclass(frozen=True)
class _Components:
    """A labelled mask: the label map, the voxels of each component and its centre in voxels, from component 1 on."""

    labels: np.ndarray
    voxels: np.ndarray
    centres: np.ndarray


def _components(mask: np.ndarray, connectivity: int) -> _Components:
    labels, _ = label_components(mask, connectivity)
    places = np.nonzero(labels)
    numbers = labels[places].astype(np.int64) - 1
    voxels = np.bincount(numbers)
    sums = [np.bincount(numbers, weights=axis) for axis in places]
    return _Components(labels, voxels, np.stack(sums, axis=-1) / voxels[:, None])


def _common_voxels(first: _Components, second: _Components) -> np.ndarray:
    """How many voxels each component of the first shares with each of the second."""
    rows, columns = len(first.voxels), len(second.voxels)
    both = (first.labels > 0) & (second.labels > 0)
    keys = (first.labels[both].astype(np.int64) - 1) * columns + second.labels[both] - 1
    return np.bincount(keys, minlength=rows * columns).reshape(rows, columns)


def _lesions(
    own: _Components,
    other: _Components,
    pairs: np.ndarray,
    common: np.ndarray,
    spacing: overlap.Spacing,
    regions: np.ndarray | None,
) -> tuple[Lesion, ...]:
    voxel_mm3 = math.prod(spacing)
    lesions = []
    for number, (voxels, centre) in enumerate(zip(own.voxels.tolist(), own.centres.tolist(), strict=True)):
        matched = np.flatnonzero(pairs[number])
        shared, total = common[number, matched].sum(), voxels + other.voxels[matched].sum()
        lesions.append(
            Lesion(
                voxels=voxels,
                volume_ml=voxels * voxel_mm3 / 1000,
                diameter_mm=(6 * voxels * voxel_mm3 / math.pi) ** (1 / 3),
                centre=(centre[0], centre[1], centre[2]),
                matches=tuple(matched.tolist()),
                dice=float(2 * shared / total),
                region=0 if regions is None else int(regions[tuple(round(value) for value in centre)]),
            )
        )
    return tuple(lesions)


def _panoptic(matching: Matching) -> dict[str, float]:
    true = [iou for iou in matching.ious.values() if iou > 0.5]
    recognition = _ratio(2 * len(true), len(matching.reference) + len(matching.prediction))
    segmentation = _ratio(sum(true), len(true))
    return {
        "panoptic_quality": recognition * segmentation if true else recognition,
        "segmentation_quality": segmentation,
        "recognition_quality": recognition,
    }


def _f1(sensitivity: float, precision: float) -> float:
    if math.isnan(sensitivity) and math.isnan(precision):
        return float("nan")
    if math.isnan(sensitivity) or math.isnan(precision) or sensitivity + precision == 0:
        return 0.0
    return 2 * sensitivity * precision / (sensitivity + precision)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
