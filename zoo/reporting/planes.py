"""Draws three planes of a volume with the outlines of its labels; imports matplotlib when drawing."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import nibabel
import numpy as np

from zoo.files import write_whole
from zoo.volumes import image as images

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Image = nibabel.Nifti1Image

COLOURS = ("#00c2d1", "#ff8c42", "#8fd14f", "#e05297", "#a98bff", "#f25f5c", "#4f9dff", "#c9a227")
REFERENCE_COLOUR = "#ffe14d"
PAPER, INK = "#0b0d10", "#e8eaed"
MM_PER_INCH, GAP_MM, TOP_MM, BOTTOM_MM, MARGIN_MM = 52.0, 8.0, 16.0, 26.0, 6.0


class _Plane(NamedTuple):
    """A plane through the volume: its normal, the axes drawn rightwards and upwards, the letters at its four sides."""

    title: str
    axis: int
    right: int
    up: int
    sides: tuple[str, str, str, str]  # left, right, bottom, top


PLANES = (
    _Plane("sagittal", 0, 1, 2, ("P", "A", "I", "S")),
    _Plane("coronal", 1, 0, 2, ("L", "R", "I", "S")),
    _Plane("axial", 2, 0, 1, ("L", "R", "P", "A")),
)


class _Scene(NamedTuple):
    """Everything to draw, in RAS on one grid: volumes, affine, where the planes cut, and the box to show."""

    volume: np.ndarray
    labels: np.ndarray
    reference: np.ndarray | None
    affine: np.ndarray
    at: tuple[int, int, int]
    box: tuple[slice, ...]
    window: tuple[float, float]

    @property
    def spacing_mm(self) -> np.ndarray:
        return images.spacing_mm(self.affine)

    def extent_mm(self, axis: int) -> float:
        return float((self.box[axis].stop - self.box[axis].start) * self.spacing_mm[axis])

    def cut(self, volume: np.ndarray, plane: _Plane) -> np.ndarray:
        """Returns a plane of a volume as rows and columns, the first row at the bottom."""
        index: list[slice | int] = list(self.box)
        index[plane.axis] = self.at[plane.axis]
        return volume[tuple(index)].T


def draw_planes(
    image: Image,
    labels: Image,
    *,
    reference: Image | None = None,
    names: Mapping[int, str] | None = None,
    at_mm: Sequence[float] | None = None,
    title: str = "",
) -> "Figure":
    """Draws a sagittal, a coronal and an axial plane at one scale, labels as tinted areas with their outlines.

    The subject's left is on the left. Obliquely cut scans are drawn along their own axes.

    Args:
        image: a scan; shown from its 1st to its 99.8th percentile.
        labels: a label map on the same grid, 0 is background.
        reference: another label map on that grid, drawn as one thin line around each label.
        names: value -> name, for the legend; values without a name have no entry there, and none has where there are
            more labels than colours.
        at_mm: where the planes cross, in the scan's own (x, y, z) mm; None for the centre of the labels.
        title: one line above the planes.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: the images do not lie on one grid, or `at_mm` is outside it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("A picture needs matplotlib: pip install 'zoo3d[report]'.") from error
    scene = _build_scene(image, labels, reference, at_mm)
    widths = [scene.extent_mm(plane.right) for plane in PLANES]
    height = max(scene.extent_mm(plane.up) for plane in PLANES)
    total = np.array([sum(widths) + GAP_MM * (len(PLANES) + 1), height + TOP_MM + BOTTOM_MM])
    figure = Figure(figsize=tuple(total / MM_PER_INCH), facecolor=PAPER)
    left = GAP_MM
    for plane, width in zip(PLANES, widths, strict=True):
        tall = scene.extent_mm(plane.up)
        corner = np.array([left, BOTTOM_MM + (height - tall) / 2])
        axes = figure.add_axes((*(corner / total), *(np.array([width, tall]) / total)))
        _draw_plane(axes, scene, plane)
        left += width + GAP_MM
    middle = 1 - TOP_MM / 2 / total[1]
    figure.text(GAP_MM / total[0], middle, title, color=INK, fontsize=13, fontweight="bold", va="center")
    _draw_legend(figure, scene, names or {}, float(0.3 * BOTTOM_MM / total[1]))
    return figure


