"""`zoo.demo`: finds brain and structures of the real head that ships with the package, measures and draws them."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.evaluation import overlap
from zoo.hub import trained_models
from zoo.inference import structure_volumes
from zoo.inference.predict import predict
from zoo.reporting import planes
from zoo.samples import sample
from zoo.volumes import image as images
from zoo.volumes.image import Image

STRUCTURES = "unet3d.brain_structures"
SHOWN = ("thalamus", "caudate", "putamen", "pallidum", "hippocampus", "amygdala", "ventricle")
THROUGH_MM = (-14.0, -14.0, 4.0)  # thalamus, putamen and hippocampus of the left side
MODEL, HEAD, REFERENCE = "unet3d.brain_mask", "colin27", "colin27_mask"
NO_PICTURE = "none: they need matplotlib (pip install zoo3d[report])"
AT_MM = (-10.0, -18.0, 14.0)  # beside the falx, where masks differ more than brains do


@dataclass(frozen=True)
class DemoResult:
    """The files and measurements of the demo.

    Attributes:
        model: name of the trained model.
        scan: the head that it ran on.
        mask: NIfTI file of the brain mask, on the grid of the scan.
        picture: PNG of three planes; None where matplotlib is missing.
        labels: NIfTI file of the structures.
        labels_picture: PNG of three planes of them; None where matplotlib is missing.
        volumes: CSV of the volume of every structure.
        structures: name -> volume of the left and right side in ml and their difference in percent of the mean, of
            the structures that are printed.
        volume_ml: of the mask.
        reference_ml: of the reference mask.
        dice: of both masks, 0 to 1.
        seconds: of the whole demo, loading the network included.
    """

    model: str
    scan: str
    mask: str
    picture: str | None
    labels: str
    labels_picture: str | None
    volumes: str
    structures: Mapping[str, tuple[float, float, float]]
    volume_ml: float
    reference_ml: float
    dice: float
    seconds: float

    def __str__(self) -> str:
        lines = [
            f"{self.model} and {STRUCTURES} on {self.scan}",
            f"brain     {self.volume_ml:,.0f} ml (reference {self.reference_ml:,.0f} ml)",
            f"Dice      {self.dice:.3f}",
            *(
                f"{name:12}{left:6.2f} ml left  {right:6.2f} ml right  {asymmetry:+4.0f} %"
                for name, (left, right, asymmetry) in self.structures.items()
            ),
            f"files     {self.mask}, {self.labels}, {self.volumes}",
            f"pictures  {f'{self.picture}, {self.labels_picture}' if self.picture else NO_PICTURE}",
            f"time      {self.seconds:.1f} s",
        ]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields, for JSON."""
        return asdict(self)


def demo(out: str | os.PathLike = "zoo-demo") -> DemoResult:
    """Finds brain and structures of the head that ships with the package (Colin27, T1-weighted, 2 mm).

    Args:
        out: folder for `brain_mask` and `brain_structures`, each as `.nii.gz` and `.png`, and
            `brain_structures_volumes.csv`; made when it is not there, files replaced.

    Returns:
        Files and measurements.

    Raises:
        ValueError: a trained model is not on this machine and cannot be fetched.
        OSError: the folder cannot be written.

    Example:
        >>> demo("zoo-demo").dice  # doctest: +SKIP
    """
    start = time.perf_counter()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    scan, reference = images.read(sample(HEAD)), images.read(sample(REFERENCE))
    mask = predict(MODEL, scan, out=folder / "brain_mask.nii.gz")
    predicted, truth = np.asarray(mask.dataobj), np.asarray(reference.dataobj)
    volumes = overlap.volume_error(predicted, truth, images.spacing_mm(scan.affine).tolist())
    dice = overlap.dice(predicted, truth)
    labels = predict(STRUCTURES, scan, out=folder / "brain_structures.nii.gz")
    card = trained_models.card(STRUCTURES)
    title = f"{MODEL} on Colin27:  {volumes['volume_ml']:,.0f} ml,  Dice {dice:.3f}"
    pictures = _draw(folder, scan, {"brain_mask": mask, "brain_structures": labels}, reference, title)
    return DemoResult(
        model=MODEL,
        scan=str(sample(HEAD)),
        mask=str(folder / "brain_mask.nii.gz"),
        picture=pictures.get("brain_mask"),
        labels=str(folder / "brain_structures.nii.gz"),
        labels_picture=pictures.get("brain_structures"),
        volumes=str(structure_volumes.write_volumes(folder / "brain_structures_volumes.csv", labels, card)),
        structures=_measure_sides(structure_volumes.volumes(labels, card)),
        volume_ml=volumes["volume_ml"],
        reference_ml=volumes["reference_ml"],
        dice=dice,
        seconds=time.perf_counter() - start,
    )


def _draw(folder: Path, scan: Image, labels: Mapping[str, Image], reference: Image, title: str) -> dict[str, str]:
    """Draws mask and structures, and returns the files by name; nothing where matplotlib is missing."""
    settings: dict[str, dict[str, Any]] = {
        "brain_mask": {"reference": reference, "names": {1: "brain"}, "at_mm": AT_MM, "title": title},
        "brain_structures": {"at_mm": THROUGH_MM, "title": f"{STRUCTURES} on Colin27"},
    }
    try:
        return {
            name: str(planes.write_planes(folder / f"{name}.png", scan, labels[name], **settings[name]))
            for name in settings
        }
    except ImportError:
        return {}


def _measure_sides(rows: Sequence[structure_volumes.Row]) -> dict[str, tuple[float, float, float]]:
    """Returns the volumes of the left and right side of the structures shown, and their difference in percent."""
    ml = {str(row["structure"]): float(row["volume_ml"]) for row in rows}
    sides = {name: (ml.get(f"left_{name}", 0.0), ml.get(f"right_{name}", 0.0)) for name in SHOWN}
    return {
        name: (left, right, 200 * (left - right) / (left + right))
        for name, (left, right) in sides.items()
        if left + right
    }
