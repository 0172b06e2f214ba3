"""Keeps prepared cases on disk: one TFRecord shard a case, raw bytes, and a manifest of what lies where.

The first record of a shard is its entry as JSON; then one record an array: channels, labels, places, each filled up so
that the next begins where memory is aligned and the file can be mapped. Since a shard describes itself, the manifest
can be lost, or never written, without harm: the shards of a killed run are used. A shard that the manifest does not
know, or that was written since, is read to its end and compared with its checksums; a damaged one is made again.
"""

import dataclasses
import hashlib
import json
import re
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from zoo import files
from zoo.datasets.cases import Case
from zoo.datasets.parallel import Failure, convert
from zoo.pipeline.cache_index import Block, Entry, from_plain, padded
from zoo.pipeline.prepare import FORMAT, Prepared, Reading, key, prepare

MANIFEST = "manifest.json"
HEAD, FOOT = 12, 4  # bytes that TFRecord puts before and after a record: length and checksums


def digest(value: Any) -> str:
    """Returns sixteen hexadecimal digits for a value that JSON holds."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def fill(cases: Sequence[Case], reading: Reading, folder: Path) -> tuple[list[Entry], list[Failure]]:
    """Prepares cases into shards, except those that exist already.

    Args:
        cases: what to read.
        reading: how; the channels are named.
        folder: made when missing.

    Returns:
        The entries, in the order of the cases, and the cases that were left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files.remove_leftovers(folder)
    known = _read_manifest(folder)
    fresh: list[str] = []

    def prepare_case(case: Case) -> Entry:
        case_key = key(case, reading)
        path = folder / f"{_safe_name(case.id)}-{case_key[:16]}.tfrecord"
        entry = _find_shard(path, *known)
        if entry is None:
            fresh.append(case.id)
            entry = write(path, case, prepare(case, reading))
            _drop_stale(path)
        return entry

    entries, failures = convert(cases, prepare_case, f"Writing cases to {folder}")
    _write_manifest(folder, reading, entries, failures)
    print(f"{folder}: {len(entries) - len(fresh)} cases taken from the cache, {len(fresh)} written.", file=sys.stderr)
    return entries, failures


