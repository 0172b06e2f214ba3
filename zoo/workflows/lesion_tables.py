"""`zoo.lesions`: lists each lesion that a trained model finds with its place, size, shape and confidence."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from scipy import ndimage

from zoo import files
from zoo.datasets.cases import stem
from zoo.errors import unknown_choice
from zoo.evaluation.candidates import Candidate, find_candidates
from zoo.hub import result_record, trained_models
from zoo.hub.card import Card
from zoo.hub.tabular import Value
from zoo.inference.cohort import Writer
from zoo.inference.inputs import Images, read_channels
from zoo.inference.predictor import Predictor
from zoo.inference.settings import Settings
from zoo.progress import progress_bar
from zoo.volumes import image
from zoo.volumes.components import label_components
from zoo.volumes.image import Image

STRUCTURES = "unet3d.brain_structures"
UNKNOWN, OUTSIDE = "unknown", "outside"
NO_REGIONS = "none"
MEASURED = ("x_mm", "y_mm", "z_mm", "diameter_mm", "volume_mm3", "elongation", "region", "confidence")
COLUMNS = ("case", "lesion", "label", *MEASURED)
Row = dict[str, str | int | float]


@dataclass(frozen=True)
class Regions:
    """A label map that names places.

    Attributes:
        image: 3D labels; any grid, but in the same world coordinates as the scan.
        names: value -> name; a value without one is called by its number.
    """

    image: Image
    names: Mapping[int, str]

    def value(self, place_mm: Sequence[float]) -> int:
        """Returns the label at a place in world mm; 0 outside the map."""
        voxel = np.rint(np.linalg.solve(self.image.affine, [*place_mm, 1.0])[:3]).astype(int)
        if (voxel < 0).any() or (voxel >= self.image.shape).any():
            return 0
        return round(float(np.asanyarray(self.image.dataobj)[tuple(voxel)]))

    def name_at(self, place_mm: Sequence[float]) -> str:
        """Returns the name of the region at a place in world mm; "outside" where the map has 0 or ends."""
        value = self.value(place_mm)
        return self.names.get(value, f"region {value}") if value else OUTSIDE


def read_regions(path: str | os.PathLike) -> Regions:
    """Reads a label map and its names: from a table beside it (`NAME.tsv` with index and name, as BIDS has it), or else
    those of `unet3d.brain_structures`, whose values are FreeSurfer's.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no 3D label map, or the table lacks a column.
    """
    path = Path(path)
    table = path.with_name(f"{stem(path)}.tsv")
    return Regions(image.read(path), _read_names(table) if table.is_file() else _structure_names())


def _structure_names() -> dict[int, str]:
    """Returns the names of `unet3d.brain_structures` by value."""
    return {label.value: label.name for label in trained_models.card(STRUCTURES).output.labels.values()}


def _read_names(table: Path) -> dict[int, str]:
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    try:
        return {int(row["index"]): row["name"] for row in rows}
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"{table} must have the columns index (whole numbers) and name; {error!r}. Correct it."
        ) from None


def measure(
    labels: Image, confidence: Image, card: Card, *, regions: Regions | None = None, only: Iterable[str] | None = None
) -> list[Row]:
    """Measures each lesion of a label map: each connected piece (26 neighbours) of a label.

    Args:
        labels: the card's source values.
        confidence: probability of the label at each voxel, on the same grid.
        card: of the model.
        regions: name the places of lesions; None gives "unknown".
        only: labels by name; None takes all but background.

    Returns:
        A row a lesion, surest first: lesion (from 1), label, x_mm, y_mm, z_mm (centre of mass, weighted by probability,
        in the scan's own world, RAS+), diameter_mm (of the ball of its volume), volume_mm3, elongation (longest over
        shortest principal SD), region (at its centre) and confidence (mean probability over its voxels).

    Raises:
        ValueError: no such label.
    """
    names = {label.name: label.value for label in card.output.labels.values() if label.value}
    selected = list(names) if only is None else list(only)
    for name in selected:
        if name not in names:
            raise unknown_choice("label", name, names)
    values, probability = np.asanyarray(labels.dataobj), np.asanyarray(confidence.dataobj)
    pieces = [
        (name, piece)
        for name in selected
        for piece in _measure_pieces(values == names[name], probability, labels.affine)
    ]
    pieces.sort(key=lambda pair: -pair[1].confidence)
    return [_make_row(number, name, piece, regions) for number, (name, piece) in enumerate(pieces, start=1)]


def _measure_pieces(mask: np.ndarray, probability: np.ndarray, affine: np.ndarray) -> list[Candidate]:
    """Measures each piece in its own box, so that a large scan with small lesions costs one pass."""
    numbered, _ = label_components(mask)
    pieces: list[Candidate] = []
    for number, box in enumerate(ndimage.find_objects(numbered), start=1):
        moved = np.array(affine, float)
        moved[:3, 3] = affine[:3] @ [*(side.start for side in box), 1.0]
        # A voxel of the label has a probability above 0; the floor keeps one that was rounded away.
        inside = np.where(numbered[box] == number, np.maximum(probability[box], 1e-6), 0)
        pieces += find_candidates(inside, moved, threshold=0.0)
    return pieces


def _make_row(number: int, label: str, piece: Candidate, regions: Regions | None) -> Row:
    x, y, z = piece.centre_mm
    return {
        "lesion": number,
        "label": label,
        "x_mm": x,
        "y_mm": y,
        "z_mm": z,
        "diameter_mm": piece.diameter_mm,
        "volume_mm3": piece.volume_mm3,
        "elongation": piece.elongation,
        "region": UNKNOWN if regions is None else regions.name_at(piece.centre_mm),
        "confidence": piece.confidence,
    }


def lesions(
    model: str | os.PathLike | keras.Model,
    images: Images,
    *,
    card: Card | None = None,
    regions: str | os.PathLike | Regions | None = None,
    labels: Sequence[str] | None = None,
    out: str | os.PathLike | None = None,
    settings: Settings | None = None,
    tabular: Mapping[str, Value] | None = None,
) -> list[Row]:
    """Finds the lesions of one scan.

    Args:
        model: name ("unet3d.lacunes") or folder of a trained model, or a Keras model with a card.
        images: as `zoo.predict` takes them.
        card: of a Keras model.
        regions: names the place of each lesion: "unet3d.brain_structures" finds it in the first image; or a label map,
            on any grid in the scan's world (`read_regions`); None takes `default_regions`; "none": "unknown".
        labels: that are lesions, by name; None takes all but background.
        out: also write the table there as CSV, whole or not at all.
        settings: how to predict.
        tabular: values beside the images, as `zoo.predict` takes them.

    Returns:
        The rows of `measure`.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: as `zoo.predict`; or a model that gives no labels, or no such label.

    Example:
        >>> rows = lesions("unet3d.lacunes", ["T1.nii.gz", "T2.nii.gz", "FLAIR.nii.gz"])  # doctest: +SKIP
        >>> rows[0]["diameter_mm"], rows[0]["confidence"]  # doctest: +SKIP
    """
    predictor = Predictor(model, card=card, settings=settings)
    writer = LesionWriter(default_regions(predictor.card) if regions is None else regions, labels)
    with progress_bar(predictor.card.name, shown=predictor.settings.progress) as show:
        _, rows = writer.find(predictor, images, tabular=tabular, progress=show)
    if out is not None:
        write_lesions(out, {_name_case(images): rows})
    return rows


def default_regions(card: Card) -> str | None:
    """Returns what names the places of lesions where nobody says: the structures of the brain, for images that show it.

    Example:
        >>> default_regions(trained_models.card("unet3d.lacunes"))
        'unet3d.brain_structures'
    """
    return STRUCTURES if card.plausible is not None and card.plausible.shows is not None else None


def _name_case(images: Images) -> str:
    """Returns the name of the first file; "" for an image in memory."""
    first = next(iter(images.values())) if isinstance(images, Mapping) else images
    first = first[0] if isinstance(first, Sequence) and not isinstance(first, str | os.PathLike) else first
    return stem(Path(first)) if isinstance(first, str | os.PathLike) else ""


class LesionWriter(Writer):
    """Writes a label map, and beside it `SCAN_TAG_lesions.csv`; a map without its table is not whole.

    Args:
        regions: as `lesions` takes it.
        labels: as `lesions` takes them.
        **origin: `settings` and `sources`, as `Writer` takes them.
    """

    def __init__(
        self, regions: str | os.PathLike | Regions | None, labels: Sequence[str] | None, **origin: Any
    ) -> None:
        super().__init__(**origin)
        self._labels = labels
        self._finder = Predictor(STRUCTURES) if regions == STRUCTURES else None
        self._regions: Regions | None = None
        if isinstance(regions, Regions):
            self._regions = regions
        elif regions not in (None, NO_REGIONS) and self._finder is None:
            self._regions = read_regions(regions)

    @property
    def products(self) -> Mapping[str, Any]:
        """The labels and regions that the table is made with, for the record."""
        regions: Any = None
        if self._finder is not None:
            regions = result_record.describe_model(self._finder.card)
        elif self._regions is not None:
            names = {str(value): name for value, name in self._regions.names.items()}
            regions = {"Map": result_record.describe_input(self._regions.image)["Sha256"], "Names": names}
        return {"Lesions": None if self._labels is None else list(self._labels), "Regions": regions}

    def find(self, predictor: Predictor, images: Images, **options: Any) -> tuple[Image, list[Row]]:
        """Returns the label map and the rows of a case; options as in `make`."""
        conditioning = predictor.encode_tabular(options.get("tabular"))
        case = predictor.prepare(images)
        labels, confidence = predictor.predict_with_confidence(
            case, conditioning=conditioning, progress=options.get("progress")
        )
        del case
        regions = self._regions
        if self._finder is not None:
            regions = Regions(self._finder(read_channels(images, predictor.card)[0]), _structure_names())
        return labels, measure(labels, confidence, predictor.card, regions=regions, only=self._labels)

    def files_beside(self, target: Path) -> tuple[Path, ...]:
        """Returns the table's path."""
        return (table_of(target),)

    def is_whole(self, target: Path) -> bool:
        """Returns whether the map and its table are there."""
        return super().is_whole(target) and table_of(target).is_file()

    def make(self, predictor: Predictor, images: Images, **options: Any) -> Any:
        """Returns the label map and the rows of a case."""
        return self.find(predictor, images, **options)

    def write(self, made: tuple[Image, list[Row]], target: Path) -> None:
        """Writes the map, then its table, each whole or not at all."""
        result, rows = made
        table_of(target).unlink(missing_ok=True)  # an old table beside a new map would pass for its own
        super().write(result, target)
        write_lesions(table_of(target), {stem(target): rows})


def table_of(target: Path) -> Path:
    """Returns the path of the table beside a label map."""
    return target.with_name(f"{stem(target)}_lesions.csv")


def read_lesions(path: str | os.PathLike) -> list[dict[str, str]]:
    """Reads the rows of a table, as text."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_lesions(path: str | os.PathLike, cases: Mapping[str, Iterable[Mapping[str, Any]]]) -> Path:
    """Writes the lesions of all cases as one CSV, whole or not at all; a header alone where there is none.

    Args:
        path: of the CSV.
        cases: name -> rows of `measure` or `read_lesions`.
    """
    shown = [
        {key: f"{value:.3f}" if isinstance(value, float) else value for key, value in row.items()} | {"case": case}
        for case, rows in cases.items()
        for row in rows
    ]
    return files.write_whole(path, files.csv_text(shown, COLUMNS).encode())
