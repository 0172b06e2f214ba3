"""Who does the work of a cohort: this process, several, or the machines of a Ray cluster.

The crew has no plan of its own: each hands every case to a worker and gives back what becomes of it, in any order.
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

from zoo.workflows.bids_app.plan import Work
from zoo.workflows.bids_app.results import Outcome, Recipe, Worker

KILLED = "Its process was killed, as happens when memory runs out. Take fewer --jobs, or a machine with more memory."
_here: Worker | None = None  # of a process of the crew


def alone(works: Sequence[Work], recipe: Recipe) -> Iterator[Outcome]:
    """In this process, one after the other."""
    yield from map(Worker(recipe), works)


def processes(works: Sequence[Work], recipe: Recipe, jobs: int) -> Iterator[Outcome]:
    """In several processes, which share the cores; each builds the network once.

    A process that is killed takes all down with it. What was left is then done one by one, so that the case which is
    too large is found, and the others finish.

    Args:
        works: what to do.
        recipe: how.
        jobs: number of processes.

    Yields:
        What became of each, as it is ready.
    """
    left = []
    for work, outcome in _pooled(works, recipe, jobs):
        if outcome is None:
            left.append(work)
        else:
            yield outcome
    for one in left:
        for work, outcome in _pooled([one], recipe, 1):
            yield outcome or Outcome(work.name, "failed", error=KILLED)


def _pooled(works: Sequence[Work], recipe: Recipe, jobs: int) -> Iterator[tuple[Work, Outcome | None]]:
    """Outcomes of a pool; None for what was left when a process was killed."""
    context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    pool = ProcessPoolExecutor(jobs, context, initializer=_join, initargs=(recipe, jobs))
    try:
        futures = {pool.submit(_work, work): work for work in works}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                yield futures[future], None
    finally:
        pool.shutdown(cancel_futures=True)


def _join(recipe: Recipe, jobs: int) -> None:
    """Makes a new process one of the crew: with its share of the cores, and gone when the first process is."""
    global _here
    share = str(max(1, (os.cpu_count() or 1) // jobs))
    for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, share)
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    threading.Thread(target=_leave, daemon=True).start()
    _here = Worker(recipe)


def _leave() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(work: Work) -> Outcome:
    assert _here is not None
    return _here(work)


def ray_cluster(works: Sequence[Work], recipe: Recipe, jobs: int, address: str) -> Iterator[Outcome]:
    """On a Ray cluster, by Ray Data; every machine must see the files under the same paths and have zoo.

    Args:
        works: what to do.
        recipe: how.
        jobs: number of workers, each a process with the network.
        address: of the cluster ("ray://head:10001", "auto"), or "local" for one on this machine.

    Yields:
        What became of each, as it is ready.

    Raises:
        ImportError: there is no Ray.
        ConnectionError: no cluster answers there.
    """
    ray = _ray()
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConnectionError(
            f"No Ray cluster answers at {address!r} ({error}). Start one: ray start --head."
        ) from error
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        items = [{"work": json.dumps(asdict(work))} for work in works]
        cases = ray.data.from_items(items, override_num_blocks=len(items))
        made = cases.map(_RayWorker, fn_constructor_args=[recipe], concurrency=(1, jobs))
        for row in made.iter_rows():
            yield Outcome(**json.loads(row["outcome"]))
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}: a cluster needs Ray. Install it: pip install 'zoo3d[ray]'.") from error
    return ray


class _RayWorker:
    """A worker that takes and gives rows of a Ray data set."""

    def __init__(self, recipe: Recipe) -> None:
        self._worker = Worker(recipe)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        outcome = self._worker(Work(**json.loads(row["work"])))
        return {"outcome": json.dumps(asdict(outcome))}