def write_planes(
    path: str | os.PathLike,
    image: Image,
    labels: Image,
    *,
    reference: Image | None = None,
    names: Mapping[int, str] | None = None,
    at_mm: Sequence[float] | None = None,
    title: str = "",
) -> Path:
    """Writes the picture of `draw_planes` as a PNG, whole or not at all.

    Args:
        path: ends in .png; the rest as `draw_planes`.
        image: a scan.
        labels: a label map on the same grid.
        reference: another one.
        names: value -> name, for the legend.
        at_mm: where the planes cross, in mm.
        title: one line above the planes.

    Returns:
        The path.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: another suffix, or as `draw_planes`.
    """
    from zoo.reporting.report import png

    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"A picture is written to .png, got {str(path)!r}. Change the suffix.")
    figure = draw_planes(image, labels, reference=reference, names=names, at_mm=at_mm, title=title)
    return write_whole(path, png(figure))


def _build_scene(image: Image, labels: Image, reference: Image | None, at_mm: Sequence[float] | None) -> _Scene:
    inputs = {"image": image, "labels": labels} | ({} if reference is None else {"reference": reference})
    images.check_same_grid(list(inputs.values()), list(inputs))
    volume, affine = images.to_ras(images.array(image), image.affine)
    maps = [
        np.rint(images.to_ras(images.array(label_map), image.affine)[0]).astype(int)
        for label_map in list(inputs.values())[1:]
    ]
    low, high = np.percentile(volume, (1, 99.8))
    high = high if high > low else low + 1
    box = _find_box((volume > low + 0.1 * (high - low)) | (maps[0] != 0), images.spacing_mm(affine))
    at = _find_centre(maps[0], box) if at_mm is None else _to_voxel(at_mm, affine, volume.shape)
    return _Scene(volume, maps[0], maps[1] if reference is not None else None, affine, at, box, (low, high))


def _find_box(shown: np.ndarray, spacing_mm: np.ndarray) -> tuple[slice, ...]:
    """Finds the part of the volume that holds something, with a margin; the whole volume if nothing does."""
    box = []
    for axis, size in enumerate(shown.shape):
        occupied = np.flatnonzero(shown.any(tuple({0, 1, 2} - {axis})))
        margin = int(np.ceil(MARGIN_MM / spacing_mm[axis]))
        ends = (occupied[0] - margin, occupied[-1] + 1 + margin) if occupied.size else (0, size)
        box.append(slice(max(int(ends[0]), 0), min(int(ends[1]), size)))
    return tuple(box)


