"""The bar that long work shows; no framework is loaded for it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress as bars
from rich.console import Console


@contextmanager
def progress_bar(title: str, *, shown: bool | None = None) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr that counts windows, or cases.

    Args:
        title: what stands before it.
        shown: None for "when stderr is a terminal".

    Yields:
        A function to call with (done, all).
    """
    shown = sys.stderr.isatty() if shown is None else shown
    with bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeRemainingColumn(),
        console=Console(stderr=True, force_terminal=shown or None),
        disable=not shown,
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
