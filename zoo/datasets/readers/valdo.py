"""VALDO 2021 task 3 (lacunes): `sub-101/sub-101_space-T1_desc-masked_T1.nii.gz`, raters in `desc-Rater1_Lacunes`.

Every case has T1, T2 and FLAIR on the T1 grid and one mask a rater; which raters drew depends on the cohort.
Source: Sudre et al., Where is VALDO?, Medical Image Analysis 2024, 10.1016/j.media.2023.103029.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from zoo.datasets.cases import Case
from zoo.datasets.layout import by_stem, find_scans, only_file, require_cases
from zoo.errors import unknown_choice

SEQUENCES = ("T1", "T2", "FLAIR")
_MASK = re.compile(r"_space-T1_desc-(Rater\d+)_Lacunes$")


def fits(root: Path) -> bool:
    """Looks for masked T1 images named in VALDO's way."""
    return next(root.glob("sub-*/sub-*_space-T1_desc-masked_T1.nii*"), None) is not None


def read(root: Path, *, channels: Mapping[str, str] | None = None, labels: str | None = None) -> list[Case]:
    """Lists the cases.

    Args:
        root: the folder Task3.
        channels: our channel name -> "T1", "T2" or "FLAIR"; None takes all three.
        labels: the rater ("Rater2"); None takes the first rater of each case.

    Raises:
        ValueError: no case, a sequence that VALDO does not have, one missing in a case, or a rater who did not draw
            in a case.
    """
    selected = dict(channels or {name: name for name in SEQUENCES})
    for name in selected.values():
        if name not in SEQUENCES:
            raise unknown_choice("VALDO sequence", name, SEQUENCES)
    folders = sorted(path for path in root.glob("sub-*") if path.is_dir())
    return require_cases(
        [_make_case(folder, selected, labels) for folder in folders], root, "sub-101, sub-102 and so on"
    )


def _make_case(folder: Path, selected: Mapping[str, str], rater: str | None) -> Case:
    subject, files = folder.name, {}
    scans = by_stem(find_scans(folder, "*"), subject)
    for ours, name in selected.items():
        path = scans.get(f"{subject}_space-T1_desc-masked_{name}")
        files[ours] = only_file([path] if path else [], f"channel {name!r}", subject, "")
    matches = [(match[1], path) for name, path in scans.items() if (match := _MASK.search(name))]
    masks = dict(sorted(matches, key=lambda pair: int(pair[0].removeprefix("Rater"))))
    if rater and masks and rater not in masks:
        raise unknown_choice(f"mask of {subject} by", rater, masks)
    return Case(subject, subject, files, masks[rater] if rater and masks else next(iter(masks.values()), None))
