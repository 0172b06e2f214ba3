"""Estimates the noise of a recording, whitens by it, and tells whether a topography stands above it."""

import dataclasses
import functools
from typing import Any

import numpy as np
from scipy import stats

from zoo.eeg import head_surfaces

LEVEL = 0.01  # of the test: one recording of noise in a hundred shows a source
MIN_SAMPLES, MIN_INDEPENDENT = 10, 4.0
_FOLDS = 5
_FLOOR = 0.05  # smallest variance of a pattern, as a share of the mean one


@dataclasses.dataclass(frozen=True)
class Noise:
    """The covariance of noise in a topography.

    Attributes:
        covariance: (channels, channels) V^2, against the average reference, shrunk towards equal variances.
        excess: power of noise that the covariance was not measured on, after whitening; 1 if it were known exactly.
        patterns: number of independent patterns of that noise.
        samples: number of independent samples that it was measured on.
        origin: where it comes from, for people.
        density: independent samples for each sample of the recording, 0 to 1.
    """

    covariance: np.ndarray
    excess: float
    patterns: float
    samples: float
    origin: str
    density: float = 1.0

    def keep(self, rows: list[int]) -> "Noise":
        """Returns the noise of some of the channels, against their own average."""
        centre = np.eye(len(rows)) - 1 / len(rows)
        covariance = centre @ self.covariance[np.ix_(rows, rows)] @ centre
        return dataclasses.replace(self, covariance=covariance, patterns=min(self.patterns, len(rows) - 1))

    def whiten(self) -> "Whitening":
        """Returns the matrix that makes the noise white, and how well its strength is known."""
        matrix = whitening_matrix(self.covariance) / np.sqrt(self.excess)
        return Whitening(matrix, self.patterns, self.samples * self.patterns, self.origin, self.density)


@dataclasses.dataclass(frozen=True)
class Whitening:
    """Whitens topographies: noise has a variance of 1 in each of channels - 1 directions.

    Attributes:
        matrix: (channels - 1, channels), 1 / V, or any unit where the strength is not known.
        patterns: number of independent patterns of the noise.
        freedom: independent numbers behind its strength; 0 where that is not known.
        origin: of the noise, for people.
        density: independent samples for each sample of the recording, 0 to 1.
    """

    matrix: np.ndarray
    patterns: float
    freedom: float
    origin: str
    density: float = 1.0

    def power(self, topography: np.ndarray) -> float:
        """Returns the power of a topography (channels,) over that of noise; 1 for noise."""
        return float(np.square(self.matrix @ topography).sum() / len(self.matrix))

    def chance(self, topography: np.ndarray, *, looks: float = 1.0) -> float:
        """Returns the probability that the largest of several topographies of noise alone has as much power.

        Args:
            topography: (channels,) V.
            looks: number of independent topographies that this one was chosen among.
        """
        single = float(stats.f.sf(self.power(topography), self.patterns, self.freedom))
        return float(-np.expm1(max(looks, 1.0) * np.log1p(-min(single, 1 - 1e-12))))


@functools.cache
def average_basis(channels: int) -> np.ndarray:
    """Returns an orthonormal basis (channels - 1, channels) of topographies against the average.

    Example:
        >>> bool(np.allclose(average_basis(5).sum(1), 0))
        True
    """
    return np.linalg.svd(np.eye(channels) - 1 / channels)[2][: channels - 1]


def whitening_matrix(covariance: np.ndarray) -> np.ndarray:
    """Returns the matrix (channels - 1, channels) that whitens noise of a covariance; no pattern counts as noiseless.

    Example:
        >>> matrix = whitening_matrix(4 * (np.eye(19) - 1 / 19))
        >>> bool(np.allclose(matrix @ matrix.T, np.eye(18) / 4))
        True
    """
    basis = average_basis(len(covariance))
    values, vectors = np.linalg.eigh(basis @ covariance @ basis.T)
    values = np.maximum(values, _FLOOR * values.mean())
    return vectors.T / np.sqrt(values)[:, None] @ basis


def unknown_noise(channels: int) -> Whitening:
    """Returns the whitening where nothing is known of the noise: equal in all channels, of any strength.

    Example:
        >>> unknown_noise(19).freedom
        0.0
    """
    return Whitening(average_basis(channels), channels - 1.0, 0.0, "unknown")


def independent_samples(data: np.ndarray, *, of_power: bool = False) -> float:
    """Returns the number of independent samples in (channels, times), from the autocorrelation up to its first zero.

    Args:
        data: any unit.
        of_power: count independent values of the power, for the largest of many; there are more of them.

    Example:
        >>> data = np.random.default_rng(0).standard_normal((20, 500))
        >>> 400 < independent_samples(data) <= 500
        True
    """
    number = data.shape[1]
    if number < 3:
        return float(number)
    centred = data - data.mean(1, keepdims=True)
    spectrum = np.square(np.abs(np.fft.rfft(centred, 2 * number, axis=1))).sum(0)
    correlation = np.fft.irfft(spectrum)[:number]
    if not correlation[0] > 0:
        return 1.0
    correlation = correlation / correlation[0]
    below = np.flatnonzero(correlation <= 0)
    correlation = correlation[1 : below[0] if len(below) else number]
    return float(number / (1 + 2 * (correlation**2 if of_power else correlation).sum()))


