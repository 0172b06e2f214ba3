"""`zoo check`, `zoo anatomies`, `zoo train`, `zoo evaluate`: data, and tasks from data to a report."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo import tasks
from zoo.terminal import Device, Json, UsageError, complete_trained, end, framework, tell


def complete_task(incomplete: str) -> list[str]:
    """Names of tasks that begin so, for the shell."""
    return [name for name in tasks.names() if name.startswith(incomplete)]


Task = Annotated[
    str,
    typer.Argument(help="A task, or its model by name; without one, all are listed.", autocompletion=complete_task),
]
Measured = Annotated[str, typer.Argument(help="A task, or its model by name.", autocompletion=complete_task)]
Source = Annotated[str, typer.Option(metavar="SOURCE", help='"synthetic", or a folder of labelled cases.')]
Pattern = Annotated[
    list[str],
    typer.Option(metavar="NAME=PATTERN", help='Plain folders: "T1={id}/t1.nii.gz" a channel, "labels=...".'),
]
Out = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder for the results.")]
Worker = Annotated[int, typer.Option(metavar="N", help="Train on a cluster of N processes on this machine.")]
Servers = Annotated[int, typer.Option(metavar="N", help="Parameter servers of that cluster: asynchronous training.")]
Precision = Annotated[str, typer.Option(help="auto, float32 or bfloat16.")]


def check(
    folder: Annotated[Path, typer.Argument(help="A data set: plain folders, BIDS, Decathlon, ISLES 2017, VALDO.")],
    tolerance_mm: Annotated[float, typer.Option(help="How far grids of one case may lie apart.")] = 0.1,
    as_json: Json = False,
) -> None:
    """Check the grids, channels, labels and splits of a data set.

    Files that are there twice, and one subject on both sides of a split, are found.
    The exit code is 1 when there are errors; warnings leave it 0.
    """
    from zoo.data.check import check as checked

    if not folder.is_dir():
        raise UsageError(f"There is no folder {str(folder)!r}.")
    report = checked(folder, tolerance_mm=tolerance_mm)
    tell(report.plain(), str(report), as_json)
    if report.num_errors:
        raise typer.Exit(1)


def anatomies(
    sheet: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw all of them into a picture.")] = None,
    as_json: Json = False,
) -> None:
    """List the anatomies that synthesis draws from."""
    with framework():
        from zoo.synth import anatomies as known
        from zoo.synth import people

        rows: list[dict[str, Any]] = []
        there = {name: known.source_of(name) for split in ("train", "test") for name in people.names(split)}
        for name, source in (known.SOURCES | there).items():
            volumes = known.anatomy(name, allow_test=True).volumes_ml
            brain = {key: round(value, 2) for key, value in volumes.items() if key != "background"}
            rows.append({"name": name, "split": source.split, "package": source.package, "volumes_ml": brain})
        if sheet is not None:
            known.contact_sheet(sheet, [row["name"] for row in rows])
    lines = [f"{row['name']:14} {row['split']:7} {row['package']:13} {_total(row):7,.0f} ml" for row in rows]
    tell(rows, "\n".join([*lines, *([f"drawn in {sheet}"] if sheet else [])]), as_json)


def _total(row: dict[str, Any]) -> float:
    """Volume of the brain, fluid not counted, in ml."""
    from zoo.synth.labels import BRAIN, INDEX

    return sum(value for name, value in row["volumes_ml"].items() if INDEX[name] in BRAIN)


def train(  # noqa: PLR0913 - the choices of a command, each an option
    task: Task = "",
    source: Source = "synthetic",
    out: Out = None,
    seed: Annotated[int, typer.Option(help="Decides weights, splits and every sample.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps; left out: the task's.")] = None,
    precision: Precision = "auto",
    folds: Annotated[int, typer.Option(metavar="K", help="Cross-validate by subject in K folds.")] = 0,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="Bit-equal results from equal runs.")] = False,
    start_from: Annotated[str | None, typer.Option(metavar="MODEL", help="Trained model or run to go on from.")] = None,
    local_workers: Worker = 0,
    parameter_servers: Servers = 0,
    pattern: Pattern = [],  # noqa: B006 - typer reads it, nothing writes to it
) -> None:
    """Train a task, or go on with a run that was stopped.

    Run the same command again after a kill and it goes on at the very step. On a
    cluster that TF_CONFIG describes, start it on every machine.
    """
    if not task:
        tell(tasks.names(), "\n".join(tasks.names()), as_json=False)
        return
    if local_workers:
        raise typer.Exit(_launch(local_workers, parameter_servers))
    chosen, folder = _by_pattern(_task(task), pattern), out or Path("runs") / task
    with framework():
        from zoo.training import crossval, fit

        options = fit.Options(
            seed=seed, steps=steps, precision=precision, deterministic=deterministic, start_from=start_from
        )
        if folds:
            crossval.cross_validate(chosen, source, folder, folds=folds, options=options)
        else:
            fit.run(chosen, source, folder, options)
    print(folder)


def _by_pattern(task: Any, patterns: list[str]) -> Any:
    """The task with its plain folders read by pattern."""
    if not patterns:
        return task
    pairs = [one.partition("=")[::2] for one in patterns]
    wanted = [*task.channels, "labels"]
    for name, pattern in pairs:
        if name not in wanted or not pattern:
            raise UsageError(
                f"--pattern takes NAME=PATTERN with a name of {', '.join(wanted)}, got {f'{name}={pattern}'!r}."
            )
    return task.replace(reader="folder", patterns=dict(pairs))


def _launch(workers: int, servers: int) -> int:
    """This very command without the options of the cluster, once a process."""
    from zoo.training.launcher import launch

    words, command = iter(sys.argv[1:]), [sys.executable, "-m", "zoo.cli"]
    for word in words:
        name, equals, _ = word.partition("=")
        if name in ("--local-workers", "--parameter-servers"):
            if not equals:
                next(words)
            continue
        command.append(word)
    return launch(command, workers=workers, parameter_servers=servers)


def _task(name: str) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "." not in name and name not in tasks.names():
        from zoo.registry import unknown

        raise UsageError(str(unknown("task", name, tasks.names())))
    with framework():
        try:
            return tasks.task(name)
        except ValueError as error:
            raise UsageError(str(error)) from error


def evaluate(
    task: Measured,
    run: Annotated[str, typer.Argument(help="A run folder, or a trained model.", autocompletion=complete_trained)],
    source: Source = "synthetic",
    out: Out = None,
    mirror: Annotated[bool, typer.Option("--mirror", help="Average over left/right mirror images.")] = False,
    device: Device = "auto",
    pattern: Pattern = [],  # noqa: B006 - as above
    as_json: Json = False,
) -> None:
    """Measure a trained model on labelled cases; write a report.

    A case that cannot be used is reported, the others are finished, and the exit
    code is then 1.
    """
    chosen = _by_pattern(_task(task), pattern)
    with framework(device):
        from zoo.inference.assess import evaluate as assess
        from zoo.inference.predictor import Settings

        found = assess(chosen, run, source, out=out, settings=Settings(mirror=mirror))
    plain = {"cases": len(found.scores), "failed": found.failed, "report": str(found.folder / "report.html")}
    tell(plain, f"{len(found.scores)} cases measured: {plain['report']}", as_json)
    end(f"{case}: {reason}" for case, reason in found.failed.items())
