"""Knows by their names which files are scans, lists a folder's, and explains why every other file is left out."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

WRITTEN = (".nii.gz", ".nii")
SUFFIXES = (*WRITTEN, ".mgz", ".mgh")
PAIRS = (".hdr", ".img", ".hdr.gz", ".img.gz")
DICOM = (".dcm", ".ima", ".dicom")
OTHERS = (".nrrd", ".nhdr", ".mha", ".mhd", ".mnc", ".par", ".rec", ".head", ".brik", ".gipl", ".v")
PAIR_ADVICE = "nib-convert NAME.hdr NAME.nii.gz, which comes with nibabel, makes NIfTI of it"
DICOM_ADVICE = "dcm2niix -z y -o OUT FOLDER makes NIfTI of its series"
NOT_HERE = "a link to a file that is not here; datalad get, or git annex get, fetches it"
RESULT = "a result of this model"
SHOWN = 3  # names of each reason
MOST_SEEN = 10_000  # entries of a sub-folder that are looked at for a scan


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that was not read as a scan, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Listing:
    """The scans of a folder, and what else there is.

    Attributes:
        scans: files with a suffix of `SUFFIXES`, sorted.
        left_out: every other visible file, and sub-folders with scans that were not searched.
    """

    scans: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def is_scan(path: str | os.PathLike) -> bool:
    """Returns whether a name ends as scans do: .nii, .nii.gz, .mgh or .mgz, in any case.

    Example:
        >>> is_scan("T1.NII.GZ"), is_scan("aseg.mgz"), is_scan("T1.hdr")
        (True, True, False)
    """
    return Path(path).name.lower().endswith(SUFFIXES)


def is_nifti(path: str | os.PathLike) -> bool:
    """Returns whether a name ends as results do: .nii or .nii.gz, in any case."""
    return Path(path).name.lower().endswith(WRITTEN)


def stem(path: str | os.PathLike) -> str:
    """Returns the name of a scan without its suffix.

    Example:
        >>> stem("sub-01/T1.v2.nii.gz"), stem("aseg.MGZ")
        ('T1.v2', 'aseg')
    """
    name = Path(path).name
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def is_hidden(part: str) -> bool:
    """Returns whether a file or folder is hidden, or left by a macOS archive."""
    return part.startswith(".") or part == "__MACOSX"


def list_scans(folder: Path, *, recursive: bool = False, results: Sequence[str] = ()) -> Listing:
    """Lists the scans of a folder, and says why all else in it is left out; hidden files are passed over.

    Args:
        folder: an existing folder.
        recursive: also search its sub-folders; otherwise those with scans in them are listed as left out.
        results: a file whose name without suffix ends in one of these is a result and left out.

    Example:
        >>> listing = list_scans(Path("scans"))  # doctest: +SKIP
        >>> describe(listing.left_out, Path("scans"))  # doctest: +SKIP
    """
    listing = Listing()
    for path in walk(folder) if recursive else sorted(folder.iterdir()):
        if is_hidden(path.name):
            continue
        if results and _strip_suffix(path).endswith(tuple(results)):
            listing.left_out.append(LeftOut(path, RESULT))
        elif path.is_dir():
            if holds_scans(path):
                listing.left_out.append(LeftOut(path, "a sub-folder with scans; --recursive searches it"))
        elif not is_scan(path) or not path.exists():
            listing.left_out.append(LeftOut(path, explain(path)))
        else:
            listing.scans.append(path)
    return listing


def _strip_suffix(path: Path) -> str:
    """Returns a name without its suffix, of a scan or of another file."""
    return stem(path) if is_scan(path) else path.stem


def walk(folder: Path) -> Iterator[Path]:
    """Yields every visible file below a folder in the order of its names; links to folders are not followed."""
    for home, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield from (Path(home, name) for name in sorted(names) if not is_hidden(name))


def holds_scans(folder: Path) -> bool:
    """Returns whether there is a scan in or below a folder, among its first ten thousand files."""
    return any(is_scan(path) for path in itertools.islice(walk(folder), MOST_SEEN))


def explain(path: Path) -> str:
    """Returns why a file is not read as a scan, and what makes one of it."""
    name = path.name.lower()
    if not path.exists():
        return NOT_HERE
    if name.endswith(PAIRS):
        return f"half of an Analyze pair; {PAIR_ADVICE}"
    if name.endswith(DICOM) or _begins_as_dicom(path):
        return f"DICOM; {DICOM_ADVICE}"
    if name.endswith(OTHERS):
        return "a scan in another format; convert it to .nii.gz"
    return "not a scan"


def _begins_as_dicom(path: Path) -> bool:
    """Returns whether a file without a suffix, as scanners export it, is DICOM; suffixes of numbers are none."""
    if path.suffix and not path.suffix[1:].isdigit():
        return False
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def describe(left_out: Iterable[LeftOut], folder: Path) -> str:
    """Returns one line on what was left out, by reason; nothing where all was read.

    Args:
        left_out: files and folders in or below `folder`.
        folder: names are given from there on.

    Example:
        >>> describe([LeftOut(Path("scans/notes.txt"), "not a scan")], Path("scans"))
        'left out 1 file: notes.txt (not a scan)'
    """
    by_reason: dict[str, list[Path]] = {}
    for item in left_out:
        by_reason.setdefault(item.reason, []).append(item.path)
    if not by_reason:
        return ""
    paths = [path for group in by_reason.values() for path in group]
    num_folders = sum(path.is_dir() for path in paths)
    counts = [_count(len(paths) - num_folders, "file"), _count(num_folders, "folder")]
    parts = [f"{_list_names(group, folder)} ({reason})" for reason, group in by_reason.items()]
    return f"left out {' and '.join(filter(None, counts))}: {', '.join(parts)}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}" if number else ""


def _list_names(paths: Sequence[Path], folder: Path) -> str:
    names = [path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name for path in paths]
    more = len(names) - SHOWN
    # One name more takes no more room than saying that there is one.
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:SHOWN])} and {more:,} more"
