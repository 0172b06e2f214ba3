"""Writes the report of an evaluation as one self-contained HTML page with sortable, printable tables."""

import base64
import dataclasses
import importlib.resources
import io
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo.files import write_whole

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG and its caption."""

    png: bytes
    caption: str

    @property
    def data(self) -> str:
        """Returns the PNG in base64, for a data URL."""
        return base64.b64encode(self.png).decode()


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the page: a heading and, each optional, a note, a table, pictures and thumbnails."""

    title: str
    note: str = ""
    table: Sequence[Row] = ()
    figures: Sequence[Picture] = ()
    thumbnails: Sequence[Picture] = ()

    @property
    def columns(self) -> list[str]:
        """Returns the columns of the table, in order of first appearance."""
        return list(dict.fromkeys(key for row in self.table for key in row))

    @property
    def rows(self) -> list[list[dict[str, Any]]]:
        """Returns the cells, each with the value to sort by and the text to show."""
        return [[cell(row.get(column, "")) for column in self.columns] for row in self.table]


def cell(value: Any) -> dict[str, Any]:
    """Returns how a value is sorted and shown; a missing number is a dash, never zero."""
    if isinstance(value, float | np.floating):
        value = float(value)
        if math.isnan(value):
            return {"value": "", "shown": "–", "text": False}
        digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 3 if abs(value) < 10 else 2
        return {"value": repr(value), "shown": f"{value:.{digits}f}", "text": False}
    number = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return {"value": str(value), "shown": str(value), "text": not number}


def write_report(
    path: str | pathlib.Path, *, title: str, lead: str, facts: Mapping[str, Any], sections: Sequence[Section]
) -> pathlib.Path:
    """Writes the page, whole or not at all.

    Args:
        path: the HTML file.
        title: heading of the page.
        lead: one or two sentences below it.
        facts: short name -> value, shown as cards at the top.
        sections: the parts, in order; those without table, note and pictures are left out.

    Returns:
        The path.

    Raises:
        ImportError: jinja2 is missing.
    """
    try:
        import jinja2
    except ImportError as error:
        raise ImportError("The report needs jinja2 and matplotlib: pip install 'zoo3d[report]'.") from error
    source = importlib.resources.files("zoo.reporting").joinpath("report.html").read_text(encoding="utf-8")
    page = jinja2.Environment(autoescape=True).from_string(source)
    filled = [section for section in sections if section.table or section.figures or section.thumbnails or section.note]
    text = page.render(
        title=title,
        lead=lead,
        facts=facts,
        sections=filled,
        footer="Made by zoo. Research use, not for diagnosis.",
    )
    return write_whole(path, text.encode())


def png(figure: Any) -> bytes:
    """Returns a matplotlib figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def draw_distributions(values: Mapping[str, Sequence[float]], *, label: str, caption: str) -> Picture:
    """Draws one row a group: every case as a dot, the quartiles as a box; groups in their order in `values`.

    Args:
        values: group -> one number a case; NaN is left out and its count is written.
        label: name of the axis, with its unit.
        caption: what the picture shows.
    """
    from matplotlib.figure import Figure

    groups = list(values)[::-1]
    figure = Figure(figsize=(9, 1.1 + 0.32 * len(groups)), layout="constrained")
    axis = figure.subplots()
    for row, group in enumerate(groups):
        numbers = np.asarray(values[group], float)
        known = numbers[np.isfinite(numbers)]
        spread = np.random.default_rng(row).uniform(-0.18, 0.18, known.size)
        axis.plot(known, row + spread, ".", color="#2a6f97", alpha=0.6, markersize=5)
        if known.size > 2:
            box: dict[str, Any] = {"widths": 0.55, "showfliers": False, "medianprops": {"color": "#c1121f"}}
            axis.boxplot(known, positions=[row], orientation="horizontal", manage_ticks=False, **box)
        if known.size < numbers.size:
            axis.annotate(f"{numbers.size - known.size} not measurable", (1, row), xycoords=("axes fraction", "data"))
    axis.set(yticks=range(len(groups)), yticklabels=groups, xlabel=label)
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    return Picture(png(figure), caption)


def draw_calibration(confidence: Sequence[float], correct: Sequence[float], count: Sequence[int]) -> Picture:
    """Draws accuracy against predicted probability, one point a bin, with an area after its share of voxels.

    Args:
        confidence: mean probability of the predicted label in each bin.
        correct: fraction of voxels of the bin whose label is right.
        count: voxels of the bin.
    """
    from matplotlib.figure import Figure

    sure, right, n = (np.asarray(values, float) for values in (confidence, correct, count))
    error = float(np.sum(n * np.abs(sure - right)) / max(n.sum(), 1))
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1)
    axis.plot(sure, right, color="#2a6f97", linewidth=1)
    axis.scatter(sure, right, s=15 + 300 * n / max(n.sum(), 1), color="#2a6f97", alpha=0.7)
    axis.set(
        xlabel="stated probability of the chosen label",
        ylabel="fraction that is right",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    axis.set_aspect("equal")
    axis.spines[["top", "right"]].set_visible(False)
    return Picture(png(figure), f"Calibration over {int(n.sum()):,} voxels; expected calibration error {error:.3f}.")
