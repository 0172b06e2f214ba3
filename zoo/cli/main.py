"""The command `zoo`: one function a verb.

A verb is a function under `@app.command()`: its docstring is its help, it prints by `tell`, raises what zoo raises.
`zoo.cli.terminal.Verbs` turns an exception into one line and an exit code: 1 for work that failed, 2 for bad arguments.
What needs Keras is imported inside `framework()`, so that help and listings stay quick.
"""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

import zoo
from zoo import errors, registry
from zoo.cli import (
    bids_command,
    export_command,
    normative_command,
    susceptibility_options,
    task_commands,
    whatif_command,
)
from zoo.cli.info_command import builder_row, card_page, documentation, list_table, trained_row
from zoo.cli.predict_command import (
    case_line,
    given_cases,
    given_tabular,
    lesion_writer,
    locate_recordings,
    predict_cases,
    write_lesion_table,
    write_tables,
)
from zoo.cli.terminal import (
    FAILURES,
    WIDTH,
    Device,
    Json,
    Model,
    UsageError,
    Verbs,
    complete_any,
    complete_trained,
    end,
    find_model,
    framework,
    tell,
)
from zoo.hub import card_file, json_records, trained_models

app = typer.Typer(
    cls=Verbs,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
)


def main() -> NoReturn:
    """Runs the command line; never returns."""
    app()
    raise SystemExit(0)


@app.callback(invoke_without_command=True)
def _zoo(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """3D networks for neuroimaging with verified weights.

    Research use, not for diagnosis. zoo --install-completion sets up the shell.
    """
    if version:
        print(zoo.__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command("list")
def list_(
    pattern: Annotated[str, typer.Argument(help="Names that match, as in 'unet3d*'.")] = "*", as_json: Json = False
) -> None:
    """List networks and trained models."""
    names = trained_models.list_models(pattern)
    if not names:
        raise UsageError(str(errors.unknown_choice("model like", pattern, trained_models.list_models())))
    builders = registry.builders()
    rows = [builder_row(name) if name in builders else trained_row(name) for name in names]
    tell(rows, list_table(rows), as_json)


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="A trained model or a network.", autocompletion=complete_any)],
    everything: Annotated[bool, typer.Option("--all", help="Show every number, not the headline.")] = False,
    as_json: Json = False,
) -> None:
    """Show the card of a trained model, or what a network takes."""
    if model in registry.builders():
        text = documentation(model)
        tell({"name": model, "documentation": text}, text, as_json)
        return
    card = card_file.read(find_model(model))
    tell(json_records.plain(card), card_page(card, everything=everything), as_json)


@app.command()
def predict(  # noqa: PLR0913 - the choices of a command, each an option
    model: Model,
    scans: Annotated[
        list[str],
        typer.Argument(help="NIfTI files or one folder; CHANNEL=FILE ... or a data set for several channels."),
    ],
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="Folder for results, or a .nii.gz file for one scan.")
    ] = Path(),
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Write probabilities, not labels.")] = False,
    mirror: Annotated[bool, typer.Option("--mirror", help="Average over left/right mirror images.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that are there already.")] = False,
    volumes: Annotated[bool, typer.Option("--volumes", help="Write each result's volumes in ml as CSV, too.")] = False,
    tabular: Annotated[
        str, typer.Option(metavar="NAME=VALUE,...", help="Values beside the images, by the names on the card.")
    ] = "",
    table: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Write one table of all scans: volume, susceptibility a structure."),
    ] = None,
    lesions: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Write one table of all lesions: place, size, shape, confidence.")
    ] = None,
    regions: Annotated[
        str,
        typer.Option(metavar="FILE", help="Name the lesions' places by a label map, or by unet3d.brain_structures."),
    ] = "",
    unit: Annotated[
        str, typer.Option(metavar="UNIT", help="Of susceptibility maps: ppm, ppb, hz@TESLA or rad@TESLA,MS.")
    ] = "",
    magnitude: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Mask the susceptibility map by the brain in this image.")
    ] = None,
    normative: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Your own controls, of fit-normative, for a model of codes.")
    ] = None,
    runtime: Annotated[
        str, typer.Option(metavar="NAME", help="keras, onnx, openvino, litert or tensorflow (docs/export.md).")
    ] = "keras",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Run a trained model on scans; results lie on their grids.

    A result is called SCAN_TAG.nii.gz. A model that locates sources takes EEG files of
    MNE (-ave.fif, -epo.fif, raw) and writes NAME_sources.csv and NAME_posterior.nii.gz.
    A model of codes writes NAME_z.nii.gz, clusters as NIfTI and CSV, and a picture.
    What cannot be used is reported, the rest is finished, and the exit code is then 1.
    """
    folder = find_model(model)
    card = card_file.read(folder)
    if card.output.kind == "sources":
        with framework(device):
            found = locate_recordings(folder, scans, out)
        tell(found, "\n".join(row["text"] for row in found if "error" not in row), as_json)
        end(f"{row['case']}: {row['error']}" for row in found if "error" in row)
        return
    if card.output.kind == "codes" or normative is not None:
        with framework(device):
            found = normative_command.find_lesions(folder, scans, out, fitted=normative)
        tell(found, "\n".join(row["text"] for row in found if "error" not in row), as_json)
        end(f"{row['case']}: {row['error']}" for row in found if "error" in row)
        return
    given, values = given_cases(scans, card), given_tabular(tabular, card)
    with framework(device), susceptibility_options.prepared(given, card, unit=unit, magnitude=magnitude) as maps:
        from zoo.inference.settings import Settings

        beside = export_command.settings_of(runtime, folder)
        settings = Settings(probabilities=probabilities, mirror=mirror, **beside)
        writer = lesion_writer(card, lesions, regions)
        if lesions and probabilities:
            raise UsageError("--lesions needs labels: leave --probabilities out.")
        rows = predict_cases(
            folder, card, maps, out, settings=settings, overwrite=overwrite, tabular=values, writer=writer
        )
        if lesions:
            write_lesion_table(lesions, rows)
        if volumes and not probabilities:
            write_tables(rows, card)
        if table and not probabilities:
            susceptibility_options.write_table(table, rows, maps, card)
    tell(rows, "\n".join(case_line(row) for row in rows if "error" not in row), as_json)
    end(f"{row['case']}: {row['error']}" for row in rows if "error" in row)


@app.command()
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
                faults[name] = str(error)
    rows = [{"name": name, "verified": fault is None, "error": fault} for name, fault in faults.items()]
    tell(rows, "\n".join(f"{name}: verified" for name, fault in faults.items() if fault is None), as_json)
    end(fault for fault in faults.values() if fault)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="For the mask and the picture.")] = Path("zoo-demo"),
    as_json: Json = False,
) -> None:
    """Mask the brain of a real head that ships with zoo; draw it."""
    with framework():
        result = zoo.demo(out)
    tell(result.as_dict(), str(result), as_json)


for verb in (task_commands.check, task_commands.anatomies, task_commands.train, task_commands.evaluate):
    app.command()(verb)
app.command()(export_command.export)
app.command(context_settings=whatif_command.CONTEXT)(whatif_command.whatif)
app.command(cls=bids_command.BidsCommand, context_settings=bids_command.CONTEXT)(bids_command.bids)
app.command("fit-normative")(normative_command.fit_normative)


if __name__ == "__main__":
    main()
