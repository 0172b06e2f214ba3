"""Finds single bad electrodes: each channel is predicted from the others by the physics of the head."""

import numpy as np

from zoo.eeg.leadfield import LeadField

_NOISE = 0.1
_FEW = 48
_SHARE = (0.5, 0.35)  # of the topography's power; with few electrodes a source can be under one alone
_OUTLIER = 0.45
_ANY_REFERENCE = 1e4


def find_bad_electrodes(topography: np.ndarray, field: LeadField) -> list[int]:
    """Returns the rows of channels that sources in the brain cannot explain, given all other channels.

    A channel is bad where leaving it out and predicting it from the others (a Gaussian process whose covariance is
    that of dipoles anywhere in the brain) misses by more than a third of the topography's power (half with fewer than
    48 channels), and by about as much as all other channels together. One dipole does so in less than 1 % of places.

    Args:
        topography: (channels,) V, any reference.
        field: lead field of the channels.

    Returns:
        Their numbers, the worst first; at most a tenth of the channels, at least one.

    Example:
        >>> find_bad_electrodes(topography, lead_field().montage(names))  # doctest: +SKIP
        [13]
    """
    left, bad = list(range(len(field.names))), list[int]()
    covariance = _source_covariance(field)
    for _ in range(max(1, len(left) // 10)):
        worst = _find_worst(topography[left], covariance[np.ix_(left, left)])
        if worst is None:
            break
        bad.append(left.pop(worst))
    return bad


def _source_covariance(field: LeadField) -> np.ndarray:
    """Returns the covariance of sources at all places, each as strong at the electrodes; mean variance 1."""
    columns = field.matrix.astype(float)
    columns = columns / np.sqrt(np.maximum(np.square(columns).sum((0, 2), keepdims=True), 1e-30))
    flat = columns.reshape(len(columns), -1)
    covariance = flat @ flat.T
    return covariance * len(covariance) / np.trace(covariance)


def _find_worst(topography: np.ndarray, covariance: np.ndarray) -> int | None:
    number = len(topography)
    inverse = np.linalg.inv(covariance + _NOISE * np.eye(number) + _ANY_REFERENCE)
    missed = inverse @ topography  # over the diagonal: the error of predicting each channel from the others
    power = np.square(topography - topography.mean()).sum()
    standardised = np.square(missed) / np.diag(inverse)
    worst = int(standardised.argmax())
    share = (missed[worst] / inverse[worst, worst]) ** 2 / max(power, 1e-300)
    limit = _SHARE[0] if number < _FEW else _SHARE[1]
    return worst if share > limit and standardised[worst] > _OUTLIER * standardised.sum() else None
