"""Runs a BIDS-App: keeps finished cases, hands the rest to an executor, and logs every case."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path

from zoo.errors import collect_warnings, to_line
from zoo.files import write_whole
from zoo.hub import result_record
from zoo.progress import progress_bar
from zoo.workflows.bids_app import executors
from zoo.workflows.bids_app.plan import PlannedCase
from zoo.workflows.bids_app.results import CohortRecipe, Outcome, is_finished

COLUMNS = tuple(item.name for item in fields(Outcome))


def find_finished(cases: Sequence[PlannedCase], recipe: CohortRecipe) -> list[PlannedCase]:
    """Returns the cases that an earlier run finished; several threads read each file to its end.

    Raises:
        ValueError: some were made by other weights or in another way.
    """
    with collect_warnings(), ThreadPoolExecutor() as pool:  # of results, whose headers are those of their scans
        kept = list(pool.map(lambda work: is_finished(work, recipe), cases))
    return [work for work, whole in zip(cases, kept, strict=True) if whole]


def run(
    cases: Sequence[PlannedCase],
    recipe: CohortRecipe,
    *,
    log: Path,
    kept: Sequence[PlannedCase] = (),
    failed: Mapping[str, str] | None = None,
    jobs: int = 1,
    address: str = "",
    progress: bool | None = None,
) -> list[Outcome]:
    """Runs the cases, and writes each outcome into the log at once.

    Args:
        cases: to run.
        recipe: how to run them.
        log: a TSV file, begun anew.
        kept: cases that are finished already.
        failed: name of a case -> why it cannot be done.
        jobs: processes, or workers of a cluster.
        address: of a Ray cluster; "" for this machine.
        progress: show a bar on stderr; None when that is a terminal.

    Returns:
        The outcomes of all cases, sorted by name.

    Raises:
        ValueError, OSError, ImportError: a fault that stops every case (no such weights, no cluster).
    """
    earlier = [_keep(work, recipe.target(work)) for work in kept]
    earlier += [Outcome(name, "failed", error=error) for name, error in (failed or {}).items()]
    write_whole(log, "".join([_join_cells(COLUMNS), *map(_format_row, earlier)]).encode())
    done: list[Outcome] = []
    with log.open("a", encoding="utf-8") as file, progress_bar(recipe.card.name, shown=progress) as show:
        for outcome in _choose_executor(cases, recipe, jobs, address):
            done.append(outcome)
            file.write(_format_row(outcome))
            file.flush()
            show(len(done), len(cases))
    return sorted(earlier + done, key=lambda outcome: outcome.case)


def _keep(work: PlannedCase, target: Path) -> Outcome:
    warned = result_record.recorded_warnings(result_record.read(target))
    return Outcome(work.name, "kept", output=str(target), warnings=tuple(map(to_line, warned)))


def _choose_executor(cases: Sequence[PlannedCase], recipe: CohortRecipe, jobs: int, address: str) -> Iterator[Outcome]:
    if not cases:
        return iter(())
    if address:
        return executors.run_on_ray(cases, recipe, jobs, address)
    return (
        executors.run_here(cases, recipe)
        if jobs == 1
        else executors.run_in_processes(cases, recipe, min(jobs, len(cases)))
    )


def _format_row(outcome: Outcome) -> str:
    row = asdict(outcome) | {"warnings": "; ".join(outcome.warnings)}
    return _join_cells("n/a" if value in ("", None) else str(value) for value in row.values())


def _join_cells(cells: Iterable[str]) -> str:
    return "\t".join(" ".join(cell.split()) for cell in cells) + "\n"
