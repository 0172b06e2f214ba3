"""What a method says of a recording, whichever it is: dipoles, where else they could be, and how many there are."""

import dataclasses

import numpy as np

from zoo.eeg import decode, grid
from zoo.source_imaging.head_model import HeadModel
from zoo.source_imaging.recording import Recording

METHODS = ("auto", "network", "sparse_bayes")
CREDIBLE = 0.95
_VOXEL_ML = grid.SPACING_MM**3 / 1000


@dataclasses.dataclass(frozen=True)
class Selection:
    """The samples that are located.

    Attributes:
        window: (samples,) indices of times.
        topography: (channels,) V, their main topography.
        share: of the power of the samples in it, 0 to 1.
        looks: number of independent topographies that it was chosen among.
        note: why samples before 0 s were not taken for noise; None where they were.
    """

    window: np.ndarray
    topography: np.ndarray
    share: float
    looks: float
    note: str | None = None


@dataclasses.dataclass(frozen=True)
class Answer:
    """The sources of one recording.

    Attributes:
        method: "network" or "sparse_bayes".
        positions_mm: (sources, 3) in the head's MRI coordinates.
        mni_mm: (sources, 3) in MNI152.
        columns: (channels, sources, 3) V / (A m), potentials of unit dipoles there.
        moments: (sources, 3) A m: of the main topography, or of each source's main direction at its strongest time.
        explained: goodness of fit of all, 0 to 1.
        own: (sources,) what would be lost without each.
        confidences: (sources,) 0 to 1.
        from_peak_mm: (sources,) distance of each to the middle of its ball of posterior mass.
        places: (sources, 5215) probabilities of places of each source.
        posterior: (5215,) of all.
        posteriors: (times, 5215) of each sample of the window; None where all share that of the sources.
        counts: (6,) probabilities of 0 to 5 sources.
        chance: probability that noise alone looks so.
        residual: power of what the sources leave over that of noise; None where that is unknown.
    """

    method: str
    positions_mm: np.ndarray
    mni_mm: np.ndarray
    columns: np.ndarray
    moments: np.ndarray
    explained: float
    own: np.ndarray
    confidences: np.ndarray
    from_peak_mm: np.ndarray
    places: np.ndarray
    posterior: np.ndarray
    posteriors: np.ndarray | None
    counts: np.ndarray
    chance: float
    residual: float | None


def credible_ml(probabilities: np.ndarray, share: float = CREDIBLE) -> float:
    """Returns the volume of the fewest places that hold a share of the probability, ml; one place is 0.34 ml.

    Args:
        probabilities: (5215,), summing to 1.
        share: of it.

    Example:
        >>> round(credible_ml(np.array([0.5, 0.46, 0.04])), 3)
        0.686
    """
    ordered = np.sort(probabilities)[::-1]
    needed = int(np.searchsorted(np.cumsum(ordered), share * float(ordered.sum()) - 1e-12)) + 1
    return min(needed, len(ordered)) * _VOXEL_ML


def ball_masses(places: np.ndarray, positions_mm: np.ndarray, centres_mm: np.ndarray) -> np.ndarray:
    """Returns the probability within 15 mm of each centre, (sources,).

    Args:
        places: (sources, 5215) probabilities of each source.
        positions_mm: (5215, 3) of the places.
        centres_mm: (sources, 3).

    Example:
        >>> ball_masses(np.array([[0.9, 0.1]]), np.array([[0.0, 0, 0], [50, 0, 0]]), np.zeros((1, 3))).tolist()
        [0.9]
    """
    distance = np.linalg.norm(positions_mm[None] - centres_mm[:, None], axis=2)
    return ((distance <= decode.BALL_MM) * places).sum(1)


def moments_over_time(columns: np.ndarray, whitening: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Fits the moments of sources to each sample, in units of the noise: (sources, 3, times), A m.

    Args:
        columns: (channels, sources, 3), V / (A m).
        whitening: (patterns, channels).
        data: (channels, times), V.

    Example:
        >>> columns = np.eye(6).reshape(6, 2, 3)
        >>> moments_over_time(columns, np.eye(6), np.ones((6, 4))).shape
        (2, 3, 4)
    """
    number = columns.shape[1]
    if not number:
        return np.zeros((0, 3, data.shape[1]))
    flat = whitening @ columns.reshape(len(columns), -1)
    scale = max(float(np.abs(flat).max()), 1e-300)  # columns of 1e10 would meet lstsq's tolerance
    fitted = np.linalg.lstsq(flat / scale, whitening @ data, rcond=None)[0] / scale
    return fitted.reshape(number, 3, -1)


def samples_near(eeg: Recording, window: np.ndarray, reach_s: float) -> np.ndarray:
    """Returns which samples have time courses: all of an average, those near the window of a continuous recording."""
    if not eeg.continuous:
        return np.ones(len(eeg.times_s), bool)
    first, last = eeg.times_s[window[0]] - reach_s, eeg.times_s[window[-1]] + reach_s
    return (eeg.times_s >= first) & (eeg.times_s <= last)


def split_posterior(head: HeadModel, posterior: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Returns the posterior within 25 mm of each centre, the nearest one, as probabilities (sources, 5215).

    Args:
        head: gives the places.
        posterior: (5215,).
        centres: (sources,) indices of places.
    """
    positions = head.field.positions_mm
    distance = np.linalg.norm(positions[None] - positions[centres][:, None], axis=2)
    own = (distance <= decode.APART_MM) & (distance <= distance.min(0, initial=np.inf) + 1e-6)
    parts = posterior * own
    return parts / np.maximum(parts.sum(1, keepdims=True), 1e-300)
