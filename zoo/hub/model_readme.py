"""Writes the README of a trained model from its card alone: no number in it is typed by hand."""

import dataclasses
import json
import re
from typing import Any

from zoo.hub.card import Card, Step

_TAG = re.compile(r"<(?=[a-zA-Z/!?])")
_HEAD = """---
license: {licence}
library_name: keras
tags: [neuroimaging, 3d, {card.output.kind}]
---
# {card.name}

{card.description}

**{origin}** Version {card.version}, {card.parameters:,} parameters, {megabytes:.1f} MB ({card.weights.dtype}),
licence {card.licence}. Research use, not for diagnosis.

## Use
```python
import zoo
model = zoo.load("{card.name}")                 # a keras.Model; checks size, sha256, names and shapes
image = zoo.predict("{card.name}", {example})
```
"""


def readme(card: Card) -> str:
    """Returns the README of a trained model: input, output, results, training and limits.

    A card is text from anywhere: what begins a tag of HTML in it is written as text.

    Args:
        card: a complete card.

    Returns:
        Markdown with the front matter that model hubs read; ends in a newline.

    Raises:
        ValueError: the card has not been measured yet.
    """
    if card.weights is None or card.parameters is None:
        raise ValueError(f"card {card.name!r} has no weights yet, got None. Save the model first (zoo.save).")
    head, command = _write_head(card), card.training.command
    card = _escape(card)
    sections = [
        head,
        _write_input(card),
        _write_output(card),
        _write_results(card),
        *_write_tables(card),
        _write_training(card, command),
    ]
    sections += [_write_list("Intended use and limits", [card.intended_use, *card.limits])]
    sections += [_write_list("References", [f"https://doi.org/{doi}" for doi in card.references])]
    sections += [_write_list("Changelog", [f"{version}: {text}" for version, text in card.changelog.items()])]
    return "\n".join(section for section in sections if section)


def _write_head(card: Card) -> str:
    """Writes front matter, description and example; what stands in the example is a literal of Python."""
    licence = json.dumps(card.licence) if re.search(r"[^\w .+()-]", card.licence) else card.licence
    origin = "Trained on synthetic images." if card.training.synthetic else "Trained on real images."
    files = {channel.name: f"{channel.name}.nii.gz" for channel in card.input.channels}
    example = json.dumps(files, ensure_ascii=False) if len(files) > 1 else '"scan.nii.gz"'
    example += _write_tabular_argument(card)
    megabytes = card.weights.bytes / 1e6 if card.weights else 0
    return _HEAD.format(card=_escape(card), licence=licence, origin=origin, megabytes=megabytes, example=example)


