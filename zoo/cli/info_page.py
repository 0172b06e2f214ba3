"""Lays out networks and cards for the terminal, without loading Keras."""

import ast
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from zoo.cli.info_metrics import show_metrics
from zoo.cli.terminal import FAILURES
from zoo.errors import to_line
from zoo.hub import card as cards
from zoo.hub import trained_models
from zoo.hub.tabular import Tabular


def list_table(rows: Iterable[dict[str, Any]]) -> Table:
    """Returns rows of `builder_row` and `trained_row` as a table."""
    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("parameters", justify="right")
    table.add_column("what it is")
    for row in rows:
        table.add_row(row["name"], f"{row['parameters']:,}" if row["parameters"] else "", row["description"])
    return table


def trained_row(name: str) -> dict[str, Any]:
    """Returns a trained model as one row; what is wrong with its card stands there, so that the others are listed."""
    row = {"name": name, "trained": True, "parameters": None, "description": "", "error": None}
    try:
        card = trained_models.card(name)
    except FAILURES as error:
        return row | {"error": to_line(error)}
    return row | {"parameters": card.parameters, "description": card.description}


def builder_row(name: str) -> dict[str, Any]:
    """Returns a network as one row, described by the first line of its file."""
    title = ast.get_docstring(_parse_source(name)) or ""
    return {"name": name, "trained": False, "parameters": None, "description": title.split("\n")[0], "error": None}


def _parse_source(builder: str) -> ast.Module:
    """Parses the file of a builder; running it would load Keras."""
    spec = importlib.util.find_spec(f"zoo.models.{builder}")
    assert spec is not None and spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def read_documentation(builder: str) -> str:
    """Returns the docstring of a builder."""
    functions = [node for node in _parse_source(builder).body if isinstance(node, ast.FunctionDef)]
    return f"{builder}: {ast.get_docstring(next(node for node in functions if node.name == builder))}"


def card_page(card: cards.Card, *, everything: bool = False) -> Group:
    """Returns a card in a reader's order: what goes in and comes out, how good it is, where it fails.

    Args:
        card: of a trained model.
        everything: every number and table of the card; else the headline.
    """
    return Group(
        card.name,
        _make_table(_describe_use(card)),
        "",
        show_metrics(card, everything=everything),
        _make_table(_describe_origin(card)),
    )


def _make_table(paragraphs: Mapping[str, list[str]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True, min_width=13)
    table.add_column()
    for name, lines in paragraphs.items():
        for index, line in enumerate(lines):
            table.add_row("" if index else name, line)
    return table


def _describe_use(card: cards.Card) -> dict[str, list[str]]:
    size = f", {card.weights.bytes / 1e6:.1f} MB as {card.weights.dtype}" if card.weights else ""
    takes = card.input
    grid = f"{_join_times(takes.spacing_mm)} mm, " if takes.spacing_mm else ""
    return {
        "what it is": [card.description],
        "version": [f"{card.version}, {card.parameters:,} parameters{size}, licence {card.licence}"],
        "takes": [f"{channel.name}: {channel.intensity}" for channel in takes.channels]
        + [f"{grid}{takes.orientation}, windows of {_join_times(takes.patch)} voxels"],
        "beside them": [_describe_field(field) for field in takes.tabular],
        "first": [_describe_step(step) for step in card.preprocessing],
        "gives": [f"{card.output.kind}: {_join_names([label.name for label in card.output.labels.values()])}"],
        "then": [_describe_step(step) for step in card.postprocessing],
    }


def _describe_origin(card: cards.Card) -> dict[str, list[str]]:
    training = card.training
    return {
        "trained on": [f"{'Synthetic images. ' * training.synthetic}{training.data}"],
        "their licence": [training.data_licence],
        "made by": [training.command],
        "for": [card.intended_use],
        "limits": [f"- {limit}" for limit in card.limits],
        "references": [f"https://doi.org/{doi}" for doi in card.references],
    }


def _join_names(names: Sequence[str]) -> str:
    """Joins names; a structure of both sides is named once."""
    bare = [name.removeprefix("left_") for name in names if name.startswith("left_")]
    both = [name for name in bare if f"right_{name}" in names]
    other = [name for name in names if name.removeprefix("left_").removeprefix("right_") not in both]
    sides = [f"left and right {', '.join(both)}"] if both else []
    return "; ".join([*([", ".join(other)] if other else []), *sides])


def _describe_field(field: Tabular) -> str:
    return f"{field.name}: {', '.join(field.grades) or f'{field.low:g} to {field.high:g} {field.unit}'.rstrip()}"


def _join_times(numbers: Iterable[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


def _describe_step(step: cards.Step) -> str:
    parameters = [f"{name} {_format_parameter(name, value)}" for name, value in step.parameters.items()]
    return f"{step.name} ({', '.join(parameters)})" if parameters else step.name


def _format_parameter(name: str, value: Any) -> str:
    if not isinstance(value, tuple | list):
        return str(value)
    if all(isinstance(item, str) for item in value):
        return _join_names(value)
    if not all(isinstance(item, int | float) for item in value):
        return str(value)
    return _join_times(value) if name in ("shape", "spacing_mm") else ", ".join(f"{number:g}" for number in value)
