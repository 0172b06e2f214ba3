"""Ablation studies: settings times seeds, finished parts read from files, criteria and tables as a page.

A study is a file in `studies/` whose `run(seeds, work)` returns a `StudyResult`; `tools/study` runs and writes it.
"""

import dataclasses
import functools
import json
import pathlib
import statistics
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from zoo import files
from zoo.devices import policy, processor
from zoo.hub.goals import describe_verdict
from zoo.training import batches, network
from zoo.training.optimizers import set_final_bias
from zoo.training.task import Task

Row = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Criterion:
    """One promise and what was measured.

    Attributes:
        name: what is promised, in words.
        goal: the limit, in words.
        measured: the numbers, in words, with their spread over seeds.
        passed: whether the promise holds.
        remark: what to know when reading it.
    """

    name: str
    goal: str
    measured: str
    passed: bool
    remark: str = ""


@dataclasses.dataclass(frozen=True)
class StudyResult:
    """What a study measured.

    Attributes:
        criteria: in the order of the task's page.
        tables: title -> rows, shown below the criteria.
        settings: sizes and lengths, so that the study can be repeated.
    """

    criteria: Sequence[Criterion]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    settings: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """Whether every criterion holds."""
        return all(criterion.passed for criterion in self.criteria)


def load_or_measure(path: pathlib.Path, measure: Callable[[], Any]) -> Any:
    """Returns what `measure` returns, as JSON has it, from the file where an earlier run got that far.

    A file that is empty or broken is measured again.
    """
    return files.cached_json(path, measure, default=_as_plain)


def measure_settings(
    names: Iterable[str],
    seeds: int,
    work: pathlib.Path,
    measure: Callable[[str, int], Row],
    *,
    first_seed_only: Collection[str] = (),
) -> dict[str, list[Row]]:
    """Measures every setting on every seed, one seed after the other, and keeps each row in a file.

    Args:
        names: of the settings.
        seeds: number of seeds, from 0 on.
        work: folder of the finished rows, `<name>_<seed>.json`.
        measure: name and seed -> one row.
        first_seed_only: settings that are measured on seed 0 alone.

    Returns:
        Name of the setting -> a row for each seed.
    """
    rows: dict[str, list[Row]] = {name: [] for name in names}
    for seed in range(seeds):
        for name, of_setting in rows.items():
            if seed and name in first_seed_only:
                continue
            row = load_or_measure(work / f"{name}_{seed}.json", functools.partial(measure, name, seed))
            print(name, seed, row, file=sys.stderr, flush=True)
            of_setting.append(row)
    return rows


def train_on(
    task: Task,
    samples: Sequence[tuple[Any, Any]],
    *,
    seed: int,
    precision: str = "auto",
    start: keras.Model | None = None,
    prior_batches: int = 16,
    averaged: bool = True,
) -> keras.Model:
    """Trains the network of a task on batches in memory, one step each: settings of a seed see the same ones.

    Args:
        task: its network, loss and optimiser are used.
        samples: batches `(inputs, labels)`: images `(batch, x, y, z, channels)`, or a tuple of these and conditioning
            vectors, and integer labels `(batch, x, y, z, maps)`.
        seed: decides the first weights.
        precision: "auto", "float32" or "bfloat16".
        start: a network of the same shape whose weights are the first ones; None draws them and sets the final bias
            to the (tempered) prior of the classes.
        prior_batches: number of batches that the prior is counted on.
        averaged: whether the optimiser's averaged weights, where it keeps some, become those of the network.

    Returns:
        The trained network, compiled.
    """
    keras.utils.set_random_seed(seed)
    with network.dtype_policy(policy(precision)):
        model = network.build(task, len(samples))
    if start is None:
        prior = batches.prior(task, (_full_width(*sample) for sample in samples[:prior_batches]))
        set_final_bias(model, [share**task.fit.prior_power for share in prior])
    else:
        model.set_weights(start.get_weights())
    for sample in samples:
        model.train_on_batch(*_full_width(*sample))
    if averaged:
        model.optimizer.finalize_variable_values(model.trainable_weights)
    return model


def _full_width(inputs: Any, labels: Any) -> tuple[Any, Any]:
    """Returns a batch in float32 and int32: in memory it may be kept in half precision and single bytes."""
    parts = tuple(np.asarray(part, np.float32) for part in (inputs if isinstance(inputs, tuple) else (inputs,)))
    return parts if len(parts) > 1 else parts[0], np.asarray(labels, np.int32)


def format_spread(values: Sequence[float]) -> str:
    """Returns mean and standard deviation as text, or the number where there is one.

    Example:
        >>> format_spread([0.5, 0.7])
        '0.600 +- 0.141'
    """
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} +- {statistics.stdev(values):.3f}"


def format_markdown(title: str, result: StudyResult) -> str:
    """Returns criteria, remarks, tables and settings as a Markdown page."""
    lines = [f"# Criteria of {title}", "", "| criterion | goal | measured | |", "|---|---|---|---|"]
    for criterion in result.criteria:
        cells = (criterion.name, criterion.goal, criterion.measured, describe_verdict(criterion.passed))
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {criterion.name}: {criterion.remark}" for criterion in result.criteria if criterion.remark)]
    for name, rows in result.tables.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines += ["", f"## {name}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(str(row.get(column, "")) for column in columns) + " |" for row in rows]
    settings = "; ".join(f"{key} {value}" for key, value in result.settings.items())
    return "\n".join([*lines, "", f"Settings: {settings}. Processor: {processor()}.", ""])


def write_result(title: str, result: StudyResult, folder: pathlib.Path) -> pathlib.Path:
    """Writes a result as `<title>.md` and as `<title>.json`, from which a card takes its tables.

    Args:
        title: name of the study.
        result: what it measured; numpy scalars are written as numbers.
        folder: made where it is missing.

    Returns:
        The path of the JSON file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "criteria": [dataclasses.asdict(criterion) for criterion in result.criteria],
        "tables": result.tables,
        "settings": result.settings,
        "what": title,
        "processor": processor(),
    }
    path = folder / f"{title}.json"
    files.write_whole(path, (json.dumps(content, indent=1, default=_as_plain) + "\n").encode())
    files.write_whole(folder / f"{title}.md", format_markdown(title, result).encode())
    return path


def _as_plain(value: Any) -> Any:
    """Returns a numpy scalar as the Python number that JSON takes."""
    return value.item()