def _escape(value: Any) -> Any:
    """Returns a card, or a part of one, with every "<" that begins a tag written as text."""
    if isinstance(value, str):
        return _TAG.sub("&lt;", value)
    if isinstance(value, dict):
        return {_escape(key): _escape(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_escape(item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {field.name: _escape(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **changes)
    return value


def _write_code(text: str) -> str:
    """Returns a text as code of one line, whatever backquotes it has."""
    text, quotes = " ".join(text.split()), max(map(len, re.findall("`+", text)), default=0) + 1
    space = " " if quotes > 1 else ""
    return f"{'`' * quotes}{space}{text}{space}{'`' * quotes}"


def _write_input(card: Card) -> str:
    inputs = card.input
    patch = " x ".join(str(size) for size in inputs.patch)
    divisor = " x ".join(str(size) for size in inputs.divisor)
    spacing = inputs.spacing_mm and " x ".join(f"{size:g}" for size in inputs.spacing_mm) + " mm"
    set_by_steps = any(step.name in ("resample", "resize") for step in card.preprocessing)
    own = "as the preprocessing sets them" if set_by_steps else "as each image has them"
    lines = [f"Orientation {inputs.orientation}; voxels {spacing or own};"]
    lines += [f"windows of {patch} voxels; sizes are multiples of {divisor}.", ""]
    if inputs.context:
        lines[-1:] = [
            f"Beside each window the network sees a region {inputs.context} times as wide, averaged down.",
            "",
        ]
    if inputs.centred:
        lines[-1:] = ["Windows side by side find what is there; one about its middle gives the result.", ""]
    if inputs.mirrored:
        lines[-1:] = ["Left/right mirror images are averaged.", ""]
    rows = [[str(i), channel.name, channel.intensity] for i, channel in enumerate(inputs.channels)]
    lines += [
        _write_table(["channel", "name", "intensity"], rows),
        *_write_tabular(card),
        *_write_steps("Before the network", card.preprocessing),
    ]
    return "## Input\n" + "\n".join(lines) + "\n"


def _write_tabular_argument(card: Card) -> str:
    """Returns the tabular argument of `zoo.predict` with accepted values; empty where the model takes none."""
    fields = card.input.tabular
    values = {field.name: next(reversed(field.grades)) if field.grades else round(field.mean, 1) for field in fields}
    return f", tabular={json.dumps(values, ensure_ascii=False)}" if values else ""


def _write_tabular(card: Card) -> list[str]:
    if not card.input.tabular:
        return []
    rows = [
        [
            field.name,
            field.unit or "-",
            ", ".join(field.grades) or f"{field.low:g} to {field.high:g}",
            f"{field.mean:g}",
        ]
        for field in card.input.tabular
    ]
    text = (
        "Values beside the images; any may be left out, and the network then falls back on what it learned for unknown."
    )
    return ["", text, "", _write_table(["value", "unit", "from/to or grades", "mean in training"], rows)]


def _write_output(card: Card) -> str:
    lines = [f"Kind: {card.output.kind}; activation on the logits: {card.output.activation}.", ""]
    if card.output.labels:
        labels = sorted(card.output.labels.items())
        rows = [[str(index), label.name, str(label.value)] for index, label in labels]
        lines += [_write_table(["index", "label", "value in the source"], rows)]
    return "## Output\n" + "\n".join([*lines, *_write_steps("After the network", card.postprocessing)]) + "\n"


def _write_steps(title: str, steps: tuple[Step, ...]) -> list[str]:
    if not steps:
        return []
    parameters = [", ".join(f"{name} = {value}" for name, value in step.parameters.items()) for step in steps]
    pairs = zip(steps, parameters, strict=True)
    return [
        "",
        f"{title}:",
        *(f"{i}. {step.name}{f' ({numbers})' * bool(numbers)}" for i, (step, numbers) in enumerate(pairs, 1)),
    ]


def _write_results(card: Card) -> str:
    if not card.metrics:
        return "## Results\nNone measured yet.\n"
    rows = [
        [data, name, f"{value:.4g}", str(metrics["n"])]
        for data, metrics in card.metrics.items()
        for name, value in metrics.items()
        if name != "n"
    ]
    return "## Results\n" + _write_table(["data", "metric", "value", "cases"], rows) + "\n"


def _write_tables(card: Card) -> list[str]:
    sections = []
    for title, rows in card.tables.items():
        columns = list(dict.fromkeys(column for row in rows for column in row))
        sections.append(
            f"## {title}\n"
            + _write_table(columns, [[row.get(column, "") for column in columns] for row in rows])
            + "\n"
        )
    return sections


def _write_training(card: Card, command: str) -> str:
    training = card.training
    facts: dict[str, object] = {
        "Data": training.data,
        "Licence of the data": training.data_licence,
        "Command": _write_code(command),
    }
    facts |= {"Commit": training.commit, "Seed": training.seed, "Device": training.device, "Steps": training.steps}
    facts |= {"Minutes": training.minutes and f"{training.minutes:.4g}"}
    lines = [f"{name}: {value}" for name, value in facts.items() if value is not None]
    return _write_list("Training", ["The training images were synthetic."] * training.synthetic + lines)


def _write_list(title: str, lines: list[str]) -> str:
    return f"## {title}\n" + "\n".join(f"- {line}" for line in lines) + "\n" if lines else ""


def _write_table(head: list[str], rows: list[list[str]]) -> str:
    lines = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
