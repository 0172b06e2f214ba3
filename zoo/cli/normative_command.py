"""`zoo fit-normative`: fits a normative model to a site's own controls."""

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.terminal import Device, Json, UsageError, find_model, framework, show_stage, tell, usage_errors, warn
from zoo.errors import collect_warnings

MODEL = "siamese.epilepsy_lesions"


def fit_normative(
    folder: Annotated[Path, typer.Argument(help="A data set of controls: a folder a person, or BIDS.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The normative model.")] = Path("normative.npz"),
    model: Annotated[str, typer.Option(metavar="MODEL", help="Whose codes.")] = MODEL,
    detector: Annotated[str, typer.Option(help="moments, mahalanobis, nearest, centre, one_class.")] = "moments",
    step: Annotated[int, typer.Option(help="Voxels from code to code: 1 is every voxel, 3 is quickest.")] = 3,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Fit what is normal to a site's own controls, ten or more.

    Run the same command again after a stop and it goes on with the next control or
    block; normative.json says what made the result. zoo predict MODEL --normative FILE
    then compares patients with them.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {str(folder)!r}.")
    home = find_model(model)
    with framework(device):
        from zoo.datasets.cases import fitting
        from zoo.datasets.left_out import tell_unused
        from zoo.normative import lesion_map
        from zoo.progress import progress_bar
        from zoo.workflows.case_results import OptionError
        from zoo.workflows.runners import read_codes_card

        with usage_errors(OptionError):
            card = read_codes_card(home)
        cases = fitting(folder, [channel.name for channel in card.input.channels])
        tell_unused(folder, cases)
        with collect_warnings() as collected, progress_bar("voxels") as progress:
            normative = lesion_map.fit_normative(
                cases, out, model=home, detector=detector, step=step, overwrite=overwrite, tell=show_stage,
                progress=progress,
            )  # fmt: skip
    places = len(normative.places)
    plain = {"out": str(out), "controls": normative.controls, "voxels": places, "detector": detector}
    tell(plain, f"{out}: {normative.controls} controls, {places:,} places, {detector}", as_json)
    warn(map(str, collected))
