"""Reads the images and label maps of a case, without TensorFlow."""

from pathlib import Path

import numpy as np

from zoo.datasets.cases import Case
from zoo.datasets.label_values import Values, convert_values, to_whole
from zoo.volumes import image as images
from zoo.volumes import nifti


def nifti_like(array: np.ndarray, like: images.Image) -> images.Image:
    """Makes an image of other voxels with the affine of `like`."""
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


def class_indices(array: np.ndarray, mapping: Values | None, name: str) -> np.ndarray:
    """Turns the values of a label file into class indices.

    Args:
        array: (x, y, z) of whole numbers, in any dtype.
        mapping: value -> class index, "*" for values that are not named; known FreeSurfer codes are folded into it
            (`zoo.datasets.label_values`). None takes the values as they are.
        name: what the error calls it.

    Returns:
        uint8, or int16 where an index passes 255.

    Raises:
        ValueError: values that are not whole, negative, or too large; or, with a mapping, values that it does not
            explain, such as the 255 of a mask that was saved as a picture: each with its number of voxels.
    """
    array = to_whole(array, name)
    if mapping is not None:
        return convert_values(array, mapping, name)
    least, most = int(array.min()), int(array.max())
    if least < 0 or most > 32767:
        raise ValueError(
            f"{name} has values from {least} to {most}, and class indices go from 0 to 32767. Say which value is "
            "which class: Reading(labels={value: index})."
        )
    return array.astype(np.uint8 if most < 256 else np.int16)


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