def _find_centre(labels: np.ndarray, box: tuple[slice, ...]) -> tuple[int, int, int]:
    """Finds the centre of the labels' bounding box, or of the shown box if there are no labels."""
    voxels = np.argwhere(labels)
    ends = [voxels.min(0), voxels.max(0)] if len(voxels) else [[s.start for s in box], [s.stop - 1 for s in box]]
    x, y, z = ((np.asarray(ends[0]) + np.asarray(ends[1])) // 2).tolist()
    return x, y, z


def _to_voxel(at_mm: Sequence[float], affine: np.ndarray, shape: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = np.rint(np.linalg.solve(affine, [*at_mm, 1.0])[:3]).astype(int).tolist()
    if not all(0 <= index < size for index, size in zip((x, y, z), shape, strict=True)):
        ends = [(affine @ [*corner, 1])[:3].round(1).tolist() for corner in ((0, 0, 0), np.asarray(shape) - 1)]
        raise ValueError(f"at_mm must lie between {ends[0]} and {ends[1]}, got {tuple(at_mm)}. Leave it out to centre.")
    return x, y, z


def _draw_plane(axes: "Axes", scene: _Scene, plane: _Plane) -> None:
    cut = scene.cut(scene.volume, plane)
    spacing = scene.spacing_mm
    right, up = cut.shape[1] * spacing[plane.right], cut.shape[0] * spacing[plane.up]
    extent = (0.0, float(right), 0.0, float(up))
    low, high = scene.window
    axes.imshow(cut, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent, interpolation="bilinear")
    labels = scene.cut(scene.labels, plane)
    for value in np.unique(scene.labels[scene.labels != 0]).tolist():
        colour = _pick_colour(scene, value)
        tint = np.zeros((*labels.shape, 4))
        tint[labels == value] = [*_parse_rgb(colour), 0.16]
        axes.imshow(tint, origin="lower", extent=extent, interpolation="nearest")
        _draw_outline(axes, labels == value, extent, colour, 1.5)
    if scene.reference is not None:
        truth = scene.cut(scene.reference, plane)
        for value in np.unique(truth[truth != 0]).tolist():
            _draw_outline(axes, truth == value, extent, REFERENCE_COLOUR, 0.9)
    axes.set(xlim=extent[:2], ylim=extent[2:])
    axes.set_axis_off()
    _draw_letters(axes, scene, plane)


def _draw_outline(
    axes: "Axes", mask: np.ndarray, extent: tuple[float, float, float, float], colour: str, width: float
) -> None:
    """Draws the line half-way between voxels inside and outside, closed at the edge of the picture too."""
    if not mask.any():
        return
    framed = np.pad(mask.astype(float), 1)
    steps = np.array([extent[1] / mask.shape[1], extent[3] / mask.shape[0]])
    x, y = ((np.arange(-1, size + 1) + 0.5) * step for size, step in zip(mask.shape[::-1], steps, strict=True))
    axes.contour(x, y, framed, levels=[0.5], colors=[colour], linewidths=width)


def _draw_letters(axes: "Axes", scene: _Scene, plane: _Plane) -> None:
    from matplotlib.patheffects import withStroke

    places = ((0.01, 0.5, "left"), (0.99, 0.5, "right"), (0.5, 0.01, "center"), (0.5, 0.99, "center"))
    style: dict[str, Any] = {"transform": axes.transAxes, "color": INK, "fontsize": 8.5}
    for letter, (x, y, side) in zip(plane.sides, places, strict=True):
        tall = {0.01: "bottom", 0.99: "top"}.get(y, "center")
        axes.text(x, y, letter, ha=side, va=tall, path_effects=[withStroke(linewidth=2, foreground=PAPER)], **style)
    position = float((scene.affine @ [*scene.at, 1])[plane.axis])
    axes.text(0.5, -0.015, f"{plane.title}, {'xyz'[plane.axis]} = {round(position)} mm", ha="center", va="top", **style)


def _draw_legend(figure: "Figure", scene: _Scene, names: Mapping[int, str], middle: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    shown = [value for value in np.unique(scene.labels).tolist() if value and value in names]
    entries: list[Patch | Line2D] = []
    # With more labels than colours a legend would name one colour twice, and not fit.
    for value in shown if len(shown) <= len(COLOURS) else []:
        colour = _pick_colour(scene, value)
        entries.append(Patch(facecolor=(*_parse_rgb(colour), 0.35), edgecolor=colour, label=names[value]))
    if scene.reference is not None:
        entries.append(Line2D([], [], color=REFERENCE_COLOUR, linewidth=1.2, label="reference"))
    if entries:
        place: dict[str, Any] = {
            "loc": "center",
            "bbox_to_anchor": (0.5, middle),
            "ncols": min(len(entries), 8),
            "frameon": False,
        }
        figure.legend(handles=entries, labelcolor=INK, fontsize=10, **place)


def _pick_colour(scene: _Scene, value: int) -> str:
    """Returns the colour of a label, in the order of the values in the map."""
    values = np.unique(scene.labels[scene.labels != 0])
    return COLOURS[int(np.searchsorted(values, value)) % len(COLOURS)]


def _parse_rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue
