"""Reads numbers that lie in an HDF5 file itself: a file may point to others, whose bytes would become weights."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arrays import MOST_BYTES, first_not_finite
from zoo.errors import to_line

MOST_TEXT = 1 << 26  # bytes


@contextlib.contextmanager
def open_h5(path: str | os.PathLike) -> Iterator[Any]:
    """Opens an HDF5 file to read.

    Yields:
        The `h5py.File`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no HDF5 file, or one that is truncated or corrupt, also where the caller meets that.
    """
    import h5py

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Name an .h5 file.")
    if not h5py.is_hdf5(path):
        raise ValueError(f"{path} is no HDF5 file. Name an .h5 file.")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # HDF5 raises a dozen types for arbitrary bytes
        raise ValueError(f"{path} is truncated or corrupt ({to_line(error)}). Copy or save it anew.") from error


def get_group(group: Any, name: str) -> Any:
    """Returns a group of a group.

    Raises:
        ValueError: it is missing, no group, or a link.
    """
    import h5py

    node = _follow(group, name)
    if not isinstance(node, h5py.Group):
        raise ValueError(f"{group.file.filename} has no group {name!r} in {group.name}. Save the model anew.")
    return node


def read_text(file: Any, name: str) -> str | bytes:
    """Reads an attribute of one text.

    Raises:
        ValueError: it is no single text.
    """
    attribute = file.attrs.get_id(name)  # without its content: a corrupt one may announce any number of texts
    if attribute.shape != () or attribute.dtype.kind not in "SO" or attribute.dtype.itemsize > MOST_TEXT:
        raise ValueError(f"{file.file.filename}: {name} is no text. Copy or save the file anew.")
    return file.attrs[name]


def read_names(group: Any) -> list[str]:
    """Reads the names of a layer's weights, in their order.

    Raises:
        ValueError: they are no list of texts.
    """
    if "weight_names" not in group.attrs:
        return []
    attribute = group.attrs.get_id("weight_names")
    if len(attribute.shape or ()) != 1 or attribute.shape[0] * attribute.dtype.itemsize > MOST_TEXT:
        raise ValueError(f"{group.file.filename}: {group.name} names no weights. Copy or save the file anew.")
    return [name.decode() if isinstance(name, bytes) else str(name) for name in group.attrs["weight_names"]]


def read_array(group: Any, name: str) -> np.ndarray:
    """Reads a dataset of plain numbers.

    Args:
        group: an `h5py.Group`.
        name: of the dataset in it; parts are separated by "/".

    Raises:
        ValueError: it is missing, a link, stored in another file, made of other datasets, no numbers, larger than
            `MOST_BYTES`, or not finite.
    """
    import h5py

    dataset = _follow(group, name)
    where = f"{group.file.filename}: {group.name.rstrip('/')}/{name}"
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{where} is no array. Save the model anew.")
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{where} is stored in other files, which are not read. Save the model whole, in one file.")
    if dataset.dtype.kind not in "fiub" or dataset.size is None:
        raise ValueError(f"{where} is of dtype {dataset.dtype}, and plain numbers are expected. Save the model anew.")
    if dataset.size * dataset.dtype.itemsize > MOST_BYTES:
        raise ValueError(f"{where} of shape {dataset.shape} is larger than {MOST_BYTES >> 20} MiB. Check the file.")
    array = np.asarray(dataset[()])
    place = first_not_finite(array)
    if place is not None:
        raise ValueError(f"{where} holds {array[place]} at {list(place)}: no result would mean anything. Train anew.")
    return array


def _follow(group: Any, name: str) -> Any:
    """Follows a name by hard links alone: soft and external links lead anywhere."""
    import h5py

    node = group
    for part in str(name).split("/"):
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) and part not in ("", ".", "..") else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise ValueError(
                f"{group.file.filename}: {node.name.rstrip('/')}/{part} is a {type(link).__name__}, which may lead to "
                "another file and is not followed. Save the model whole, in one file."
            )
        node = node[part]
    return node
