"""Measures the volume of each structure in a label map, and how left differs from right."""

import os
from pathlib import Path

import numpy as np

from zoo import files
from zoo.hub.card import Card
from zoo.inference.left_right import partners
from zoo.volumes.image import Image, spacing_mm

COLUMNS = ("structure", "value", "num_voxels", "volume_ml", "asymmetry_percent")
Row = dict[str, str | int | float]


def volumes(image: Image, card: Card) -> list[Row]:
    """Measures each structure that a trained model finds.

    The asymmetry of a sided structure is `200 (left - right) / (left + right)`, in percent, the same on both rows;
    empty where there is no partner or neither side was found.

    Args:
        image: what `zoo.predict` returned for that model: the card's source values on a grid in mm.
        card: of the model.

    Returns:
        One row a label but the background: structure, value, num_voxels, volume_ml, asymmetry_percent.

    Example:
        >>> card = zoo.card("unet3d.brain_mask")  # doctest: +SKIP
        >>> volumes(zoo.predict("unet3d.brain_mask", "t1.nii.gz"), card)[0]["volume_ml"]  # doctest: +SKIP
    """
    labels = np.asanyarray(image.dataobj)
    voxel_ml = float(np.prod(spacing_mm(image.affine))) / 1000
    by_value = dict(zip(*(part.tolist() for part in np.unique(labels, return_counts=True)), strict=True))
    counts = {index: by_value.get(label.value, 0) for index, label in card.output.labels.items()}
    counterparts = partners(card.output.labels)
    rows: list[Row] = []
    for index, label in card.output.labels.items():
        if label.value == 0:
            continue
        row: Row = {"structure": label.name, "value": label.value, "num_voxels": counts[index]}
        asymmetry = _measure_asymmetry(index, counterparts[index], counts)
        rows.append(row | {"volume_ml": counts[index] * voxel_ml, "asymmetry_percent": asymmetry})
    return rows


def _measure_asymmetry(index: int, counterpart: int, counts: dict[int, int]) -> float | str:
    left, right = (counts[side] for side in sorted((index, counterpart)))
    return "" if counterpart == index or left + right == 0 else 200 * (left - right) / (left + right)


def write_volumes(path: str | os.PathLike, image: Image, card: Card) -> Path:
    """Writes the rows of `volumes`, whole or not at all: CSV, or for a .tsv file as BIDS has it, empty cells as n/a."""
    rows = [
        {key: f"{value:.4f}" if isinstance(value, float) else value for key, value in row.items()}
        for row in volumes(image, card)
    ]
    text = files.csv_text(rows, COLUMNS, tabs=os.fspath(path).endswith(".tsv"))
    return files.write_whole(path, text.encode())
