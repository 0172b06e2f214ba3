"""ISLES 2024: CT perfusion maps of the first session, the final infarct of the second, clinical tables beside them.

`derivatives/sub-stroke0001/ses-01/perfusion-maps/sub-stroke0001_ses-01_space-ncct_tmax.nii.gz` and
`.../ses-02/sub-stroke0001_ses-02_space-ncct_lesion-msk.nii.gz`, all on the grid of the plain CT; in some releases the
names are `sub-strokecase0001` and `ses-0001`. Tables lie in `phenotype`, one row a file, by subject or by session.
Source: Riedel et al., ISLES'24, 2024, arXiv 2408.11142.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from zoo.datasets.cases import Case, stem
from zoo.datasets.layout import Cells, find_scans, only_file, read_row, require_cases
from zoo.datasets.stroke_columns import with_known_names
from zoo.errors import unknown_choice

MAPS = ("Tmax", "CBF", "CBV", "MTT")
OTHERS = ("CTA", "NCCT")
LABELS = "lesion-msk"
_SUBJECT = re.compile(r"sub[-_]stroke(?:case)?\d+")


def fits(root: Path) -> bool:
    """Looks for perfusion maps among the derivatives of strokes."""
    return any(root.glob("derivatives/sub*stroke*/ses-*/perfusion-maps"))


def read(root: Path, *, channels: Mapping[str, str] | None = None, labels: str | None = None) -> list[Case]:
    """Lists one case a subject.

    Args:
        root: the folder that holds `derivatives` (and `phenotype`, `raw_data`).
        channels: our channel name -> "Tmax", "CBF", "CBV", "MTT", "CTA" or "NCCT", in any case; None takes the maps.
        labels: the mask, "lesion-msk" when None; subjects without it have no labels.

    Raises:
        ValueError: no subject, an image that the data set does not have, or one missing or doubled for a subject.
    """
    selected = dict(channels or {name: name for name in MAPS})
    known = {name.lower() for name in (*MAPS, *OTHERS)}
    for name in selected.values():
        if name.lower() not in known:
            raise unknown_choice("ISLES 2024 image", name, (*MAPS, *OTHERS))
    folders = sorted(path for path in (root / "derivatives").iterdir() if _SUBJECT.fullmatch(path.name))
    cases = [_make_case(root, folder.name, selected, labels or LABELS) for folder in folders]
    return require_cases(cases, root, "derivatives/sub-stroke0001 and so on")


def _make_case(root: Path, subject: str, selected: Mapping[str, str], labels: str) -> Case:
    derived, raw = root / "derivatives" / subject, root / "raw_data" / subject
    first = [path for path in find_scans(derived) + find_scans(raw) if _session_number(path) == 1]
    files = {
        ours: only_file(_select_suffix(first, name), f"channel {name!r}", subject, ADVICE)
        for ours, name in selected.items()
    }
    masks = _select_suffix(find_scans(derived), labels)
    mask = only_file(masks, f"label map {labels!r}", subject, ADVICE) if masks else None
    return Case(subject, subject, files, mask, with_known_names(_read_clinical(root, subject)))


ADVICE = "Keep one of them."


def _select_suffix(paths: list[Path], suffix: str) -> list[Path]:
    """Selects the files of a suffix: those on the grid of the plain CT where there are any."""
    named = [path for path in paths if stem(path).lower().endswith(f"_{suffix.lower()}")]
    return [path for path in named if "_space-ncct_" in path.name] or named


def _session_number(path: Path) -> int:
    """Returns the number of the session folder; file names in some releases have another."""
    matches = [re.fullmatch(r"ses-0*(\d+)", part) for part in path.parts]
    return next((int(match[1]) for match in matches if match), 0)


def _read_clinical(root: Path, subject: str) -> Cells:
    """Reads every table of a subject, the first session first."""
    row: Cells = {}
    for path in sorted((root / "phenotype").glob("**/*.csv"), key=_session_number):
        if path.name.startswith(f"{subject}_"):
            row |= read_row(path)
    return row
