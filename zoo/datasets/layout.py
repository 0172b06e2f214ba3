"""Lists scans, reads tables, and words the errors for a missing or doubled file, for all readers."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from zoo.datasets.cases import Case
from zoo.datasets.left_out import unused_files
from zoo.volumes.scan_files import describe, is_hidden, is_scan, stem

Cells = dict[str, float | str]
MISSING = {"", "n/a", "na", "nan", "none"}


def find_scans(folder: Path, pattern: str = "**/*") -> list[Path]:
    """Lists the scans below a folder (NIfTI, MGH), sorted, without hidden files and those of macOS archives."""
    paths = (path for path in folder.glob(pattern) if is_scan(path) and not path.is_dir())
    return sorted(path for path in paths if not any(is_hidden(part) for part in path.relative_to(folder).parts))


def by_stem(paths: Sequence[Path], case: str) -> dict[str, Path]:
    """Returns the scans of one folder by their names without suffix.

    Raises:
        ValueError: two have one name, such as T1.nii and T1.nii.gz.
    """
    named: dict[str, Path] = {}
    for path in paths:
        other = named.setdefault(stem(path), path)
        if other != path:
            raise ValueError(f"Case {case} has {other.name} and {path.name}, two files of one name. Keep one of them.")
    return named


def only_file(paths: Sequence[Path], kind: str, case: str, advice: str) -> Path:
    """Returns the only file of a kind.

    Args:
        paths: the candidates.
        kind: what is looked for ("channel 'FLAIR'").
        case: id of the case.
        advice: what to do when there are several.

    Raises:
        ValueError: none or several, with their names.
    """
    if not paths:
        raise ValueError(f"Case {case} has no {kind}. Add the file, leave the case out, or ask for other channels.")
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise ValueError(f"Case {case} has {len(paths)} files for {kind}: {names}. {advice}")
    return paths[0]


def require_cases(cases: list[Case], root: Path, expected: str) -> list[Case]:
    """Returns the cases, of which there must be one or more.

    Raises:
        ValueError: none was found; `expected` says what was looked for.
    """
    if not cases:
        left_out = describe(unused_files(root, []), root)
        there = f"; {left_out}" if left_out else ""
        raise ValueError(
            f"{root} holds no case: {expected} was looked for{there}. Check the folder, or name another reader."
        )
    return cases


def read_object(path: Path) -> dict[str, Any]:
    """Reads the description of a data set; an empty dict where its JSON is no object.

    Raises:
        ValueError: the file is not JSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}). Repair it, or unpack the data set again.") from error
    return content if isinstance(content, dict) else {}


def read_table(path: Path, *, delimiter: str = ",") -> dict[str, Cells]:
    """Reads the rows of a table by their first column; numbers become floats, what is missing is left out.

    Args:
        path: a CSV or TSV file with a header; an empty dict is given where there is none, or nothing in it.
        delimiter: what stands between two cells.
    """
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file, delimiter=delimiter) if any(cell.strip() for cell in row)]
    names = [name.strip() for row in rows[:1] for name in row]
    return {row[0].strip(): _parse_cells(zip(names[1:], row[1:], strict=False)) for row in rows[1:]}


def read_row(path: Path) -> Cells:
    """Reads the only row of a CSV file with a header, as `read_table` does; keeps a column that names the rows."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    if len(rows) != 2:
        raise ValueError(f"{path} has {max(len(rows) - 1, 0)} rows below its header, and one is expected. Keep one.")
    return _parse_cells(zip((name.strip() for name in rows[0]), rows[1], strict=False))


def _parse_cells(pairs: Iterable[tuple[str, str]]) -> Cells:
    return {name: parse_cell(cell.strip()) for name, cell in pairs if cell.strip().lower() not in MISSING}


def parse_cell(cell: str) -> float | str:
    """Returns a float where the text is one.

    Example:
        >>> parse_cell("2.5"), parse_cell("2b")
        (2.5, '2b')
    """
    try:
        return float(cell)
    except ValueError:
        return cell
