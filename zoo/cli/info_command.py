"""Networks and cards as the command line shows them; no Keras is loaded for it."""

import ast
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from zoo.cli.info_metrics import measured
from zoo.hub import card as cards
from zoo.hub import trained_models
from zoo.hub.tabular import Tabular


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
        card = trained_models.card(name)
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


def card_page(card: cards.Card, *, everything: bool = False) -> Group:
    """A card in the order in which a reader asks: what goes in and comes out, how good it is, where it fails.

    Args:
        card: of a trained model.
        everything: every number and table of the card; else the headline.
    """
    return Group(card.name, _pairs(_use(card)), "", measured(card, everything=everything), _pairs(_origin(card)))


def _pairs(told: Mapping[str, list[str]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True, min_width=13)
    table.add_column()
    for name, lines in told.items():
        for number, line in enumerate(lines):
            table.add_row("" if number else name, line)
    return table


def _use(card: cards.Card) -> dict[str, list[str]]:
    size = f", {card.weights.bytes / 1e6:.1f} MB as {card.weights.dtype}" if card.weights else ""
    given = card.input
    grid = f"{_times(given.spacing_mm)} mm, " if given.spacing_mm else ""
    return {
        "what it is": [card.description],
        "version": [f"{card.version}, {card.parameters:,} parameters{size}, licence {card.licence}"],
        "takes": [f"{channel.name}: {channel.intensity}" for channel in given.channels]
        + [f"{grid}{given.orientation}, windows of {_times(given.patch)} voxels"],
        "beside them": [_value(one) for one in given.tabular],
        "first": [_step(step) for step in card.preprocessing],
        "gives": [f"{card.output.kind}: {_names([label.name for label in card.output.labels.values()])}"],
        "then": [_step(step) for step in card.postprocessing],
    }


def _origin(card: cards.Card) -> dict[str, list[str]]:
    training = card.training
    return {
        "trained on": [f"{'Synthetic images. ' * training.synthetic}{training.data}"],
        "their licence": [training.data_licence],
        "made by": [training.command],
        "for": [card.intended_use],
        "limits": [f"- {limit}" for limit in card.limits],
        "references": [f"https://doi.org/{doi}" for doi in card.references],
    }


def _names(names: Sequence[str]) -> str:
    """Names in a row; what is there on both sides is told once."""
    bare = [name.removeprefix("left_") for name in names if name.startswith("left_")]
    both = [name for name in bare if f"right_{name}" in names]
    other = [name for name in names if name.removeprefix("left_").removeprefix("right_") not in both]
    sides = [f"left and right {', '.join(both)}"] if both else []
    return "; ".join([*([", ".join(other)] if other else []), *sides])


def _value(one: Tabular) -> str:
    return f"{one.name}: {', '.join(one.grades) or f'{one.low:g} to {one.high:g} {one.unit}'.rstrip()}"


def _times(numbers: Iterable[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


def _step(step: cards.Step) -> str:
    told = [f"{name} {_setting(name, value)}" for name, value in step.parameters.items()]
    return f"{step.name} ({', '.join(told)})" if told else step.name


def _setting(name: str, value: Any) -> str:
    if not isinstance(value, tuple | list):
        return str(value)
    if all(isinstance(one, str) for one in value):
        return _names(value)
    return _times(value) if name in ("shape", "spacing_mm") else ", ".join(f"{one:g}" for one in value)
