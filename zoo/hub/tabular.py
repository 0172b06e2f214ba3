"""Tabular values of a case (time to treatment, a grade, an age) as the vector that conditions a network."""

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
    """The conditioning vector of one case.

    A missing value becomes 0, the mean of the training data, and its flag tells the network so; a network that dropped
    values in training makes of it what it learned for "unknown".

    Args:
        fields: what the network takes, in order.
        values: name -> number, word of a scale, or None (also NaN, "" and "n/a") where it is not known; a name that is
            left out is not known either.

    Returns:
        (2 len(fields),) float32: of each field its value less the mean in standard deviations, then 1 where it is
        missing and 0 where not.

    Raises:
        ValueError: a name or grade that is not known, with the nearest match, what is no number, or a number out of
            [low, high].
    """
    import numpy as np

    names = [one.name for one in fields]
    for name in values:
        if name not in names:
            raise unknown_choice("tabular value", name, names)
    vector = np.zeros((len(fields), 2), np.float32)
    for row, one in zip(vector, fields, strict=True):
        value = number(one, values.get(one.name))
        row[:] = (0, 1) if value is None else ((value - one.mean) / one.sd, 0)
    return vector.reshape(-1)


def number(one: Tabular, value: Value) -> float | None:
    """The number behind a value, checked; None where it is missing.

    Raises:
        ValueError: an unknown grade, what is no number, or a number out of the field's range.
    """
    word = f"{value:g}" if isinstance(value, int | float) else str(value).strip()
    if word.lower() in MISSING:
        return None
    if one.grades:
        if word not in one.grades:
            raise unknown_choice(f"grade of {one.name}", word, one.grades)
        return float(one.grades[word])
    found = _parsed(one, value)
    if not one.low <= found <= one.high:
        unit = f" {one.unit}" if one.unit else ""
        raise ValueError(
            f"{one.name} is {found:g}{unit}, and it goes from {one.low:g} to {one.high:g}{unit}. Correct it, or leave "
            "it out if it is not known."
        )
    return found


def _parsed(one: Tabular, value: Value) -> float:
    try:
        return float(value if value is not None else math.nan)
    except (TypeError, ValueError):
        raise ValueError(
            f"{one.name} is {value!r}, and a number{f' in {one.unit}' if one.unit else ''} is expected. Pass one, or "
            '"n/a" if it is not known.'
        ) from None
