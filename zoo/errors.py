"""Words every bad choice of a name."""

import difflib
from collections.abc import Iterable


def unknown_choice(kind: str, value: object, choices: Iterable[str]) -> ValueError:
    """Words the error for a bad choice: what was received, the nearest match, and every choice.

    Args:
        kind: what was chosen, a noun ("model", "activation").
        value: what was received.
        choices: every valid choice.

    Returns:
        The error, for the caller to raise.

    Example:
        >>> print(unknown_choice("precision", "float23", ["auto", "bfloat16", "float32"]))
        There is no precision 'float23'. Did you mean 'float32'? Choose from: auto, bfloat16, float32.
    """
    names = sorted(choices)
    completions = [name for name in names if len(str(value)) > 2 and name.startswith(str(value))]
    near = completions if len(completions) == 1 else difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"There is no {kind} {value!r}.{hint} Choose from: {', '.join(names)}.")
