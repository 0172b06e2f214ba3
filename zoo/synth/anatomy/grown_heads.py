"""Grows a head around a brain: skull, scalp, face and neck of plausible thickness, different for every seed."""

import edt
import numpy as np
from scipy import ndimage

from zoo.synth.anatomy.labels import INDEX

# Thickness in mm at the vault, adult: skull 4 to 10 (Li et al., J Anat 2007), scalp 3 to 8.
SKULL_MM, SCALP_MM = (4.0, 10.0), (3.0, 8.0)


def add_head(labels: np.ndarray, seed: int) -> np.ndarray:
    """Grows a head around a brain, so that a network learns what is not brain.

    Shells at a smoothly varying distance from the brain's fluid are skull and scalp; ellipsoids in front and below
    are face and neck, cut into bone, air, muscle and fat by a smooth random field; two balls are eyes. The head is
    no real anatomy: it surrounds the brain with edges and intensities of the right size and place.

    Args:
        labels: (x, y, z) of the scheme, RAS, 1 mm, with its fluid.
        seed: of the shapes.

    Returns:
        (x, y, z) int16; only background changes.
    """
    random = np.random.default_rng(seed)
    distance = edt.edt(labels == 0)
    skull_mm = _draw_smooth_field(random, labels.shape, *SKULL_MM)
    scalp_mm = skull_mm + _draw_smooth_field(random, labels.shape, *SCALP_MM)
    head = np.zeros(labels.shape, np.int16)
    face = _draw_face(random, labels)
    head[face] = _draw_tissues(random, labels.shape)[face]
    head[(distance < scalp_mm) & ~face] = INDEX["scalp"]
    surface = face & (edt.edt(face) < random.uniform(2, 5))
    head[surface & (distance >= scalp_mm)] = INDEX["scalp"]
    head[distance < skull_mm] = INDEX["skull"]
    head[_draw_eyes(random, labels) & (distance > 2)] = INDEX["eye"]
    return np.where(labels > 0, labels, head).astype(np.int16)


def _draw_smooth_field(random: np.random.Generator, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Draws a smooth field between two values."""
    coarse = random.uniform(low, high, [size // 30 + 2 for size in shape])
    return ndimage.zoom(coarse, [n / m for n, m in zip(shape, coarse.shape, strict=True)], order=1, grid_mode=False)


def _mark_ellipsoid(shape: tuple[int, ...], centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    axes = [np.arange(size).reshape([-1 if axis == k else 1 for k in range(3)]) for axis, size in enumerate(shape)]
    return sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True)) < 1


def _measure_box(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns middle and size of the brain's box, in voxels."""
    box = [np.flatnonzero(labels.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return np.array([(axis[0] + axis[-1]) / 2 for axis in box]), np.array([axis[-1] - axis[0] + 1 for axis in box])


def _draw_face(random: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    middle, size = _measure_box(labels)
    jitter = lambda: random.uniform(0.9, 1.1, 3)  # noqa: E731
    face = _mark_ellipsoid(labels.shape, middle + size * [0, 0.30, -0.45], size * [0.40, 0.30, 0.55] * jitter())
    nape = _mark_ellipsoid(labels.shape, middle + size * [0, -0.12, -0.62], size * [0.36, 0.36, 0.50] * jitter())
    return face | nape


def _draw_tissues(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draws bone, air, muscle and fat in patches of about a centimetre."""
    noise = ndimage.gaussian_filter(random.standard_normal([size // 2 + 1 for size in shape]), random.uniform(2, 4))
    noise = np.repeat(np.repeat(np.repeat(noise, 2, 0), 2, 1), 2, 2)[: shape[0], : shape[1], : shape[2]]
    cuts = np.quantile(noise[::4, ::4, ::4], [0.12, 0.55, 0.75])
    kinds = np.array([INDEX["background"], INDEX["soft_tissue"], INDEX["scalp"], INDEX["skull"]], np.int16)
    return kinds[np.searchsorted(cuts, noise)]


def _draw_eyes(random: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    middle, size = _measure_box(labels)
    radius = np.full(3, random.uniform(11, 13))  # an eyeball measures 24 mm
    offset = size * [0.23, 0.44, -0.32] + random.uniform(-3, 3, 3)
    return _mark_ellipsoid(labels.shape, middle + offset, radius) | _mark_ellipsoid(
        labels.shape, middle + offset * [-1, 1, 1], radius
    )
