"""Makes heads to compute with: fsaverage from the files that mne ships, a variant for every seed, and a sphere.

All heads share one tessellation, one set of electrodes and one set of places, moved by a smooth map, so that tensors
have the same shape for every head.
"""

import dataclasses
import functools
import importlib
import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse, special
from scipy.spatial import cKDTree

from zoo.errors import unknown_choice

GRADE = 4
GAP_MM = 20.0
SCALE_SD, SHAPE_RMS = 0.04, 0.02
SKULL_RATIOS = (25.0, 80.0)
TEMPLATE_RATIO = 50.0
_DEGREES = (2, 3, 4)
_SMOOTHINGS = 10


@dataclasses.dataclass(frozen=True)
class Warp:
    """Moves points of the template smoothly: `x -> c + s * (x - c) * (1 + f(direction of x - c))`.

    Attributes:
        centre_mm: c, MRI coordinates of the template in mm.
        scale: s, a factor for each axis.
        shape: coefficients of f in real orthonormal spherical harmonics, degree 2 first, order -l to l in each.
    """

    centre_mm: tuple[float, float, float]
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shape: tuple[float, ...] = ()

    def apply(self, points_mm: np.ndarray) -> np.ndarray:
        """Moves points (n, 3) of the template, mm, into this head."""
        offset = np.asarray(points_mm, float) - self.centre_mm
        factor = 1.0 + (harmonics(offset) @ self.shape if self.shape else 0.0)
        return np.asarray(self.centre_mm) + offset * self.scale * np.reshape(factor, (-1, 1))


@dataclasses.dataclass(frozen=True)
class Head:
    """Holds three nested surfaces on one icosphere, and the electrodes on the outermost; mm, MRI axes (RAS).

    Attributes:
        name: `"fsaverage"`, `"head-<seed>"` or `"sphere"`; part of the key of every cache.
        surfaces_mm: (3, 2562, 3): inner skull, outer skull, scalp; the first 642 points are the coarser icosphere.
        electrodes_mm: (335, 3), in the order of `electrode_names()`.
        warp: the map from the template to this head; the sphere's is the identity, see `places`.
        skull_ratio: conductivity of brain over that of skull.
    """

    name: str
    surfaces_mm: np.ndarray
    electrodes_mm: np.ndarray
    warp: Warp
    skull_ratio: float

    @property
    def head_from_mri(self) -> np.ndarray:
        """Returns the matrix (4, 4), mm, to mne's head coordinates: fsaverage's, or the identity for the sphere."""
        # mne 1.13 looks for places inside a sphere in MRI coordinates while its centre is in head coordinates.
        return np.eye(4) if self.name == "sphere" else _head_from_mri()

    def places(self, template_mm: np.ndarray) -> np.ndarray:
        """Moves points (n, 3) of the template's brain into this head, mm."""
        if self.name != "sphere":
            return self.warp.apply(template_mm)
        offset = np.asarray(template_mm, float) - self.warp.centre_mm
        inside = np.linalg.norm(self.surfaces_mm[0, 0] - self.warp.centre_mm)
        factor = inside / radius_towards(_read_template()[0][0] - self.warp.centre_mm, offset)
        return np.asarray(self.warp.centre_mm) + offset * factor[:, None]


def head(which: str | int = "fsaverage", *, skull_ratio: float | None = None) -> Head:
    """Returns a head by name or by seed.

    Args:
        which: `"fsaverage"`, `"sphere"`, or a seed >= 0 of the family: axes scaled by 1 +- 4 % (SD) each, spherical
            harmonics of degree 2 to 4 and 2 % (root mean square) on the radius, moving surfaces, electrodes and places.
        skull_ratio: conductivity of brain over that of skull, 10 to 200; 50 for the template and the sphere, and
            log-uniform in 25 to 80 by the seed for the family.

    Raises:
        ValueError: no such head, or a ratio out of range.
        ImportError: mne is not installed.
    """
    check_ratio(skull_ratio)
    surfaces, electrodes, centre = _read_template()
    if which == "fsaverage":
        return Head("fsaverage", surfaces, electrodes, Warp(centre), skull_ratio or TEMPLATE_RATIO)
    if which == "sphere":
        return _make_sphere(skull_ratio or TEMPLATE_RATIO)
    if isinstance(which, bool) or not isinstance(which, int | np.integer) or which < 0:
        raise unknown_choice("head", which, ["fsaverage", "sphere", "a seed (0, 1, 2, ...)"])
    warp, ratio = draw(int(which))
    moved = warp.apply(surfaces.reshape(-1, 3)).reshape(surfaces.shape)
    return Head(f"head-{which}", moved, warp.apply(electrodes), warp, skull_ratio or ratio)


def check_ratio(skull_ratio: float | None) -> None:
    """Checks a ratio of conductivities, 10 to 200; None passes."""
    if skull_ratio is not None and not 10 <= skull_ratio <= 200:
        raise ValueError(f"skull_ratio is brain over skull conductivity, 10 to 200, got {skull_ratio}.")


def draw(seed: int) -> tuple[Warp, float]:
    """Draws the warp and the skull ratio of one variant of the template."""
    random = np.random.default_rng([seed, 8])
    scale = 1 + SCALE_SD * np.clip(random.standard_normal(3), -2.5, 2.5)
    spread = np.concatenate([np.full(2 * degree + 1, 1 / degree) for degree in _DEGREES])
    spread *= SHAPE_RMS * math.sqrt(4 * math.pi / np.square(spread).sum())
    shape = spread * np.clip(random.standard_normal(spread.size), -2.5, 2.5)
    ratio = math.exp(random.uniform(*np.log(SKULL_RATIOS)))
    return Warp(_read_template()[2], tuple(scale.tolist()), tuple(shape.tolist())), ratio


def electrode_names() -> list[str]:
    """Returns the 335 names of the 10-05 system, in mne's order."""
    return list(_read_montage().ch_names)


@functools.cache
def _head_from_mri() -> np.ndarray:
    transform = require_mne().read_trans(shipped("fsaverage-trans.fif"))["trans"].copy()
    transform[:3, 3] *= 1e3
    return np.linalg.inv(transform)


def require_mne() -> Any:
    """Imports mne.

    Raises:
        ImportError: it is not installed; says how to get it.
    """
    if importlib.util.find_spec("mne") is None:
        raise ImportError("EEG needs MNE-Python, which is not installed: pip install 'zoo3d[eeg]'.")
    return importlib.import_module("mne")


def shipped(name: str) -> Path:
    """Returns the path of a file of fsaverage that mne ships."""
    return Path(require_mne().__file__).parent / "data" / "fsaverage" / name


