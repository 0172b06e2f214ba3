"""Columns of stroke data sets under one name and in one unit, beside the names that their owners gave them.

`tici` is a word ("2b"), `time_to_reperfusion_h` hours from onset to reperfusion, `age` years, `nihss` the score at
admission. ISLES 2017 does not say where its time to treatment (TTT) begins; it is taken as minutes from onset, as its
time since stroke (TSS) is.
"""

import re
from collections.abc import Mapping

Cell = float | str
COLUMNS = {
    "age": ("age",),
    "nihss": ("nihss", "nihss at admission", "nihss baseline", "admission nihss"),
    "tici": ("tici", "mtici", "tici scale grade", "tici grade", "tici score", "tici postinterventional"),
}
MINUTES = ("ttt", "time to treatment", "time to treatment min")  # ISLES 2017
LEGS = ("onset to door", "door to recanalization")  # ISLES 2024, one after the other
_CLOCK = re.compile(r"(?:(\d+) days? )?(\d+):(\d\d)(?::(\d\d))?")
_GRADE = re.compile(r"(?:m?tici )?([0-3][abc]?)(?:\.0)?", re.IGNORECASE)


def with_known_names(row: Mapping[str, Cell]) -> dict[str, Cell]:
    """Returns a row of a table with what is recognised in it under the name and in the unit of this module.

    Args:
        row: column -> number or word, what is missing left out.

    Returns:
        The row with more columns; a column that has such a name already is left as it is.
    """
    plain = {re.sub(r"[^a-z0-9]+", " ", name.lower()).strip(): value for name, value in row.items()}
    known = {name: plain[word] for name, words in COLUMNS.items() for word in words if word in plain}
    if "tici" in known:
        match = _GRADE.fullmatch(str(known["tici"]).strip())
        known["tici"] = match[1].lower() if match else known["tici"]
    hours = _read_hours(plain)
    if hours is not None:
        known["time_to_reperfusion_h"] = hours
    return {**known, **row}


def _read_hours(plain: Mapping[str, Cell]) -> float | None:
    """Returns the hours from onset to reperfusion: a column in minutes, or the times before and after arrival."""
    for word in MINUTES:
        minutes = plain.get(word)
        if isinstance(minutes, float):
            return minutes / 60
    legs = [_parse_minutes(plain.get(word)) for word in LEGS]
    return sum(leg for leg in legs if leg is not None) / 60 if None not in legs else None


def _parse_minutes(cell: Cell | None) -> float | None:
    """Returns the minutes of "1:35:00", or of a number, which is minutes."""
    if isinstance(cell, float):
        return cell
    match = _CLOCK.fullmatch(str(cell).strip())
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return (24 * days + hours) * 60 + minutes + seconds / 60
