"""The run of a BIDS-App: what is finished is kept, the rest is shared out, and every case ends in the log."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path

from zoo.files import write_whole
from zoo.progress import progress_bar
from zoo.workflows.bids_app import executors
from zoo.workflows.bids_app.plan import Work
from zoo.workflows.bids_app.results import Outcome, Recipe, is_finished

COLUMNS = tuple(item.name for item in fields(Outcome))


def finished(works: Sequence[Work], recipe: Recipe) -> list[Work]:
    """The cases that an earlier run finished; read by several threads, since each file is read to its end.

    Raises:
        ValueError: some were made by other weights or in another way.
    """
    with ThreadPoolExecutor() as pool:
        kept = list(pool.map(lambda work: is_finished(work, recipe), works))
    return [work for work, whole in zip(works, kept, strict=True) if whole]


def run(
    works: Sequence[Work],
    recipe: Recipe,
    *,
    log: Path,
    kept: Sequence[Work] = (),
    failed: Mapping[str, str] | None = None,
    jobs: int = 1,
    address: str = "",
    progress: bool | None = None,
) -> list[Outcome]:
    """Does the work, and writes what becomes of each case into the log at once.

    Args:
        works: what is to be done.
        recipe: how.
        log: a TSV file, begun anew.
        kept: what is finished already.
        failed: name of a case -> why it cannot be done.
        jobs: processes, or workers of a cluster.
        address: of a Ray cluster; "" for this machine.
        progress: show a bar on stderr; None when that is a terminal.

    Returns:
        What became of all cases, sorted by name.

    Raises:
        ValueError, OSError, ImportError: what no case can be done with (no such weights, no cluster).
    """
    known = [Outcome(work.name, "kept", output=str(recipe.target(work))) for work in kept]
    known += [Outcome(name, "failed", error=error) for name, error in (failed or {}).items()]
    write_whole(log, "".join([_line(COLUMNS), *map(_row, known)]).encode())
    done: list[Outcome] = []
    with log.open("a", encoding="utf-8") as file, progress_bar(recipe.card.name, shown=progress) as tell:
        for outcome in _crew(works, recipe, jobs, address):
            done.append(outcome)
            file.write(_row(outcome))
            file.flush()
            tell(len(done), len(works))
    return sorted(known + done, key=lambda outcome: outcome.case)


def _crew(works: Sequence[Work], recipe: Recipe, jobs: int, address: str) -> Iterator[Outcome]:
    if not works:
        return iter(())
    if address:
        return executors.ray_cluster(works, recipe, jobs, address)
    return executors.alone(works, recipe) if jobs == 1 else executors.processes(works, recipe, min(jobs, len(works)))


def _row(outcome: Outcome) -> str:
    return _line("n/a" if value in ("", None) else str(value) for value in asdict(outcome).values())


def _line(cells: Iterable[str]) -> str:
    return "\t".join(" ".join(cell.split()) for cell in cells) + "\n"
