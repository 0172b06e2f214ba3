"""The options of `zoo predict` for EEG recordings, and how they are parsed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    typer.Option(metavar="FIRST,LAST", help="Locate the main field between two times, in s.", rich_help_panel=PANEL),
]
Condition = Annotated[
    str,
    typer.Option(metavar="NAME", help="Locate one average, kind of epochs or event; else each.", rich_help_panel=PANEL),
]
Count = Annotated[
    int | None, typer.Option(metavar="N", help="Number of sources, if you know it: 1 to 5.", rich_help_panel=PANEL)
]
Forward = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Your own head: an mne forward solution.", rich_help_panel=PANEL)
]
NoiseCov = Annotated[
    Path | None,
    typer.Option("--noise-cov", metavar="FILE", help="Covariance of the noise, of mne.", rich_help_panel=PANEL),
]


def parse_choices(
    card: Card,
    *,
    time: float | None,
    window: str,
    condition: str,
    count: int | None,
    forward: Path | None,
    noise_cov: Path | None,
) -> "SourceChoices | None":
    """Returns what to locate in a recording; None for a model of something else.

    Raises:
        UsageError: options for a model that locates no sources, a time and a window, a window of another form, a count
            that is not 1 to 5, or a file that is not there.
    """
    if not _check_kind(card, time is not None or window or condition or count is not None or forward or noise_cov):
        return None
    from zoo.workflows.recording_runner import SourceChoices

    if time is not None and window:
        raise UsageError(f"--time {time:g} and --window {window} exclude each other.")
    if count is not None and not 1 <= count <= 5:
        raise UsageError(f"--count is the number of sources, 1 to 5, got {count}.")
    for option, path in (("--forward", forward), ("--noise-cov", noise_cov)):
        if path is not None and not path.exists():
            raise UsageError(f"{option}: there is no file {str(path)!r}.")
    times = _parse_window(window) if window else time
    return SourceChoices(times, condition or None, count, forward, noise_cov)


def _check_kind(card: Card, given: object) -> bool:
    """Returns whether a model locates sources; refuses options of recordings for another."""
    if card.output.kind == "sources":
        return True
    if given:
        options = "--time, --window, --condition, --count, --forward and --noise-cov"
        raise UsageError(f"{options} are for models that locate sources of EEG; {card.name} gives {card.output.kind}.")
    return False


def _parse_window(text: str) -> tuple[float, float]:
    try:
        first, last = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--window is FIRST,LAST in s, as in 0.08,0.12, got {text!r}.") from None
    return first, last
