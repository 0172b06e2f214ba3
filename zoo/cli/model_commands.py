"""`zoo list`, `zoo info`, `zoo verify` and `zoo demo`: lists, shows and checks the models."""

from pathlib import Path
from typing import Annotated

import typer

from zoo import errors, registry
from zoo.cli.info_page import builder_row, card_page, list_table, read_documentation, trained_row
from zoo.cli.terminal import (
    FAILURES,
    Json,
    UsageError,
    complete_any,
    complete_trained,
    end,
    find_model,
    framework,
    tell,
    warn,
)
from zoo.hub import card_file, json_records, trained_models


def list_models(
    pattern: Annotated[str, typer.Argument(help="Names that match, as in 'unet3d*'.")] = "*", as_json: Json = False
) -> None:
    """List networks and trained models."""
    names = trained_models.list_models(pattern)
    if not names:
        raise UsageError(str(errors.unknown_choice("model like", pattern, trained_models.list_models())))
    builders = registry.builders()
    rows = [builder_row(name) if name in builders else trained_row(name) for name in names]
    tell(rows, list_table(row for row in rows if row["error"] is None), as_json)
    warn(f"{row['name']} is left out: {row['error']}" for row in rows if row["error"] is not None)


def info(
    model: Annotated[str, typer.Argument(help="A trained model or a network.", autocompletion=complete_any)],
    everything: Annotated[bool, typer.Option("--all", help="Show every number, not the headline.")] = False,
    as_json: Json = False,
) -> None:
    """Show the card of a trained model, or what a network takes."""
    if model in registry.builders():
        text = read_documentation(model)
        tell({"name": model, "documentation": text}, text, as_json)
        return
    card = card_file.read(find_model(model))
    tell(json_records.to_plain(card), card_page(card, everything=everything), as_json)


def verify(
    models: Annotated[
        list[str] | None, typer.Argument(help="Left out: all there are.", autocompletion=complete_trained)
    ] = None,
    as_json: Json = False,
) -> None:
    """Check trained models: hash, names, shapes, golden output."""
    names = models or [name for name in trained_models.list_models() if name not in registry.builders()]
    folders = {name: find_model(name) for name in names}
    faults: dict[str, str | None] = {}
    with framework():
        for name, folder in folders.items():
            try:
                trained_models.verify(folder)
                faults[name] = None
            except FAILURES as error:
                faults[name] = errors.to_line(error)
    rows = [{"name": name, "verified": fault is None, "error": fault} for name, fault in faults.items()]
    tell(rows, "\n".join(f"{name}: verified" for name, fault in faults.items() if fault is None), as_json)
    end(fault for fault in faults.values() if fault)


def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="For labels, volumes and pictures.")] = Path("zoo-demo"),
    as_json: Json = False,
) -> None:
    """Mask the brain of a real head that ships with zoo; draw it."""
    with framework():
        from zoo.workflows.demo import demo as run_demo

        result = run_demo(out)
    tell(result.as_dict(), str(result), as_json)
