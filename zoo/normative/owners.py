"""Tells whose scan each control is: people differ more than the scans of one person do."""

from collections.abc import Sequence

import numpy as np

LEAST_CONTROLS = 3


def number_people(people: Sequence[str] | None, count: int) -> np.ndarray:
    """Returns (count,) int, the number of the person that each control is a scan of.

    Raises:
        ValueError: not a name for each control, or fewer than three people.

    Example:
        >>> number_people(["b", "a", "c", "a"], 4).tolist()
        [1, 0, 2, 0]
    """
    if people is None:
        return np.arange(count)
    if len(people) != count:
        raise ValueError(f"Name the person of each of the {count} controls, got {len(people)} names.")
    owners = np.unique(list(people), return_inverse=True)[1]
    if owners.max(initial=-1) + 1 < LEAST_CONTROLS:
        raise ValueError(
            f"Controls of {LEAST_CONTROLS} people or more are needed, got {owners.max(initial=-1) + 1}: scans of one "
            "person do not tell how people differ."
        )
    return owners
