"""Networks and cards as the command line shows them; no Keras is loaded for it."""

import ast
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table

from zoo import cards, weights
from zoo.tabular import Tabular


def list_table(rows: Iterable[dict[str, Any]]) -> Table:
    """Rows of `builder_row` and `trained_row` as a table."""
    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("parameters", justify="right")
    table.add_column("what it is")
    for row in rows:
        table.add_row(row["name"], f"{row['parameters']:,}" if row["parameters"] else "", row["description"])
    return table


def trained_row(name: str) -> dict[str, Any]:
    """A trained model in one row; a card with faults is named, not raised: the other models are still there."""
    try:
        card = weights.card(name)
    except ValueError as error:
        return {"name": name, "trained": True, "parameters": None, "description": f"unusable: {error}"}
    return {"name": name, "trained": True, "parameters": card.parameters, "description": card.description}


def builder_row(name: str) -> dict[str, Any]:
    """A network in one row, described by the first line of its file."""
    title = ast.get_docstring(_source(name)) or ""
    return {"name": name, "trained": False, "parameters": None, "description": title.split("\n")[0]}


def _source(builder: str) -> ast.Module:
    """The file of a builder, parsed and not run: running it would load Keras."""
    spec = importlib.util.find_spec(f"zoo.models.{builder}")
    assert spec is not None and spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def documentation(builder: str) -> str:
    """The docstring of a builder."""
    found = next(one for one in _source(builder).body if isinstance(one, ast.FunctionDef) and one.name == builder)
    return f"{builder}: {ast.get_docstring(found)}"


def card_table(card: cards.Card) -> Table:
    """A card as two columns, in the order in which a reader asks."""
    table = Table(box=None, pad_edge=False, title=card.name, title_justify="left", show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, lines in _card_lines(card).items():
        for number, line in enumerate(lines):
            table.add_row("" if number else name, line)
    return table


def _card_lines(card: cards.Card) -> dict[str, list[str]]:
    size = f", {card.weights.bytes / 1e6:.1f} MB as {card.weights.dtype}" if card.weights else ""
    given = card.input
    grid = f"{_times(given.spacing_mm)} mm, " if given.spacing_mm else ""
    metrics = {data: [f"{name} {value:.4g}" for name, value in one.items()] for data, one in card.metrics.items()}
    training = card.training
    return {
        "what it is": [card.description],
        "version": [f"{card.version}, {card.parameters:,} parameters{size}, licence {card.licence}"],
        "takes": [f"{channel.name}: {channel.intensity}" for channel in given.channels]
        + [f"{grid}{given.orientation}, windows of {_times(given.patch)} voxels"],
        "beside them": [_value(one) for one in given.tabular],
        "first": [_step(step) for step in card.preprocessing],
        "gives": [f"{card.output.kind}: " + ", ".join(label.name for label in card.output.labels.values())],
        "then": [_step(step) for step in card.postprocessing],
        "measured": [f"{data}: {', '.join(values)}" for data, values in metrics.items()],
        "trained on": [f"{'Synthetic images. ' * training.synthetic}{training.data}"],
        "their licence": [training.data_licence],
        "made by": [training.command],
        "for": [card.intended_use],
        "limits": [f"- {limit}" for limit in card.limits],
        "references": [f"https://doi.org/{doi}" for doi in card.references],
    }


def _value(one: Tabular) -> str:
    return f"{one.name}: {', '.join(one.grades) or f'{one.low:g} to {one.high:g} {one.unit}'.rstrip()}"


def _times(numbers: Iterable[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


def _step(step: cards.Step) -> str:
    return step.name + (f" ({', '.join(f'{k} {v}' for k, v in step.parameters.items())})" if step.parameters else "")
