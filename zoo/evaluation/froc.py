"""Free-response operating characteristic: sensitivity against false positives an image, over scored candidates."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from zoo.evaluation.aggregate import ratio
from zoo.evaluation.lesions import match_lesions
from zoo.volumes.components import label_components

FALSE_POSITIVE_RATES = (0.5, 1, 2, 4, 8, 16)


@dataclasses.dataclass(frozen=True)
class Detections:
    """Scored candidates of an image.

    Attributes:
        scores: one number for each candidate, larger is surer.
        hits: for each candidate the numbers of the lesions that it finds; none makes it a false positive.
        num_lesions: lesions in the image.
    """

    scores: Sequence[float]
    hits: Sequence[Sequence[int]]
    num_lesions: int


@dataclasses.dataclass(frozen=True)
class Froc:
    """Free-response operating characteristic: one operating point for each threshold, strictest first."""

    thresholds: np.ndarray
    false_positives: np.ndarray
    sensitivity: np.ndarray


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
    """Finds the candidates of a probability map: components above a low threshold, scored by their largest probability.

    Args:
        probability: (x, y, z), 0 to 1.
        reference: boolean or 0/1, the same shape.
        spacing_mm: voxel size along each axis, in mm.
        threshold: components above it are candidates; a lower one lengthens the FROC curve, and joins more neighbours.
        match, centre_mm, connectivity: as `match_lesions` takes them.

    Returns:
        The candidates with the lesions that they hit.

    Raises:
        ValueError: the volumes do not fit together, or a setting is not among the choices.

    Example:
        >>> probability, reference = np.zeros((2, 16, 24, 32))
        >>> probability[2:4, 2:4, 2:4], reference[3:5, 2:4, 2:4] = 0.8, 1
        >>> detections(probability, reference, (1, 1, 1))
        Detections(scores=[0.8], hits=[(0,)], num_lesions=1)
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
    """Returns sensitivity against false positives per image, as the threshold on the score falls.

    A lesion counts once however many candidates hit it; a candidate that hits a lesion is no false positive.

    Args:
        images: the candidates of every image, also of images without any.

    Returns:
        One point above all scores and one for each distinct score, strictest first: thresholds (a candidate counts at
        or above it), false positives per image, and sensitivity over all lesions (NaN without lesions).

    Raises:
        ValueError: there is no image.

    Example:
        >>> curve = froc([Detections([0.9, 0.8], [(0,), ()], num_lesions=2)])
        >>> curve.false_positives.tolist(), curve.sensitivity.tolist()
        ([0.0, 0.0, 1.0], [0.0, 0.5, 0.5])
    """
    if not images:
        raise ValueError("froc needs at least one image, got none. Pass one Detections an image, empty ones too.")
    num_lesions = sum(image.num_lesions for image in images)
    ranked = sorted(
        (
            (score, number, hits)
            for number, image in enumerate(images)
            for score, hits in zip(image.scores, image.hits, strict=True)
        ),
        key=lambda candidate: -candidate[0],
    )
    points = {math.inf: (0.0, ratio(0, num_lesions))}
    hit_lesions: set[tuple[int, int]] = set()
    false = 0
    for score, number, hits in ranked:
        hit_lesions.update((number, lesion) for lesion in hits)
        false += not len(hits)
        points[score] = (false / len(images), ratio(len(hit_lesions), num_lesions))
    values = np.array(list(points.values()))
    return Froc(np.array(list(points)), values[:, 0], values[:, 1])


def mean_sensitivity(curve: Froc, *, at: Sequence[float] = FALSE_POSITIVE_RATES) -> float:
    """Returns the mean over false positive rates of the best sensitivity within each rate, 0 where none stays within.

    No interpolation: only thresholds that exist count. MONAI and LUNA16 interpolate and come out a little higher.

    Args:
        curve: from `froc`.
        at: false positives per image.

    Returns:
        0 to 1; NaN without lesions.

    Example:
        >>> mean_sensitivity(froc([Detections([0.9, 0.8], [(0,), ()], num_lesions=2)]), at=(0.5, 1))
        0.5
    """
    return float(np.mean([curve.sensitivity[curve.false_positives <= rate].max() for rate in at]))


def summarise_froc(curve: Froc, rates: Sequence[float] = FALSE_POSITIVE_RATES) -> dict[str, float]:
    """Returns the sensitivity at each rate of false positives an image, and their mean, as entries of a card's row.

    Args:
        curve: from `froc`.
        rates: false positives per image.

    Example:
        >>> summarise_froc(froc([Detections([0.9, 0.8], [(0,), ()], num_lesions=2)]), rates=(0.5, 1))
        {'sensitivity_at_0.5_fp': 0.5, 'sensitivity_at_1_fp': 0.5, 'froc_mean_sensitivity': 0.5}
    """
    row = {f"sensitivity_at_{rate:g}_fp": mean_sensitivity(curve, at=(rate,)) for rate in rates}
    return row | {"froc_mean_sensitivity": mean_sensitivity(curve, at=rates)}
