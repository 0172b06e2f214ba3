"""A head around a brain: skull, scalp, face and neck of plausible thickness, other ones for every seed."""

import edt
import numpy as np
from scipy import ndimage

from zoo.synth.anatomy.labels import INDEX

# Thickness in mm at the vault, adult: skull 4 to 10 (Li et al., J Anat 2007), scalp 3 to 8.
SKULL_MM, SCALP_MM = (4.0, 10.0), (3.0, 8.0)


def add_head(labels: np.ndarray, seed: int) -> np.ndarray:
    """Grows a head around a brain, so that a network learns what is not brain.

    Shells at a smoothly varying distance from the brain's fluid are skull and scalp; ellipsoids in front and below
    are face and neck, cut into bone, air, muscle and fat by a smooth random field; two balls are eyes. None of it is
    anatomy: it surrounds the brain with edges and intensities of the right size and place.

    Args:
        labels: (x, y, z) of the scheme, RAS, 1 mm, with its fluid.
        seed: of the shapes.

    Returns:
        (x, y, z) int16; only background changes.
    """
    random = np.random.default_rng(seed)
    distance = edt.edt(labels == 0)
    skull_mm = _smooth(random, labels.shape, *SKULL_MM)
    scalp_mm = skull_mm + _smooth(random, labels.shape, *SCALP_MM)
    head = np.zeros(labels.shape, np.int16)
    face = _face(random, labels)
    head[face] = _tissues(random, labels.shape)[face]
    head[(distance < scalp_mm) & ~face] = INDEX["scalp"]
    surface = face & (edt.edt(face) < random.uniform(2, 5))
    head[surface & (distance >= scalp_mm)] = INDEX["scalp"]
    head[distance < skull_mm] = INDEX["skull"]
    head[_eyes(random, labels) & (distance > 2)] = INDEX["eye"]
    return np.where(labels > 0, labels, head).astype(np.int16)


def _smooth(random: np.random.Generator, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """A smooth field between two values."""
    coarse = random.uniform(low, high, [size // 30 + 2 for size in shape])
    return ndimage.zoom(coarse, [n / m for n, m in zip(shape, coarse.shape, strict=True)], order=1, grid_mode=False)


def _ellipsoid(shape: tuple[int, ...], centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    axes = [np.arange(size).reshape([-1 if axis == k else 1 for k in range(3)]) for axis, size in enumerate(shape)]
    return sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True)) < 1


def _frame(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle and size of the brain's box, in voxels."""
    box = [np.flatnonzero(labels.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return np.array([(axis[0] + axis[-1]) / 2 for axis in box]), np.array([axis[-1] - axis[0] + 1 for axis in box])


def _face(random: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    middle, size = _frame(labels)
    jitter = lambda: random.uniform(0.9, 1.1, 3)  # noqa: E731
    face = _ellipsoid(labels.shape, middle + size * [0, 0.30, -0.45], size * [0.40, 0.30, 0.55] * jitter())
    nape = _ellipsoid(labels.shape, middle + size * [0, -0.12, -0.62], size * [0.36, 0.36, 0.50] * jitter())
    return face | nape


def _tissues(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Bone, air, muscle and fat in patches of about a centimetre."""
    noise = ndimage.gaussian_filter(random.standard_normal([size // 2 + 1 for size in shape]), random.uniform(2, 4))
    noise = np.repeat(np.repeat(np.repeat(noise, 2, 0), 2, 1), 2, 2)[: shape[0], : shape[1], : shape[2]]
    cuts = np.quantile(noise[::4, ::4, ::4], [0.12, 0.55, 0.75])
    kinds = np.array([INDEX["background"], INDEX["soft_tissue"], INDEX["scalp"], INDEX["skull"]], np.int16)
    return kinds[np.searchsorted(cuts, noise)]


def _eyes(random: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    middle, size = _frame(labels)
    radius = np.full(3, random.uniform(11, 13))  # an eyeball measures 24 mm
    offset = size * [0.23, 0.44, -0.32] + random.uniform(-3, 3, 3)
    return _ellipsoid(labels.shape, middle + offset, radius) | _ellipsoid(
        labels.shape, middle + offset * [-1, 1, 1], radius
    )
