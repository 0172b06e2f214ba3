"""Measures overlap and volume of two masks, and checks pairs of volumes for every other metric."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from zoo.evaluation.aggregate import ratio

Spacing = tuple[float, float, float]


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Returns the Dice coefficient `2 |P and R| / (|P| + |R|)` of two masks.

    Args:
        prediction: boolean or 0/1, (x, y, z).
        reference: the same shape.

    Returns:
        0 to 1; 0 where one mask is empty, NaN where both are.

    Raises:
        ValueError: the masks do not fit together or hold more than 0 and 1.

    Source:
        Dice, Ecology 1945, doi 10.2307/1932409.

    Example:
        >>> prediction, reference = np.zeros((2, 16, 24, 32), bool)
        >>> prediction[2:4, 2:4, 2:4] = reference[3:5, 2:4, 2:4] = True
        >>> dice(prediction, reference)
        0.5
    """
    prediction, reference = check_masks(prediction, reference)
    return dice_of_counts(*count_voxels(prediction, reference))


def iou(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Returns the intersection over union (Jaccard index) of two masks; arguments, empty masks, errors as `dice`.

    Example:
        >>> prediction, reference = np.zeros((2, 16, 24, 32), bool)
        >>> prediction[2:4, 2:4, 2:4] = reference[2:6, 2:4, 2:4] = True
        >>> iou(prediction, reference)
        0.5
    """
    prediction, reference = check_masks(prediction, reference)
    return iou_of_counts(*count_voxels(prediction, reference))


def volume_error(prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]) -> dict[str, float]:
    """Returns the volumes of two masks and the signed error of the first.

    Args:
        prediction: boolean or 0/1, (x, y, z).
        reference: the same shape.
        spacing_mm: voxel size along each axis, in mm.

    Returns:
        `volume_ml`, `reference_ml`, `volume_error_ml` (prediction minus reference) and `volume_error_percent` of the
        reference's volume, NaN where the reference is empty.

    Example:
        >>> prediction, reference = np.zeros((2, 16, 24, 32), bool)
        >>> prediction[2:7, 2:6, 2:12], reference[2:6, 2:6, 2:12] = True, True
        >>> volume_error(prediction, reference, (1, 1, 1))["volume_error_percent"]
        25.0
    """
    prediction, reference = check_masks(prediction, reference)
    size, reference_size, _ = count_voxels(prediction, reference)
    return volumes_of_counts(size, reference_size, check_spacing(spacing_mm))


def dice_of_counts(size: int, reference_size: int, common: int) -> float:
    """Returns Dice from the voxel counts of both masks and of their intersection."""
    return ratio(2 * common, size + reference_size)


def iou_of_counts(size: int, reference_size: int, common: int) -> float:
    """Returns intersection over union from the voxel counts of both masks and of their intersection."""
    return ratio(common, size + reference_size - common)


def volumes_of_counts(size: int, reference_size: int, spacing_mm: Spacing) -> dict[str, float]:
    """Returns the entries of `volume_error` from two voxel counts."""
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    error = size - reference_size
    return {
        "volume_ml": size * voxel_ml,
        "reference_ml": reference_size * voxel_ml,
        "volume_error_ml": error * voxel_ml,
        "volume_error_percent": ratio(100 * error, reference_size),
    }


def count_voxels(prediction: np.ndarray, reference: np.ndarray) -> tuple[int, int, int]:
    """Counts the voxels of two boolean masks and of their intersection."""
    size, reference_size = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    return size, reference_size, int(np.count_nonzero(prediction & reference))


def check_spacing(spacing_mm: Sequence[float]) -> Spacing:
    """Checks a voxel size and returns it as floats.

    Raises:
        ValueError: not three finite positive numbers.
    """
    values = np.asarray(spacing_mm, dtype=float)
    if values.shape != (3,) or not np.isfinite(values).all() or (values <= 0).any():
        raise ValueError(
            f"spacing_mm must be three positive numbers (x, y, z) in mm, got {spacing_mm!r}. "
            "Take them from the image: zoo.volumes.image.spacing_mm(image.affine)."
        )
    x, y, z = values.tolist()
    return x, y, z


def check_masks(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Checks that two masks fit together and makes them boolean.

    Raises:
        ValueError: other than three axes, different shapes, or values besides 0 and 1.
    """
    prediction, reference = _check_same_shape(prediction, reference)
    return _to_mask(prediction), _to_mask(reference)


def check_label_maps(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Checks that two label maps fit together and makes them integers.

    Raises:
        ValueError: other than three axes, different shapes, negative or fractional values.
    """
    prediction, reference = _check_same_shape(prediction, reference)
    return _to_labels(prediction), _to_labels(reference)


def find_mask_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Returns the bounding box of a boolean mask, None for an empty one; far quicker than through labels."""
    box: list[slice] = []
    for axis in range(3):  # what is left shrinks with every axis
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(mask[tuple(box)].any(axis=others))
        if not len(places):
            return None
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    return tuple(box)


def find_boxes(label_map: np.ndarray) -> dict[int, tuple[slice, ...]]:
    """Returns the bounding box of every label above 0, in one pass."""
    if label_map.dtype == bool:
        box = find_mask_box(label_map)
        return {} if box is None else {1: box}
    if int(label_map.max(initial=0)) < 2**16:
        places = ndimage.find_objects(label_map)
        return {label: box for label, box in enumerate(places, start=1) if box is not None}
    values, compact = np.unique(label_map, return_inverse=True)
    places = ndimage.find_objects(compact.reshape(label_map.shape) + 1)
    return {int(value): box for value, box in zip(values, places, strict=True) if value}


def _check_same_shape(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    if prediction.ndim != 3 or prediction.shape != reference.shape:
        raise ValueError(
            f"Prediction and reference must be volumes (x, y, z) of one shape, got {prediction.shape} and "
            f"{reference.shape}. Bring the prediction onto the reference's grid first."
        )
    return prediction, reference


def _to_mask(array: np.ndarray) -> np.ndarray:
    if array.dtype == bool:
        return array
    if ((array != 0) & (array != 1)).any():
        raise ValueError(
            f"A mask holds 0 and 1 only, got values from {array.min()} to {array.max()}. "
            "Compare with a label (array == 3) or a threshold (array > 0.5) first."
        )
    return array == 1


def _to_labels(array: np.ndarray) -> np.ndarray:
    if array.dtype == bool:
        return array
    whole = array if np.issubdtype(array.dtype, np.integer) else _to_whole_numbers(array)
    if whole.size and int(whole.min()) < 0:
        raise ValueError(f"Labels must be 0 (background) or larger, got {whole.min()}.")
    return whole


def _to_whole_numbers(array: np.ndarray) -> np.ndarray:
    whole = array.astype(np.int64) if np.isfinite(array).all() else None
    if whole is None or (whole != array).any():
        raise ValueError(
            "A label map holds whole numbers, got fractions or values that are not finite. "
            "Turn probabilities into labels first (numpy.argmax over the classes)."
        )
    return whole
