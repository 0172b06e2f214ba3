"""Decides what each value of a label map counts as: a label of the task, known FreeSurfer codes, or a user's table.

No value is lost: one that nothing explains is refused with its value and number of voxels.
"""

import csv
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import edt
import numpy as np

from zoo.datasets.left_out import tell_once
from zoo.errors import unknown_choice

OTHERS = "*"  # in a table: every value that has no row of its own
WHOLE = 1e-3  # how far from a whole number a label value may lie, where a file scales its numbers
LARGEST_SPAN = 2**20  # between the least and the largest value, up to which a table of all is quicker than a search
SCHEME = {2, 3, 41, 42}  # white matter and cortex, left and right, by FreeSurfer's codes
LEFT, RIGHT = (2, 3), (41, 42)
NEAR = 16  # voxels around what has no side, where a side is looked for first
SHOWN = 5
Values = Mapping[int | str, int]


@dataclass(frozen=True)
class Fold:
    """Codes of FreeSurfer that are parts of a coarser structure.

    Attributes:
        name: what they are.
        codes: their values (`FreeSurferColorLUT.txt`).
        becomes: the coarser code; or left and right, for codes that say no side: the nearer side takes each voxel.
    """

    name: str
    codes: frozenset[int]
    becomes: tuple[int, ...]

    @property
    def note(self) -> str:
        """One line on what the codes count as."""
        sides = ", whichever is nearer" if len(self.becomes) > 1 else ""
        return f"FreeSurfer's codes of {self.name} count as {' or '.join(map(str, self.becomes))}{sides}"


def _make_fold(name: str, becomes: int | tuple[int, int], *codes: int | range) -> Fold:
    flat = chain.from_iterable(code if isinstance(code, range) else (code,) for code in codes)
    return Fold(name, frozenset(flat), becomes if isinstance(becomes, tuple) else (becomes,))


def _list_parcels(start: int) -> tuple[range, ...]:
    """Returns the codes of a hemisphere's parcels: aparc and DKT, then those of a2005s, from one of 1000, 2000 on."""
    a2005s = (range(start + 100, start + 182), *(range(start + n, start + n + 3) for n in (200, 205, 210)))
    return (range(start, start + 36), *a2005s)


FOLDS = (
    _make_fold("left cortical parcels (aparc, DKT, a2009s)", 3, *_list_parcels(1000), range(11100, 11176)),
    _make_fold("right cortical parcels (aparc, DKT, a2009s)", 42, *_list_parcels(2000), range(12100, 12176)),
    _make_fold(
        "left white matter parcels (wmparc)", 2, range(3000, 3036), range(3100, 3182), range(13100, 13176), 5001
    ),
    _make_fold(
        "right white matter parcels (wmparc)", 41, range(4000, 4036), range(4100, 4182), range(14100, 14176), 5002
    ),
    _make_fold("corpus callosum and fornix", (2, 41), 192, *range(250, 256)),
    _make_fold("hypointensities without a side", (2, 41), 77, 80),
    _make_fold("left hypointensities, vessels and lesions", 2, 78, 81, 30, 25),
    _make_fold("right hypointensities, vessels and lesions", 41, 79, 82, 62, 57),
    _make_fold("left choroid plexus", 4, 31),
    _make_fold("right choroid plexus", 43, 63),
    _make_fold("left thalamus by its old code", 10, 9),
    _make_fold("right thalamus by its old code", 49, 48),
    _make_fold("left substantia nigra", 28, 27),
    _make_fold("right substantia nigra", 60, 59),
    _make_fold("optic chiasm, fifth ventricle and outer fluid", 24, 85, 72, 122, 257),
    _make_fold("skull and tissue outside the brain", 0, range(118, 122), range(123, 136), 165, 167, 258, 259),
)


@dataclass(frozen=True)
class Explained:
    """What becomes of the values of one label map.

    Attributes:
        becomes: value -> what it counts as; left and right where the side of each voxel decides.
        folds: those that applied.
        unknown: value -> voxels, of values that nothing explains.
    """

    becomes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    folds: tuple[Fold, ...] = ()
    unknown: dict[int, int] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """One line for each group of FreeSurfer's codes that counts as something coarser."""
        return [fold.note for fold in self.folds]


def explain_values(counts: Mapping[int, int], values: Values) -> Explained:
    """Decides what each value of a label map counts as.

    Known FreeSurfer codes are folded where the labels are FreeSurfer's, white matter and cortex of both sides among
    them, and have no label for the finer structure.

    Args:
        counts: value -> voxels.
        values: value -> class index or other number; "*" for all that are not named. 0 stays 0 where it is left out.
    """
    becomes: dict[int, tuple[int, ...]] = {
        value: (values.get(value, 0),) for value in counts if value in values or value == 0
    }
    folds = [fold for fold in FOLDS if _applies(fold, set(counts) - set(becomes), counts, values)]
    for fold in folds:
        targets = tuple(values.get(target, 0) for target in fold.becomes)
        becomes |= dict.fromkeys(fold.codes & (set(counts) - set(becomes)), targets)
    rest = {value: number for value, number in counts.items() if value not in becomes}
    if OTHERS in values:
        becomes |= dict.fromkeys(rest, (values[OTHERS],))
        rest = {}
    return Explained(becomes, tuple(folds), rest)


