"""Draws the shaded surfaces of labels from outside, within a glass shell if there is one; needs no 3D library."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import ndimage

from zoo.errors import unknown_choice
from zoo.reporting.planes import COLOURS, INK, PAPER, Image
from zoo.volumes import image as images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Name -> where the eye looks, and what is up in the picture; RAS.
VIEWS = {
    "left": ((1, 0, 0), (0, 0, 1)),
    "right": ((-1, 0, 0), (0, 0, 1)),
    "front": ((0, -1, 0), (0, 0, 1)),
    "back": ((0, 1, 0), (0, 0, 1)),
    "above": ((0, 0, -1), (0, 1, 0)),
    "below": ((0, 0, 1), (0, 1, 0)),
    "left front": ((1.0, -0.8, -0.6), (0, 0, 1)),
    "right front": ((-1.0, -0.8, -0.6), (0, 0, 1)),
}
LEVEL, SMOOTH_MM, MARGIN_MM, STEP_MM = 0.4, 1.3, 4.0, 1.5  # the level is low, so that what is thin stays
LIGHT = np.array([-0.45, 0.55, -0.70])  # rightwards, upwards and away from the eye: over the eye's left shoulder
PIXELS_PER_INCH = 46
GLASS = np.array([0.62, 0.70, 0.80])


class Seen(NamedTuple):
    """A rendered view, pixel by pixel, the first row at the bottom.

    Attributes:
        label: (rows, columns) int, the label in front; 0 where there is none.
        light: (rows, columns) float in 0 to 1, how brightly the surface is lit.
        slope: (rows, columns) float in 0 to 1, 0 where the surface faces the eye and 1 at its rim.
    """

    label: np.ndarray
    light: np.ndarray
    slope: np.ndarray


def look(labels: Image, view: str, *, pixel_mm: float = 1.0, around: Image | None = None) -> Seen:
    """Renders a label map from one side, without perspective.

    Casts rays through the smoothed mask of all labels; the gradient where a ray first enters it gives the light.

    Args:
        labels: a label map, 0 is background.
        view: a name of `VIEWS`.
        pixel_mm: size of a pixel in mm.
        around: a map whose extent the picture covers; None for that of the labels. Labels outside are cut off.

    Returns:
        The view.

    Raises:
        ValueError: there is no such view, or the map is empty.
    """
    if view not in VIEWS:
        raise unknown_choice("view", view, VIEWS)
    frame = _view_axes(view)
    whole = _find_extent(labels if around is None else around, frame, pixel_mm)
    own = _find_extent(labels, frame, pixel_mm)
    own[:, :2] = np.clip(own[:, :2], whole[0, :2], whole[1, :2])
    volume, to_voxel = np.rint(images.array(labels)).astype(int), np.linalg.inv(labels.affine)
    soft = ndimage.gaussian_filter((volume != 0).astype(np.float32), SMOOTH_MM / images.spacing_mm(labels.affine))
    place, hit = _find_surface(soft, _cast_rays(own, frame, pixel_mm), to_voxel)
    normal = _estimate_normals(soft, place, to_voxel, frame)
    light = np.clip(normal @ (LIGHT / np.linalg.norm(LIGHT)), 0, 1) * hit
    label = _sample(_fill_nearest(volume), place + frame[2] * pixel_mm, to_voxel, order=0).astype(int) * hit
    room = [(int(a), int(b)) for a, b in np.stack([own[0] - whole[0], whole[1] - own[1]], -1)[[1, 0]]]
    return Seen(*(np.pad(layer, room) for layer in (label, light, np.clip(1 + normal[..., 2], 0, 1) * hit)))


def _view_axes(view: str) -> np.ndarray:
    """Returns the picture's right, its up and the viewing direction as the rows of a (3, 3) array, in RAS."""
    forward, up = (np.asarray(direction, float) for direction in VIEWS[view])
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(right, forward), forward])


def _find_extent(labels: Image, frame: np.ndarray, pixel_mm: float) -> np.ndarray:
    """Returns the first and last labelled pixel rightwards, upwards and away, with a margin: (2, 3) int."""
    voxels = np.argwhere(np.rint(images.array(labels)))
    if not len(voxels):
        raise ValueError("There is nothing to look at: the label map is 0 everywhere. Choose labels that it holds.")
    seen = (voxels @ labels.affine[:3, :3].T + labels.affine[:3, 3]) @ frame.T
    ends = np.stack([seen.min(0) - MARGIN_MM, seen.max(0) + MARGIN_MM]) / pixel_mm
    return np.stack([np.floor(ends[0]), np.ceil(ends[1])]).astype(int)


def _cast_rays(extent: np.ndarray, frame: np.ndarray, pixel_mm: float) -> np.ndarray:
    """Returns the places along each ray in mm: (rows, columns, steps, 3)."""
    columns, rows = (np.arange(*extent[:, axis], dtype=np.float32) * pixel_mm for axis in (0, 1))
    near, far = (extent[:, 2] * pixel_mm).tolist()
    steps = np.arange(near, far, STEP_MM, dtype=np.float32)
    grid = np.stack(np.meshgrid(rows, columns, steps, indexing="ij"), -1)[..., [1, 0, 2]]
    return grid @ frame.astype(np.float32)


