"""Keeps the codes of controls while a normative model is fitted, each by what made it."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo import files
from zoo.datasets.cases import Case
from zoo.hub.result_record import Record


def digest(*parts: Any) -> str:
    """Returns sixteen hexadecimal digits for values that JSON holds.

    Example:
        >>> len(digest({"step": 3}, ["a"])), digest({"step": 3}) == digest({"step": 2})
        (16, False)
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def name_input(case: Case, channel: str) -> str:
    """Returns what the record of a normative model calls a file of a control."""
    return f"{case.id} {channel}"


def list_keys(cases: Sequence[Case], channels: Sequence[str], record: Record, network: Mapping[str, Any]) -> list[str]:
    """Returns a key for the codes of each case: the content of its files, and whatever else decides them.

    Args:
        cases: the controls.
        channels: of the model.
        record: of the normative model, with the sha256 of every file.
        network: weights, step and the like.
    """
    inputs = record["Inputs"]
    return [digest(network, [inputs[name_input(case, name)]["Sha256"] for name in channels]) for case in cases]


def encode_controls(
    cases: Sequence[Case], keys: Sequence[str], work: Path, encode: Callable[[Case], np.ndarray]
) -> Iterator[np.ndarray]:
    """Yields the codes of each control: from its file where an earlier call got that far with the same scans.

    Args:
        cases: the controls.
        keys: of each, as `list_keys` returns them.
        work: folder of the files.
        encode: computes the codes of a case.

    Yields:
        (voxels, d) float16, mapped from the file.
    """
    for case, key in zip(cases, keys, strict=True):
        path = work / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', case.id)[:100]}-{key}.npy"
        stored = files.mapped_array(path)
        if stored is None:
            files.write_array(path, encode(case).astype(np.float16))
            stored = files.mapped_array(path)
        if stored is None:
            raise OSError(f"{path} was written and cannot be read back. Check the disk.")
        yield stored
