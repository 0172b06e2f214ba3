"""What ablation studies share: promises, what was measured of them, cached parts, tables."""

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zoo.devices import processor


@dataclasses.dataclass(frozen=True)
class Gate:
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
class Found:
    """What `run` of a task gives.

    Attributes:
        gates: in the order of the task page.
        tables: title -> rows, shown below the gates.
        settings: sizes and lengths, so that the run can be repeated.
    """

    gates: Sequence[Gate]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    settings: Mapping[str, Any]


def kept(path: pathlib.Path, make: Callable[[], Any]) -> Any:
    """What `make` gives, as JSON has it, from the file when an earlier run got that far."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(make()))
        temporary.replace(path)
    return json.loads(path.read_text())


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, or the one number that there is."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} +- {statistics.stdev(values):.3f}"


def markdown(title: str, found: Found) -> str:
    """The gates and tables as a page."""
    lines = [f"# Gates of {title}", "", "| gate | goal | measured | |", "|---|---|---|---|"]
    for gate in found.gates:
        lines.append(f"| {gate.name} | {gate.goal} | {gate.measured} | {'passed' if gate.passed else 'MISSED'} |")
    lines += ["", *(f"- {gate.name}: {gate.remark}" for gate in found.gates if gate.remark)]
    for name, rows in found.tables.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines += ["", f"## {name}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(str(row.get(column, "")) for column in columns) + " |" for row in rows]
    settings = "; ".join(f"{key} {value}" for key, value in found.settings.items())
    return "\n".join([*lines, "", f"Settings: {settings}. Processor: {processor()}.", ""])
