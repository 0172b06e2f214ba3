"""Prepares susceptibility maps for a network (ppm, mask), and measures the mean of each structure it finds."""

import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from zoo import files
from zoo.datasets.cases import Case
from zoo.errors import collect_warnings
from zoo.hub.card import Card
from zoo.inference.inputs import SingleImage
from zoo.inference.predictor import Predictor
from zoo.inference.structure_volumes import Row, volumes
from zoo.volumes import image as images
from zoo.volumes import susceptibility_units
from zoo.volumes.image import Image
from zoo.workflows.case_results import OptionError

STEP = "susceptibility"
MASKER = "unet3d.brain_mask"
COLUMNS = ("case", "structure", "value", "mean_ppm", "sd_ppm", "num_voxels", "volume_ml", "asymmetry_percent")


@contextmanager
def convert_maps(
    cases: Mapping[str, Any],
    card: Card,
    *,
    unit: str,
    magnitude: Path | None,
    warned: dict[str, list[Warning]] | None = None,
) -> Iterator[Mapping[str, Any]]:
    """Converts the susceptibility maps of cases to ppm and masks them, in files that live as long as the context.

    Args:
        cases: name -> path, channel name -> path, or a case of a data set.
        card: of the model.
        unit: of the maps; "" leaves them as they are.
        magnitude: of the only case, to mask its map by; None where it has a mask.
        warned: takes what zoo warned of, by case.

    Yields:
        The cases; the same ones without unit and magnitude.

    Raises:
        OptionError: the model takes no susceptibility map, several cases with one magnitude, or what `to_ppm` refuses.
    """
    if not unit and magnitude is None:
        yield cases
        return
    channel = find_channel(card)
    if channel is None:
        raise OptionError(f"{card.name} takes no susceptibility map: leave --unit and --magnitude out.")
    if magnitude is not None and len(cases) > 1:
        raise OptionError(f"--magnitude is that of one scan, got {len(cases)} scans. Predict them one by one.")
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        converted: dict[str, Any] = {}
        for name, case in cases.items():
            try:
                with collect_warnings((warned if warned is not None else {}).setdefault(name, [])):
                    chi = to_ppm(_select_map(case, channel), unit=unit or "ppm", magnitude=magnitude)
            except (ValueError, FileNotFoundError) as error:
                raise OptionError(f"{name}: {error}") from error
            path = Path(folder) / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)  # names may begin with a sub-folder
            images.write(path, images.array(chi), chi)
            converted[name] = _replace_map(case, channel, path)
        yield converted


def _select_map(case: Any, channel: str) -> SingleImage:
    channels = case.channels if isinstance(case, Case) else case
    return channels[channel] if isinstance(channels, Mapping) else channels


def _replace_map(case: Any, channel: str, path: Path) -> Any:
    if isinstance(case, Case):
        return dataclasses.replace(case, channels={**case.channels, channel: path})
    return {**case, channel: path} if isinstance(case, Mapping) else path


def find_channel(card: Card) -> str | None:
    """Returns the channel of a model that is a susceptibility map; None where there is none."""
    step = next((step for step in card.preprocessing if step.name == STEP), None)
    return None if step is None else str(step.parameters.get("channels", [card.input.channels[0].name])[0])


def to_ppm(
    chi: SingleImage,
    *,
    unit: str = "ppm",
    magnitude: SingleImage | None = None,
    masker: str | os.PathLike = MASKER,
) -> Image:
    """Converts a susceptibility map to what networks take: ppm, and 0 outside the brain.

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

    Example:
        >>> chi = to_ppm("chi_ppb.nii.gz", unit="ppb")  # doctest: +SKIP
        >>> labels = zoo.predict("resunet.qsm_nuclei", chi)  # doctest: +SKIP
    """
    factor = susceptibility_units.ppm_per(unit)
    chi = _read(chi)
    values = images.array(chi) * np.float32(factor)
    if not susceptibility_units.is_masked(values) and magnitude is not None:
        magnitude = _read(magnitude)
        images.check_same_grid([chi, magnitude], ["the susceptibility map", "the magnitude"])
        values = np.where(np.asanyarray(Predictor(masker)(magnitude).dataobj) != 0, values, np.float32(0))
    susceptibility_units.check(values)
    return images.on_grid_of(chi, values)


def measure_case(labels: Path, case: Any, card: Card) -> list[Row]:
    """Measures the structures of a predicted case; with their mean susceptibility where the model takes a map.

    Args:
        labels: file of the label map.
        case: path, channel name -> path, or a case of a data set.
        card: of the model.
    """
    label_map, channel = nibabel.nifti1.load(labels), find_channel(card)
    if channel is None:
        return volumes(label_map, card)
    return measure_structures(label_map, _read(_select_map(case, channel)), card)


def measure_structures(labels: Image, chi: Image, card: Card) -> list[Row]:
    """Measures mean susceptibility, volume and voxels of each structure that a model found.

    Args:
        labels: the model's label map, its source values.
        chi: the map on the same grid, in ppm.
        card: of the model.

    Returns:
        The rows of `zoo.inference.structure_volumes.volumes`, with `mean_ppm` and `sd_ppm`; empty for an empty map.

    Raises:
        ValueError: the two are on different grids.

    Example:
        >>> rows = measure_structures(labels, chi, zoo.card("resunet.qsm_nuclei"))  # doctest: +SKIP
        >>> rows[0]["structure"], rows[0]["mean_ppm"]  # doctest: +SKIP
    """
    images.check_same_grid([labels, chi], ["the labels", "the susceptibility map"])
    label_values, values = np.asanyarray(labels.dataobj), images.array(chi)
    rows = []
    for row in volumes(labels, card):
        inside = values[label_values == row["value"]].astype(np.float64)
        means = {"mean_ppm": float(inside.mean()), "sd_ppm": float(inside.std())} if inside.size else {}
        rows.append({**row, **means})
    return rows


def write_table(path: str | os.PathLike, tables: Sequence[tuple[str, Sequence[Row]]]) -> Path:
    """Writes the rows of all cases as one CSV, whole or not at all; columns that no row has are left out.

    Args:
        path: of the CSV.
        tables: name of a case and its rows.
    """
    rows: list[Row] = [{"case": case, **row} for case, measured in tables for row in measured]
    columns = [name for name in COLUMNS if any(name in row for row in rows)] or list(COLUMNS)
    shown = [{key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()} for row in rows]
    return files.write_whole(path, files.csv_text(shown, columns).encode())


def _read(image: SingleImage) -> Image:
    if isinstance(image, nibabel.spatialimages.SpatialImage):
        return images.check(image, "The image")
    return images.read(image)
