"""Counts lesions found, missed and invented; each connected component is one lesion, whatever its size.

Sensitivity, precision and F1 are computed here and nowhere else, for one image or pooled over many. What would divide
by zero is NaN, never 0: sensitivity without lesions, precision without detections, Dice of hits without hits.
F1 is NaN where there are neither lesions nor detections, and 0 where there is only one of the two or no match.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from zoo.errors import unknown_choice
from zoo.evaluation import overlap
from zoo.evaluation.aggregate import ratio
from zoo.volumes.components import label_components

MATCHES = ("overlap", "centre")


@dataclasses.dataclass(frozen=True)
class Lesion:
    """A connected component of a mask.

    Attributes:
        voxels: its size.
        volume_ml: its volume.
        diameter_mm: diameter of the ball of that volume.
        centre: its centre of mass in voxels (x, y, z).
        matches: numbers of the matching components of the other mask; none means missed or invented.
        dice: Dice of this component with all of its matches together; 0 without a match.
        region: label of the region at its centre, 0 without regions.
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
    """The lesions of an image: of the reference, of the prediction, and the IoU of each overlapping pair."""

    reference: tuple[Lesion, ...]
    prediction: tuple[Lesion, ...]
    ious: dict[tuple[int, int], float]


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
        regions: label map on the same grid that names the place of each lesion.

    Returns:
        The matching; lesions are numbered from 0 in each mask.

    Raises:
        ValueError: the masks do not fit together, or a setting is not among the choices.

    Example:
        >>> mask = np.zeros((16, 24, 32), bool)
        >>> mask[2:4, 2:4, 2:4] = mask[8, 8, 8] = True
        >>> [lesion.voxels for lesion in match_lesions(mask, mask, (1, 1, 1)).reference]
        [8, 1]
    """
    prediction, reference = overlap.check_masks(prediction, reference)
    spacing = overlap.check_spacing(spacing_mm)
    if match not in MATCHES:
        raise unknown_choice("way to match lesions", match, MATCHES)
    theirs, ours = (_find_components(mask, connectivity) for mask in (reference, prediction))
    common = _count_common_voxels(theirs, ours)
    if match == "overlap":
        pairs = common > 0
    else:
        gaps = (theirs.centres[:, None] - ours.centres[None]) * np.array(spacing)
        pairs = np.linalg.norm(gaps, axis=-1) <= centre_mm
    unions = theirs.voxels[:, None] + ours.voxels[None] - common
    return Matching(
        reference=_describe_lesions(theirs, ours, pairs, common, spacing, regions),
        prediction=_describe_lesions(ours, theirs, pairs.T, common.T, spacing, regions),
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
    """Returns the lesion-wise scores of an image.

    A reference lesion is found when it has a match, a predicted one is true when it has; several may match one. So
    `sensitivity = found / lesions`, `precision = true / detections`, and F1 is their harmonic mean.

    Args:
        prediction: boolean or 0/1, (x, y, z).
        reference: the same shape.
        spacing_mm: voxel size along each axis, in mm.
        match, centre_mm, connectivity: as `match_lesions` takes them.

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

    Example:
        >>> reference, prediction = np.zeros((2, 16, 24, 32), bool)
        >>> reference[2:4, 2:4, 2:4] = prediction[2:4, 2:4, 3:5] = prediction[12, 12, 12] = True
        >>> metrics = lesion_metrics(prediction, reference, (1, 1, 1))
        >>> metrics["sensitivity"], metrics["precision"]
        (1.0, 0.5)
    """
    matching = match_lesions(
        prediction, reference, spacing_mm, match=match, centre_mm=centre_mm, connectivity=connectivity
    )
    return metrics_of_matching(matching)


def metrics_of_matching(matching: Matching) -> dict[str, float]:
    """Returns the entries of `lesion_metrics` of a matching."""
    lesions, detections = len(matching.reference), len(matching.prediction)
    hits = [lesion for lesion in matching.reference if lesion.matches]
    true = sum(bool(lesion.matches) for lesion in matching.prediction)
    sensitivity, precision = ratio(len(hits), lesions), ratio(true, detections)
    return {
        "lesions": float(lesions),
        "detections": float(detections),
        "found": float(len(hits)),
        "false_positives": float(detections - true),
        "sensitivity": sensitivity,
        "precision": precision,
        "f1": _compute_f1(sensitivity, precision),
        "dice_of_hits": ratio(sum(lesion.dice for lesion in hits), len(hits)),
        **_measure_panoptic(matching),
        "both_empty": float(not lesions and not detections),
        "false_alarm": float(bool(detections) and not lesions),
        "missed": float(bool(lesions) and not detections),
    }


def pool_matchings(matchings: Iterable[Matching]) -> Matching:
    """Puts the lesions of several images into one matching; of `matches` only whether there are any still counts."""
    matchings = list(matchings)
    ious = itertools.chain.from_iterable(matching.ious.values() for matching in matchings)
    return Matching(
        reference=tuple(lesion for matching in matchings for lesion in matching.reference),
        prediction=tuple(lesion for matching in matchings for lesion in matching.prediction),
        ious={(number, number): iou for number, iou in enumerate(ious)},
    )


def pool_scores(matchings: Sequence[Matching]) -> dict[str, float]:
    """Returns the lesion-wise scores over the lesions of all images together, so that each lesion counts alike.

    Unlike a mean over images, an image without lesions adds only its false positives.

    Args:
        matchings: one for each image, from `match_lesions`.

    Returns:
        The entries of `lesion_metrics` of all lesions, with the same rules for what is not defined; `n`, the number
        of images; and `fp_per_image`, false positives per image.

    Raises:
        ValueError: there is no image.

    Example:
        >>> lesion = Lesion(8, 0.008, 2.5, (2.5, 2.5, 2.5), matches=(0,), dice=0.5, region=0)
        >>> missed = dataclasses.replace(lesion, matches=(), dice=0)
        >>> scores = pool_scores([Matching((lesion,), (lesion,), {}), Matching((missed,), (missed, missed), {})])
        >>> scores["sensitivity"], round(scores["precision"], 3), scores["f1"], scores["fp_per_image"]
        (0.5, 0.333, 0.4, 1.0)
    """
    if not matchings:
        raise ValueError("pool_scores needs at least one image, got none. Pass one Matching an image, empty ones too.")
    scores = metrics_of_matching(pool_matchings(matchings))
    images = len(matchings)
    return {"n": float(images), **scores, "fp_per_image": scores["false_positives"] / images}


def sensitivity_by(matchings: Iterable[Matching], group: Callable[[Lesion], Hashable]) -> list[dict[str, Any]]:
    """Returns sensitivity and false positives over many images, for each group of lesions.

    Args:
        matchings: one for each image.
        group: names the group of a lesion: `size_bin((3, 5, 10))`, or `lambda lesion: lesion.region`.

    Returns:
        Rows of `group`, `lesions`, `found`, `sensitivity` (NaN without lesions), `detections`, `false_positives`,
        sorted by group. A detection counts in its own group, not in that of the lesion it finds.

    Example:
        >>> lesion = Lesion(8, 0.008, 2.5, (2.5, 2.5, 2.5), matches=(0,), dice=0.5, region=3)
        >>> sensitivity_by([Matching((lesion,), (lesion,), {})], lambda lesion: lesion.region)[0]["group"]
        3
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
            "sensitivity": ratio(row["found"], row["lesions"]),
            "detections": row["detections"],
            "false_positives": row["detections"] - row["true"],
        }
        for name, row in sorted(rows.items())
    ]


