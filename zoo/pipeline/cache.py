"""Keeps prepared cases in memory or in TFRecord shards, in the dtype of their files.

Both hold the same bytes, and the same stream of patches comes from either.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import platformdirs
import tensorflow as tf

from zoo.datasets.cases import Case
from zoo.datasets.parallel import Failure
from zoo.devices import machine_bytes
from zoo.pipeline import memory_cache, tfrecord_cache
from zoo.pipeline.cache_index import Entry
from zoo.pipeline.prepare import Reading

MEMORY = "memory"
MEMORY_SHARE = 0.6  # of the free memory that a cache may take; the network needs the rest


@dataclass(frozen=True)
class Cache:
    """Prepared cases, in memory or on disk.

    Attributes:
        entries: where each case lies.
        failures: the cases that were left out.
        reading: how they were read, the channels named.
        buffer: all voxels, (bytes,) uint8, where the cache is in memory; None where it is on disk.
        places: all remembered voxel indices, int32, where the cache is in memory.
    """

    entries: tuple[Entry, ...]
    failures: tuple[Failure, ...]
    reading: Reading
    buffer: tf.Tensor | None = None
    places: tf.Tensor | None = None

    @property
    def ids(self) -> list[str]:
        """Returns the ids of the cases."""
        return [entry.id for entry in self.entries]

    @property
    def counts(self) -> np.ndarray:
        """Returns the number of remembered places, (cases, classes) int64; no class where no case has labels."""
        num_classes = max((index + 1 for entry in self.entries for index in entry.places), default=0)
        counts = np.zeros((len(self.entries), num_classes), np.int64)
        for row, entry in zip(counts, self.entries, strict=True):
            for index, (_, count) in entry.places.items():
                row[index] = count
        return counts

    def select(self, ids: Sequence[str]) -> "Cache":
        """Returns the cache with some of its cases, in this order; ids of cases that were left out are passed over.

        Raises:
            ValueError: an id that the cache does not know, or no id that it holds.
        """
        by_id = {entry.id: entry for entry in self.entries}
        left_out = {failure.case for failure in self.failures}
        lost = [key for key in ids if key not in by_id and key not in left_out]
        if lost or not any(key in by_id for key in ids):
            raise ValueError(f"The cache does not hold {', '.join(lost or ids)}. Build it from all cases first.")
        return replace(self, entries=tuple(by_id[key] for key in ids if key in by_id))


def build(
    cases: Sequence[Case], reading: Reading, where: str | Path = MEMORY, *, limit_mb: float | None = None
) -> Cache:
    """Reads cases once and keeps them.

    In memory, the expected size is printed first, and if that is too much the cache goes to disk. On disk each case is
    one shard, written whole or not at all; another run uses the shards that exist, also after a kill, and rewrites
    stale ones: files that changed in size or time, or another reading. A bad case is left out and reported.

    Args:
        cases: at least one, with different ids.
        reading: how.
        where: "memory", or a folder, made when missing.
        limit_mb: most memory in MB; None takes 60 % of what is free.

    Raises:
        ValueError: no case, equal ids, or no case that can be used.
    """
    _check_cases(cases)
    reading = reading.of(cases)
    if str(where) == MEMORY:
        sizes = memory_cache.estimate(cases, reading)
        limit = MEMORY_SHARE * machine_bytes() if limit_mb is None else limit_mb * 1e6
        if _fits_memory(sizes, limit):
            return Cache(*_check_filled(memory_cache.fill(cases, reading, sizes), reading))
        where = _choose_folder(cases)
    entries, failures = tfrecord_cache.fill(cases, reading, Path(where))
    _check_labels(entries)
    return Cache(tuple(entries), tuple(failures), reading)


def _check_filled(filled: memory_cache.Filled, reading: Reading) -> tuple:
    _check_labels(filled.entries)
    return tuple(filled.entries), tuple(filled.failures), reading, filled.buffer, filled.places


def _check_cases(cases: Sequence[Case]) -> None:
    if not cases:
        raise ValueError("There is no case to read. Give at least one.")
    ids = [case.id for case in cases]
    twice = sorted({key for key in ids if ids.count(key) > 1})
    if twice:
        raise ValueError(f"Several cases have the same id: {', '.join(twice)}. Give each its own.")


def _check_labels(entries: Sequence[Entry]) -> None:
    """Checks that every case has labels, or none has."""
    without = [entry.id for entry in entries if entry.labels is None]
    if without and len(without) < len(entries):
        raise ValueError(
            f"{len(without)} of {len(entries)} cases have no label map: {', '.join(without)}. Add the label maps, or "
            "leave these cases out."
        )


def _fits_memory(sizes: Sequence[int], limit: float) -> bool:
    need = sum(sizes)
    text = f"{len(sizes)} cases need {need / 1e6:,.0f} MB of memory"
    fits = need <= limit
    end = "." if fits else ", which is too much: they go to disk."
    print(f"{text}; {limit / 1e6:,.0f} MB may be used{end}", file=sys.stderr)
    return fits


def _choose_folder(cases: Sequence[Case]) -> Path:
    """Returns the folder of the user cache for cases that do not fit memory; their paths decide it."""
    path = (
        platformdirs.user_cache_path("zoo3d") / "cases" / tfrecord_cache.digest([str(case.files[0]) for case in cases])
    )
    print(f"Their cache is {path}.", file=sys.stderr)
    return path
