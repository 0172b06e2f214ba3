"""Runs the cases of a BIDS-App: in this process, in a process pool, or on a Ray cluster.

Yields outcomes in any order.
"""

import json
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from typing import Any

from zoo.workflows.bids_app.plan import PlannedCase
from zoo.workflows.bids_app.results import CohortRecipe, Outcome, Worker

KILLED = "Its process was killed, as happens when memory runs out. Take fewer --jobs, or a machine with more memory."
_worker: Worker | None = None  # of a process of the pool


def run_here(cases: Sequence[PlannedCase], recipe: CohortRecipe) -> Iterator[Outcome]:
    """Runs the cases in this process, one after the other."""
    yield from map(Worker(recipe), cases)


def run_in_processes(cases: Sequence[PlannedCase], recipe: CohortRecipe, jobs: int) -> Iterator[Outcome]:
    """Runs the cases in several processes, which share the cores; each builds the network once.

    A process that is killed ends the pool. The rest then runs one by one, so that only the case that is too large
    fails.

    Args:
        cases: to run.
        recipe: how to run them.
        jobs: number of processes.

    Yields:
        The outcome of each case, when it is ready.
    """
    left = []
    for work, outcome in _run_pool(cases, recipe, jobs):
        if outcome is None:
            left.append(work)
        else:
            yield outcome
    for case in left:
        for work, outcome in _run_pool([case], recipe, 1):
            yield outcome or Outcome(work.name, "failed", error=KILLED)


def _run_pool(
    cases: Sequence[PlannedCase], recipe: CohortRecipe, jobs: int
) -> Iterator[tuple[PlannedCase, Outcome | None]]:
    """Yields outcomes of a pool; None for the rest when a process was killed."""
    context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    pool = ProcessPoolExecutor(jobs, context, initializer=_start_worker, initargs=(recipe, jobs))
    try:
        futures = {pool.submit(_run_case, work): work for work in cases}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                yield futures[future], None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(recipe: CohortRecipe, jobs: int) -> None:
    """Sets up a process of the pool: its share of the cores, and its end when the first process ends."""
    global _worker
    share = str(max(1, (os.cpu_count() or 1) // jobs))
    for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, share)
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _worker = Worker(recipe)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_case(work: PlannedCase) -> Outcome:
    assert _worker is not None
    return _worker(work)


def run_on_ray(cases: Sequence[PlannedCase], recipe: CohortRecipe, jobs: int, address: str) -> Iterator[Outcome]:
    """Runs the cases on a Ray cluster, by Ray Data; every machine needs zoo and the files under the same paths.

    Args:
        cases: to run.
        recipe: how to run them.
        jobs: number of workers, each a process with the network.
        address: of the cluster ("ray://head:10001", "auto"), or "local" for one on this machine.

    Yields:
        The outcome of each case, when it is ready.

    Raises:
        ImportError: there is no Ray.
        ConnectionError: no cluster answers there.
    """
    ray = _import_ray()
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConnectionError(
            f"No Ray cluster answers at {address!r} ({error}). Start one: ray start --head."
        ) from error
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        items = [{"work": json.dumps(asdict(work))} for work in cases]
        rows = ray.data.from_items(items, override_num_blocks=len(items))
        outcomes = rows.map(_RayWorker, fn_constructor_args=[recipe], concurrency=(1, jobs))
        for row in outcomes.iter_rows():
            yield Outcome(**json.loads(row["outcome"]))
    finally:
        ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}: a cluster needs Ray. Install it: pip install 'zoo3d[ray]'.") from error
    return ray


class _RayWorker:
    """Turns rows of a Ray data set into rows of outcomes."""

    def __init__(self, recipe: CohortRecipe) -> None:
        self._worker = Worker(recipe)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        outcome = self._worker(PlannedCase(**json.loads(row["work"])))
        return {"outcome": json.dumps(asdict(outcome))}
