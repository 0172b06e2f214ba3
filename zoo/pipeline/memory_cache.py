"""Keeps prepared cases in one buffer of memory that tf.data reads without a copy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import tensorflow as tf

from zoo.datasets.cases import Case
from zoo.datasets.parallel import Failure, convert
from zoo.pipeline.cache_index import ALIGNMENT, Block, Entry, padded
from zoo.pipeline.prepare import KEPT, Prepared, Reading, prepare
from zoo.volumes import image as images


@dataclass(frozen=True)
class Filled:
    """A filled buffer: its entries, the cases left out, the voxels (bytes,) uint8 and the places (n,) int32."""

    entries: list[Entry]
    failures: list[Failure]
    buffer: tf.Tensor
    places: tf.Tensor


def estimate(cases: Sequence[Case], reading: Reading) -> list[int]:
    """Returns the bytes that each case will take, from the headers of its files; 0 where a header cannot be read."""
    return [sum(_estimate_case(case, reading)) for case in cases]


def fill(cases: Sequence[Case], reading: Reading, sizes: Sequence[int]) -> Filled:
    """Prepares cases into one buffer.

    Args:
        cases: what to read.
        reading: how; the channels are named.
        sizes: from `estimate`.
    """
    starts = np.cumsum([0, *sizes])
    buffer = _allocate_aligned(int(starts[-1]))
    spans = {case.id: (int(start), size) for case, start, size in zip(cases, starts, sizes, strict=False)}

    def prepare_case(case: Case) -> tuple[Entry, dict[int, np.ndarray]]:
        prepared = prepare(case, reading)
        return _place_case(case, prepared, buffer, spans[case.id]), prepared.places

    results, failures = convert(cases, prepare_case, "Reading cases into memory")
    entries, places = _join_places(results)
    shared = tf.experimental.dlpack.from_dlpack(buffer.__dlpack__())
    return Filled(entries, failures, shared, tf.constant(places))


def _allocate_aligned(size: int) -> np.ndarray:
    """Allocates aligned memory; its pages are taken when they are written."""
    raw = np.empty(size + 2 * ALIGNMENT, np.uint8)
    first = -raw.ctypes.data % ALIGNMENT
    return raw[first : first + size + ALIGNMENT]


def _place_case(case: Case, prepared: Prepared, buffer: np.ndarray, span: tuple[int, int]) -> Entry:
    at, size = span
    arrays = [*prepared.channels, *([] if prepared.labels is None else [prepared.labels])]
    if sum(padded(array.nbytes) for array in arrays) > size:
        raise ValueError(f"{case.id} is larger than its headers told. Were its files changed meanwhile? Run again.")
    blocks = []
    for array in arrays:
        buffer[at : at + array.nbytes] = array.reshape(-1).view(np.uint8)
        blocks.append(Block(array.dtype.name, at))
        at += padded(array.nbytes)
    num = len(prepared.channels)
    labels = blocks[num] if prepared.labels is not None else None
    shape = prepared.channels[0].shape
    return Entry(case.id, shape, tuple(blocks[:num]), tuple(prepared.lines), labels, tabular=prepared.tabular)


def _join_places(results: Sequence[tuple[Entry, dict[int, np.ndarray]]]) -> tuple[list[Entry], np.ndarray]:
    """Joins the places of all cases into one array, and returns the entries that point into it."""
    entries, at = [], 0
    for entry, places in results:
        spans = {}
        for index, voxels in places.items():
            spans[index] = (at, len(voxels))
            at += len(voxels)
        entries.append(Entry(**{**vars(entry), "places": spans}))
    every = [voxels for _, places in results for voxels in places.values()]
    return entries, np.concatenate([np.zeros(0, np.int32), *every])


def _estimate_case(case: Case, reading: Reading) -> list[int]:
    names = [name for name in reading.channels or () if name in case.channels]
    files = [(case.channels[name], name in case.volumes) for name in names]
    try:
        sizes = [_estimate_file(path, reading) for path, _ in files]
        return sizes + ([_estimate_file(case.labels, reading, is_label=True)] if case.labels else [])
    except Exception:  # reading the case will say what is wrong with it, in better words
        return []


def _estimate_file(path: Path, reading: Reading, is_label: bool = False) -> int:
    image: Any = nibabel.load(path)
    shape, dtype = image.shape[:3], image.header.get_data_dtype().newbyteorder("=")
    scaled = image.header.get_slope_inter() not in ((None, None), (1, 0))
    if reading.spacing_mm is not None:
        axes = np.argsort(nibabel.io_orientation(image.affine)[:, 0])  # array axes in the order x, y, z
        spacing = images.spacing_mm(image.affine)[axes]
        if not np.allclose(spacing, reading.spacing_mm, rtol=1e-3):
            shape, scaled = images.resampled_shape([shape[axis] for axis in axes], spacing, reading.spacing_mm), True
    return padded(int(np.prod(shape)) * _voxel_bytes(dtype, scaled, is_label))


def _voxel_bytes(dtype: np.dtype, scaled: bool, is_label: bool) -> int:
    """Returns the most bytes that a voxel takes; label maps of any dtype are kept in one or two."""
    if is_label:
        return 1 if dtype.itemsize == 1 else 2
    if scaled or dtype.name not in (*KEPT, "int8"):
        return 4
    return 2 if dtype.name == "int8" else dtype.itemsize
