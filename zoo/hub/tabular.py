"""Encodes tabular values of a case (time to treatment, a grade, an age) as the vector that conditions a network."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zoo.errors import unknown_choice

if TYPE_CHECKING:
    import numpy as np

Value = float | str | None
MISSING = ("", "n/a", "na", "nan", "none")  # words for a missing value in tables, BIDS' own among them


@dataclass(frozen=True)
class Tabular:
    """One tabular input of a network.

    Attributes:
        name: as callers and tables write it ("time_to_reperfusion_h").
        unit: of the number ("h"); "" where it has none.
        low: least value that is accepted.
        high: greatest value that is accepted.
        mean: what is subtracted: the mean over the training data.
        sd: what it is divided by.
        grades: word -> number, for a scale of words (TICI "2b"); empty for a plain number.
    """

    name: str
    unit: str
    low: float
    high: float
    mean: float
    sd: float
    grades: dict[str, float] = field(default_factory=dict)


def encode(fields: Sequence[Tabular], values: Mapping[str, Value]) -> "np.ndarray":
    """Returns the conditioning vector of one case.

    A missing value becomes 0, the mean of the training data, and its flag tells the network so; a network that dropped
    values in training makes of it what it learned for "unknown".

    Args:
        fields: what the network takes, in order.
        values: name -> number, word of a scale, or None (also NaN, "" and "n/a") where it is not known; a name that is
            left out is not known either.

    Returns:
        (2 len(fields),) float32: for each field its value less the mean in standard deviations, then 1 where it is
        missing and 0 where not.

    Raises:
        ValueError: a name or grade that is not known, with the nearest match, what is no number, or a number out of
            [low, high].

    Example:
        >>> encode([Tabular("age", "years", 18, 100, 60, 10)], {"age": 70})
        array([1., 0.], dtype=float32)
    """
    import numpy as np

    names = [column.name for column in fields]
    for name in values:
        if name not in names:
            raise unknown_choice("tabular value", name, names)
    vector = np.zeros((len(fields), 2), np.float32)
    for row, column in zip(vector, fields, strict=True):
        value = parse_number(column, values.get(column.name))
        row[:] = (0, 1) if value is None else ((value - column.mean) / column.sd, 0)
    return vector.reshape(-1)


def parse_number(column: Tabular, value: Value) -> float | None:
    """Returns the number behind a value, checked; None where it is missing.

    Raises:
        ValueError: an unknown grade, what is no number, or a number out of the field's range.

    Example:
        >>> parse_number(Tabular("age", "years", 18, 100, 60, 10), "n/a")
        >>> parse_number(Tabular("age", "years", 18, 100, 60, 10), "70")
        70.0
    """
    word = f"{value:g}" if isinstance(value, int | float) else str(value).strip()
    if word.lower() in MISSING:
        return None
    if column.grades:
        if word not in column.grades:
            raise unknown_choice(f"grade of {column.name}", word, column.grades)
        return float(column.grades[word])
    parsed = _parse_float(column, value)
    if not column.low <= parsed <= column.high:
        unit = f" {column.unit}" if column.unit else ""
        raise ValueError(
            f"{column.name} is {parsed:g}{unit}, and it goes from {column.low:g} to {column.high:g}{unit}. Correct it, "
            "or leave it out if it is not known."
        )
    return parsed


def _parse_float(column: Tabular, value: Value) -> float:
    try:
        return float(value if value is not None else math.nan)
    except (TypeError, ValueError):
        raise ValueError(
            f"{column.name} is {value!r}, and a number{f' in {column.unit}' if column.unit else ''} is expected. "
            'Pass one, or "n/a" if it is not known.'
        ) from None
