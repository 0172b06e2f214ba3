"""Cleans a label map after arg-max: the named steps of a card, in order."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from zoo.errors import unknown_choice
from zoo.evaluation.candidates import find_candidates, select
from zoo.hub.card import Label, Step
from zoo.registry import check_arguments
from zoo.volumes import components

WITHIN_INPUT = "within_input"


def postprocess(
    labels: np.ndarray, steps: Iterable[Step], names: Mapping[int, Label], *, spacing_mm: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Applies named steps to a label map.

    The steps: "largest_component" (connectivity=26), "fill_holes", "remove_small" (minimum_ml) and "select_candidates"
    (diameter_mm, elongation: `zoo.evaluation.candidates.select`). "within_input", by which nothing is found where all
    channels are 0, belongs to the predictor and is skipped here. Each other takes `labels`, indices or names of the
    card, and treats each alone; without them it treats all that is not 0 as one.

    Args:
        labels: (x, y, z) integers, the source values of the card's labels; 0 is background.
        steps: as a card has them.
        names: the card's labels by channel index.
        spacing_mm: voxel size along x, y, z.

    Returns:
        A new map, same dtype.

    Raises:
        ValueError: an unknown step, parameter or label; the nearest match is named.

    Example:
        >>> labels = np.array([1, 1, 0, 0, 1], np.uint8)[:, None, None]
        >>> steps, names = [Step("largest_component", {})], {1: Label("brain", 1)}
        >>> postprocess(labels, steps, names, spacing_mm=(1, 1, 1)).ravel()
        array([1, 1, 0, 0, 0], dtype=uint8)
    """
    result = labels.copy()
    spacing = np.asarray(spacing_mm, float)
    for apply, value, settings in planned(steps, names, STEPS):
        apply(result, value, spacing, **settings)
    return result


def planned(
    steps: Iterable[Step], names: Mapping[int, Label], known: Mapping[str, Callable[..., Any]]
) -> Iterator[tuple[Callable[..., Any], int | None, dict[str, Any]]]:
    """Turns the steps of a card into calls, one label at a time; skips "within_input", the predictor's.

    Args:
        steps: as a card has them.
        names: the card's labels by channel index.
        known: step name -> function, of (labels, value, spacing) and the step's settings.

    Yields:
        Function, source value of the label it treats (None for all that is not 0), and settings.

    Raises:
        ValueError: an unknown step, parameter or label; the nearest match is named.
    """
    for step in steps:
        if step.name == WITHIN_INPUT:
            continue
        if step.name not in known:
            raise unknown_choice("postprocessing step", step.name, [*known, WITHIN_INPUT])
        settings = dict(step.parameters)
        selected = settings.pop("labels", None)
        check_arguments(known[step.name], settings)
        for value in [None] if selected is None else [_label_value(label, names) for label in selected]:
            yield known[step.name], value, settings


def _label_value(selected: int | str, names: Mapping[int, Label]) -> int:
    """Returns the source value of a label by its index or name."""
    for index, label in names.items():
        if selected in (index, label.name):
            return label.value
    raise unknown_choice("label", selected, [label.name for label in names.values()])


def _mask(labels: np.ndarray, value: int | None) -> np.ndarray:
    return labels != 0 if value is None else labels == value


def _largest_component(labels: np.ndarray, value: int | None, spacing: np.ndarray, *, connectivity: int = 26) -> None:
    mask = _mask(labels, value)
    if mask.any():
        labels[mask & ~components.largest_component(mask, connectivity)] = 0


def _fill_holes(labels: np.ndarray, value: int | None, spacing: np.ndarray) -> None:
    """Fills holes with the value, or with the commonest foreground label; other labels inside stay."""
    mask = _mask(labels, value)
    if mask.any():
        values, counts = np.unique(labels[mask], return_counts=True)
        labels[components.fill_holes(mask) & (labels == 0)] = values[counts.argmax()]


def _remove_small(
    labels: np.ndarray, value: int | None, spacing: np.ndarray, *, minimum_ml: float, connectivity: int = 26
) -> None:
    mask = _mask(labels, value)
    numbered, _ = components.label_components(mask, connectivity)
    sizes = np.bincount(numbered.ravel()) * float(np.prod(spacing)) / 1000
    labels[mask & (sizes[numbered] < minimum_ml)] = 0


def _select_candidates(
    labels: np.ndarray,
    value: int | None,
    spacing: np.ndarray,
    *,
    diameter_mm: Sequence[float] = (3.0, 15.0),
    elongation: float = 3.0,
) -> None:
    """Keeps pieces of plausible size and shape."""
    numbered, _ = components.label_components(_mask(labels, value))
    affine, limits = np.diag([*spacing, 1.0]), (float(diameter_mm[0]), float(diameter_mm[1]))
    for number, box in enumerate(ndimage.find_objects(numbered), start=1):
        piece = numbered[box] == number
        if not select(find_candidates(piece.astype(np.float32), affine), diameter_mm=limits, elongation=elongation):
            labels[box][piece] = 0


STEPS: dict[str, Callable[..., None]] = {
    "fill_holes": _fill_holes,
    "largest_component": _largest_component,
    "remove_small": _remove_small,
    "select_candidates": _select_candidates,
}
