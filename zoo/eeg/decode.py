"""Decodes a network's logits to sources: peaks of posterior mass, then dipoles fitted to the data nearby."""

import dataclasses
import functools

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from zoo.eeg import grid

BALL_MM, APART_MM, REACH_MM = 15.0, 25.0, 10.0
MAX_SOURCES = 5
COUNTS = slice(1, 2 + MAX_SOURCES)  # the logits that `zoo.losses.source_posterior` gives the number of sources
_SWEEPS = 6
CHANNELS_A_SOURCE = 9  # three for a moment: with fewer, dipoles that cancel each other explain any topography
INDEPENDENT_CHANNELS = 64  # as many as the potentials of background activity can vary on independently
_PARAMETERS = 4


@dataclasses.dataclass(frozen=True)
class Fit:
    """Holds dipoles and how well they explain a topography.

    Attributes:
        places: (sources,) indices of places of the grid.
        moments: (sources, 3) A m along x, y, z of the head's MRI, where the topography was in V.
        explained: goodness of fit, the share of the topography's power that all sources explain together, 0 to 1.
        own: (sources,) the part of it that is lost without this source, with the moments of the others fitted again.
    """

    places: np.ndarray
    moments: np.ndarray
    explained: float
    own: np.ndarray


def posterior(logits: np.ndarray) -> np.ndarray:
    """Returns the probability of each place, (..., 5215) summing to 1, from logits (..., 24, 28, 24, channels)."""
    values = grid.from_box(np.asarray(logits, np.float64)[..., 0])
    values = np.exp(values - values.max(-1, keepdims=True))
    return values / values.sum(-1, keepdims=True)


