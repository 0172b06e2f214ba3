"""Words every bad choice of a name."""

import difflib
from collections.abc import Iterable


def unknown_choice(kind: str, value: object, choices: Iterable[str]) -> ValueError:
    """Words a bad choice: what was received, the nearest match, and what there is.

    Args:
        kind: what was chosen, a noun ("model", "activation").
        value: what was received.
        choices: every valid choice.

    Returns:
        The error, for the caller to raise.
    """
    names = sorted(choices)
    begun = [name for name in names if len(str(value)) > 2 and name.startswith(str(value))]
    near = begun if len(begun) == 1 else difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"There is no {kind} {value!r}.{hint} Choose from: {', '.join(names)}.")
