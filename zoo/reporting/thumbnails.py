"""Draws small pictures around a place: three planes of each channel with the outlines of two masks, as PNG."""

import io
from collections.abc import Sequence

import nibabel
import numpy as np
from scipy import ndimage

from zoo.reporting.planes import COLOURS, PLANES, REFERENCE_COLOUR
from zoo.volumes import image as images

Image = nibabel.Nifti1Image
SIDE_MM, PIXELS, GAP = 32.0, 132, 3  # of one plane
GROUND = (11, 13, 16)


class Thumbnails:
    """Holds a case, prepared for many small pictures.

    Args:
        channels: scans on one grid, from top to bottom; each is shown from its 1st to its 99.8th percentile where it is
            not 0.
        prediction: (x, y, z) bool on that grid.
        reference: the same.
    """

    def __init__(self, channels: Sequence[Image], prediction: np.ndarray, reference: np.ndarray) -> None:
        turned = [images.to_ras(images.array(channel), channel.affine) for channel in channels]
        self._affine = turned[0][1]
        self._volumes = [volume for volume, _ in turned]
        self._windows = [_measure_window(volume) for volume in self._volumes]
        self._masks = [images.to_ras(np.asarray(mask, bool), channels[0].affine)[0] for mask in (reference, prediction)]

    def png(self, at_mm: Sequence[float]) -> bytes:
        """Draws a grid of pictures: a row a channel, sagittal, coronal and axial; the subject's left is on the left.

        Args:
            at_mm: the centre, in the scan's world coordinates.
        """
        from matplotlib.image import imsave

        at = np.linalg.solve(self._affine, [*at_mm, 1.0])[:3]
        tiles = [[self._draw_tile(row, plane.axis, at) for plane in PLANES] for row in range(len(self._volumes))]
        height, width = (count * (PIXELS + GAP) + GAP for count in (len(tiles), len(PLANES)))
        sheet = np.full((height, width, 3), GROUND, np.uint8)
        for row, column in np.ndindex(len(tiles), len(PLANES)):
            top, left = (GAP + place * (PIXELS + GAP) for place in (row, column))
            sheet[top : top + PIXELS, left : left + PIXELS] = tiles[row][column]
        buffer = io.BytesIO()
        imsave(buffer, sheet, format="png")
        return buffer.getvalue()

    def _draw_tile(self, channel: int, axis: int, at: np.ndarray) -> np.ndarray:
        places = self._pixel_places(axis, at)
        low, high = self._windows[channel]
        grey = ndimage.map_coordinates(self._volumes[channel], places, order=1, mode="constant", cval=0.0)
        tile = np.repeat(np.clip((grey - low) / (high - low) * 255, 0, 255).astype(np.uint8)[..., None], 3, -1)
        for mask, colour in zip(self._masks, (REFERENCE_COLOUR, COLOURS[0]), strict=True):
            inside = ndimage.map_coordinates(mask.view(np.uint8), places, order=0, mode="constant", cval=0) > 0
            # Beside the mask, not on it: what was missed is three pixels wide and must be seen.
            tile[ndimage.binary_dilation(inside) & ~inside] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        return tile

    def _pixel_places(self, axis: int, at: np.ndarray) -> np.ndarray:
        """Returns the voxel coordinates of each pixel, (3, rows, columns), top row first; pixels are square in mm."""
        plane = next(plane for plane in PLANES if plane.axis == axis)
        spacing = images.spacing_mm(self._affine)
        steps = (np.arange(PIXELS) + 0.5) / PIXELS - 0.5
        places = np.empty((3, PIXELS, PIXELS))
        places[axis] = np.rint(at[axis])
        places[plane.right] = (at[plane.right] + steps * SIDE_MM / spacing[plane.right])[None, :]
        places[plane.up] = (at[plane.up] - steps * SIDE_MM / spacing[plane.up])[:, None]
        return places


def _measure_window(volume: np.ndarray) -> tuple[float, float]:
    inside = volume[volume != 0]
    if not inside.size:
        return 0.0, 1.0
    low, high = np.percentile(inside, (1, 99.8)).tolist()
    return low, high if high > low else low + 1
