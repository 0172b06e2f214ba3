"""Writes whole scans of an anatomy in fixed contrasts, to test networks on brains that were never trained on."""

import dataclasses
import functools
from pathlib import Path

import nibabel as nib
import numpy as np
from keras import ops

from zoo.errors import unknown_choice
from zoo.synth import geometry
from zoo.synth.acquisition import Acquisition
from zoo.synth.anatomy.labels import INDEX
from zoo.synth.contrast import PROTOCOLS, Contrast
from zoo.synth.scene import Recipe, synthesise
from zoo.volumes import image as images

KINDS = (*PROTOCOLS, "inverted")
# One usual scanner: a little of everything, and nothing that is drawn at random but bias, noise and tissue.
SCANNER = Acquisition(
    bias_sd=0.3, isotropic_mm=(1.0, 1.2), anisotropic=0.0, noise=0.02, ghost=0.0, gamma_sd=0.0, blur=0.5
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scan:
    """How an anatomy is scanned.

    Attributes:
        kind: "t1", "t2", "flair", "pd", or "inverted", a T1 with bright and dark exchanged in the head.
        slices_mm: thickness of axial slices, a whole number of mm; 1 for isotropic voxels.
        seed: of noise, bias and tissue values.
    """

    kind: str = "t1"
    slices_mm: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_choice("contrast", self.kind, KINDS)
        if self.slices_mm < 1:
            raise ValueError(f"slices_mm is a whole number of mm, at least 1, got {self.slices_mm}.")

    @property
    def name(self) -> str:
        """Returns the name for files: "t1", "t1_5mm"."""
        return self.kind if self.slices_mm == 1 else f"{self.kind}_{self.slices_mm}mm"


def scanned(labels: np.ndarray, scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """Simulates an image of an anatomy, and returns it with the labels on its grid.

    Thick slices are means over the millimetres that they span, with the labels of the middle millimetre.

    Args:
        labels: (x, y, z) of the scheme, RAS, 1 mm, with a head around the brain.
        scan: contrast, slices and seed.

    Returns:
        Image (x, y, z / slices_mm) float32 in 0 to 1, and labels of that shape.
    """
    kind = "t1" if scan.kind == "inverted" else scan.kind
    volume, _ = _make_painter(labels.shape, kind)(
        labels.astype(np.int32), np.array([scan.seed, KINDS.index(scan.kind)])
    )
    volume = np.array(volume)[..., 0]
    if scan.kind == "inverted":
        head = labels > INDEX["background"]
        volume = np.where(head, volume[head].max() - volume, volume)
    thick, count = scan.slices_mm, labels.shape[2] // scan.slices_mm
    stacked = volume[..., : count * thick].reshape(*labels.shape[:2], count, thick)
    return stacked.mean(-1), sliced(labels, scan)


def sliced(labels: np.ndarray, scan: Scan) -> np.ndarray:
    """Returns the middle millimetre of each slice of a scan, (x, y, z / slices_mm), of labels (x, y, z) at 1 mm."""
    return labels[..., scan.slices_mm // 2 :: scan.slices_mm][..., : labels.shape[2] // scan.slices_mm]


@functools.lru_cache(maxsize=8)
def _make_painter(shape: tuple[int, int, int], kind: str):
    """Returns a function that paints label maps of one shape in one contrast, without movement."""
    recipe = Recipe(
        shape=shape, geometry=geometry.IDENTITY, contrast=Contrast(kind=kind, sds=(2, 8)), acquisition=SCANNER
    )
    return lambda labels, seed: synthesise(ops.convert_to_tensor(labels), ops.convert_to_tensor(seed, "int32"), recipe)


def write(
    folder: Path, stem: str, labels: np.ndarray, affine: np.ndarray, *, scan: Scan, values: np.ndarray
) -> tuple[Path, Path]:
    """Writes a scan and its labels as NIfTI, unless both files exist.

    Args:
        folder: destination.
        stem: first part of both names.
        labels: (x, y, z) of the scheme, RAS, 1 mm.
        affine: (4, 4) of `labels`.
        scan: how it is scanned.
        values: (labels of the scheme,), the value of each in the written map.

    Returns:
        `STEM_KIND.nii.gz` and `STEM_KIND_labels.nii.gz`.
    """
    paths = folder / f"{stem}_{scan.name}.nii.gz", folder / f"{stem}_{scan.name}_labels.nii.gz"
    if all(path.exists() for path in paths):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    volume, truth = scanned(labels, scan)
    grid = affine @ np.diag([1.0, 1.0, scan.slices_mm, 1.0])
    grid[:3, 3] += affine[:3, 2] * (scan.slices_mm - 1) / 2
    like = nib.nifti1.Nifti1Image(volume, grid)
    images.write(paths[0], volume.astype(np.float32), like)
    images.write(paths[1], values[truth].astype(np.int16), like)
    return paths
