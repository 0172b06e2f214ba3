"""`zoo.demo`: masks the brain of the real head that ships with the package, measures and draws it."""

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.evaluation import overlap
from zoo.inference.predict import predict
from zoo.reporting import planes
from zoo.samples import sample
from zoo.volumes import image as images

MODEL, HEAD, REFERENCE = "unet3d.brain_mask", "colin27", "colin27_mask"
AT_MM = (-10.0, -18.0, 14.0)  # beside the falx, where masks differ more than brains do


@dataclass(frozen=True)
class DemoResult:
    """The files and measurements of the demo.

    Attributes:
        model: name of the trained model.
        scan: the head that it ran on.
        mask: NIfTI file of the brain mask, on the grid of the scan.
        picture: PNG of three planes; None where matplotlib is missing.
        volume_ml: of the mask.
        reference_ml: of the reference mask.
        dice: of both masks, 0 to 1.
        seconds: of the whole demo, loading the network included.
    """

    model: str
    scan: str
    mask: str
    picture: str | None
    volume_ml: float
    reference_ml: float
    dice: float
    seconds: float

    def __str__(self) -> str:
        lines = [
            f"{self.model} on {self.scan}",
            f"brain     {self.volume_ml:,.0f} ml (reference {self.reference_ml:,.0f} ml)",
            f"Dice      {self.dice:.3f}",
            f"mask      {self.mask}",
            f"picture   {self.picture or 'none: it needs matplotlib (pip install zoo3d[report])'}",
            f"time      {self.seconds:.1f} s",
        ]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields, for JSON."""
        return asdict(self)


def demo(out: str | os.PathLike = "zoo-demo") -> DemoResult:
    """Masks the brain of the head that ships with the package (Colin27, T1-weighted, 2 mm).

    Args:
        out: folder for `brain_mask.nii.gz` and `brain_mask.png`; made when it is not there, files replaced.

    Returns:
        Files and measurements.

    Raises:
        ValueError: the trained model is not on this machine and cannot be fetched.
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
    title = f"{MODEL} on Colin27:  {volumes['volume_ml']:,.0f} ml,  Dice {dice:.3f}"
    names, picture = {1: "brain"}, folder / "brain_mask.png"
    try:
        planes.write_planes(picture, scan, mask, reference=reference, names=names, at_mm=AT_MM, title=title)
        drawn: str | None = str(picture)
    except ImportError:
        drawn = None
    return DemoResult(
        model=MODEL,
        scan=str(sample(HEAD)),
        mask=str(folder / "brain_mask.nii.gz"),
        picture=drawn,
        volume_ml=volumes["volume_ml"],
        reference_ml=volumes["reference_ml"],
        dice=dice,
        seconds=time.perf_counter() - start,
    )