def sensitivity_row(
    matchings: Iterable[Matching], group: Callable[[Lesion], Any], name: Callable[[Any], str]
) -> dict[str, float]:
    """Returns the sensitivity of each group that has lesions, as entries `sensitivity_<name>` of a card's row.

    Args:
        matchings: one for each image.
        group: names the group of a lesion, as `sensitivity_by` takes it.
        name: the group in words, such as `name_size_bin`.

    Example:
        >>> lesion = Lesion(8, 0.008, 2.5, (2.5, 2.5, 2.5), matches=(0,), dice=0.5, region=3)
        >>> sensitivity_row([Matching((lesion,), (), {})], size_bin((5,)), name_size_bin)
        {'sensitivity_0_to_5_mm': 1.0}
    """
    rows = sensitivity_by(matchings, group)
    return {f"sensitivity_{name(row['group'])}": row["sensitivity"] for row in rows if row["lesions"]}


def list_false_positives(matchings: Iterable[Matching]) -> list[Lesion]:
    """Returns the predicted lesions of all images that have no match.

    Example:
        >>> lesion = Lesion(8, 0.008, 2.5, (2.5, 2.5, 2.5), matches=(), dice=0.0, region=3)
        >>> [lesion.region for lesion in list_false_positives([Matching((), (lesion,), {})])]
        [3]
    """
    return [lesion for matching in matchings for lesion in matching.prediction if not lesion.matches]


