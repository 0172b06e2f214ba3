"""Reads a case into arrays on one RAS grid, in the dtype of its files, with the places for the sampler."""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from zoo.datasets.cases import Case
from zoo.datasets.images import class_indices, nifti_like, picture, read_labels
from zoo.datasets.label_values import Values
from zoo.volumes import image as images
from zoo.volumes import intensity

KEPT = ("uint8", "int16", "uint16", "float32")  # dtypes that a cache keeps; any other becomes float32
MAX_PLACES = 32768  # voxels remembered a label and case; where there are fewer, all of them
FORMAT = 3  # of what `prepare` gives; a change makes every cache stale


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Settings of how cases are read; equal readings of equal files share a cache.

    Attributes:
        channels: names, in the order of the last tensor axis; None takes those of the first case.
        spacing_mm: voxel size along x, y, z; None keeps the grid of the files.
        steps: intensity steps of each channel, as `zoo.volumes.intensity.measure` reads them.
        labels: value in the label files -> class index, "*" for all others; known FreeSurfer codes are folded, another
            value is refused (`zoo.datasets.label_values`). None takes the values as they are.
        tabular: names of the numbers that make the conditioning vector; what a case lacks is NaN.
        tolerance_mm: how far the grids of two files of a case may lie apart.
    """

    channels: tuple[str, ...] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    steps: Sequence[intensity.Step] = ({"name": "z_score"},)
    labels: Values | None = None
    tabular: tuple[str, ...] = ()
    tolerance_mm: float = 0.1

    def of(self, cases: Sequence[Case]) -> "Reading":
        """Returns the reading with its channels named, after the first case where they are not."""
        return self if self.channels else Reading(**{**vars(self), "channels": tuple(cases[0].channels)})

    @property
    def options(self) -> dict[str, Any]:
        """Returns the options as JSON has them."""
        labels = None if self.labels is None else sorted((str(key), index) for key, index in self.labels.items())
        return {
            **asdict(self),
            "steps": [dict(step) for step in self.steps],
            "labels": labels if self.labels is not None else None,
            "format": FORMAT,
        }


@dataclass(frozen=True)
class Prepared:
    """A case, read and prepared in memory.

    Attributes:
        channels: one (x, y, z) array a channel, RAS+, C-contiguous, in a dtype of `KEPT`.
        lines: the intensity line of each channel.
        labels: (x, y, z) class indices, uint8 or int16, None where the case has no label map.
        places: class index -> C-order voxel indices, int32, ascending: all of that class, or `MAX_PLACES` drawn.
        tabular: the conditioning vector.
    """

    channels: list[np.ndarray]
    lines: list[intensity.Line]
    labels: np.ndarray | None
    places: dict[int, np.ndarray] = field(default_factory=dict)
    tabular: tuple[float, ...] = ()


def key(case: Case, reading: Reading) -> str:
    """Hashes what a prepared case depends on, 64 hexadecimal digits: files with size and time of change, and options.

    Raises:
        FileNotFoundError: a file of the case does not exist.
    """
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in case.files]
    names = {name: str(path) for name, path in case.channels.items()}
    parts = (case.id, files, names, str(case.labels), case.volumes, case.tabular, reading.options)
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def prepare(case: Case, reading: Reading) -> Prepared:
    """Reads a case, turns it to RAS+, resamples it where asked, and measures intensities and label places.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file that cannot be used, a missing channel, files on different grids, or label values that are
            not class indices.
    """
    reading = reading.of([case])
    pictures = [picture(case, name) for name in reading.channels or ()]
    mask = read_labels(case.labels) if case.labels else None
    every = pictures + ([mask] if mask else [])
    names = [*(reading.channels or ()), *(["labels"] if mask else [])]
    images.check_same_grid(every, names, tolerance_mm=reading.tolerance_mm)
    channels = [to_kept_dtype(_resample(picture, reading, images.resample)) for picture in pictures]
    labels = None
    if mask:
        indices = class_indices(np.asanyarray(mask.dataobj), reading.labels, f"The label map of {case.id}")
        labels = _resample(nifti_like(indices, mask), reading, images.resample_labels)
    lines = [
        intensity.measure(channel, intensity.of_channel(reading.steps, name))
        for channel, name in zip(channels, reading.channels or (), strict=True)
    ]
    return Prepared(channels, lines, labels, _find_places(labels, case.id), _read_numbers(case, reading))


def to_kept_dtype(array: np.ndarray) -> np.ndarray:
    """Returns the array in a dtype that a cache keeps: its own, or the next that holds its values.

    Example:
        >>> to_kept_dtype(np.zeros(3, "int8")).dtype.name
        'int16'
    """
    wider = {"int8": "int16", "bool": "uint8"}.get(array.dtype.name, array.dtype.name)
    return np.ascontiguousarray(array, dtype=wider if wider in KEPT else "float32")


def _resample(picture: images.Image, reading: Reading, resample: Any) -> np.ndarray:
    array, affine = images.to_ras(np.asanyarray(picture.dataobj), picture.affine)
    spacing = images.spacing_mm(affine)
    if reading.spacing_mm is None or np.allclose(spacing, reading.spacing_mm, rtol=1e-3):
        return array
    return resample(array, spacing, reading.spacing_mm)


def _find_places(labels: np.ndarray | None, name: str) -> dict[int, np.ndarray]:
    """Finds the voxels of each class; a class with too many is thinned by a draw that the case's name seeds."""
    if labels is None:
        return {}
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    draw, flat = np.random.default_rng(seed), labels.reshape(-1)
    foreground = np.flatnonzero(flat)
    classes = flat[foreground]
    order = np.argsort(classes, kind="stable")  # of small integers: one counting pass
    ends = np.cumsum(np.bincount(classes))
    voxels = {0: _find_background(flat, len(foreground), draw)}
    for index, (begin, end) in enumerate(itertools.pairwise(ends.tolist()), start=1):
        voxels[index] = foreground[order[begin:end]]
    return {index: _draw_places(places, draw) for index, places in voxels.items() if len(places)}


def _find_background(flat: np.ndarray, num_foreground: int, draw: np.random.Generator) -> np.ndarray:
    """Finds voxels of class 0: all of them, or, where most voxels are background, a random part."""
    if flat.size - num_foreground < max(flat.size // 2, 4 * MAX_PLACES):
        return np.flatnonzero(flat == 0)
    tries = np.unique(draw.integers(flat.size, size=4 * MAX_PLACES))
    return tries[flat[tries] == 0]


def _draw_places(places: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    if len(places) > MAX_PLACES:
        places = np.sort(draw.choice(places, MAX_PLACES, replace=False, shuffle=False))
    return places.astype(np.int32)


def _read_numbers(case: Case, reading: Reading) -> tuple[float, ...]:
    values = [case.tabular.get(name, np.nan) for name in reading.tabular]
    for name, value in zip(reading.tabular, values, strict=True):
        if isinstance(value, str):
            raise ValueError(f"{case.id} has {name}={value!r}, and a number is expected. Code it as a number.")
    return tuple(float(value) for value in values)
