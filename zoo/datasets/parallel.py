"""Works through cases on threads: progress, and a line for each bad case in place of a stop."""

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

from zoo.datasets.cases import Case

Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """A case that was left out, and why."""

    case: str
    reason: str


def convert(
    cases: Sequence[Case],
    work: Callable[[Case], Result],
    title: str,
    *,
    num_threads: int | None = None,
    quiet: bool = False,
) -> tuple[list[Result], list[Failure]]:
    """Converts each case in a pool of threads; decompression and NumPy release Python's lock, so they run in parallel.

    Args:
        cases: what to work through.
        work: may raise ValueError or OSError for a bad case.
        title: of the progress bar, which a terminal shows.
        num_threads: None takes one a core.
        quiet: bad cases are the caller's to report, even where all are bad.

    Returns:
        The results in the order of the cases, bad ones left out, and the bad ones.

    Raises:
        ValueError: every case was bad.
    """
    results: dict[int, Result] = {}
    failures: dict[int, Failure] = {}
    bar = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with bar, ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
        running = bar.add_task(title, total=len(cases))
        numbers = {pool.submit(work, case): number for number, case in enumerate(cases)}
        try:
            for future in as_completed(numbers):
                number = numbers.pop(future)
                try:
                    results[number] = future.result()
                except (ValueError, OSError) as error:
                    failures[number] = Failure(cases[number].id, str(error))
                bar.advance(running)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    bad = [failures[number] for number in sorted(failures)]
    if not quiet:
        _tell(bad, len(cases))
    return [results[number] for number in sorted(results)], bad


def _tell(bad: Sequence[Failure], num_cases: int) -> None:
    if not bad:
        return
    lines = "\n".join(f"  {failure.case}: {failure.reason}" for failure in bad)
    if len(bad) == num_cases:
        raise ValueError(f"None of {num_cases} cases can be used:\n{lines}")
    print(f"{len(bad)} of {num_cases} cases were left out:\n{lines}", file=sys.stderr)
