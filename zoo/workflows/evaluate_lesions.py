"""Scores the lesions of an evaluation, and makes the report's sections about them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.datasets.cases import Case
from zoo.datasets.images import class_indices, nifti_like, picture, read_labels
from zoo.datasets.label_values import Values
from zoo.evaluation import lesions
from zoo.evaluation.froc import Detections, detections
from zoo.evaluation.lesions import Lesion
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


def score_candidates(confidence: Image, truth: np.ndarray) -> dict[str, Any]:
    """Scores the candidates of a probability map; returns `Detections` for JSON."""
    spacing = images.spacing_mm(confidence.affine).tolist()
    return dataclasses.asdict(detections(np.asanyarray(confidence.dataobj), truth, spacing))


def read_truth(case: Case, values: Values | None = None) -> Image:
    """Reads the label map of a case, its values as those of the model.

    Args:
        case: as its reader listed it.
        values: value in the file -> value of the model (`zoo.datasets.label_values`); None takes them as they are.

    Raises:
        ValueError: the case has no label map, or one with values that `values` does not explain.
    """
    if case.labels is None:
        raise ValueError(f"Case {case.id} has no label map to compare with.")
    labels = read_labels(case.labels)
    converted = class_indices(np.asanyarray(labels.dataobj), values, f"The label map of {case.id}")
    return nifti_like(converted, labels)


def match_case(
    folder: Path,
    case: Case,
    label: tuple[int, str],
    stored: Mapping[str, Any] | None,
    values: Values | None = None,
) -> LesionCase:
    """Matches the lesions of a measured case with those of its truth.

    Args:
        folder: of the predictions.
        case: as its reader listed it.
        label: value and name.
        stored: what `score_candidates` returned; None where nothing was stored.
        values: as `read_truth` takes them.

    Raises:
        ValueError: the case has no label map.
    """
    truth, predicted, regions = _read_masks(folder, case, label[0], values)
    matching = lesions.match_lesions(predicted, truth, images.spacing_mm(regions[1]).tolist())
    measured = LesionCase(case.id, label[1], matching, regions[1], Detections(**stored) if stored else None)
    places = regions[0]
    if places is None:
        return measured
    matching = dataclasses.replace(
        matching,
        reference=tuple(_name_region(measured, lesion, places) for lesion in matching.reference),
        prediction=tuple(_name_region(measured, lesion, places) for lesion in matching.prediction),
    )
    return dataclasses.replace(measured, matching=matching, regions=places.names)


def _name_region(case: LesionCase, lesion: Lesion, regions: Regions) -> Lesion:
    return dataclasses.replace(lesion, region=regions.value(case.centre_mm(lesion)))


def _read_masks(
    folder: Path, case: Case, value: int, values: Values | None
) -> tuple[np.ndarray, np.ndarray, tuple[Regions | None, np.ndarray]]:
    """Reads truth, prediction, and the regions beside the label map with the affine."""
    truth, predicted = read_truth(case, values), read_labels(folder / f"{case.id}.nii.gz")
    path = case.labels.with_name(REGIONS) if case.labels else None
    regions = read_regions(path) if path and path.is_file() else None
    masks = [np.asanyarray(image.dataobj) == value for image in (truth, predicted)]
    return masks[0], masks[1], (regions, predicted.affine)


def find_largest_mm(maps: Sequence[Image]) -> list[float] | None:
    """Finds a place in the largest lesion of the first map that has any, in mm; None where all are empty.

    Args:
        maps: label maps, 0 is background.
    """
    for image in maps:
        mask = np.asanyarray(image.dataobj) != 0
        if mask.any():
            voxels = np.argwhere(largest_component(mask))
            nearest = voxels[np.argmin(np.square(voxels - voxels.mean(0)).sum(-1))]
            return (image.affine @ [*nearest, 1.0])[:3].tolist()
    return None


def make_sections(
    folder: Path,
    cases: Mapping[str, Case],
    lesion_cases: Sequence[LesionCase],
    *,
    value: int,
    channels: Sequence[str],
    values: Values | None = None,
) -> list[Section]:
    """Makes the sections of the report about one label.

    Args:
        folder: of the predictions.
        cases: id -> case.
        lesion_cases: the lesions of each case.
        value: of the label.
        channels: to be shown, the first three of them.
        values: as `read_truth` takes them.
    """
    loaded: dict[str, Thumbnails] = {}

    def draw(case: LesionCase, lesion: Lesion) -> bytes:
        if case.case not in loaded:
            loaded.clear()  # one case's volumes at a time
            loaded[case.case] = _load_thumbnails((folder, cases[case.case], value, values), channels)
        return loaded[case.case].png(case.centre_mm(lesion))

    return lesion_report.sections(lesion_cases, draw)


def _load_thumbnails(masks: tuple[Path, Case, int, Values | None], channels: Sequence[str]) -> Thumbnails:
    (truth, predicted, _), case = _read_masks(*masks), masks[1]
    names = [name for name in channels if name in case.channels] or list(case.channels)
    return Thumbnails([picture(case, name) for name in names[:MOST_CHANNELS]], predicted, truth)
