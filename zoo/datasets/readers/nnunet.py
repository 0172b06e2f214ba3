"""nnU-Net's raw folders: `dataset.json`, one file a channel in `imagesTr`, label maps in `labelsTr`.

`imagesTr/liver_001_0000.nii.gz` is the first channel of the case `liver_001`, `labelsTr/liver_001.nii.gz` its label
map. `dataset.json` names the channels ("channel_names", "modality" before version 2) and the suffix ("file_ending").
Source: Isensee et al., nnU-Net, Nature Methods 2021, 10.1038/s41592-020-01008-z, and its documentation of the format.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.datasets.cases import Case
from zoo.datasets.layout import by_stem, find_scans, only_file, read_object, require_cases
from zoo.errors import unknown_choice
from zoo.volumes.scan_files import SUFFIXES, is_scan, stem

FILE = "dataset.json"
LABELS = ("labelsTr", "labelsTs")
_NUMBERED = re.compile(r"(.+)_(\d{4})")


def fits(root: Path) -> bool:
    """Looks for a dataset.json with channel names or with modalities and numbered files, or images beside it."""
    home = _find_home(root)
    if home is None:
        return False
    description = read_object(home / FILE)
    numbered = any(is_scan(path) for path in home.glob("images*/*_0000.*"))
    return "channel_names" in description or ("modality" in description and numbered)


def read(root: Path, *, channels: Mapping[str, str] | None = None, labels: str | None = None) -> list[Case]:
    """Lists the training cases, or those of a folder of images.

    Args:
        root: the folder with dataset.json; or its `imagesTr` or `imagesTs` alone.
        channels: our channel name -> name or number in dataset.json ("FLAIR", "1"); None takes all under their names,
            with their numbers where several have one name.
        labels: "labelsTs" for the test cases, with label maps where that folder has some; None or "labelsTr" for the
            training cases.

    Raises:
        ValueError: dataset.json cannot be read or names another kind of file, or a channel is unknown or missing.
    """
    home = _find_home(root) or root
    if labels not in (None, *LABELS):
        raise unknown_choice("label folder of nnU-Net", labels, LABELS)
    part = (labels or LABELS[0]).removeprefix("labels") if root == home else root.name.removeprefix("images")
    description = read_object(home / FILE)
    _check_suffix(home, description)
    names = name_channels(description)
    selected = {
        ours: _find_channel(theirs, names) for ours, theirs in (channels or {name: name for name in names}).items()
    }
    files: dict[str, dict[int, Path]] = {}
    for name, path in by_stem(find_scans(home / f"images{part}", "*"), f"images{part}").items():
        match = _NUMBERED.fullmatch(name)
        if match:
            files.setdefault(match[1], {})[int(match[2])] = path
    masks = {stem(path): path for path in find_scans(home / f"labels{part}", "*")}
    cases = [_make_case(key, numbered, selected, masks.get(key)) for key, numbered in sorted(files.items())]
    return require_cases(cases, home, f"images{part}/CASE_0000.nii.gz")


def _find_home(root: Path) -> Path | None:
    """Returns the folder that holds dataset.json: the root, or the parent of a folder of images."""
    folders = [root, *([root.absolute().parent] if root.name.startswith("images") else [])]
    return next((folder for folder in folders if (folder / FILE).is_file()), None)


def _check_suffix(home: Path, description: Mapping[str, Any]) -> None:
    ending = str(description.get("file_ending", SUFFIXES[0]))
    if not is_scan(ending):
        raise ValueError(
            f"{home / FILE} says that its files end in {ending!r}, and {', '.join(SUFFIXES)} are read. Convert the "
            "images and label maps to .nii.gz, and set file_ending."
        )


def name_channels(description: Mapping[str, Any]) -> dict[str, int]:
    """Returns channel name -> number; a name that several channels have gets its number behind it.

    Example:
        >>> name_channels({"channel_names": {"0": "T1", "1": "MR", "2": "MR"}})
        {'T1': 0, 'MR_1': 1, 'MR_2': 2}
    """
    named = description.get("channel_names", description.get("modality", {"0": "image"}))
    words = [str(name) for name in named.values()]
    pairs = zip(map(int, named), words, strict=True)
    return {name if words.count(name) == 1 else f"{name}_{number}": number for number, name in pairs}


def _find_channel(name: str, names: Mapping[str, int]) -> int:
    """Returns the number of a channel by its name, in any case, or by its number."""
    if name in names:
        return names[name]
    close = [number for known, number in names.items() if known.lower() == name.lower()]
    if len(close) == 1:
        return close[0]
    if name.isdigit() and int(name) in names.values():
        return int(name)
    raise unknown_choice(f"channel in {FILE}", name, names)


def _make_case(key: str, numbered: Mapping[int, Path], selected: Mapping[str, int], mask: Path | None) -> Case:
    files = {
        name: only_file([numbered[index]] if index in numbered else [], f"channel {name!r} (_{index:04d})", key, "")
        for name, index in selected.items()
    }
    return Case(key, key, files, mask)
