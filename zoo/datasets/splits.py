"""Draws folds by subject from a seed, and reads and writes them as a file."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo import files
from zoo.datasets.cases import Case


@dataclass(frozen=True)
class Split:
    """Ids of the cases that train and of those that validate."""

    train: tuple[str, ...]
    validation: tuple[str, ...]

    def select(self, cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
        """Returns the training cases and the validation cases.

        Raises:
            ValueError: an id that is not among the cases.
        """
        by_id = {case.id: case for case in cases}
        lost = sorted({*self.train, *self.validation} - set(by_id))
        if lost:
            raise ValueError(f"The split names cases that are not in the data: {', '.join(lost)}. Draw it anew.")
        return [by_id[key] for key in self.train], [by_id[key] for key in self.validation]


def folds(cases: Sequence[Case], num_folds: int = 5, *, seed: int = 0) -> list[Split]:
    """Divides cases into folds; all cases of a subject lie in one fold, and folds differ by one subject at most.

    Args:
        cases: at least as many subjects as folds, in any order: the ids decide.
        num_folds: 2 or more.
        seed: of the draw.

    Returns:
        One split a fold; every case validates exactly once.

    Raises:
        ValueError: fewer than 2 folds, or fewer subjects than folds.
    """
    subjects = sorted({case.subject for case in cases})
    if not 2 <= num_folds <= len(subjects):
        raise ValueError(f"{len(subjects)} subjects make 2 to {len(subjects)} folds, got num_folds={num_folds}.")
    order = np.random.default_rng(seed).permutation(len(subjects))
    fold_of = {subjects[subject]: place % num_folds for place, subject in enumerate(order)}
    ordered = sorted(cases, key=lambda case: case.id)
    return [
        Split(
            tuple(case.id for case in ordered if fold_of[case.subject] != fold),
            tuple(case.id for case in ordered if fold_of[case.subject] == fold),
        )
        for fold in range(num_folds)
    ]


def write(splits: Sequence[Split], path: str | Path, *, seed: int | None = None) -> Path:
    """Writes splits as JSON, whole or not at all."""
    content = {"seed": seed, "folds": [asdict(split) for split in splits]}
    return files.write_whole(path, json.dumps(content, indent=1).encode())


def read(path: str | Path) -> list[Split]:
    """Reads splits from a file that `write` made.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a file of splits.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of splits {path}. Write one with zoo.datasets.splits.write.")
    try:
        return [_parse_split(fold) for fold in json.loads(path.read_text(encoding="utf-8"))["folds"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a file of splits ({error!r}). Write one with zoo.datasets.splits.write."
        ) from error


def _parse_split(fold: dict[str, Any]) -> Split:
    return Split(tuple(fold["train"]), tuple(fold["validation"]))
