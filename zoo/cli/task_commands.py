"""`zoo check`, `zoo anatomies`, `zoo train`, `zoo evaluate`: from data to a report."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo import tasks
from zoo.cli.terminal import (
    RUNTIME,
    Device,
    Json,
    Mirror,
    UsageError,
    complete_trained,
    end,
    framework,
    tell,
    usage_errors,
)
from zoo.errors import unknown_choice

CLUSTER = "Cluster"


def complete_task(incomplete: str) -> list[str]:
    """Returns names of tasks that begin so, for the shell."""
    return [name for name in tasks.names() if name.startswith(incomplete)]


Task = Annotated[
    str,
    typer.Argument(help="A task, or its model by name; without one, all are listed.", autocompletion=complete_task),
]
EvaluatedTask = Annotated[str, typer.Argument(help="A task, or its model by name.", autocompletion=complete_task)]
CheckedTask = Annotated[
    str, typer.Option(metavar="NAME", help="Check its channels and label values, too.", autocompletion=complete_task)
]
Source = Annotated[str, typer.Option(metavar="SOURCE", help='"synthetic", or a folder of labelled cases.')]
Pattern = Annotated[
    list[str],
    typer.Option(
        metavar="NAME=PATTERN",
        help='Where a channel or "labels" is: "T1={id}/t1.nii.gz", or as the data set calls it.',
    ),
]
LabelMap = Annotated[
    Path | None,
    typer.Option(metavar="CSV", help="What label values become: columns value,becomes; * for others."),
]
Recursive = Annotated[bool, typer.Option("--recursive", help="Also search the sub-folders of sub-folders.")]
Out = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder for the results.")]
Worker = Annotated[
    int, typer.Option(metavar="N", help="Train on a cluster of N processes on this machine.", rich_help_panel=CLUSTER)
]
OpenPorts = Annotated[
    bool,
    typer.Option(
        "--open-ports",
        help="Let --local-workers listen on all addresses; who reaches them can act as you.",
        rich_help_panel=CLUSTER,
    ),
]
Servers = Annotated[
    int,
    typer.Option(
        metavar="N", help="Parameter servers of that cluster: asynchronous training.", rich_help_panel=CLUSTER
    ),
]
Release = Annotated[bool, typer.Option("--release", help="Measure on held-out cases, then write to pretrained/.")]
Precision = Annotated[str, typer.Option(help="auto, float32 or bfloat16.", rich_help_panel=RUNTIME)]
Memory = Annotated[
    str, typer.Option(help="normal; low computes stages again instead of keeping them.", rich_help_panel=RUNTIME)
]


def check(
    folder: Annotated[Path, typer.Argument(help="A data set: plain folders, BIDS, Decathlon, nnU-Net, ISLES, VALDO.")],
    tolerance_mm: Annotated[float, typer.Option(help="How far grids of one case may lie apart.")] = 0.1,
    task: CheckedTask = "",
    pattern: Pattern = [],  # noqa: B006 - typer reads it, nothing writes to it
    label_map: LabelMap = None,
    recursive: Recursive = False,
    as_json: Json = False,
) -> None:
    """Check the grids, channels, labels and splits of a data set.

    Files that are there twice, and one subject on both sides of a split, are found;
    with --task, whatever its training would refuse. Files that no case uses are named.
    The exit code is 1 when there are errors; warnings leave it 0.
    """
    from zoo.datasets.check import check as check_folder

    if not folder.is_dir():
        raise UsageError(f"There is no folder {str(folder)!r}.")
    if label_map and not task:
        raise UsageError("--label-map says what values become for a task: add --task NAME.")
    if task:
        checked = _read_label_map(_read_by_pattern(_find_task(task), pattern), label_map)
        report = check_folder(folder, tolerance_mm=tolerance_mm, task=checked, recursive=recursive)
    else:
        patterns = _split_patterns(pattern)
        labels = patterns.pop("labels", None)
        report = check_folder(
            folder, tolerance_mm=tolerance_mm, channels=patterns or None, labels=labels, recursive=recursive,
            reader="folder" if any("{" in text for text in (*patterns.values(), labels or "")) else None,
        )  # fmt: skip
    tell(report.plain(), str(report), as_json)
    if report.num_errors:
        raise typer.Exit(1)


def anatomies(
    sheet: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw all of them into a picture.")] = None,
    as_json: Json = False,
) -> None:
    """List the anatomies that synthesis draws from."""
    with framework():
        from zoo.synth.anatomy import people, sources

        rows: list[dict[str, Any]] = []
        there = {name: sources.source_of(name) for split in ("train", "test") for name in people.names(split)}
        for name, source in (sources.SOURCES | there).items():
            volumes = sources.anatomy(name, allow_test=True).volumes_ml
            brain = {key: round(value, 2) for key, value in volumes.items() if key != "background"}
            rows.append({"name": name, "split": source.split, "package": source.package, "volumes_ml": brain})
        if sheet is not None:
            sources.contact_sheet(sheet, [row["name"] for row in rows])
    lines = [f"{row['name']:14} {row['split']:7} {row['package']:13} {_total_ml(row):7,.0f} ml" for row in rows]
    tell(rows, "\n".join([*lines, *([f"drawn in {sheet}"] if sheet else [])]), as_json)


def _total_ml(row: dict[str, Any]) -> float:
    """Returns the volume of the brain in ml, without fluid."""
    from zoo.synth.anatomy.labels import BRAIN, INDEX

    return sum(value for name, value in row["volumes_ml"].items() if INDEX[name] in BRAIN)


def train(  # noqa: PLR0913 - the choices of a command, each an option
    task: Task = "",
    source: Source = "synthetic",
    out: Out = None,
    seed: Annotated[int, typer.Option(help="Decides weights, splits and every sample.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps; left out: the task's.")] = None,
    precision: Precision = "auto",
    folds: Annotated[int, typer.Option(metavar="K", help="Cross-validate by subject in K folds.")] = 0,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Bit-equal results from equal runs.", rich_help_panel=RUNTIME)
    ] = False,
    start_from: Annotated[str | None, typer.Option(metavar="MODEL", help="Trained model or run to go on from.")] = None,
    memory: Memory = "normal",
    local_workers: Worker = 0,
    parameter_servers: Servers = 0,
    open_ports: OpenPorts = False,
    release: Release = False,
    pattern: Pattern = [],  # noqa: B006 - typer reads it, nothing writes to it
    label_map: LabelMap = None,
) -> None:
    """Train a task, or go on with a run that was stopped.

    Run the same command again after a kill and it goes on at the very step. On a
    cluster that TF_CONFIG describes, start it on every machine.
    """
    if release and (folds or local_workers or "TF_CONFIG" in os.environ):
        raise UsageError("--release ships one run of one process: leave out --folds and clusters.")
    if not task:
        tell(tasks.names(), "\n".join(tasks.names()), as_json=False)
        return
    if local_workers:
        raise typer.Exit(_launch_cluster(local_workers, parameter_servers, open_ports=open_ports))
    trained = _read_label_map(_read_by_pattern(_find_task(task), pattern), label_map)
    folder = out or Path("runs") / task
    with framework():
        from zoo.training import fit
        from zoo.training.experiments import cross_validation

        with usage_errors(ValueError):
            options = fit.TrainOptions(
                seed=seed, steps=steps, precision=precision, deterministic=deterministic, start_from=start_from,
                memory=memory,
            )  # fmt: skip
        if folds:
            cross_validation.cross_validate(trained, source, folder, folds=folds, options=options)
        else:
            fit.run(trained, source, folder, options)
        home = _release(trained, folder) if release else folder
    print(home)


def _release(task: Any, run: Path) -> Path:
    """Measures a run on the held-out cases of its task and writes its release into `pretrained`."""
    from zoo.training.run.release import release
    from zoo.workflows.held_out import measure_held_out

    return release(run, task, measure_held_out(task, run), command=f"zoo train {task.model_name} --release")


def _read_by_pattern(task: Any, patterns: list[str]) -> Any:
    """Returns the task with its data read by pattern: plain folders where a pattern has a place, "{id}"."""
    if not patterns:
        return task
    pairs, names = _split_patterns(patterns), [*task.data.channels, "labels"]
    for name, pattern in pairs.items():
        if name not in names:
            raise UsageError(
                f"--pattern takes NAME=PATTERN with a name of {', '.join(names)}, got {f'{name}={pattern}'!r}."
            )
    if not any("{" in pattern for pattern in pairs.values()):
        return task.replace(patterns={**task.data.patterns, **pairs})
    missing = [name for name in task.data.channels if name not in pairs]
    if missing:
        raise UsageError(f"--pattern is missing for {', '.join(missing)}: plain folders need one for each channel.")
    return task.replace(reader="folder", patterns=pairs)


def _split_patterns(patterns: list[str]) -> dict[str, str]:
    """Returns name -> pattern."""
    pairs = [pattern.partition("=")[::2] for pattern in patterns]
    for name, pattern in pairs:
        if not name or not pattern:
            raise UsageError(f"--pattern takes NAME=PATTERN, got {name or pattern!r}.")
    return dict(pairs)


def _read_label_map(task: Any, path: Path | None) -> Any:
    """Returns the task with the values that a table turns into its labels."""
    if path is None:
        return task
    from zoo.datasets.label_values import read_label_map

    with usage_errors(ValueError, FileNotFoundError):
        return task.replace(label_map=read_label_map(path, task.data.labels))


def _launch_cluster(workers: int, servers: int, *, open_ports: bool) -> int:
    """Runs this command in each process of a local cluster, without the options of the cluster."""
    from zoo.training.local_cluster import launch

    words, command = iter(sys.argv[1:]), [sys.executable, "-m", "zoo.cli"]
    for word in words:
        name, equals, _ = word.partition("=")
        if name in ("--local-workers", "--parameter-servers"):
            if not equals:
                next(words)
            continue
        if name != "--open-ports":
            command.append(word)
    with usage_errors(ValueError):
        return launch(command, workers=workers, parameter_servers=servers, open_ports=open_ports)


def _find_task(name: str) -> Any:
    """Loads a task; a misspelt name is found before Keras is loaded."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "." not in name and name not in tasks.names():
        raise UsageError(str(unknown_choice("task", name, tasks.names())))
    with framework(), usage_errors(ValueError):
        return tasks.task(name)


def evaluate(  # noqa: PLR0913 - the choices of a command, each an option
    task: EvaluatedTask,
    run: Annotated[str, typer.Argument(help="A run folder, or a trained model.", autocompletion=complete_trained)],
    source: Source = "synthetic",
    out: Out = None,
    mirror: Mirror = False,
    device: Device = "auto",
    pattern: Pattern = [],  # noqa: B006 - typer reads it, nothing writes to it
    label_map: LabelMap = None,
    as_json: Json = False,
) -> None:
    """Measure a trained model on labelled cases; write a report.

    A case that cannot be used is reported, the others are finished, and the exit
    code is then 1.
    """
    evaluated = _read_label_map(_read_by_pattern(_find_task(task), pattern), label_map)
    with framework(device):
        from zoo.inference.settings import Settings
        from zoo.workflows.evaluate import evaluate as run_evaluation

        evaluation = run_evaluation(evaluated, run, source, out=out, settings=Settings(mirror=mirror))
    count, path = len(evaluation.scores), str(evaluation.folder / "report.html")
    plain = {"cases": count, "failed": evaluation.failed, "report": path}
    tell(plain, f"{count} cases measured: {path}", as_json)
    end(f"{case}: {reason}" for case, reason in evaluation.failed.items())
