"""Lists the cases of a data set, each one set of images of one subject, without opening a voxel."""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

from zoo.errors import unknown_choice
from zoo.volumes.scan_files import is_scan
from zoo.volumes.scan_files import stem as stem


@dataclass(frozen=True)
class Case:
    """The files of one case.

    Attributes:
        id: unique in its data set ("sub-01_ses-02").
        subject: whose brain it is; all cases of a subject go into the same fold.
        channels: channel name -> file, in the order of the last tensor axis.
        labels: file of the label map, None where there is none.
        tabular: numbers and words about the case (age, time to treatment); what is missing is left out.
        volumes: channel name -> index along the fourth axis, for channels that share a 4D file.
    """

    id: str
    subject: str
    channels: dict[str, Path]
    labels: Path | None = None
    tabular: dict[str, float | str] = field(default_factory=dict)
    volumes: dict[str, int] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """Every file of the case once: channels in order, then labels."""
        paths = [*self.channels.values(), *([self.labels] if self.labels else [])]
        return list(dict.fromkeys(paths))


def readers() -> list[str]:
    """Lists the names of all readers: the files in `zoo/datasets/readers`.

    Example:
        >>> "bids" in readers()
        True
    """
    package = importlib.import_module("zoo.datasets.readers")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "layout")


def cases(
    source: str | Path,
    *,
    reader: str | None = None,
    channels: Mapping[str, str] | None = None,
    labels: str | None = None,
    recursive: bool = False,
) -> list[Case]:
    """Lists the cases of a data set.

    Args:
        source: the data set's folder.
        reader: name of its layout ("bids"); None looks at the files.
        channels: channel name -> what the reader calls it: a pattern (folder), entities and a suffix (bids), a
            modality (decathlon, isles2017, nnunet, valdo). None takes every channel that there is.
        labels: the same for the label map.
        recursive: in a plain folder without patterns, also take sub-folders of sub-folders as cases.

    Returns:
        The cases, sorted by id.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no reader of that name, no layout or several recognised, or a channel is missing somewhere.
    """
    root = Path(source)
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}. Name the folder that holds the data set.")
    name = reader or detect(root)
    deeper = {"recursive": True} if recursive and name == "folder" else {}
    listed = _load_reader(name).read(root, channels=channels, labels=labels, **deeper)
    return sorted(listed, key=lambda case: case.id)


def fitting(
    source: str | Path,
    names: Sequence[str],
    *,
    reader: str | None = None,
    patterns: Mapping[str, str] | None = None,
    recursive: bool = False,
) -> list[Case]:
    """Lists the cases of a data set for a network of certain channels.

    Args:
        source: the data set's folder.
        names: of the network's channels. Where there are several, a reader is asked for these; the plain folder, and
            any for a single channel, gives what there is. A single channel is called so, whatever its file is called.
        reader: name of its layout; None looks at the files.
        patterns: channel name, or "labels" -> what the reader calls it, where that differs.
        recursive: as `cases` takes it.

    Returns:
        The cases, sorted by id.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: as `cases`.
    """
    channel_patterns = dict(patterns or {})
    labels = channel_patterns.pop("labels", None)
    layout = (reader or detect(source)) if Path(source).is_dir() else "folder"
    # A single channel may have any name; where a BIDS suffix has its own, images beside it are not asked for.
    has_own_name = layout == "bids" and any(map(is_scan, Path(source).rglob(f"*_{names[0]}.*")))
    if layout != "folder" and (len(names) > 1 or has_own_name):
        channel_patterns = {name: channel_patterns.get(name, name) for name in names}
    listed = cases(source, reader=reader, channels=channel_patterns or None, labels=labels, recursive=recursive)
    return [_rename_only_channel(case, names[0]) for case in listed] if len(names) == 1 else listed


def _rename_only_channel(case: Case, name: str) -> Case:
    """Returns the case with its channel under another name, where it has one alone."""
    if len(case.channels) != 1:
        return case
    ((theirs, path),) = case.channels.items()
    return replace(case, channels={name: path}, volumes={name: case.volumes[theirs]} if case.volumes else {})


def detect(root: str | Path) -> str:
    """Returns the name of the reader whose layout a folder has; "folder" where no other fits.

    Raises:
        ValueError: two layouts fit.
    """
    fitting = [name for name in readers() if _load_reader(name).fits(Path(root))]
    if len(fitting) > 1:
        raise ValueError(f"{root} could be {' or '.join(fitting)}. Choose with reader={fitting[0]!r}.")
    return fitting[0] if fitting else "folder"


def _load_reader(name: str) -> ModuleType:
    if name not in readers():
        raise unknown_choice("reader", name, readers())
    return importlib.import_module(f"zoo.datasets.readers.{name}")
