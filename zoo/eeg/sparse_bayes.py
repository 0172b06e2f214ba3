"""Runs sparse Bayesian learning on a window of samples: one map of the current for all of them.

Wipf and Nagarajan, NeuroImage 2009, doi 10.1016/j.neuroimage.2008.02.059. Samples of a window share one variance for
each place. Where courses differ, the directions that samples span hold two sources apart whose topographies overlap at
any single moment; sources with equal courses lose nothing against one topography, as they do with subspace methods.
"""

import dataclasses

import numpy as np

COMPONENTS = 10
STEPS = 30
_PATTERNS = 40  # the strongest of the lead field hold more than 99 % of its power
_ALL_STEPS, _KEPT = 6, 1200  # most variances are near 0 after a few steps
_LEAST = 1e-10
_TINY = 1e-20


@dataclasses.dataclass(frozen=True)
class Window:
    """The samples of a window in units of their noise, as their leading components.

    Attributes:
        data: (patterns, components) float32; noise has a variance of 1 in each pattern of each sample, and the product
            with its transpose is the sum over independent samples.
        columns: (3, patterns, places) float32, the whitened lead field in a unit that gives places a mean power of 1.
        samples: number of independent samples, 1 or more.
        power: sum of squares of all samples, beyond the leading components, too.
    """

    data: np.ndarray
    columns: np.ndarray
    samples: float
    power: float

    @property
    def freedom(self) -> float:
        """Returns the number of independent values in the window."""
        return len(self.data) * self.samples


def make_window(
    samples: np.ndarray, field: np.ndarray, whitening: np.ndarray, *, independent: float | None = None
) -> Window:
    """Whitens the samples of a window and keeps the ten strongest components.

    Args:
        samples: (channels, times), V, against the average of these channels.
        field: (channels, places, 3), V / (A m), of the same channels and reference.
        whitening: (patterns, channels), 1 / V: noise has a variance of 1 in each pattern.
        independent: number of independent samples; None where all are.

    Example:
        >>> window = make_window(np.eye(4, 2), np.ones((4, 5, 3)), np.eye(4))
        >>> window.data.shape, window.columns.shape, window.power
        ((4, 2), (3, 4, 5), 2.0)
    """
    number = samples.shape[1]
    independent = float(number) if independent is None else float(np.clip(independent, 1.0, number))
    whitened = whitening @ np.asarray(samples, np.float64) * np.sqrt(independent / number)
    left, values, _ = np.linalg.svd(whitened, full_matrices=False)
    most = min(COMPONENTS, len(values))
    places = field.shape[1]
    columns = (whitening @ np.asarray(field, np.float64).reshape(len(field), -1)).reshape(-1, places, 3)
    columns = columns * np.sqrt(places / max(float(np.square(columns).sum()), 1e-300))
    columns = np.ascontiguousarray(columns.transpose(2, 0, 1), np.float32)
    data = (left[:, :most] * values[:most]).astype(np.float32)
    return Window(data, columns, independent, float(np.square(values).sum()))


def learn_current(window: Window, *, steps: int = STEPS) -> np.ndarray:
    """Returns the root mean square length of the current at each place, (places,), in any unit; mostly near 0.

    MacKay's fixed point, g <- g |L' S^-1 Y|^2 / (samples trace(L' S^-1 L)) with S = sum g L L' + 1. All places start
    with the same power at the electrodes, so that deep ones have no disadvantage.

    Args:
        window: of `make_window`.
        steps: of the fixed point; after six, places with little power are left out.

    Example:
        >>> learn_current(window).argmax()  # doctest: +SKIP
        2500
    """
    data, columns, power = _strongest_patterns(window)
    variance = float(np.square(window.data).sum()) / window.samples / (power * len(power))
    active, length = np.arange(len(power)), np.zeros(len(power))
    noise = np.eye(len(data), dtype=np.float32)
    for step in range(steps):
        if step == _ALL_STEPS and len(active) > _KEPT:
            active = np.sort(np.argpartition(-(variance * power), _KEPT)[:_KEPT])
            columns, variance = np.ascontiguousarray(columns[:, active]), variance[active]
        flat = columns.reshape(len(data), -1)
        weighted = flat * np.repeat(variance, 3).astype(np.float32)
        turned = np.linalg.inv(weighted @ flat.T + noise) @ flat
        seen = np.square(data.T @ turned).sum(0).reshape(-1, 3).sum(1) / window.samples
        length = variance * np.sqrt(seen)
        gain = (flat * turned).sum(0).reshape(-1, 3).sum(1)
        variance = variance * seen / np.maximum(gain, _TINY)
        variance = np.maximum(variance, _LEAST * variance.max())
    current = np.zeros(len(power))
    current[active] = length
    return current


def _strongest_patterns(window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns data (patterns, components), columns (patterns, places, 3) and power at the electrodes (places,)."""
    columns = window.columns.transpose(1, 2, 0)
    flat = columns.reshape(len(window.data), -1)
    _, vectors = np.linalg.eigh(flat @ flat.T)
    basis = vectors[:, ::-1][:, :_PATTERNS]
    reduced = (basis.T @ flat).reshape(basis.shape[1], -1, 3)
    return basis.T @ window.data, reduced, np.maximum(np.square(reduced).sum((0, 2)), _TINY).astype(np.float64)
