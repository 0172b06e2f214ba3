"""Parses the scans and values that a command line names, once, into cases by name."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo import errors, tasks
from zoo.cli.terminal import UsageError, framework, usage_errors
from zoo.hub.card import Card
from zoo.hub.tabular import encode
from zoo.volumes.scan_files import stem

EEG_SUFFIX = re.compile(
    r"([-_](ave|epo|eeg|raw|meg))*(\.(fif|set|vhdr|edf|bdf|gdf|cnt|mff|nxe|eeg|raw))?(\.gz)?$", re.IGNORECASE
)


def parse_cases(scans: Sequence[str], card: Card, *, recursive: bool = False) -> dict[str, Any]:
    """Returns the cases that the arguments name, as the runner of the model takes them.

    Args:
        scans: "scan.nii.gz", "folder" or "T1w=scan.nii.gz"; for several channels a folder is a data set; EEG files for
            a model that locates sources.
        card: of the model.
        recursive: also search the sub-folders of a folder; names of cases then begin with them.

    Raises:
        UsageError: a path that is not there, a recursive search of files, channels that are not those of the card, no
            cases, or two of one name.
    """
    if recursive and not (len(scans) == 1 and Path(scans[0]).is_dir() and card.output.kind != "sources"):
        raise UsageError(f"--recursive searches one folder of scans, got {' '.join(scans)!r}.")
    return parse_recordings(scans) if card.output.kind == "sources" else parse_scans(scans, card, recursive=recursive)


def parse_recordings(files: Sequence[str]) -> dict[str, Path]:
    """Returns EEG files by the name that their results have.

    Raises:
        UsageError: no such file, or two of one name.
    """
    recordings: dict[str, Path] = {}
    for path in map(Path, files):
        name = EEG_SUFFIX.sub("", path.name)
        if not path.exists():
            raise UsageError(f"There is no file {str(path)!r}.")
        if name in recordings:
            raise UsageError(f"Two recordings would both be called {name!r}. Give them one at a time.")
        recordings[name] = path
    return recordings


def parse_scans(scans: Sequence[str], card: Card, *, recursive: bool = False) -> dict[str, Any]:
    """Returns cases by name: paths, files by channel, or cases of a data set.

    Raises:
        UsageError: as `parse_cases`.
    """
    from zoo.inference.inputs import find_cases

    pairs = [_split_channel(scan) for scan in scans]
    for _, path in pairs:
        if not path.exists():
            raise UsageError(f"There is no file or folder {str(path)!r}.")
    channels = [channel.name for channel in card.input.channels]
    if any(channel for channel, _ in pairs) or (len(channels) > 1 and not _is_folder(pairs)):
        _check_channels([channel for channel, _ in pairs], channels, card.name, " ".join(scans))
        return {stem(pairs[0][1]): {str(channel): path for channel, path in pairs}}
    paths = [path for _, path in pairs]
    with usage_errors(ValueError, FileNotFoundError):
        listed = _list_cases(paths, card, recursive=recursive)
        return find_cases(listed, ignore=f"_{card.name.split('.')[-1]}", recursive=recursive)


def _is_folder(pairs: Sequence[tuple[str | None, Path]]) -> bool:
    return len(pairs) == 1 and pairs[0][1].is_dir()


def _list_cases(paths: Sequence[Path], card: Card, *, recursive: bool) -> Any:
    """Returns a folder, files, or the cases of a data set, which a folder is for a model of several channels."""
    if len(paths) > 1:
        folders = [path for path in paths if path.is_dir()]
        if folders:
            file = next((path.name for path in paths if path.is_file()), paths[0].name)
            raise UsageError(f"Pass several NIfTI files or one folder, not both: got {file} and {folders[-1].name}/.")
        return paths
    if paths[0].is_file() or len(card.input.channels) == 1:
        return paths[0]
    from zoo.datasets.left_out import tell_unused

    cases = _read_data_set(paths[0], card, recursive=recursive)
    tell_unused(paths[0], cases)
    return cases


def _read_data_set(folder: Path, card: Card, *, recursive: bool) -> Any:
    """Lists the cases of a data set, as the model's task reads it where there is one."""
    from zoo.datasets.cases import fitting

    names = [channel.name for channel in card.input.channels]
    if card.task not in tasks.names():
        return fitting(folder, names, recursive=recursive)
    with framework():
        data = tasks.task(card.task).data
    return fitting(folder, names, reader=data.reader, patterns=data.patterns, recursive=recursive)


def _check_channels(received: Sequence[str | None], channels: Sequence[str], model: str, words: str) -> None:
    """Refuses channels that are not, each once, those of the model."""
    for channel in received:
        if channel and channel not in channels:
            raise UsageError(str(errors.unknown_choice("channel", channel, channels)))
    if sorted(map(str, received)) != sorted(channels):
        example = " ".join(f"{name}=FILE" for name in channels)
        missing = [name for name in channels if name not in received]
        fault = f"{', '.join(missing)} is missing in" if missing and any(received) else "got"
        raise UsageError(f"{model} takes {example}, each once, or the folder of a data set; {fault} {words!r}.")


def _split_channel(scan: str) -> tuple[str | None, Path]:
    """Splits `T1w=scan.nii.gz` into channel and path; a file whose name has such a form is a file."""
    match = re.fullmatch(r"([A-Za-z0-9_.-]+)=(.+)", scan)
    return (None, Path(scan)) if match is None or Path(scan).exists() else (match[1], Path(match[2]))


def parse_tabular(text: str, card: Card) -> Mapping[str, str]:
    """Returns the values of "--tabular age=71,tici=2b", checked against the card.

    Raises:
        UsageError: another form, a name twice, or what `zoo.hub.tabular.encode` refuses.
    """
    values: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not name or not equals or name in values:
            raise UsageError(f"--tabular is NAME=VALUE,NAME=VALUE, each name once; got {text!r}.")
        values[name] = value
    if values and not card.input.tabular:
        raise UsageError(f"{card.name} takes no tabular values, got {text!r}. Leave --tabular out.")
    with usage_errors(ValueError):
        encode(card.input.tabular, values)
    return values
