"""Accounts for the files of a data set that no case uses, so that none is lost without a word."""

import functools
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from zoo.datasets.cases import Case
from zoo.volumes.scan_files import LeftOut, describe, explain, is_scan, walk

SIDECARS = (".json", ".tsv", ".csv", ".bval", ".bvec", ".md", ".rst", ".bidsignore")  # text beside the scans
DOCUMENTS = {"readme", "changes", "license", "citation", "dataset_description"}
OWN_FOLDERS = ("sourcedata", "code", "stimuli")  # of BIDS, which hold no images to be read
UNUSED = "no channel or label map of a case"
PARTS = "complex parts, which show no anatomy: name part-... in the channel's pattern to read one"
_PART = re.compile(r"_part-(phase|real|imag)_")


def unused_files(root: Path, cases: Sequence[Case]) -> list[LeftOut]:
    """Lists the files of a data set that no case uses, each with the reason; tables and other sidecars are no scans.

    Args:
        root: the data set.
        cases: as a reader listed them.
    """
    used = {path.absolute() for case in cases for path in case.files}
    paths = [path for path in walk(root) if path.absolute() not in used and not _is_sidecar(path, root)]
    return [LeftOut(path, _explain_unused(path)) for path in paths]


def _is_sidecar(path: Path, root: Path) -> bool:
    return (
        path.relative_to(root).parts[0] in OWN_FOLDERS
        or path.name.lower().endswith(SIDECARS)
        or path.name.lower().split(".")[0] in DOCUMENTS
    )


def _explain_unused(path: Path) -> str:
    if not is_scan(path) or not path.exists():
        return explain(path)
    return PARTS if _PART.search(path.name) else UNUSED


def tell_unused(root: str | os.PathLike, cases: Sequence[Case]) -> None:
    """Prints one line on stderr about the files of a data set that no case uses, once a process.

    Args:
        root: the data set.
        cases: as a reader listed them.
    """
    text = describe(unused_files(Path(root), cases), Path(root))
    if text:
        tell_once(f"{root}: {text}")


def only_labelled(cases: Sequence[Case], source: str | os.PathLike) -> list[Case]:
    """Returns the cases that have a label map, and prints which have none.

    Args:
        cases: as a reader listed them.
        source: the data set, for the line.
    """
    without = [case.id for case in cases if case.labels is None]
    if without and len(without) < len(cases):
        names = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
        tell_once(f"{source}: left out {len(without)} of {len(cases)} cases, which have no label map: {names}")
    return [case for case in cases if case.labels is not None]


@functools.cache
def tell_once(text: str) -> None:
    """Prints a line on stderr the first time that a process has it to say."""
    print(text, file=sys.stderr)
