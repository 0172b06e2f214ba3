"""Searches for dipoles that together explain most of a window of samples, also between the places of the grid.

Alternating projections (Ziskind and Wax, IEEE Trans ASSP 1988, doi 10.1109/29.7543): each dipole in turn moves to where
it adds most to the others, over the whole brain. Sums of squares at the places around the best one then give its place
between them.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from zoo.eeg import grid
from zoo.eeg.sparse_bayes import Window

APART_MM = 15.0
_SWEEPS, _SETTLING = 12, 2
_RIDGE = 1e-4  # of a place's own power: places whose columns the others span explain nothing
_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
_FEWEST = 14  # neighbours that a quadratic needs
_FARTHEST = 0.6  # of the spacing
_FLATTEST = 1e-2


@dataclasses.dataclass(frozen=True)
class Dipole:
    """One dipole of a window.

    Attributes:
        place: index of the nearest place of the grid.
        offset: (3,) from that place along the axes of the grid, in units of its spacing.
    """

    place: int
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """Returns values (..., places) at the dipole, (...), by a quadratic through the places around it."""
        if not any(self.offset):
            return values[..., self.place]
        places, weights = _interpolation(self.place, self.offset)
        return values[..., places] @ weights.astype(values.dtype)


class DipoleSearch:
    """Sums of squares of one window that dipoles explain.

    Args:
        window: of `sparse_bayes.make_window`.
        inside: (places,) bool, where sources can be; None for everywhere.

    Example:
        >>> search = DipoleSearch(window)  # doctest: +SKIP
        >>> search.alternate([2500, 700])  # doctest: +SKIP
        [2491, 688]
    """

    def __init__(self, window: Window, *, inside: np.ndarray | None = None) -> None:
        self.window = window
        self._outside = None if inside is None or inside.all() else ~inside
        self._gram = [(window.columns[a] * window.columns[b]).sum(0) for a, b in _PAIRS]
        self._hits = np.stack([window.data.T @ columns for columns in window.columns])
        self._ridge = _RIDGE * (self._gram[0] + self._gram[3] + self._gram[5])

    def scan(self, others: Sequence[Dipole] = ()) -> np.ndarray:
        """Returns the sum of squares (places,) that one more dipole at each place explains beside the others.

        Places within 15 mm of another dipole, and those outside, are -inf.
        """
        gram, hits = self._gram, self._hits
        if others:
            basis = self._basis(others)
            inner = basis.T @ self.window.data
            turned = [basis.T @ columns for columns in self.window.columns]
            gram = [own - (turned[a] * turned[b]).sum(0) for own, (a, b) in zip(gram, _PAIRS, strict=True)]
            hits = np.stack([own - inner.T @ part for own, part in zip(hits, turned, strict=True)])
        explained = _quadratic_form(gram, hits, self._ridge)
        for dipole in others:
            explained[_near(dipole.place)] = -np.inf
        if self._outside is not None:
            explained[self._outside] = -np.inf
        return explained

    def explained(self, dipoles: Sequence[Dipole]) -> float:
        """Returns the sum of squares that dipoles explain together."""
        return float(np.square(self._basis(dipoles).T @ self.window.data).sum()) if dipoles else 0.0

    def alternate(self, places: Sequence[int], *, between: bool = True) -> list[Dipole]:
        """Moves each dipole in turn to its best place, until none moves, then all between the places.

        Args:
            places: indices to start from.
            between: whether to leave the grid at the end.
        """
        dipoles = [Dipole(int(place)) for place in places]
        for _ in range(_SWEEPS):
            before = list(dipoles)
            for number in range(len(dipoles)):
                others = dipoles[:number] + dipoles[number + 1 :]
                dipoles[number] = Dipole(int(self.scan(others).argmax()))
            if dipoles == before:
                break
        return self._settle(dipoles) if between else dipoles

    def add(self, dipoles: Sequence[Dipole]) -> list[int]:
        """Returns the places of dipoles and the best one beside them."""
        return [*(dipole.place for dipole in dipoles), int(self.scan(dipoles).argmax())]

    def _settle(self, dipoles: list[Dipole]) -> list[Dipole]:
        """Moves dipoles between places, while that explains more."""
        dipoles, best = list(dipoles), self.explained(dipoles)
        for _ in range(_SETTLING if len(dipoles) > 1 else 1):
            for number in range(len(dipoles)):
                others = dipoles[:number] + dipoles[number + 1 :]
                explained = self.scan(others)
                place = int(explained.argmax())
                trial = [*dipoles[:number], between_places(explained, place), *dipoles[number + 1 :]]
                if (value := self.explained(trial)) > best:
                    dipoles, best = trial, value
        return dipoles

    def _basis(self, dipoles: Sequence[Dipole]) -> np.ndarray:
        return np.linalg.qr(self.columns_of(dipoles))[0]

    def columns_of(self, dipoles: Sequence[Dipole]) -> np.ndarray:
        """Returns the whitened columns of dipoles, (patterns, 3 * dipoles), direction fastest."""
        return np.concatenate([dipole.interpolate(self.window.columns).T for dipole in dipoles], 1)


def best_pair(search: DipoleSearch) -> list[Dipole]:
    """Returns the two places that mirror each other in the midline whose dipoles explain most together.

    Their moments are free, so that one side may be weaker or later.

    Example:
        >>> best_pair(DipoleSearch(window))  # doctest: +SKIP
        [Dipole(place=2500, offset=(0.0, 0.0, 0.0)), Dipole(place=2503, offset=(0.0, 0.0, 0.0))]
    """
    left, right = _mirrored_places()
    columns = search.window.columns
    both = np.concatenate([columns[:, :, left], columns[:, :, right]])
    gram = np.einsum("apn,bpn->nab", both, both, optimize=True)
    gram += _RIDGE * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(6, dtype=gram.dtype)
    hits = np.einsum("apn,pc->nac", both, search.window.data, optimize=True)
    best = int((hits * np.linalg.solve(gram, hits)).sum((1, 2)).argmax())
    return [Dipole(int(left[best])), Dipole(int(right[best]))]


@functools.cache
def _mirrored_places() -> tuple[np.ndarray, np.ndarray]:
    """Returns places of the left half, 15 mm or more from their mirror images, and the places nearest to those."""
    positions = grid.grid()[0].astype(float)
    left = np.flatnonzero(positions[:, 0] <= -APART_MM / 2)
    distance, right = cKDTree(positions).query(positions[left] * [-1.0, 1.0, 1.0])
    near = distance <= grid.SPACING_MM
    return left[near], right[near]


def dipole_position(dipole: Dipole, positions_mm: np.ndarray) -> np.ndarray:
    """Returns where a dipole is, (3,), from the positions (places, 3) of the grid in any head.

    Example:
        >>> dipole_position(Dipole(0), np.array([[1.0, 2.0, 3.0]])).tolist()
        [1.0, 2.0, 3.0]
    """
    return dipole.interpolate(np.asarray(positions_mm, np.float64).T)


def _quadratic_form(gram: Sequence[np.ndarray], hits: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    """Returns sum over components of h' (G + ridge)^-1 h for symmetric 3 x 3 matrices G, by their cofactors."""
    xx, xy, xz, yy, yz, zz = gram
    xx, yy, zz = xx + ridge, yy + ridge, zz + ridge
    cofactors = (yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy, xx * zz - xz * xz, xy * xz - xx * yz,
                 xx * yy - xy * xy)  # fmt: skip
    determinant = xx * cofactors[0] + xy * cofactors[1] + xz * cofactors[2]
    total = np.zeros_like(ridge)
    for cofactor, (a, b) in zip(cofactors, _PAIRS, strict=True):
        total += (1.0 if a == b else 2.0) * cofactor * (hits[a] * hits[b]).sum(0)
    return total / np.maximum(determinant, 1e-30)