def _applies(fold: Fold, unexplained: set[int], counts: Mapping[int, int], values: Values) -> bool:
    """Returns whether a fold explains a value; one without a side needs both sides in the map to choose between."""
    sides = len(fold.becomes) == 1 or all(any(code in counts for code in side) for side in (LEFT, RIGHT))
    there = set(values) >= SCHEME and all(target in values or target == 0 for target in fold.becomes)
    return bool(fold.codes & unexplained) and there and sides


def to_whole(array: np.ndarray, name: str) -> np.ndarray:
    """Returns label values as integers.

    Args:
        array: of any real dtype.
        name: what the error calls it.

    Raises:
        ValueError: a value is not finite, or further than a thousandth from a whole number.
    """
    if array.dtype.kind != "f":
        return array
    with np.errstate(invalid="ignore"):
        rounded = np.round(array)
        broken = ~(np.abs(rounded - array) <= WHOLE)
    if broken.any():
        raise ValueError(
            f"{name} holds {array[broken].flat[0]:g} ({int(broken.sum()):,} voxels are not whole), and labels are "
            "whole numbers. Threshold or round it first."
        )
    return rounded.astype(np.int32 if np.abs(rounded).max(initial=0) < 2**31 else np.int64)


def count_values(array: np.ndarray) -> dict[int, int]:
    """Returns the number of voxels of each value of a map of integers."""
    least, most = int(array.min()), int(array.max())
    if most - least < LARGEST_SPAN:
        numbers = np.bincount((array.astype(np.int64) - least).ravel())
        return {int(value) + least: int(numbers[value]) for value in np.flatnonzero(numbers)}
    values, numbers = np.unique(array, return_counts=True)
    return dict(zip(values.tolist(), numbers.tolist(), strict=True))


def convert_values(array: np.ndarray, values: Values, name: str) -> np.ndarray:
    """Turns the values of a label map into what they count as; says which FreeSurfer codes were folded.

    Args:
        array: (x, y, z) integers.
        values: as `explain_values` takes them.
        name: what the error calls it.

    Returns:
        (x, y, z) uint8, or int16 or int32 where the numbers need it.

    Raises:
        ValueError: values that nothing explains.

    Example:
        >>> convert_values(np.array([[[0, 1001, 77, 41, 2]]]), {2: 2, 3: 3, 41: 41, 42: 42}, "aseg").tolist()
        [[[0, 3, 41, 41, 2]]]
    """
    explained = explain_values(count_values(array), values)
    if explained.unknown:
        raise ValueError(word_unknown(explained, values, name))
    for note in explained.notes:
        tell_once(f"label maps: {note}")
    dtype = _choose_dtype([0, *values.values()])
    result = _look_up(array, {value: targets[0] for value, targets in explained.becomes.items()}, dtype)
    unsided = {value: targets for value, targets in explained.becomes.items() if len(targets) == 2}
    if unsided:
        right = find_right(array, list(unsided))
        for value, targets in unsided.items():
            result[right & (array == value)] = targets[1]
    return result


def _choose_dtype(numbers: Collection[int]) -> type:
    """Returns the smallest of uint8, int16 and int32 that holds the numbers."""
    least, most = min(numbers), max(numbers)
    return next(t for t in (np.uint8, np.int16, np.int32) if np.iinfo(t).min <= least and most <= np.iinfo(t).max)


def _look_up(array: np.ndarray, becomes: Mapping[int, int], dtype: type) -> np.ndarray:
    known = np.array(sorted(becomes), np.int64)
    targets: np.ndarray = np.array([becomes[int(value)] for value in known], dtype)
    if known[-1] - known[0] >= LARGEST_SPAN:
        return targets[np.searchsorted(known, array)]
    table = np.zeros(known[-1] - known[0] + 1, dtype)
    table[known - known[0]] = targets
    return table[array.astype(np.int64) - known[0]]


def find_right(array: np.ndarray, codes: Iterable[int]) -> np.ndarray:
    """Finds the voxels of codes without a side that lie nearer to the white matter and cortex of the right.

    Args:
        array: (x, y, z) FreeSurfer codes, both sides among them.
        codes: without a side.

    Returns:
        (x, y, z) bool; distances are in voxels, and a tie goes to the left.
    """
    unsided = np.isin(array, list(codes))
    box = tuple(slice(max(int(n.min()) - NEAR, 0), int(n.max()) + NEAR + 1) for n in np.nonzero(unsided))
    if not all(np.isin(array[box], side).any() for side in (LEFT, RIGHT)):
        box = (slice(None),) * 3
    left, right = (edt.edt(np.isin(array[box], side, invert=True)) for side in (LEFT, RIGHT))
    nearer = np.zeros(array.shape, bool)
    nearer[box] = right < left
    return unsided & nearer


