"""Checks the unit of a recording: EEG in uV that was declared as V is scaled, larger sizes are refused."""

import warnings

import numpy as np

# Median over electrodes of the absolute potential, at the time where it is largest. Blinks and seizures reach 0.5 mV.
_LEAST_V, _MOST_V = 2e-9, 1e-3
_MICROVOLTS = (0.5, 2e3)  # as mV this would be more than 0.5 V, so that uV is the only unit
_OFFSET_SAMPLES = 20


class RecordingWarning(UserWarning):
    """A recording that was repaired before its sources were located; the text says how."""


def repair(text: str) -> str:
    """Warns of a repair that changes where sources are found or how strong, and returns the sentence.

    Example:
        >>> with warnings.catch_warnings(record=True, action="always") as caught:
        ...     text = repair("The data were in uV.")
        >>> caught[0].category.__name__, text
        ('RecordingWarning', 'The data were in uV.')
    """
    warnings.warn(text, RecordingWarning, stacklevel=2)
    return text


def amplitude_v(data: np.ndarray) -> float:
    """Returns the amplitude of (channels, times): median over channels of |potential|, at its largest over times.

    Constant offsets of the channels do not count, nor do a few bad ones.

    Example:
        >>> amplitude_v(np.array([[1.0], [-3.0], [2.0], [-2.0]]))
        2.0
    """
    if data.shape[1] >= _OFFSET_SAMPLES:
        data = data - np.median(data, axis=1, keepdims=True)
    return float(np.median(np.abs(data - np.median(data, axis=0)), axis=0).max())


def volts_per_unit(data: np.ndarray) -> tuple[float, str | None]:
    """Returns what scales data (channels, times) to V: 1, or 1e-6 and a sentence where they surely were in uV.

    An amplitude below that of any EEG is told and kept: simulations have no unit, and places do not depend on it.

    Raises:
        ValueError: a large amplitude that is neither EEG in V nor, surely, in uV.

    Example:
        >>> volts_per_unit(np.array([[5e-6], [-5e-6], [2e-6]]))
        (1.0, None)
    """
    size = amplitude_v(data)
    if not size or _LEAST_V <= size <= _MOST_V:
        return 1.0, None
    if size < _LEAST_V:
        return 1.0, repair(
            f"The amplitude, {size:.2g} V, is below that of any EEG: places hold, and moments in nA m only in its unit."
        )
    if _MICROVOLTS[0] <= size <= _MICROVOLTS[1]:
        return 1e-6, repair(f"The amplitude, {size:.3g} V, is that of EEG in uV: scaled by 1e-6 to V.")
    raise ValueError(
        f"The amplitude of the recording is {size:.2g} V; EEG has {_LEAST_V * 1e6:g} to {_MOST_V * 1e6:g} uV. "
        "mne keeps EEG in V: scale it, as in recording.apply_function(lambda volts: volts * 1e-6) for data in uV."
    )


def constant_offset(data: np.ndarray, rest: np.ndarray) -> np.ndarray | None:
    """Returns the constant potential of each channel, (channels, 1), where it hides what happens over time.

    Args:
        data: (channels, times).
        rest: (times,) bool, the baseline, or all times of a continuous recording.

    Returns:
        The offsets; None where they are less than three times the fluctuation around them, or cannot be told.

    Example:
        >>> constant_offset(np.full((4, 30), 2.0), np.ones(30, bool)) is None  # the same everywhere: a reference
        True
    """
    if rest.sum() < 5:
        return None
    referenced = data - data.mean(0)
    offset = np.median(referenced[:, rest], axis=1, keepdims=True)
    fluctuation = np.median(np.abs(referenced[:, rest] - offset)) / 0.6745
    return offset if np.sqrt(np.square(offset).mean()) > 3 * fluctuation else None
