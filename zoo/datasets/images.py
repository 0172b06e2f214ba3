"""Reads the images and label maps of a case, without TensorFlow."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from zoo.datasets.cases import Case
from zoo.volumes import image as images
from zoo.volumes import nifti


def _check_known(array: np.ndarray, mapping: Mapping[int, int], name: str) -> None:
    """Refuses a map whose whole foreground is of values that nobody expects: it would count as empty."""
    values = set(np.unique(array).tolist()) - {0}
    if values and not values & set(mapping):
        text = ", ".join(f"{value:g}" for value in sorted(values)[:5])
        expected = ", ".join(str(value) for value in sorted(set(mapping) - {0})[:5])
        only = f" Divide a mask of 0 and {max(values)} by {max(values)}." if len(values) == 1 else ""
        raise ValueError(f"{name} holds the value {text} beside 0, and {expected} is expected.{only or ' Recode it.'}")


def nifti_like(array: np.ndarray, like: images.Image) -> images.Image:
    """An image of other voxels with the affine of `like`."""
    return type(like)(array, like.affine)


def read_labels(path: Path) -> images.Image:
    """Reads a label map; unlike an image it may be empty.

    Raises:
        ValueError: a file that is not whole, or more than one volume.
    """
    picture = nifti.load(path)
    extra = picture.shape[3:]
    if picture.ndim < 3 or np.prod(extra, dtype=int) > 1:
        raise ValueError(f"{path} has shape {picture.shape}, and one label map (x, y, z) is expected. Save one volume.")
    return nifti_like(np.asanyarray(picture.dataobj).reshape(picture.shape[:3]), picture) if extra else picture


def class_indices(array: np.ndarray, mapping: Mapping[int, int] | None, name: str) -> np.ndarray:
    """Turns the values of a label file into class indices.

    Args:
        array: (x, y, z) of whole numbers, in any dtype.
        mapping: value -> class index; None takes the values as they are.
        name: what the error calls it.

    Returns:
        uint8, or int16 where an index passes 255.

    Raises:
        ValueError: values that are not whole, negative, or too large; or, with a mapping, nothing but values that it
            does not have, such as the 255 of a mask that was saved as a picture.
    """
    if array.dtype.kind == "f":
        rounded = np.round(array)
        if not np.array_equal(rounded, array):
            wrong = array[rounded != array].flat[0]
            raise ValueError(f"{name} holds {wrong:g}, and labels are whole numbers. Threshold or round it first.")
        array = rounded.astype(np.int32)
    least, most = int(array.min()), int(array.max())
    if mapping is None:
        if least < 0 or most > 32767:
            raise ValueError(
                f"{name} has values from {least} to {most}, and class indices go from 0 to 32767. Say which value is "
                "which class: Reading(labels={value: index})."
            )
        return array.astype(np.uint8 if most < 256 else np.int16)
    _check_known(array, mapping, name)
    table = np.zeros(most - least + 1, np.uint8 if max(mapping.values(), default=0) < 256 else np.int16)
    for value, index in mapping.items():
        if least <= value <= most:
            table[value - least] = index
    return table[array.astype(np.int64) - least]


def picture(case: Case, name: str) -> images.Image:
    """Reads one channel of a case, out of a file of several volumes where it shares one.

    Raises:
        ValueError: the case has no such channel, or its file cannot be used.
    """
    if name not in case.channels:
        raise ValueError(f"{case.id} has no channel {name!r}; it has {', '.join(case.channels)}. Name another.")
    if name not in case.volumes:
        return images.read(case.channels[name])
    picture = images.read(case.channels[name], ndim=4)
    index = case.volumes[name]
    if index >= picture.shape[3]:
        raise ValueError(
            f"{case.channels[name]} has {picture.shape[3]} volumes, and channel {name!r} is number {index} from 0. "
            "Check the data set's description."
        )
    return nifti_like(np.asanyarray(picture.dataobj)[..., index], picture)
