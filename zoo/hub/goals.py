"""Tables of a card that say which goals a model reached: each row ends in a verdict, in a column without a heading."""

from collections.abc import Mapping, Sequence

Row = Mapping[str, str]
VERDICT, PASSED, MISSED = "", "passed", "MISSED"


def describe_verdict(passed: bool) -> str:
    """Returns the word for a goal that was reached, or missed.

    Example:
        >>> describe_verdict(True), describe_verdict(False)
        ('passed', 'MISSED')
    """
    return PASSED if passed else MISSED


def has_verdicts(rows: Sequence[Row]) -> bool:
    """Returns whether a table is one of goals.

    Example:
        >>> has_verdicts([{"Dice": "0.9", "": "passed"}]), has_verdicts([{"Dice": "0.9"}])
        (True, False)
    """
    return any(VERDICT in row for row in rows)


def list_missed(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows of goals that were not reached.

    Example:
        >>> list_missed([{"goal": "fast", "": "passed"}, {"goal": "small", "": "MISSED"}])
        [{'goal': 'small', '': 'MISSED'}]
    """
    return [row for row in rows if row.get(VERDICT) != PASSED]
