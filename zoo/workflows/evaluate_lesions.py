"""The lesions of an evaluation: candidates kept while a case is measured, and the parts of the report about them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.datasets.cases import Case
from zoo.datasets.images import picture, read_labels
from zoo.evaluation import lesions
from zoo.evaluation.lesions import Detections, Lesion
from zoo.reporting import lesion_report
from zoo.reporting.lesion_report import LesionCase
from zoo.reporting.report import Section
from zoo.reporting.thumbnails import Thumbnails
from zoo.volumes import image as images
from zoo.volumes.components import largest_component
from zoo.volumes.image import Image
from zoo.workflows.lesion_tables import Regions, read_regions

REGIONS = "regions.nii.gz"  # beside a label map; names in regions.tsv
MOST_CHANNELS = 3


def candidates(confidence: Image, truth: np.ndarray) -> dict[str, Any]:
    """Scored candidates of a probability map as JSON has them, for `Detections`."""
    spacing = images.spacing_mm(confidence.affine).tolist()
    found = lesions.detections(np.asanyarray(confidence.dataobj), truth, spacing)
    return dataclasses.asdict(found)


def lesion_case(folder: Path, case: Case, label: tuple[int, str], stored: Mapping[str, Any] | None) -> LesionCase:
    """The lesions of a case that was measured.

    Args:
        folder: of the predictions.
        case: as its reader listed it.
        label: value and name.
        stored: what `candidates` gave; None where nothing was kept.

    Raises:
        ValueError: the case has no label map.
    """
    truth, predicted, regions = _masks(folder, case, label[0])
    matching = lesions.match_lesions(predicted, truth, images.spacing_mm(regions[1]).tolist())
    one = LesionCase(case.id, label[1], matching, regions[1], Detections(**stored) if stored else None)
    if regions[0] is None:
        return one
    places = regions[0]
    matching = dataclasses.replace(
        matching,
        reference=tuple(_placed(one, lesion, places) for lesion in matching.reference),
        prediction=tuple(_placed(one, lesion, places) for lesion in matching.prediction),
    )
    return dataclasses.replace(one, matching=matching, regions=places.names)


def _placed(one: LesionCase, lesion: Lesion, regions: Regions) -> Lesion:
    return dataclasses.replace(lesion, region=regions.value(one.centre_mm(lesion)))


def _masks(folder: Path, case: Case, value: int) -> tuple[np.ndarray, np.ndarray, tuple[Regions | None, np.ndarray]]:
    """Truth, prediction, and the regions beside the label map with the affine."""
    if case.labels is None:
        raise ValueError(f"Case {case.id} has no label map to compare with.")
    truth, predicted = read_labels(case.labels), read_labels(folder / f"{case.id}.nii.gz")
    beside = case.labels.with_name(REGIONS)
    regions = read_regions(beside) if beside.is_file() else None
    masks = (np.asanyarray(one.dataobj) == value for one in (truth, predicted))
    return next(masks), next(masks), (regions, predicted.affine)


def largest_mm(maps: Sequence[Image]) -> list[float] | None:
    """A place in the largest lesion of the first map that has any, in mm; the middle of all of them shows none.

    Args:
        maps: label maps, 0 is background.
    """
    for one in maps:
        mask = np.asanyarray(one.dataobj) != 0
        if mask.any():
            voxels = np.argwhere(largest_component(mask))
            nearest = voxels[np.argmin(np.square(voxels - voxels.mean(0)).sum(-1))]
            return (one.affine @ [*nearest, 1.0])[:3].tolist()
    return None


def sections(
    folder: Path, known: Mapping[str, Case], found: Sequence[LesionCase], *, value: int, channels: Sequence[str]
) -> list[Section]:
    """The parts of the report about one label.

    Args:
        folder: of the predictions.
        known: id -> case.
        found: the lesions of each case.
        value: of the label.
        channels: to be shown, the first three of them.
    """
    ready: dict[str, Thumbnails] = {}

    def draw(one: LesionCase, lesion: Lesion) -> bytes:
        if one.case not in ready:
            ready.clear()  # one case's volumes at a time
            ready[one.case] = _thumbnails(folder, known[one.case], value, channels)
        return ready[one.case].png(one.centre_mm(lesion))

    return lesion_report.sections(found, draw)


def _thumbnails(folder: Path, case: Case, value: int, channels: Sequence[str]) -> Thumbnails:
    truth, predicted, _ = _masks(folder, case, value)
    chosen = [name for name in channels if name in case.channels] or list(case.channels)
    return Thumbnails([picture(case, name) for name in chosen[:MOST_CHANNELS]], predicted, truth)
