"""Susceptibility maps before a network and after it: to ppm, a mask, and the mean of each structure."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np

from zoo import files
from zoo.hub.card import Card
from zoo.inference.predictor import Predictor
from zoo.inference.structure_volumes import Row, volumes
from zoo.volumes import image as images
from zoo.volumes import susceptibility_units
from zoo.volumes.image import Image

STEP = "susceptibility"
MASKER = "unet3d.brain_mask"
COLUMNS = ("case", "structure", "value", "mean_ppm", "sd_ppm", "num_voxels", "volume_ml", "asymmetry_percent")
One = str | os.PathLike | Image


def channel_of(card: Card) -> str | None:
    """The channel of a model that is a susceptibility map; None where there is none."""
    step = next((step for step in card.preprocessing if step.name == STEP), None)
    return None if step is None else str(step.parameters.get("channels", [card.input.channels[0].name])[0])


def ready(chi: One, *, unit: str = "ppm", magnitude: One | None = None, masker: str | os.PathLike = MASKER) -> Image:
    """A susceptibility map as networks take it: in ppm and 0 outside the brain.

    Args:
        chi: path or image of the map.
        unit: what its numbers are in: "ppm", "ppb", "1", "hz@3" (at 3 T) or "rad@3,20" (at 3 T, echo at 20 ms).
        magnitude: path or image of the magnitude on the same grid; where the map has no mask, the brain that `masker`
            finds there is used. A map that has one is left as it is.
        masker: name or folder of the trained model that masks.

    Returns:
        An image on the map's grid, float32.

    Raises:
        ValueError: an unknown unit; values that, converted, are no susceptibility in ppm; no mask and no magnitude; or
            map and magnitude on different grids.
    """
    factor = susceptibility_units.ppm_per(unit)
    given = _read(chi)
    values = images.array(given) * np.float32(factor)
    if not susceptibility_units.is_masked(values) and magnitude is not None:
        seen = _read(magnitude)
        images.check_same_grid([given, seen], ["the susceptibility map", "the magnitude"])
        values = np.where(np.asanyarray(Predictor(masker)(seen).dataobj) != 0, values, np.float32(0))
    susceptibility_units.check(values)
    return images.on_grid_of(given, values)


def structures(labels: Image, chi: Image, card: Card) -> list[Row]:
    """Mean susceptibility, volume and voxels of each structure that a model found.

    Args:
        labels: what the model gave, its source values.
        chi: the map on the same grid, in ppm.
        card: of the model.

    Returns:
        The rows of `zoo.inference.structure_volumes.volumes`, with `mean_ppm` and `sd_ppm`; empty for an empty map.

    Raises:
        ValueError: the two are on different grids.
    """
    images.check_same_grid([labels, chi], ["the labels", "the susceptibility map"])
    found, values = np.asanyarray(labels.dataobj), images.array(chi)
    rows = []
    for row in volumes(labels, card):
        inside = values[found == row["value"]].astype(np.float64)
        told = {"mean_ppm": float(inside.mean()), "sd_ppm": float(inside.std())} if inside.size else {}
        rows.append({**row, **told})
    return rows


def write_table(path: str | os.PathLike, tables: Sequence[tuple[str, Sequence[Row]]]) -> Path:
    """Writes the rows of all cases as one CSV, whole or not at all; columns that no row has are left out.

    Args:
        path: of the CSV.
        tables: name of a case and its rows.
    """
    rows: list[Row] = [{"case": case, **row} for case, found in tables for row in found]
    text = io.StringIO()
    columns = [name for name in COLUMNS if any(name in row for row in rows)] or list(COLUMNS)
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()})
    return files.write_whole(path, text.getvalue().encode())


def _read(one: One) -> Image:
    if isinstance(one, nibabel.spatialimages.SpatialImage):
        return images.check(one, "The image")
    return images.read(one)