def word_unknown(explained: Explained, values: Values, name: str) -> str:
    """Words the error for values that nothing explains: each with its voxels, what is known, and what to do."""
    unknown = explained.unknown
    expected = sorted(value for value in values if isinstance(value, int) and value)
    known = ", ".join(map(str, expected[:SHOWN])) + (f" and {len(expected) - SHOWN} more" * (len(expected) > SHOWN))
    lone = next(iter(unknown)) if len(unknown) == 1 and not any(value for value in explained.becomes) else None
    if lone is not None:
        faults = f"the value {lone} beside 0 ({unknown[lone]:,} voxels)"
        advice = f" Divide a mask of 0 and {lone} by {lone}."
    else:
        faults, advice = f"values that are no label: {list_values(unknown)}", ""
    return (
        f"{name} holds {faults}, and {known or 0} is expected.{advice} Or say what each value becomes in a table with "
        "the columns value,becomes (0 for background; a row *,0 for all others): --label-map FILE.csv."
    )


def list_values(counts: Mapping[int, int]) -> str:
    """Returns values with their voxels, the first few.

    Example:
        >>> list_values({1001: 12345, 7: 1})
        '1001 (12,345 voxels), 7 (1 voxel)'
    """
    shown = [f"{value} ({number:,} voxel{'s' * (number != 1)})" for value, number in list(counts.items())[:SHOWN]]
    return ", ".join(shown) + (f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else "")


def add_label_map(known: Mapping[int, int], label_map: Values | None) -> dict[int | str, int]:
    """Returns the values of a task and those that a table turns into them.

    Args:
        known: value -> what it counts as.
        label_map: value in the files, or "*" for all others -> value of the task; None for none.

    Raises:
        ValueError: the table turns a value into one that the task does not have.

    Example:
        >>> add_label_map({0: 0, 17: 1}, {53: 17, "*": 0})
        {0: 0, 17: 1, 53: 1, '*': 0}
    """
    targets = {0: 0} | dict(known)
    for value, becomes in (label_map or {}).items():
        if becomes not in targets:
            text = ", ".join(map(str, sorted(targets)))
            raise ValueError(f"label_map turns {value} into {becomes}, which is no label here. Choose from: {text}.")
    return dict(known) | {value: targets[becomes] for value, becomes in (label_map or {}).items()}


def read_label_map(path: str | Path, labels: Mapping[int, tuple[str, int]]) -> dict[int | str, int]:
    """Reads a table that says what values of label maps become.

    Args:
        path: CSV or TSV with the columns `value` and `becomes` (or `name`): a number, or "*" for all others; and a
            value or name of the task's labels, or 0.
        labels: of the task, index -> (name, value).

    Returns:
        Value, or "*" -> value of the task.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, a value is no whole number or there twice, or a label is unknown.

    Example:
        >>> read_label_map("labels.csv", task.data.labels)  # doctest: +SKIP
        {1001: 3, 1002: 3, '*': 0}
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Write a CSV with the columns value,becomes.")
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [
            {str(key).strip(): (cell or "").strip() for key, cell in row.items()} for row in _open_table(file, path)
        ]
    column = next((name for name in ("becomes", "name") if rows and name in rows[0]), None)
    if column is None or "value" not in rows[0]:
        raise ValueError(f"{path} needs the columns value,becomes and a row for each value, such as 1001,3.")
    by_name = {name: value for name, value in labels.values()} | {"background": 0}
    table: dict[int | str, int] = {}
    for row in rows:
        value = OTHERS if row["value"] == OTHERS else _read_value(row["value"], path)
        if value in table:
            raise ValueError(f"{path} has two rows for the value {value}. Keep one.")
        table[value] = _read_target(row[column], by_name, path)
    return table


def _open_table(file: Iterable[str], path: Path) -> csv.DictReader:
    return csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")


def _read_value(cell: str, path: Path) -> int:
    try:
        return int(cell)
    except ValueError:
        raise ValueError(f"{path} has the value {cell!r}, and a whole number or * is expected.") from None


def _read_target(cell: str, by_name: Mapping[str, int], path: Path) -> int:
    """Returns the value that a name or a number in a table means."""
    if cell in by_name:
        return by_name[cell]
    if cell.isdigit() and int(cell) in by_name.values():
        return int(cell)
    if cell.isdigit():
        raise unknown_choice(f"label value in {path}", cell, map(str, by_name.values()))
    raise unknown_choice(f"label in {path}", cell, by_name)
