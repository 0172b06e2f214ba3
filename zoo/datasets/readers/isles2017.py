"""ISLES 2017: `training_N/VSD.Brain.XX.O.MR_<map>.<id>/VSD.Brain...nii`, the final lesion in `...O.OT.<id>/`.

The raw perfusion series (MR_4DPWI, stored five-dimensional) is left out; all maps of a case lie on one grid.
Source: Winzeck et al., ISLES 2016 and 2017, Frontiers in Neurology 2018, 10.3389/fneur.2018.00679.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from zoo.datasets.cases import Case
from zoo.datasets.layout import find_scans, only_file, read_table, require_cases
from zoo.datasets.stroke_columns import with_known_names
from zoo.errors import unknown_choice

MAPS = ("ADC", "rCBF", "rCBV", "MTT", "TTP", "Tmax")
PLAIN = {"CBF": "rCBF", "CBV": "rCBV"}  # what other data sets call them
_KIND = re.compile(r"VSD\.Brain\.[^.]+\.O\.(?:MR_)?(\w+)\.\d+")
_CASE = re.compile(r"(?:training|test)_(\d+)")


def fits(root: Path) -> bool:
    """Folders training_N or test_N with VSD.Brain folders in them."""
    return any(any(folder.glob("VSD.Brain.*.O.MR_*")) for folder in _list_folders(root))


def read(root: Path, *, channels: Mapping[str, str] | None = None, labels: str | None = None) -> list[Case]:
    """Lists the cases; columns of a `*.csv` beside them, by case name or number, become tabular data.

    What `zoo.datasets.stroke_columns` knows (TICI, the time to treatment) is there under its name and in its unit, too.

    Args:
        root: the folder that holds training_1, training_2 and so on.
        channels: our channel name -> name of the map ("Tmax"; "CBF" is rCBF); None takes all six.
        labels: "OT" or None; cases without it (the test cases) have no labels.

    Raises:
        ValueError: no case, a map that the data set does not have, or one missing in a case.
    """
    selected = {ours: PLAIN.get(name, name) for ours, name in (channels or {name: name for name in MAPS}).items()}
    for name in selected.values():
        if name not in MAPS:
            raise unknown_choice("ISLES 2017 map", name, MAPS)
    if labels not in (None, "OT"):
        raise unknown_choice("ISLES 2017 label map", labels, ["OT"])
    rows = {key: row for path in sorted(root.glob("*.csv")) for key, row in read_table(path).items()}
    cases = [_make_case(folder, selected, rows) for folder in _list_folders(root)]
    return require_cases(cases, root, "folders training_1, training_2 and so on")


def _list_folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and _CASE.fullmatch(path.name))


def _make_case(folder: Path, selected: Mapping[str, str], rows: Mapping[str, dict[str, float | str]]) -> Case:
    kinds: dict[str, list[Path]] = {}
    for path in find_scans(folder):
        match = _KIND.match(path.relative_to(folder).parts[0])
        kinds.setdefault(match[1] if match else "", []).append(path)
    advice = "Keep one of them."
    files = {
        ours: only_file(kinds.get(name, []), f"channel {name!r}", folder.name, advice)
        for ours, name in selected.items()
    }
    mask = only_file(kinds["OT"], "label map", folder.name, advice) if "OT" in kinds else None
    number = _CASE.fullmatch(folder.name)[1]  # type: ignore[index]  # _folders gives only what matches
    row = rows.get(number, rows.get(folder.name, {}))
    return Case(folder.name, folder.name, files, mask, with_known_names(row))