def measure_noise(data: np.ndarray, origin: str, *, averages: int = 1) -> Noise | None:
    """Measures the noise in samples (channels, times), V; shrinks by the oracle approximating rule.

    Chen, Wiesel, Eldar and Hero 2010, doi 10.1109/TSP.2010.2053029.

    Args:
        data: samples that hold noise alone.
        origin: what they are, for people.
        averages: number of epochs that a topography is the mean of, where `data` are single ones.

    Returns:
        The noise; None for fewer than 10 samples, fewer than four independent ones, or flat ones.

    Example:
        >>> measure_noise(np.zeros((19, 5)), "the baseline") is None
        True
    """
    if data.shape[1] < MIN_SAMPLES:
        return None
    centred = data - data.mean(1, keepdims=True)
    centred = centred - centred.mean(0)
    if not np.square(centred).sum() > 0:
        return None
    samples = independent_samples(data)
    held_out = _hold_out(centred, samples) if samples >= MIN_INDEPENDENT else None
    if held_out is None:
        return None
    excess, patterns = held_out
    covariance = _shrink(_covariance(centred), samples) / averages
    return Noise(covariance, excess, patterns, samples, origin, samples / data.shape[1])


def _covariance(centred: np.ndarray) -> np.ndarray:
    return centred @ centred.T / max(centred.shape[1] - 1, 1)


def _hold_out(data: np.ndarray, samples: float) -> tuple[float, float] | None:
    """Whitens each fifth of the samples by the others: returns the power left, and the number of its patterns.

    A covariance of few samples calls noise in other samples stronger than it is: by a fifth, or twice. Samples beside
    those that are held out are left out, too, as far as they are correlated.
    """
    powers, rank, gap = [], len(data) - 1, int(np.ceil(data.shape[1] / samples))
    for held in np.array_split(np.arange(data.shape[1]), _FOLDS):
        others = np.delete(data, np.arange(max(held[0] - gap, 0), min(held[-1] + gap + 1, data.shape[1])), axis=1)
        if others.shape[1] < 3:
            return None
        middle = others.mean(1, keepdims=True)
        covariance = _shrink(_covariance(others - middle), samples * others.shape[1] / data.shape[1])
        powers.append(np.square(whitening_matrix(covariance) @ (data[:, held] - middle)).sum(0) / rank)
    power = np.concatenate(powers)
    patterns = 2 * power.mean() ** 2 / max(float(power.var()), 1e-12)
    return float(power.mean()), float(np.clip(patterns, 2.0, rank))


def given_noise(covariance: Any, names: tuple[str, ...], *, averages: int = 1) -> Noise:
    """Returns the noise that an `mne.Covariance` describes, shrunk as a measured one.

    Args:
        covariance: of single epochs, as mne takes it.
        names: channels of the recording.
        averages: number of epochs in the average that is located, by which mne divides too.

    Raises:
        TypeError: no `mne.Covariance`.
        ValueError: it lacks channels, or is of another unit.
    """
    mne = head_surfaces.require_mne()
    if not isinstance(covariance, mne.Covariance):
        raise TypeError(f"noise_cov is an mne.Covariance or None, got {type(covariance).__name__}.")
    from zoo.source_imaging.channel_names import clean_name

    rows = {clean_name(name): row for row, name in enumerate(covariance.ch_names)}
    missing = [name for name in names if name not in rows]
    if missing:
        raise ValueError(
            f"The noise covariance lacks {len(missing)} of the recording's {len(names)} channels "
            f"({', '.join(missing[:6])}): compute it on this recording, or leave those channels out of both."
        )
    order = [rows[name] for name in names]
    full = np.diag(covariance.data) if covariance["diag"] else covariance.data
    centre = np.eye(len(names)) - 1 / len(names)
    observed = centre @ full[np.ix_(order, order)] @ centre
    level = np.sqrt(np.trace(observed) / len(names))
    if not 1e-8 <= level <= 1e-3:
        raise ValueError(
            f"The noise covariance has a standard deviation of {level:.2g} V a channel; EEG has 0.01 to 1000 uV. mne "
            "keeps EEG in V: compute it on data in V."
        )
    samples = float(covariance["nfree"] or 1)
    return Noise(_shrink(observed, samples) / averages, 1.0, len(names) - 1.0, samples, "the given covariance")


def _shrink(observed: np.ndarray, samples: float) -> np.ndarray:
    size = len(observed) - 1
    trace, squared = np.trace(observed), np.square(observed).sum()
    spread = squared - trace**2 / size
    share = 1.0 if spread <= 0 else ((1 - 2 / size) * squared + trace**2) / ((samples + 1 - 2 / size) * spread)
    share = min(max(share, 0.0), 1.0)
    centre = np.eye(len(observed)) - 1 / len(observed)
    return (1 - share) * observed + share * trace / size * centre
