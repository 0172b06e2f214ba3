"""`zoo predict` on susceptibility maps: `--unit`, `--magnitude`, and the table of structures."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.cli.predict_command import Given
from zoo.cli.terminal import UsageError
from zoo.hub import card as cards


@contextmanager
def prepared(given: Given, card: cards.Card, *, unit: str, magnitude: Path | None) -> Iterator[Given]:
    """What was given, with susceptibility maps in ppm and masked, as files that live as long as the context.

    Args:
        given: as `zoo.cli.predict_command.given_cases` returns it.
        card: of the model.
        unit: of the maps; "" leaves them as they are.
        magnitude: of the only case, to mask its map by; None where it has a mask.

    Raises:
        UsageError: the model takes no susceptibility map, several cases with one magnitude, or what
            `zoo.workflows.susceptibility_tables.ready` refuses.
    """
    if not unit and magnitude is None:
        yield given
        return
    from zoo.inference.inputs import find_cases
    from zoo.volumes import image
    from zoo.workflows import susceptibility_tables

    channel = susceptibility_tables.channel_of(card)
    if channel is None:
        raise UsageError(f"{card.name} takes no susceptibility map: leave --unit and --magnitude out.")
    cases: Mapping[str, Any] = find_cases(given, ignore=f"_{card.name.split('.')[-1]}")
    if magnitude is not None and len(cases) > 1:
        raise UsageError(f"--magnitude is that of one scan, got {len(cases)} scans. Predict them one by one.")
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        changed: dict[str, Any] = {}
        for name, one in cases.items():
            path = Path(folder) / f"{name}.nii.gz"
            try:
                chi = susceptibility_tables.ready(
                    one[channel] if isinstance(one, Mapping) else one, unit=unit or "ppm", magnitude=magnitude
                )
            except (ValueError, FileNotFoundError) as error:
                raise UsageError(f"{name}: {error}") from error
            image.write(path, image.array(chi), chi)
            changed[name] = {**one, channel: path} if isinstance(one, Mapping) else path
        yield changed


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], given: Given, card: cards.Card) -> None:
    """Writes one CSV of all cases: volume and voxels a structure, and the mean susceptibility where a map was given.

    Args:
        path: of the CSV.
        rows: as `predict_cases` returns them.
        given: what was predicted.
        card: of the model.

    Raises:
        UsageError: the model gives no labels.
    """
    import nibabel

    from zoo.inference.inputs import find_cases
    from zoo.inference.structure_volumes import volumes
    from zoo.volumes import image
    from zoo.workflows import susceptibility_tables

    if card.output.kind != "segmentation":
        raise UsageError(f"{card.name} gives {card.output.kind}, no labels: leave --table out.")
    channel = susceptibility_tables.channel_of(card)
    cases: Mapping[str, Any] = find_cases(given, ignore=f"_{card.name.split('.')[-1]}") if channel else {}
    tables = []
    for row in rows:
        if "error" in row:
            continue
        labels = nibabel.nifti1.load(row["out"])
        if channel is None:
            tables.append((row["case"], volumes(labels, card)))
            continue
        one = cases[row["case"]]
        chi = image.read(one[channel] if isinstance(one, Mapping) else one)
        tables.append((row["case"], susceptibility_tables.structures(labels, chi, card)))
    susceptibility_tables.write_table(path, tables)
