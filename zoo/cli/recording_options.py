"""The options of `zoo predict` for EEG recordings, and how they are parsed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zoo.cli.terminal import UsageError
from zoo.hub.card import Card

if TYPE_CHECKING:
    from zoo.workflows.recording_runner import SourceChoices

PANEL = "EEG recordings"

Time = Annotated[
    float | None, typer.Option(metavar="S", help="Locate the field at this time, in s.", rich_help_panel=PANEL)
]
Window = Annotated[
    str,
    typer.Option(metavar="FIRST,LAST", help="Locate all samples between two times, in s.", rich_help_panel=PANEL),
]
Condition = Annotated[
    str,
    typer.Option(metavar="NAME", help="Locate one average, kind of epochs or event; else each.", rich_help_panel=PANEL),
]
Count = Annotated[
    str,
    typer.Option(
        metavar="N|pair", help="Number of sources, if you know it: 1 to 5, or a mirrored pair.", rich_help_panel=PANEL
    ),
]
Forward = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Your own head: an mne forward solution.", rich_help_panel=PANEL)
]
NoiseCov = Annotated[
    Path | None,
    typer.Option("--noise-cov", metavar="FILE", help="Covariance of the noise, of mne.", rich_help_panel=PANEL),
]
Report = Annotated[bool, typer.Option("--report", help="Also write NAME_report.html.", rich_help_panel=PANEL)]
Method = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="network, sparse_bayes, or auto: sparse_bayes for windows.", rich_help_panel=PANEL
    ),
]


def parse_choices(  # noqa: PLR0913 - the choices of a command, each an option
    card: Card,
    *,
    time: float | None,
    window: str,
    condition: str,
    count: str,
    forward: Path | None,
    noise_cov: Path | None,
    method: str,
    report: bool = False,
) -> "SourceChoices | None":
    """Returns what to locate in a recording; None for a model of something else.

    Raises:
        UsageError: options for a model that locates no sources, a time and a window, a window of another form, a count
            that is not 1 to 5 or pair, another method, or a file that is not there.
    """
    if not _check_kind(
        card, time is not None or window or condition or count or forward or noise_cov or method != "auto" or report
    ):
        return None
    from zoo.source_imaging.answer import METHODS
    from zoo.workflows.recording_runner import SourceChoices

    if time is not None and window:
        raise UsageError(f"--time {time:g} and --window {window} exclude each other.")
    if method not in METHODS:
        raise UsageError(f"--method is {', '.join(METHODS)}, got {method!r}.")
    number = _parse_count(count)
    if number == "pair" and method == "network":
        raise UsageError("--count pair needs --method sparse_bayes or auto: networks know of no symmetry.")
    for option, path in (("--forward", forward), ("--noise-cov", noise_cov)):
        if path is not None and not path.exists():
            raise UsageError(f"{option}: there is no file {str(path)!r}.")
    times = _parse_window(window) if window else time
    return SourceChoices(times, condition or None, number, forward, noise_cov, method, report)


def _check_kind(card: Card, given: object) -> bool:
    """Returns whether a model locates sources; refuses options of recordings for another."""
    if card.output.kind == "sources":
        return True
    if given:
        options = "--time, --window, --condition, --count, --forward, --noise-cov, --method and --report"
        raise UsageError(f"{options} are for models that locate sources of EEG; {card.name} gives {card.output.kind}.")
    return False


def _parse_count(text: str) -> int | Literal["pair"] | None:
    if text == "pair":
        return "pair"
    if text and text not in ("1", "2", "3", "4", "5"):
        raise UsageError(f"--count is the number of sources, 1 to 5, or pair, got {text}.")
    return int(text) if text else None


def _parse_window(text: str) -> tuple[float, float]:
    try:
        first, last = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--window is FIRST,LAST in s, as in 0.08,0.12, got {text!r}.") from None
    return first, last
