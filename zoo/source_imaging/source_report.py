"""Writes what was located in a recording as one HTML file: sources, pictures of the posterior, courses, repairs."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from zoo.reporting.report import Picture
    from zoo.source_imaging.located_sources import LocatedSources

_COLOURS = ("#c1121f", "#2a6f97", "#588157", "#bc6c25", "#6d597a")
_METHODS = {"network": "a network and dipoles", "sparse_bayes": "sparse Bayesian learning and dipoles"}


def write_report(located: "LocatedSources", path: str | os.PathLike, *, title: str = "EEG sources") -> Path:
    """Writes the report, one file that needs no other.

    Args:
        located: the result of `zoo.locate_sources`.
        path: the HTML file.
        title: heading of the page.

    Raises:
        ImportError: jinja2, matplotlib or nilearn is missing.

    Example:
        >>> write_report(zoo.locate_sources("sub-01-ave.fif"), "sub-01.html")  # doctest: +SKIP
        PosixPath('sub-01.html')
    """
    from zoo.reporting.report import Section, write_report

    where = "{:g} s".format(*located.time_s[:1])
    if located.time_s[0] != located.time_s[1]:
        where = "{:g} to {:g} s".format(*located.time_s)
    facts: dict[str, Any] = {
        "sources": len(located.sources),
        "time": where,
        "explained": f"{located.explained:.0%}",
        "noise": located.evidence.noise,
        "chance of noise": f"{located.evidence.chance:.2g}",
    }
    figures = [_draw_posterior(located)]
    if located.sources:
        figures.append(_draw_courses(located))
    probable = [{"sources": number, "probability": float(value)} for number, value in enumerate(located.counts)]
    remarks = [{"remark": text} for text in (*located.notes, *located.repairs)]
    return write_report(
        Path(path),
        title=title,
        lead=f"{located.status.capitalize()}, by {_METHODS[located.method]}.",
        facts=facts,
        sections=[
            Section("Sources", table=located.table(), note="" if located.sources else "No source above noise."),
            Section("Where and when", figures=figures),
            Section("How many", table=probable),
            Section("Notes and repairs", table=remarks),
        ],
    )


def _draw_posterior(located: "LocatedSources") -> "Picture":
    from zoo.reporting.report import Picture, png

    display = located.plot()
    figure = display.frame_axes.figure
    picture = Picture(png(figure), "Posterior on the MNI152 template; dots are the sources.")
    display.close()
    return picture


def _draw_courses(located: "LocatedSources") -> "Picture":
    from matplotlib.figure import Figure

    from zoo.reporting.report import Picture, png

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.axvspan(*(1000 * np.array(located.time_s)), color="#e9ecef")
    for number, course in enumerate(located.courses_nam):
        axis.plot(1000 * located.course_times_s, course, color=_COLOURS[number], label=f"source {number + 1}")
    axis.set(xlabel="time (ms)", ylabel="strength (nA m)")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return Picture(png(figure), "Strength of each source along its moment; the window is grey.")
