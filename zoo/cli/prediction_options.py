"""The options of `zoo predict` for scans: where results go, what is written beside them, and what kinds of map need."""

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.terminal import RUNTIME

TABLES, LESIONS, SUSCEPTIBILITY = "Tables", "Lesions", "Susceptibility maps"

Scans = Annotated[
    list[str], typer.Argument(help="NIfTI files or one folder; CHANNEL=FILE ... or a data set for several channels.")
]
Out = Annotated[Path, typer.Option(metavar="PATH", help="Folder for results, or a .nii.gz file for one scan.")]
Recursive = Annotated[bool, typer.Option("--recursive", help="Search a folder's sub-folders, too; results keep them.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that are there already.")]
Probabilities = Annotated[bool, typer.Option("--probabilities", help="Write probabilities, not labels.")]
Brain = Annotated[bool, typer.Option("--brain", help="Write each scan without its skull, too: SCAN_brain.nii.gz.")]
Volumes = Annotated[
    bool, typer.Option("--volumes", help="Write each result's volumes in ml as CSV, too.", rich_help_panel=TABLES)
]
StructureTable = Annotated[
    Path | None,
    typer.Option(
        metavar="CSV", help="Write one table of all scans: volume, susceptibility a structure.", rich_help_panel=TABLES
    ),
]
LesionTable = Annotated[
    Path | None,
    typer.Option(
        metavar="CSV", help="Write one table of all lesions: place, size, shape, confidence.", rich_help_panel=LESIONS
    ),
]
Regions = Annotated[
    str,
    typer.Option(
        metavar="FILE",
        help="Label map that names the lesions' places; default: by unet3d.brain_structures; 'none'.",
        rich_help_panel=LESIONS,
    ),
]
Normative = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Your own controls, of fit-normative, for a model of codes.", rich_help_panel=LESIONS
    ),
]
Unit = Annotated[
    str,
    typer.Option(
        metavar="UNIT", help="Of the maps: ppm, ppb, hz@TESLA or rad@TESLA,MS.", rich_help_panel=SUSCEPTIBILITY
    ),
]
Magnitude = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Mask the map by the brain in this image.", rich_help_panel=SUSCEPTIBILITY),
]
Runtime = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="keras, onnx, openvino, litert or tensorflow (docs/export.md).", rich_help_panel=RUNTIME
    ),
]