@functools.cache
def icosphere(grade: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns unit directions and triangles of an icosahedron whose edges are halved `grade` times.

    Returns:
        Directions (10 * 4**grade + 2, 3), those of coarser grades first, and triangles (20 * 4**grade, 3),
        anticlockwise from outside.
    """
    if grade:
        return _halve_edges(*icosphere(grade - 1))
    golden = (1 + math.sqrt(5)) / 2
    first = [(0, i, j * golden) for i in (-1, 1) for j in (-1, 1)]
    corners = np.array([np.roll(corner, shift) for shift in range(3) for corner in first]) / math.hypot(1, golden)
    near = np.argwhere(np.triu(np.abs(corners @ corners.T - 1 / math.sqrt(5)) < 1e-9))
    edges = {tuple(pair) for pair in near.tolist()}
    triangles = [(a, b, c) for a, b in edges for c in range(12) if (b, c) in edges and (a, c) in edges]
    return corners, _orient_outward(corners, np.array(sorted(triangles)))


def _halve_edges(directions: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sides = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), 1)
    unique, which = np.unique(sides, axis=0, return_inverse=True)
    middles = directions[unique].sum(1)
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    ab, bc, ca = (which.reshape(3, -1) + len(directions)).astype(int)
    a, b, c = triangles.T
    parts = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    everything = np.concatenate([directions, middles])
    return everything, np.concatenate([np.stack(part, 1) for part in parts])


def _orient_outward(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    a, b, c = (points[triangles[:, corner]] for corner in range(3))
    inward = (np.cross(b - a, c - a) * a).sum(1) < 0
    return np.where(inward[:, None], triangles[:, ::-1], triangles)


def radius_towards(points: np.ndarray, directions: np.ndarray, *, triangles: np.ndarray | None = None) -> np.ndarray:
    """Measures how far a star-shaped surface around the origin lies in each direction.

    Args:
        points: (n, 3) of the surface.
        directions: (m, 3), of any length.
        triangles: of the surface; None takes those of the icosphere with n points.

    Returns:
        (m,), in the unit of `points`; the outermost where a ray meets the surface more than once.

    Raises:
        ValueError: a ray meets no triangle: the origin is outside, or the surface is open.
    """
    triangles = icosphere(round(math.log((len(points) - 2) / 10, 4)))[1] if triangles is None else triangles
    corners = points[triangles]
    unit = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    unit[np.linalg.norm(directions, axis=1) < 1e-12] = (0, 0, 1)
    middles = corners.mean(1)
    tree = cKDTree(middles / np.linalg.norm(middles, axis=1, keepdims=True))
    nearest = tree.query(unit, k=min(40, len(triangles)))[1]
    radii = _intersect_rays(corners[nearest], unit)
    if np.isnan(radii).any():
        raise ValueError(
            f"{np.isnan(radii).sum()} rays meet no triangle: the surface is open or not around the origin."
        )
    return radii


def _intersect_rays(corners: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Returns the largest ray parameter over triangles (m, k, 3, 3); NaN without a hit (Moeller and Trumbore, 1997)."""
    origin, first, second = corners[..., 0, :], corners[..., 1, :], corners[..., 2, :]
    e1, e2 = first - origin, second - origin
    p = np.cross(unit[:, None], e2)
    determinant = (e1 * p).sum(-1)
    inverse = 1 / np.where(np.abs(determinant) < 1e-12, np.nan, determinant)
    q = np.cross(-origin, e1)
    u, v = -(origin * p).sum(-1) * inverse, (q * unit[:, None]).sum(-1) * inverse
    t = (e2 * q).sum(-1) * inverse
    good = (u >= -1e-6) & (v >= -1e-6) & (u + v <= 1 + 1e-6) & (t > 0)
    best = np.where(good, t, -np.inf).max(1)
    return np.where(np.isfinite(best), best, np.nan)


def harmonics(points: np.ndarray) -> np.ndarray:
    """Evaluates real orthonormal spherical harmonics of degree 2 to 4 in directions of points: (n, 3) -> (n, 21)."""
    radius = np.maximum(np.linalg.norm(points, axis=1), 1e-12)
    cosine, azimuth = points[:, 2] / radius, np.arctan2(points[:, 1], points[:, 0])
    return np.stack([_harmonic(n, m, cosine, azimuth) for n in _DEGREES for m in range(-n, n + 1)], 1)


def _harmonic(degree: int, order: int, cosine: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
    m = abs(order)
    norm = (2 * degree + 1) / (4 * math.pi) * math.factorial(degree - m) / math.factorial(degree + m)
    around = np.sin(m * azimuth) if order < 0 else np.cos(m * azimuth)
    return math.sqrt(norm * (2 if m else 1)) * special.lpmv(m, degree, cosine) * around


@functools.cache
def _read_montage() -> Any:
    return require_mne().channels.make_standard_montage("fsaverage_1005")


@functools.cache
def inner_skull() -> tuple[np.ndarray, np.ndarray]:
    """Reads the points (10242, 3), mm, and triangles of fsaverage's inner skull."""
    return _read_surface("fsaverage-inner_skull-bem.fif")


def _read_surface(name: str) -> tuple[np.ndarray, np.ndarray]:
    surface = require_mne().read_bem_surfaces(shipped(name), verbose="ERROR")[0]
    return surface["rr"] * 1e3, surface["tris"]


@functools.cache
def _read_template() -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Reads fsaverage's three surfaces, its electrodes on the scalp, and the middle of the inner skull's box."""
    points, triangles = inner_skull()
    centre = (points.min(0) + points.max(0)) / 2
    directions, _ = icosphere(GRADE)
    inner = radius_towards(points - centre, directions, triangles=triangles)
    face, face_triangles = _read_surface("fsaverage-head.fif")
    gap = radius_towards(face - centre, directions, triangles=face_triangles) - inner
    gap = _smooth(np.clip(gap, None, GAP_MM))
    radii = np.stack([inner, inner + gap / 2, inner + gap])
    surfaces = centre + radii[..., None] * directions
    offset = np.array(list(_read_montage().get_positions()["ch_pos"].values())) * 1e3 - centre
    length = radius_towards(surfaces[2] - centre, offset) / np.linalg.norm(offset, axis=1)
    return surfaces, centre + offset * length[:, None], tuple(centre.tolist())


def _smooth(values: np.ndarray) -> np.ndarray:
    """Smooths values on the icosphere by the mean of each and its neighbours, ten times (about 15 mm)."""
    triangles = icosphere(GRADE)[1]
    rows, columns = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]).T
    size = len(values)
    links = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(size, size)) + sparse.eye_array(size)
    mean = sparse.diags_array(1 / links.sum(1)) @ links
    for _ in range(_SMOOTHINGS):
        values = mean @ values
    return values


def _make_sphere(skull_ratio: float) -> Head:
    surfaces, electrodes, centre = _read_template()
    radii = np.linalg.norm(surfaces - centre, axis=2).mean(1)
    directions, _ = icosphere(GRADE)
    offset = electrodes - centre
    on_sphere = centre + radii[2] * offset / np.linalg.norm(offset, axis=1, keepdims=True)
    shells = np.asarray(centre) + radii[:, None, None] * directions
    return Head("sphere", shells, on_sphere, Warp(centre), skull_ratio)
