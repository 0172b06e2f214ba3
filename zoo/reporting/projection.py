"""Draws maximum-intensity projections of a map over a scan, in three planes; imports matplotlib when drawing."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel
import numpy as np

from zoo.files import write_whole
from zoo.reporting.planes import INK, PAPER, PLANES
from zoo.volumes import image as images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Image = nibabel.Nifti1Image


def draw_projection(scan: Image, values: Image, *, threshold: float, title: str = "") -> "Figure":
    """Draws maximum-intensity projections in colour over the scan's planes through the largest value.

    Args:
        scan: shown in grey from its 1st to its 99.8th percentile.
        values: on the same grid, such as a z-map.
        threshold: values up to it are not shown.
        title: one line above the planes.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: the images do not lie on one grid.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("A picture needs matplotlib: pip install 'zoo3d[report]'.") from error
    images.check_same_grid([scan, values], ["scan", "values"])
    volume, affine = images.to_ras(images.array(scan), scan.affine)
    shown, _ = images.to_ras(images.array(values), scan.affine)
    at = np.unravel_index(int(np.argmax(shown)), shown.shape)
    low, high = np.percentile(volume, (1, 99.8))
    top = max(float(shown.max()), threshold + 1)
    spacing = images.spacing_mm(affine)
    sizes = np.array([[volume.shape[plane.right], volume.shape[plane.up]] for plane in PLANES])
    lengths = np.array([[spacing[plane.right], spacing[plane.up]] for plane in PLANES]) * sizes
    figure = Figure(figsize=(lengths[:, 0].sum() / 45, lengths[:, 1].max() / 45 + 0.6), facecolor=PAPER)
    grid = figure.add_gridspec(
        1, 3, width_ratios=lengths[:, 0], left=0.01, right=0.92, bottom=0.02, top=0.88, wspace=0.02
    )
    for number, plane in enumerate(PLANES):
        axes = figure.add_subplot(grid[number])
        style = {"origin": "lower", "aspect": spacing[plane.up] / spacing[plane.right]}
        axes.imshow(np.take(volume, at[plane.axis], axis=plane.axis).T, cmap="gray", vmin=low, vmax=high, **style)
        most = shown.max(axis=plane.axis).T
        drawn = axes.imshow(np.ma.masked_less_equal(most, threshold), cmap="hot", vmin=threshold, vmax=top, **style)
        axes.set_axis_off()
        axes.set_title(plane.title, color=INK, fontsize=9)
    bar = figure.colorbar(drawn, cax=figure.add_axes((0.94, 0.15, 0.015, 0.6)))
    bar.ax.tick_params(colors=INK, labelsize=8)
    figure.text(0.01, 0.95, title, color=INK, fontsize=12, fontweight="bold", va="center")
    return figure


def write_projection(path: str | os.PathLike, scan: Image, values: Image, *, threshold: float, title: str = "") -> Path:
    """Writes the picture of `draw_projection` as a PNG, whole or not at all; raises the same errors."""
    from zoo.reporting.report import png

    return write_whole(path, png(draw_projection(scan, values, threshold=threshold, title=title)))