@functools.cache
def _neighbourhood() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the 27 steps to neighbours (27, 3), the terms of a quadratic there (27, 10), and weights (27,)."""
    steps = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    return steps, _terms(steps), np.exp(-0.5 * np.square(steps).sum(1))


def _terms(steps: np.ndarray) -> np.ndarray:
    x, y, z = np.asarray(steps, float).T
    return np.stack([np.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z], -1)


@functools.lru_cache(maxsize=4096)
def _around(place: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the places around one, and the matrix from their values to a quadratic; None where there are too few."""
    steps, terms, weights = _neighbourhood()
    voxels = grid.grid()[2][place] + steps
    fits = ((voxels >= 0) & (voxels < grid.SHAPE)).all(1)
    places = np.full(len(steps), grid.NUM_PLACES)
    places[fits] = _slots()[tuple(voxels[fits].T)]
    known = places < grid.NUM_PLACES
    if known.sum() < _FEWEST:
        return places[known], None
    weighted = terms[known] * weights[known, None]
    return places[known], np.linalg.pinv(weighted) * weights[known]


@functools.cache
def _slots() -> np.ndarray:
    return grid.slots().reshape(grid.SHAPE)


def _interpolation(place: int, offset: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Returns places and their weights, which give the value of a quadratic at an offset."""
    places, solve = _around(place)
    if solve is None:
        return np.array([place]), np.ones(1)
    return places, _terms(np.array([offset]))[0] @ solve


def between_places(explained: np.ndarray, place: int) -> Dipole:
    """Returns the dipole near a place where a quadratic through the sums of squares around it is largest.

    Args:
        explained: (places,), of `DipoleSearch.scan`.
        place: index; the dipole stays there where a neighbour is missing or excluded.

    Example:
        >>> between_places(search.scan(), 2500)  # doctest: +SKIP
        Dipole(place=2500, offset=(0.31, -0.12, 0.05))
    """
    places, solve = _around(place)
    values = explained[places].astype(float) - float(explained[place])
    if solve is None or not np.isfinite(values).all():
        return Dipole(place)
    terms = solve @ values
    curvature = np.array([[2 * terms[4], terms[7], terms[8]], [terms[7], 2 * terms[5], terms[9]],
                          [terms[8], terms[9], 2 * terms[6]]])  # fmt: skip
    sizes, axes = np.linalg.eigh(curvature)
    sizes = np.minimum(sizes, -_FLATTEST * max(np.abs(sizes).max(), 1e-30))
    x, y, z = np.clip(-axes @ (axes.T @ terms[1:4] / sizes), -_FARTHEST, _FARTHEST).tolist()
    return Dipole(place, (x, y, z))


@functools.lru_cache(maxsize=4096)
def _near(place: int) -> np.ndarray:
    """Returns the places within 15 mm of one."""
    positions = grid.grid()[0]
    return np.flatnonzero(np.square(positions - positions[place]).sum(1) < APART_MM**2)