def write(path: Path, case: Case, prepared: Prepared) -> Entry:
    """Writes one shard, whole or not at all, and returns its entry."""
    header, arrays = _describe(case, prepared)
    with files.replacing(path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
        writer.write(header)
        for array in arrays:
            writer.write(array.tobytes().ljust(_record_bytes(array), b"\0"))
    return read_entry(path)


def read_entry(path: Path) -> Entry:
    """Reads the entry in the first record of a shard, its places counted from the start of the file.

    Raises:
        ValueError: it is not a whole shard.
    """
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            file.read(HEAD - 8)
            plain = json.loads(file.read(length) if length < path.stat().st_size else b"")
        if plain.pop("format") != FORMAT or plain["num_bytes"] + HEAD + length + FOOT != path.stat().st_size:
            raise ValueError("its size is not what it tells")
        return _shift_entry(from_plain(plain), HEAD + length + FOOT, path)
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a whole shard ({error!r}). Delete it and read the case again.") from error


def verify(entry: Entry) -> None:
    """Reads a whole shard and compares each record with its checksum.

    Raises:
        ValueError: the shard is damaged.
    """
    try:
        for _ in tf.data.TFRecordDataset(entry.file):
            pass
    except tf.errors.OpError as error:
        reason = re.search(r"(?:corrupted|truncated) record[^\[]*", error.message)
        what = reason[0].strip() if reason else error.message
        raise ValueError(f"{entry.file} is damaged ({what}). Delete it and read the case again.") from error


def _describe(case: Case, prepared: Prepared) -> tuple[bytes, list[np.ndarray]]:
    """Returns the header record, its places counted from its own end, and the arrays of the other records."""
    images = [*prepared.channels, *([] if prepared.labels is None else [prepared.labels])]
    arrays = [*images, *prepared.places.values()]
    ends = np.cumsum([HEAD + _record_bytes(array) + FOOT for array in arrays]).tolist()
    begins = [HEAD, *(end + HEAD for end in ends[:-1])]
    blocks = [Block(array.dtype.name, at) for array, at in zip(images, begins, strict=False)]
    num = len(prepared.channels)
    spans = zip(prepared.places.items(), begins[len(images) :], strict=True)
    entry = Entry(
        case.id,
        prepared.channels[0].shape,
        tuple(blocks[:num]),
        tuple(prepared.lines),
        None if prepared.labels is None else blocks[num],
        {index: (at, len(voxels)) for (index, voxels), at in spans},
        prepared.tabular,
        num_bytes=ends[-1],
    )
    header = json.dumps({"format": FORMAT, **dataclasses.asdict(entry)}).encode()
    before = HEAD + len(header) + FOOT + HEAD  # of the first array
    return header.ljust(len(header) + padded(before) - before), arrays


def _record_bytes(array: np.ndarray) -> int:
    """Returns the bytes of an array's record; each array then begins a multiple of the alignment after the last."""
    return padded(HEAD + array.nbytes + FOOT) - HEAD - FOOT


def _shift_entry(entry: Entry, by: int, path: Path) -> Entry:
    def move(block: Block) -> Block:
        return Block(block.dtype, block.at + by)

    return dataclasses.replace(
        entry,
        channels=tuple(map(move, entry.channels)),
        labels=entry.labels and move(entry.labels),
        places={index: (at + by, count) for index, (at, count) in entry.places.items()},
        file=str(path.absolute()),
        num_bytes=entry.num_bytes + by,
    )


def _find_shard(path: Path, known: dict[str, Entry], modified: dict[str, int]) -> Entry | None:
    """Returns the entry of a shard that exists and is whole, else None."""
    if not path.is_file():
        return None
    entry, status = known.get(path.name), path.stat()
    if entry and (entry.num_bytes, modified.get(path.name)) == (status.st_size, status.st_mtime_ns):
        return dataclasses.replace(entry, file=str(path.absolute()))
    try:
        entry = read_entry(path)
        verify(entry)
    except ValueError:
        print(f"{path.name} is damaged and is written again.", file=sys.stderr)
        return None
    return entry


def _read_manifest(folder: Path) -> tuple[dict[str, Entry], dict[str, int]]:
    """Reads entries and times of change by file name; none where the manifest is missing, damaged or foreign."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            return {}, {}
        entries = {name: from_plain({**entry, "file": ""}) for name, entry in content["shards"].items()}
        return entries, dict(content.get("modified", {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, {}


def _write_manifest(folder: Path, reading: Reading, entries: Sequence[Entry], failures: Sequence[Failure]) -> None:
    known, modified = _read_manifest(folder)
    present = {name: entry for name, entry in known.items() if (folder / name).is_file()}
    present |= {Path(entry.file).name: entry for entry in entries}
    modified |= {Path(entry.file).name: Path(entry.file).stat().st_mtime_ns for entry in entries}  # these were verified
    content = {
        "format": FORMAT,
        "reading": reading.options,
        "modified": {name: modified[name] for name in sorted(present) if name in modified},
        "shards": {name: dataclasses.asdict(present[name]) for name in sorted(present)},
        "left_out": {failure.case: failure.reason for failure in failures},
    }
    files.write_whole(folder / MANIFEST, json.dumps(content, indent=1).encode())


def _safe_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def _drop_stale(path: Path) -> None:
    """Deletes the shards that the same case left under other keys."""
    stem = path.name[: -len("-0123456789abcdef.tfrecord")]
    for other in path.parent.glob(f"{stem}-*.tfrecord"):
        if other != path and re.fullmatch(re.escape(stem) + r"-[0-9a-f]{16}\.tfrecord", other.name):
            print(f"{other.name} is stale and was replaced.", file=sys.stderr)
            other.unlink(missing_ok=True)