def size_bin(edges_mm: Sequence[float]) -> Callable[[Lesion], tuple[float, float]]:
    """Returns a function that groups lesions by diameter: `[0, first edge)`, ..., `[last edge, inf)`, in mm."""
    edges = [0.0, *sorted(edges_mm), math.inf]

    def group(lesion: Lesion) -> tuple[float, float]:
        place = int(np.searchsorted(edges, lesion.diameter_mm, side="right"))
        return edges[place - 1], edges[place]

    return group


def name_size_bin(edges_mm: tuple[float, float]) -> str:
    """Returns a group of `size_bin` in words.

    Example:
        >>> name_size_bin((5.0, 8.0)), name_size_bin((8.0, math.inf))
        ('5_to_8_mm', 'from_8_mm')
    """
    low, high = edges_mm
    return f"{low:g}_to_{high:g}_mm" if math.isfinite(high) else f"from_{low:g}_mm"


@dataclasses.dataclass(frozen=True)
class _Components:
    """A labelled mask: the label map, and the voxels and the centre (in voxels) of each component from 1 on."""

    labels: np.ndarray
    voxels: np.ndarray
    centres: np.ndarray


def _find_components(mask: np.ndarray, connectivity: int) -> _Components:
    labels, _ = label_components(mask, connectivity)
    places = np.nonzero(labels)
    numbers = labels[places].astype(np.int64) - 1
    voxels = np.bincount(numbers)
    sums = [np.bincount(numbers, weights=axis) for axis in places]
    return _Components(labels, voxels, np.stack(sums, axis=-1) / voxels[:, None])


def _count_common_voxels(first: _Components, second: _Components) -> np.ndarray:
    """Counts the voxels that each component of the first shares with each of the second."""
    rows, columns = len(first.voxels), len(second.voxels)
    both = (first.labels > 0) & (second.labels > 0)
    keys = (first.labels[both].astype(np.int64) - 1) * columns + second.labels[both] - 1
    return np.bincount(keys, minlength=rows * columns).reshape(rows, columns)


def _describe_lesions(
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


def _measure_panoptic(matching: Matching) -> dict[str, float]:
    true = [iou for iou in matching.ious.values() if iou > 0.5]
    recognition = ratio(2 * len(true), len(matching.reference) + len(matching.prediction))
    segmentation = ratio(sum(true), len(true))
    return {
        "panoptic_quality": recognition * segmentation if true else recognition,
        "segmentation_quality": segmentation,
        "recognition_quality": recognition,
    }


def _compute_f1(sensitivity: float, precision: float) -> float:
    if math.isnan(sensitivity) and math.isnan(precision):
        return float("nan")
    if math.isnan(sensitivity) or math.isnan(precision) or sensitivity + precision == 0:
        return 0.0
    return 2 * sensitivity * precision / (sensitivity + precision)
