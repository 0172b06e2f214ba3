"""Writes files whole or not at all."""

import csv
import io
import math
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_whole(path: str | os.PathLike, content: bytes) -> Path:
    """Writes a file whole or not at all: into a hidden name beside it, forced to the disk, then renamed.

    Returns:
        The file's path; a file that was there is replaced.

    Raises:
        OSError: the disk is full or the folder cannot be written; what was there is kept.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        told = f"{path} could not be written ({error.strerror}); what was there is kept."
        raise type(error)(error.errno, told) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, with every column that occurs; what is not defined is an empty cell."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({key: "" if is_missing(value) else value for key, value in row.items()})
    return text.getvalue()


def is_missing(value: Any) -> bool:
    """Whether a number is not defined: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))
