"""Writes scans without their skulls: the image of `zoo predict unet3d.brain_mask SCAN --brain`.

A model of the brain's structures cuts it out, too, and from images of any contrast.
"""

from pathlib import Path
from typing import Any

import numpy as np

from zoo.hub.card import Card
from zoo.inference.cohort import Writer
from zoo.inference.inputs import Images, read_channels
from zoo.inference.predictor import Predictor
from zoo.volumes import components, image, nifti
from zoo.volumes.image import Image
from zoo.volumes.scan_files import stem

BRAIN = "brain"
TISSUES = {"csf", *(f"{side}_{tissue}" for tissue in ("white", "cortex") for side in ("left", "right"))}


def finds_brain(card: Card) -> bool:
    """Returns whether a model's labels are the brain as a whole, or its tissues with the fluid around them."""
    names = [label.name for label in card.output.labels.values() if label.value]
    return card.output.kind == "segmentation" and (names == [BRAIN] or set(names) >= TISSUES)


def cut_out(labels: np.ndarray) -> np.ndarray:
    """Returns the brain of a label map: all that is not background, without holes and pieces apart; bool.

    Example:
        >>> labels = np.zeros((8, 8, 8), np.uint8)
        >>> labels[1:6, 1:6, 1:6], labels[3, 3, 3], labels[7, 7, 7] = 2, 0, 3
        >>> int(cut_out(labels).sum())
        125
    """
    return components.fill_holes(components.largest_component(labels != 0, 26))


class BrainWriter(Writer):
    """Writes a brain mask, and beside it the scan with 0 outside the brain; a mask without it is not whole.

    Args:
        card: of a model that finds the brain.
        **origin: `settings`, `sources` and `warned`, as `Writer` takes them.
    """

    def __init__(self, card: Card, **origin: Any) -> None:
        super().__init__(**origin)
        self._has_parts = len(card.output.labels) > 2
        self._tag = card.name.split(".")[-1]

    def name_stripped(self, target: Path) -> Path:
        """Returns the file of the stripped scan: `SCAN_brain.nii.gz` beside `SCAN_brain_mask.nii.gz`."""
        return target.with_name(f"{stem(target).removesuffix(f'_{self._tag}')}_{BRAIN}.nii.gz")

    def files_beside(self, target: Path) -> tuple[Path, ...]:
        """Returns the path of the stripped scan."""
        return (self.name_stripped(target),)

    def is_whole(self, target: Path) -> bool:
        """Returns whether the mask and the stripped scan are there and can be read."""
        try:
            nifti.load(self.name_stripped(target))
        except (OSError, ValueError):
            return False
        return super().is_whole(target)

    def make(self, predictor: Predictor, images: Images, **options: Any) -> tuple[Image, Image]:
        """Returns the mask and the scan."""
        return predictor(images, **options), read_channels(images, predictor.card)[0]

    def write(self, made: tuple[Image, Image], target: Path) -> None:
        """Writes the mask, then the stripped scan on its own grid, each whole or not at all.

        The scan keeps its dtype, header and affine; a file that scales its numbers becomes float32.
        """
        mask, scan = made
        self.name_stripped(target).unlink(missing_ok=True)  # of an older mask
        super().write(mask, target)
        voxels = np.asanyarray(scan.dataobj)
        labels = np.asanyarray(mask.dataobj)
        stripped = np.where(cut_out(labels) if self._has_parts else labels != 0, voxels, np.zeros((), voxels.dtype))
        image.write(self.name_stripped(target), stripped, scan)