def count_probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities of 0 to 5 sources, (..., 6), from logits (..., 24, 28, 24, 10)."""
    maps = np.moveaxis(np.asarray(logits, np.float64)[..., COUNTS], -1, -4)
    values = grid.from_box(maps).mean(-1)
    values = np.exp(values - values.max(-1, keepdims=True))
    return values / values.sum(-1, keepdims=True)


def mixed(probability: np.ndarray, current: np.ndarray, share: float) -> np.ndarray:
    """Averages a posterior (..., 5215) with a map of the current's length, which gets this share.

    The network learned where sources can be and how far to trust the data; steps of sparse Bayes separate a second
    source from the tail of the first. Each finds places that the other misses.
    """
    lengths = np.asarray(current, np.float64)
    return (1 - share) * probability + share * lengths / lengths.sum(-1, keepdims=True)


def peaks(probability: np.ndarray, count: int, *, ball_mm: float = BALL_MM) -> tuple[np.ndarray, np.ndarray]:
    """Finds the balls of 15 mm with most posterior mass, the largest first; each removes all within 25 mm.

    Args:
        probability: (5215,), as `posterior` returns it.
        count: how many, 0 to 5.
        ball_mm: radius; 0 takes the largest single places, as for maps that are no posterior.

    Returns:
        Indices of places (count,) and the mass of each ball when it was taken (count,).

    Raises:
        ValueError: another count.
    """
    if not 0 <= count <= MAX_SOURCES:
        raise ValueError(f"count is the number of sources, 0 to {MAX_SOURCES}, got {count}.")
    left = np.array(probability, np.float64)
    near, far = _within(ball_mm), _within(APART_MM)
    places, masses = [], []
    for _ in range(count):
        mass = near @ left
        place = int(mass.argmax())
        places.append(place)
        masses.append(mass[place])
        left[far[[place]].indices] = 0.0
    return np.array(places, int), np.array(masses)


def refine(places: np.ndarray, topography: np.ndarray, field: np.ndarray, *, reach_mm: float = REACH_MM) -> Fit:
    """Moves each source in turn to the place nearby where dipoles explain most, until none moves.

    Args:
        places: (sources,) indices of places to start from.
        topography: (channels,) V against the average of these channels.
        field: (channels, 5215, 3) of the same channels and reference, V / (A m).
        reach_mm: how far a source may move from its start; 0 keeps it there.

    Returns:
        The places, moments and shares of power explained.
    """
    data, basis = np.asarray(topography, np.float64), np.asarray(field, np.float64)
    best = np.array(places, int)
    near = [_within(reach_mm)[[place]].indices if reach_mm else np.array([place]) for place in best]
    for _ in range(_SWEEPS):
        before = best.copy()
        for source in range(len(best)):
            others = _orthonormal(basis, np.delete(best, source))
            best[source] = near[source][_score_candidates(data, basis[:, near[source]], others).argmax()]
        if (best == before).all():
            break
    return _fit(best, data, basis)


def count_by_fit(
    probability: np.ndarray, topography: np.ndarray, field: np.ndarray, *, reach_mm: float = REACH_MM
) -> np.ndarray:
    """Returns the probabilities of 1 to 5 sources (5,), from how much each further dipole explains.

    Schwarz's criterion (Annals of Statistics 1978, doi 10.1214/aos/1176344136), n log(1 - explained) + 4 k log(n) for n
    channels and k dipoles: each counts three numbers for its moment and one for the choice of its place among
    correlated ones. At most one dipole for every nine channels: 19 channels give one or two. More than 64 channels
    count as 64, for neighbours of a dense cap see the same noise.

    Args:
        probability: (5215,) of the places.
        topography: (channels,) V against the average of these channels.
        field: (channels, 5215, 3) likewise.
        reach_mm: as in `refine`.
    """
    number = min(len(topography), INDEPENDENT_CHANNELS)
    most = min(MAX_SOURCES, max(1, (number - 1) // CHANNELS_A_SOURCE))
    places, counts = peaks(probability, most)[0], np.arange(1, most + 1)
    unexplained = [1 - refine(places[:k], topography, field, reach_mm=reach_mm).explained for k in counts]
    criterion = number * np.log(np.maximum(unexplained, 1e-9)) + _PARAMETERS * counts * np.log(number)
    weights = np.pad(np.exp(-0.5 * (criterion - criterion.min())), (0, MAX_SOURCES - most))
    return weights / weights.sum()


def count_above_noise(
    probability: np.ndarray, topography: np.ndarray, field: np.ndarray, *, freedom: float, reach_mm: float = REACH_MM
) -> np.ndarray:
    """Returns the probabilities of 0 to 5 sources (6,), from what each leaves of a topography in units of its noise.

    Schwarz's criterion with Student's likelihood: the strength of the noise was measured on `freedom` numbers. Where
    that is large, a source is added while it takes more of the residual than noise would give it; with 0 this is
    `count_by_fit`, to which any strength of noise will do. Against correlated noise, channels are no longer counted as
    if each told something new.

    Args:
        probability: (5215,) of the places.
        topography: (patterns,), whitened: noise has a variance of 1 in each.
        field: (patterns, 5215, 3) likewise.
        freedom: independent numbers that the strength of the noise was measured on; above 0.
        reach_mm: as in `refine`.
    """
    number = len(topography)
    most = min(MAX_SOURCES, max(1, number // CHANNELS_A_SOURCE))
    places, counts = peaks(probability, most)[0], np.arange(most + 1)
    power = float(topography @ topography)
    fits = [refine(places[:k], topography, field, reach_mm=reach_mm) for k in counts]
    left = power * (1 - np.array([fit.explained for fit in fits]))
    criterion = (freedom + number) * np.log1p(left / freedom) + _PARAMETERS * counts * np.log(number)
    weights = np.pad(np.exp(-0.5 * (criterion - criterion.min())), (0, MAX_SOURCES - most))
    return weights / weights.sum()


def _score_candidates(data: np.ndarray, candidates: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the power that a free dipole at each candidate (channels, n, 3) adds to the others (channels, m)."""
    left = data - others @ (others.T @ data)
    columns = candidates - np.einsum("cm,mnd->cnd", others, np.einsum("cm,cnd->mnd", others, candidates))
    turned = np.linalg.qr(columns.transpose(1, 0, 2))[0]
    return np.square(np.einsum("ncd,c->nd", turned, left)).sum(1)


def _orthonormal(basis: np.ndarray, places: np.ndarray) -> np.ndarray:
    columns = basis[:, places].reshape(len(basis), -1)
    return np.linalg.qr(columns)[0] if columns.size else columns


def _fit(places: np.ndarray, data: np.ndarray, basis: np.ndarray) -> Fit:
    power = max(float(data @ data), 1e-300)
    explained = [np.square(_orthonormal(basis, subset).T @ data).sum() / power for subset in _leave_one_out(places)]
    columns = basis[:, places].reshape(len(basis), -1)
    moments = np.linalg.lstsq(columns, data, rcond=None)[0] if columns.size else np.zeros(0)
    return Fit(places, moments.reshape(-1, 3), float(explained[0]), explained[0] - np.array(explained[1:]))


def _leave_one_out(places: np.ndarray) -> list[np.ndarray]:
    """Returns all places, then the places without each source in turn."""
    return [places, *(np.delete(places, source) for source in range(len(places)))]


@functools.cache
def _within(radius_mm: float) -> sparse.csr_array:
    """Returns (5215, 5215), 1 where two places lie within a radius of each other, a place itself included."""
    tree = cKDTree(grid.grid()[0])
    pairs = tree.query_pairs(radius_mm + 1e-3, output_type="ndarray")
    rows = np.concatenate([pairs[:, 0], pairs[:, 1], np.arange(tree.n)])
    columns = np.concatenate([pairs[:, 1], pairs[:, 0], np.arange(tree.n)])
    return sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(tree.n, tree.n))
