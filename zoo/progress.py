"""Shows progress bars for long work; loads no framework."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress as bars
from rich.console import Console


@contextmanager
def progress_bar(title: str, *, shown: bool | None = None) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar on stderr that counts windows or cases.

    Args:
        title: the text before the bar.
        shown: whether to show it; None where stderr is a terminal.

    Yields:
        A function to call with (done, total).

    Example:
        >>> with progress_bar("Reading", shown=False) as report:
        ...     report(1, 3)
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
