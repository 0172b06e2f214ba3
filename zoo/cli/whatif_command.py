"""`zoo whatif`: varies the tabular values of a model, each by an option of its own name."""

import math
from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.scan_arguments import parse_scans, parse_tabular
from zoo.cli.terminal import RUNTIME, Device, Json, Model, UsageError, find_model, framework, tell
from zoo.errors import unknown_choice
from zoo.hub import card_file
from zoo.hub.tabular import Tabular

CONTEXT = {"ignore_unknown_options": True}  # the options are those of a card
MOST = 10_000
Out = Annotated[Path, typer.Option(metavar="FOLDER", help="For whatif.csv and whatif.png.")]


def whatif(
    model: Model,
    scans: Annotated[list[str], typer.Argument(help="CHANNEL=FILE ..., and --VALUE RANGE ... of what to vary.")],
    out: Out = Path("whatif"),
    tabular: Annotated[str, typer.Option(metavar="NAME=VALUE,...", help="Values that stay the same.")] = "",
    precision: Annotated[
        str, typer.Option(help="auto, float32 (as predict) or bfloat16.", rich_help_panel=RUNTIME)
    ] = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Predict one case under other values, such as treatments.

    Writes a table of volumes and a plot. Each tabular value of the model is an option; enough of its name to tell it
    apart will do. A range is FIRST:LAST:STEP or a list: --time 0:12:1 --tici
    0,2a,2b,3. What comes out is what the model learned, not what a treatment
    would do for a patient.
    """
    folder = find_model(model)
    card = card_file.read(folder)
    fields = {field.name: field for field in card.input.tabular}
    files, options = _split_options(scans, list(fields))
    if not options:
        names = " ".join(f"--{name} {_make_example(field)}" for name, field in fields.items())
        raise UsageError(f"Say what to vary: {names}." if names else f"{card.name} takes no tabular values to vary.")
    cases = parse_scans(files, card)
    images = next(iter(cases.values()))
    if len(cases) != 1 or not isinstance(images, dict | Path):
        raise UsageError(f"whatif takes one case, got {' '.join(files)!r}.")
    sweep = {name: parse_values(fields[name], text) for name, text in options.items()}
    for name, values in sweep.items():
        for value in values:
            parse_tabular(f"{name}={value}", card)
    fixed = parse_tabular(tabular, card)
    with framework(device):
        from zoo.inference.settings import Settings
        from zoo.workflows import whatif as workflow

        settings = Settings(precision=precision)
        rows = workflow.whatif(folder, images, sweep, tabular=fixed, out=out, settings=settings).rows
    table, plot = out / workflow.TABLE, out / workflow.PLOT
    tell({"rows": rows, "table": str(table), "plot": str(plot)}, f"{len(rows)} rows: {table}, {plot}", as_json)


def _split_options(words: list[str], names: list[str]) -> tuple[list[str], dict[str, str]]:
    """Splits scans from `--name text` and `--name=text`; returns the texts by the full name of the tabular value."""
    files: list[str] = []
    options: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            files.append(word)
            continue
        short, equals, text = word[2:].partition("=")
        name = _complete_name(short.replace("-", "_"), names)
        if name in options:
            raise UsageError(f"--{short} is given twice.")
        options[name] = text if equals else next(rest, "")
    return files, options


def _complete_name(short: str, names: list[str]) -> str:
    fitting = [name for name in names if name.startswith(short)]
    if short in names or len(fitting) == 1:
        return short if short in names else fitting[0]
    if fitting:
        raise UsageError(f"--{short} could be {' or '.join(fitting)}. Write more of it.")
    raise UsageError(str(unknown_choice("option or tabular value", short, names)))


def parse_values(field: Tabular, text: str) -> list[float | str]:
    """Returns the values of "0:12:1" (both ends count) or "0,2a,2b"; words of a scale stay words.

    Raises:
        UsageError: an empty text, a range of words, or one without an end.
    """
    parts = [part.strip() for part in text.split(":")]
    if len(parts) == 1:
        listed = [part.strip() for part in text.split(",")]
        if not all(listed):
            raise UsageError(f"--{field.name} takes {_make_example(field)}, got {text!r}.")
        return [part if field.grades else _parse_number(field, part) for part in listed]
    if field.grades or len(parts) != 3:
        raise UsageError(f"--{field.name} takes {_make_example(field)}, got {text!r}.")
    first, last, step = (_parse_number(field, part) for part in parts)
    count = math.floor((last - first) / step + 1e-9) + 1 if step > 0 else 0
    if not 0 < count <= MOST:
        raise UsageError(f"--{field.name} FIRST:LAST:STEP needs FIRST <= LAST and a STEP above 0, got {text!r}.")
    return [first + step * index for index in range(count)]


def _parse_number(field: Tabular, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"--{field.name} takes {_make_example(field)}, got {text!r}.")
    return value


def _make_example(field: Tabular) -> str:
    return ",".join(field.grades) if field.grades else f"{field.low:g}:{field.high:g}:{(field.high - field.low) / 8:g}"
