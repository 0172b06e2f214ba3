"""What several layouts share: listing NIfTI files, tables, and the words for a missing or doubled file."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from zoo.datasets.cases import NIFTI, Case

Cells = dict[str, float | str]
MISSING = {"", "n/a", "na", "nan", "none"}


def nifti_files(folder: Path, pattern: str = "**/*") -> list[Path]:
    """NIfTI files below a folder, sorted; hidden files and what macOS leaves behind are not looked at."""
    found = (path for path in folder.glob(pattern) if path.name.endswith(NIFTI))
    return sorted(path for path in found if not any(_hidden(part) for part in path.relative_to(folder).parts))


def _hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


def one(found: Sequence[Path], what: str, case: str, advice: str) -> Path:
    """The only file of a kind.

    Args:
        found: the candidates.
        what: what is looked for ("channel 'FLAIR'").
        case: id of the case.
        advice: what to do when there are several.

    Raises:
        ValueError: none or several, with their names.
    """
    if not found:
        raise ValueError(f"Case {case} has no {what}. Add the file, leave the case out, or ask for other channels.")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"Case {case} has {len(found)} files for {what}: {names}. {advice}")
    return found[0]


def some(cases: list[Case], root: Path, expected: str) -> list[Case]:
    """The cases, of which there must be one or more.

    Raises:
        ValueError: none was found; `expected` says what was looked for.
    """
    if not cases:
        raise ValueError(f"{root} holds no case: {expected} was looked for. Check the folder, or name another reader.")
    return cases


def table(path: Path, *, delimiter: str = ",") -> dict[str, Cells]:
    """Rows of a table by their first column; numbers become floats, what is missing is left out.

    Args:
        path: a CSV or TSV file with a header; an empty dict is given where there is none.
        delimiter: what stands between two cells.
    """
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        header, *rows = [row for row in csv.reader(file, delimiter=delimiter) if any(cell.strip() for cell in row)]
    names = [name.strip() for name in header]
    return {row[0].strip(): _cells(zip(names[1:], row[1:], strict=False)) for row in rows}


def row_of(path: Path) -> Cells:
    """The only row of a CSV file with a header, as `table` reads one; a column that names the rows counts too."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    if len(rows) != 2:
        raise ValueError(f"{path} has {max(len(rows) - 1, 0)} rows below its header, and one is expected. Keep one.")
    return _cells(zip((name.strip() for name in rows[0]), rows[1], strict=False))


def _cells(pairs: Iterable[tuple[str, str]]) -> Cells:
    return {name: number(cell.strip()) for name, cell in pairs if cell.strip().lower() not in MISSING}


def number(cell: str) -> float | str:
    """A float where the text is one."""
    try:
        return float(cell)
    except ValueError:
        return cell
