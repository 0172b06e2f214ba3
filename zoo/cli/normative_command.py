"""`zoo fit-normative`, and what `zoo predict` does with a model of codes: outliers against controls."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.cli.predict_command import given_cases, named_cases
from zoo.cli.terminal import FAILURES, Device, Json, UsageError, find_model, framework, tell
from zoo.hub import card as cards
from zoo.hub import card_file

MODEL = "siamese.epilepsy_lesions"


def fit_normative(
    folder: Annotated[Path, typer.Argument(help="A data set of controls: a folder a person, or BIDS.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The normative model.")] = Path("normative.npz"),
    model: Annotated[str, typer.Option(metavar="MODEL", help="Whose codes.")] = MODEL,
    detector: Annotated[str, typer.Option(help="moments, mahalanobis, nearest, centre, one_class.")] = "moments",
    step: Annotated[int, typer.Option(help="Voxels from code to code: 1 is every voxel, 3 is quickest.")] = 3,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Fit what is normal to a site's own controls, ten or more.

    Run the same command again after a stop and it goes on with the next control or
    block. zoo predict MODEL --normative FILE then compares patients with them.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {str(folder)!r}.")
    card = _of_codes(find_model(model))
    with framework(device):
        from zoo.datasets.cases import fitting
        from zoo.normative import lesion_map
        from zoo.progress import progress_bar

        cases = fitting(folder, [channel.name for channel in card.input.channels])
        with progress_bar("voxels") as progress:
            found = lesion_map.fit_normative(
                cases, out, model=find_model(model), detector=detector, step=step, tell=_say, progress=progress
            )
    plain = {"out": str(out), "controls": found.controls, "voxels": len(found.places), "detector": detector}
    tell(plain, f"{out}: {found.controls} controls, {len(found.places):,} places, {detector}", as_json)


def find_lesions(folder: Path, scans: list[str], out: Path, *, fitted: Path | None) -> list[dict[str, Any]]:
    """Maps of outliers of one case or a data set; Keras is loaded already.

    Args:
        folder: of the model.
        scans: as `zoo predict` takes them.
        out: a folder.
        fitted: file of a site's own normative model; None for the shipped one.

    Returns:
        A row a case: "case" and "error", or "case", "out", "clusters", "seconds" and "text".

    Raises:
        UsageError: no such file, or what `given_cases` refuses.
    """
    from zoo.inference.inputs import select_images
    from zoo.normative import lesion_map

    card = _of_codes(folder)
    if fitted is not None and not fitted.is_file():
        raise UsageError(f"There is no normative model {str(fitted)!r}. Make one with zoo fit-normative FOLDER.")
    given = named_cases(given_cases(scans, card), card)
    finder = lesion_map.Finder(folder, fitted=fitted)
    rows: list[dict[str, Any]] = []
    for name, images in given.items():
        start = time.perf_counter()
        try:
            images = select_images(images, card) if hasattr(images, "channels") else images
            found = finder(images, tell=_say)
            files = [str(path) for path in found.write(out, name)]
        except FAILURES as error:
            rows.append({"case": name, "error": str(error)})
            continue
        seconds = round(time.perf_counter() - start, 1)
        picture = (
            "" if files[-1].endswith(".png") else "; no picture: it needs matplotlib (pip install 'zoo3d[report]')"
        )
        text = f"{files[0]}: {found.told}, {seconds} s{picture}"
        row = {"case": name, "out": files, "clusters": len(found.clusters), "share_out": round(found.out, 4)}
        rows.append(row | {"seconds": seconds, "text": text})
    return rows


def _of_codes(folder: Path) -> cards.Card:
    card = card_file.read(folder)
    if card.output.kind != "codes":
        raise UsageError(f"{card.name} gives {card.output.kind}, not codes. Outliers are found by {MODEL}.")
    return card


def _say(stage: str) -> None:
    if sys.stderr.isatty():
        print(stage, file=sys.stderr)
