"""The README of a trained model, written from its card alone: no number in it is typed by hand."""

from zoo.hub.card import Card, Step

_HEAD = """---
license: {card.licence}
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
    """Markdown that tells a reader what goes in, what comes out, how good it is and where it fails.

    Args:
        card: a complete card.

    Returns:
        Markdown with the front matter that model hubs read; ends in a newline.

    Raises:
        ValueError: the card has not been measured yet.
    """
    if card.weights is None or card.parameters is None:
        raise ValueError(f"card {card.name!r} has no weights yet, got None. Save the model first (zoo.save).")
    synthetic = "Trained on synthetic images." if card.training.synthetic else "Trained on real images."
    files = ", ".join(f'"{channel.name}": "{channel.name}.nii.gz"' for channel in card.input.channels)
    example = "{" + files + "}" if len(card.input.channels) > 1 else '"scan.nii.gz"'
    example += _tabular_example(card)
    head = _HEAD.format(card=card, origin=synthetic, megabytes=card.weights.bytes / 1e6, example=example)
    sections = [head, _input(card), _output(card), _results(card), *_tables(card), _training(card)]
    sections += [_listed("Intended use and limits", [card.intended_use, *card.limits])]
    sections += [_listed("References", [f"https://doi.org/{doi}" for doi in card.references])]
    sections += [_listed("Changelog", [f"{version}: {text}" for version, text in card.changelog.items()])]
    return "\n".join(section for section in sections if section)


def _input(card: Card) -> str:
    given = card.input
    by = " x ".join(str(size) for size in given.patch)
    divisor = " x ".join(str(size) for size in given.divisor)
    spacing = given.spacing_mm and " x ".join(f"{size:g}" for size in given.spacing_mm) + " mm"
    set_by_steps = any(step.name in ("resample", "resize") for step in card.preprocessing)
    own = "as the preprocessing sets them" if set_by_steps else "as each image has them"
    lines = [f"Orientation {given.orientation}; voxels {spacing or own};"]
    lines += [f"windows of {by} voxels; sizes are multiples of {divisor}.", ""]
    if given.context:
        lines[-1:] = [f"Beside each window the network sees a region {given.context} times as wide, averaged down.", ""]
    rows = [[str(i), channel.name, channel.intensity] for i, channel in enumerate(given.channels)]
    lines += [
        _table(["channel", "name", "intensity"], rows),
        *_tabular(card),
        *_steps("Before the network", card.preprocessing),
    ]
    return "## Input\n" + "\n".join(lines) + "\n"


def _tabular_example(card: Card) -> str:
    """The argument of `zoo.predict`, with a value that is accepted; empty where the model takes none."""
    fields = card.input.tabular
    values = {one.name: next(reversed(one.grades)) if one.grades else round(one.mean, 1) for one in fields}
    return f", tabular={values}".replace("'", '"') if values else ""


def _tabular(card: Card) -> list[str]:
    if not card.input.tabular:
        return []
    rows = [
        [one.name, one.unit or "-", ", ".join(one.grades) or f"{one.low:g} to {one.high:g}", f"{one.mean:g}"]
        for one in card.input.tabular
    ]
    told = (
        "Values beside the images; any may be left out, and the network then falls back on what it learned for unknown."
    )
    return ["", told, "", _table(["value", "unit", "from/to or grades", "mean in training"], rows)]


def _output(card: Card) -> str:
    lines = [f"Kind: {card.output.kind}; activation on the logits: {card.output.activation}.", ""]
    if card.output.labels:
        labels = sorted(card.output.labels.items())
        rows = [[str(index), label.name, str(label.value)] for index, label in labels]
        lines += [_table(["index", "label", "value in the source"], rows)]
    return "## Output\n" + "\n".join([*lines, *_steps("After the network", card.postprocessing)]) + "\n"


def _steps(title: str, steps: tuple[Step, ...]) -> list[str]:
    if not steps:
        return []
    told = [", ".join(f"{name} = {value}" for name, value in step.parameters.items()) for step in steps]
    pairs = zip(steps, told, strict=True)
    return [
        "",
        f"{title}:",
        *(f"{i}. {step.name}{f' ({numbers})' * bool(numbers)}" for i, (step, numbers) in enumerate(pairs, 1)),
    ]


def _results(card: Card) -> str:
    if not card.metrics:
        return "## Results\nNone measured yet.\n"
    rows = [
        [data, name, f"{value:.4g}", str(metrics["n"])]
        for data, metrics in card.metrics.items()
        for name, value in metrics.items()
        if name != "n"
    ]
    return "## Results\n" + _table(["data", "metric", "value", "cases"], rows) + "\n"


def _tables(card: Card) -> list[str]:
    found = []
    for title, rows in card.tables.items():
        columns = list(dict.fromkeys(column for row in rows for column in row))
        found.append(f"## {title}\n" + _table(columns, [[row.get(one, "") for one in columns] for row in rows]) + "\n")
    return found


def _training(card: Card) -> str:
    given = card.training
    told: dict[str, object] = {
        "Data": given.data,
        "Licence of the data": given.data_licence,
        "Command": f"`{given.command}`",
    }
    told |= {"Commit": given.commit, "Seed": given.seed, "Device": given.device, "Steps": given.steps}
    told |= {"Minutes": given.minutes and f"{given.minutes:.4g}"}
    lines = [f"{name}: {value}" for name, value in told.items() if value is not None]
    return _listed("Training", ["The training images were synthetic."] * given.synthetic + lines)


def _listed(title: str, lines: list[str]) -> str:
    return f"## {title}\n" + "\n".join(f"- {line}" for line in lines) + "\n" if lines else ""


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)