def _find_surface(soft: np.ndarray, rays: np.ndarray, to_voxel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns where each ray enters the mask, interpolated, (rows, columns, 3) in mm, and whether it does."""
    along = _sample(soft, rays, to_voxel)
    inside = along > LEVEL
    first = np.maximum(inside.argmax(-1), 1)[..., None]
    before, after = (np.take_along_axis(along, first - back, -1) for back in (1, 0))
    share = np.clip((LEVEL - before) / np.where(after > before, after - before, 1), 0, 1)
    start, end = (np.take_along_axis(rays, first[..., None] - back, -2)[..., 0, :] for back in (1, 0))
    return start + share * (end - start), np.asarray(inside.any(-1))


def _sample(volume: np.ndarray, places_mm: np.ndarray, to_voxel: np.ndarray, order: int = 1) -> np.ndarray:
    """Samples values at places; outside the volume 0, which closes cut surfaces, or for order 0 the nearest label."""
    voxels = places_mm @ to_voxel[:3, :3].T.astype(np.float32) + to_voxel[:3, 3].astype(np.float32)
    return ndimage.map_coordinates(
        volume, np.moveaxis(voxels, -1, 0), order=order, mode="nearest" if order == 0 else "constant"
    )


def _estimate_normals(soft: np.ndarray, place: np.ndarray, to_voxel: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Estimates the outward normals as right, up, away from the eye: (rows, columns, 3)."""
    rises = [_sample(soft, place + axis, to_voxel) - _sample(soft, place - axis, to_voxel) for axis in frame]
    outward = -np.stack(rises, -1)
    return outward / np.maximum(np.linalg.norm(outward, axis=-1, keepdims=True), 1e-6)


def _fill_nearest(volume: np.ndarray) -> np.ndarray:
    """Fills the background with the nearest label."""
    nearest = ndimage.distance_transform_edt(volume == 0, return_distances=False, return_indices=True)
    return volume[tuple(nearest)]


def draw_surfaces(
    labels: Image,
    *,
    shell: Image | None = None,
    names: Mapping[int, str] | None = None,
    views: Sequence[str] = ("left", "front", "left front"),
    title: str = "",
) -> "Figure":
    """Draws the surfaces of a label map from several sides at one scale.

    Args:
        labels: a label map, 0 is background.
        shell: a mask around them, for example a brain, drawn as glass.
        names: value -> name, for the legend; `left_` and `right_` of one name share a colour. None for no legend.
        views: names of `VIEWS`.
        title: one line above the pictures.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: there is no such view, or the map is empty.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("A picture needs matplotlib: pip install 'zoo3d[report]'.") from error
    colours = _assign_colours(labels, names or {})
    drawn = [_paint(labels, shell, view, colours) for view in views]
    widths, tall = [surface.shape[1] for surface in drawn], max(len(surface) for surface in drawn)
    drawn = [
        np.pad(surface, (((tall - len(surface)) // 2, (tall - len(surface) + 1) // 2), (0, 0), (0, 0)), "edge")
        for surface in drawn
    ]
    figure = Figure(figsize=(sum(widths) / PIXELS_PER_INCH, tall / PIXELS_PER_INCH + 0.9), facecolor=PAPER)
    panels = figure.subplots(1, len(drawn), squeeze=False, width_ratios=widths)[0]
    for panel, view, picture in zip(panels, views, drawn, strict=True):
        panel.imshow(picture, origin="lower", interpolation="bilinear")
        panel.set_axis_off()
        panel.text(0.5, -0.02, view, transform=panel.transAxes, ha="center", va="top", color=INK, fontsize=9)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.13, top=0.92, wspace=0.04)
    figure.suptitle(title, x=0.012, ha="left", color=INK, fontsize=13, fontweight="bold")
    _draw_legend(figure, labels, names or {}, colours)
    return figure


def _without_side(name: str) -> str:
    return name.removeprefix("left_").removeprefix("right_")


def _assign_colours(labels: Image, names: Mapping[int, str]) -> dict[int, str]:
    """Assigns a colour to each structure, in the order of the values in the map; left and right share it."""
    values = [int(value) for value in np.unique(np.rint(images.array(labels))) if value]
    kinds = list(dict.fromkeys(_without_side(names.get(value, str(value))) for value in values))
    return {value: COLOURS[kinds.index(_without_side(names.get(value, str(value)))) % len(COLOURS)] for value in values}


def _paint(labels: Image, shell: Image | None, view: str, colours: Mapping[int, str]) -> np.ndarray:
    """Paints one view: (rows, columns, 3) float in 0 to 1."""
    from matplotlib.colors import to_rgb

    seen = look(labels, view, around=shell)
    picture = np.broadcast_to(np.array(to_rgb(PAPER)), (*seen.label.shape, 3)).copy()
    for value, colour in colours.items():
        lit = (0.28 + 0.72 * seen.light)[..., None] * np.array(to_rgb(colour)) + 0.18 * seen.light[..., None] ** 12
        picture = np.where((seen.label == value)[..., None], lit, picture)
    if shell is not None:
        glass = look(shell, view)
        cover = (glass.label > 0) * (0.08 + 0.30 * glass.light**2 + 0.45 * glass.slope**3)
        picture = picture + np.clip(cover, 0, 0.6)[..., None] * (GLASS - picture)
    return np.clip(picture, 0, 1)


def _draw_legend(figure: Any, labels: Image, names: Mapping[int, str], colours: Mapping[int, str]) -> None:
    from matplotlib.patches import Patch

    kinds = {
        _without_side(names[value]).replace("_", " "): colour for value, colour in colours.items() if value in names
    }
    if not kinds or len(kinds) > len(COLOURS):
        return
    entries = [Patch(color=colour, label=kind) for kind, colour in kinds.items()]
    figure.legend(handles=entries, loc="lower center", ncols=len(entries), frameon=False, labelcolor=INK, fontsize=9.5)
