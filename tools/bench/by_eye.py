"""Draws the structures of `unet3d.brain_structures` over real scans of patients, to be looked at.

    PYTHONPATH=. python tools/bench/by_eye.py MODEL --real ../shared/data/real --out PICTURE.png

T1, T2 and FLAIR of two people with multiple sclerosis (brain cut out), the T1 of a chronic stroke (brain cut out) and
the T1 of a whole head, each in three planes. Nobody has outlined these structures there, but for the head.
"""

import argparse
import functools
import io
import tempfile
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from zoo import files
from zoo.inference.plausibility import PlausibilityWarning
from zoo.inference.predictor import Predictor
from zoo.reporting import planes

SCANS = {
    "ms_patient07/T1.nii.gz": "Multiple sclerosis, patient 07, T1",
    "ms_patient19/T1.nii.gz": "Multiple sclerosis, patient 19, T1",
    "ms_patient07/T2.nii.gz": "Multiple sclerosis, patient 07, T2",
    "ms_patient19/T2.nii.gz": "Multiple sclerosis, patient 19, T2",
    "ms_patient07/FLAIR.nii.gz": "Multiple sclerosis, patient 07, FLAIR",
    "ms_patient19/FLAIR.nii.gz": "Multiple sclerosis, patient 19, FLAIR",
    "stroke_chronic/T1.nii.gz": "Chronic stroke, T1",
    "head_ecog/T1.mgz": "Whole head of a person with epilepsy, T1",
}
THROUGH = (10, 11, 12, 17)  # left thalamus, caudate, putamen and hippocampus
COLUMNS, PANEL_WIDTH, COLOURS = 2, 900, 256
BELOW = 16  # pixels under the last line of a panel


def centre_mm(labels: nib.nifti1.Nifti1Image) -> list[float] | None:
    """Where the planes cross: the middle of deep structures on the left; None where there are none."""
    voxels = np.argwhere(np.isin(np.asanyarray(labels.dataobj), THROUGH))
    return (labels.affine @ [*voxels.mean(0), 1])[:3].tolist() if len(voxels) else None


def draw(predict: Predictor, path: Path, title: str) -> Image.Image:
    """One scan in three planes, as wide as every panel."""
    stored = nib.load(path)
    scan = nib.nifti1.Nifti1Image(np.asanyarray(stored.dataobj).astype(np.float32), stored.affine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlausibilityWarning)
        labels = predict(scan)
    with tempfile.TemporaryDirectory() as folder:
        drawn = planes.write_planes(Path(folder) / "planes.png", scan, labels, at_mm=centre_mm(labels), title=title)
        panel = trim(Image.open(drawn).convert("RGB"))
    return panel.resize((PANEL_WIDTH, round(panel.height * PANEL_WIDTH / panel.width)), Image.Resampling.LANCZOS)


def trim(panel: Image.Image) -> Image.Image:
    """The panel without the empty room for a legend below its planes."""
    pixels = np.asarray(panel)
    used = np.flatnonzero((pixels != pixels[-1, 0]).any(axis=(1, 2)))
    return panel.crop((0, 0, panel.width, min(int(used[-1]) + BELOW, panel.height)))


def tile(panels: list[Image.Image]) -> Image.Image:
    """Panels in two columns, each row as tall as its tallest panel."""
    rows = [panels[start : start + COLUMNS] for start in range(0, len(panels), COLUMNS)]
    heights = [max(panel.height for panel in row) for row in rows]
    sheet = Image.new("RGB", (COLUMNS * PANEL_WIDTH, sum(heights)), planes.PAPER)
    for number, row in enumerate(rows):
        for column, panel in enumerate(row):
            sheet.paste(panel, (column * PANEL_WIDTH, sum(heights[:number])))
    return sheet


def main(arguments: argparse.Namespace) -> None:
    """Draws every scan that is there and writes the sheet."""
    draw_one = functools.partial(draw, Predictor(arguments.model))
    there = {name: title for name, title in SCANS.items() if (arguments.real / name).is_file()}
    sheet = tile([draw_one(arguments.real / name, title) for name, title in there.items()])
    stored = io.BytesIO()
    sheet.quantize(COLOURS, dither=Image.Dither.NONE).save(stored, "PNG", optimize=True)
    print("wrote", files.write_whole(arguments.out, stored.getvalue()))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model", nargs="?", default="unet3d.brain_structures")
    options.add_argument("--real", type=Path, required=True, help="folder of the patients' scans")
    options.add_argument("--out", type=Path, default=Path("docs/images/brain_structures_patients.png"))
    main(options.parse_args())
