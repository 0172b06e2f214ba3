"""`zoo.locate_sources`: locates sources of EEG in the brain."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from zoo.eeg import decode, head_surfaces
from zoo.source_imaging.head_model import HeadModel, forward_head_model, template_head_model
from zoo.source_imaging.located_sources import LocatedSource, LocatedSources
from zoo.source_imaging.locator import MODEL, Locator
from zoo.source_imaging.recording import Recording, read_recording

Times = float | tuple[float, float] | None


def locate_sources(
    recording: Any,
    forward: Any = None,
    *,
    model: str | os.PathLike = MODEL,
    times: Times = None,
    count: int | None = None,
) -> LocatedSources:
    """Locates the sources of an EEG topography.

    Drops bad and flat channels and references to the average of the others; `repairs` of the result lists this.
    Without `forward` the head is fsaverage, and channels are placed by their 10-05 names or their positions. The
    posterior is the network's, mixed with that of sparse Bayes where the card says so; each source is then a dipole
    fitted to the data within the card's reach of a peak of the posterior.

    Args:
        recording: an `mne.Evoked`, `mne.Epochs` (their average) or a segment of `mne.io.Raw` with 19 to 256 good EEG
            channels, or a file of one.
        forward: an `mne.Forward` of free orientation whose channels include the recording's.
        model: name or folder of a trained model.
        times: a time in s; or a window (first, last), whose main topography (first singular vector) is located and
            whose samples are all in the estimate; None for the time of the largest global field power.
        count: the number of sources, 1 to 5; None takes the most probable one, at least 1.

    Returns:
        The sources, with places in mm and moments in nA m, the posterior, and `plot` and `table`.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: not an mne object of these kinds.
        ValueError: no such model; MEG alone; no montage; fewer than 19 good EEG channels; NaN or infinity; flat
            channels only; times outside the recording; or a forward that does not fit the channels.
        ImportError: mne is not installed.

    Example:
        >>> result = zoo.locate_sources("sub-01_spike-ave.fif")  # doctest: +SKIP
        >>> result.sources[0].mni_mm  # doctest: +SKIP
        (-38.2, -17.5, 8.1)
    """
    mne = head_surfaces.require_mne()
    if count is not None and not 1 <= count <= decode.MAX_SOURCES:
        raise ValueError(f"count is the number of sources, 1 to {decode.MAX_SOURCES}, or None, got {count}.")
    eeg = read_recording(recording)
    head, eeg = template_head_model(eeg) if forward is None else forward_head_model(eeg, forward)
    window = _select_samples(eeg, times)
    topography, share = _main_topography(eeg.data[:, window])
    locator = Locator(model, head.field, inside=head.inside)
    posteriors, counts = locator(np.concatenate([topography[None], eeg.data[:, window].T]))
    probabilities = locator.count(topography, posteriors[0], counts[0])
    number = int(probabilities[1:].argmax()) + 1 if count is None else count
    fit, masses = locator.decode(topography, posteriors[0], number)
    step = 1.0 if len(eeg.times_s) < 2 else float(eeg.times_s[1] - eeg.times_s[0])
    estimate = mne.VolSourceEstimate(
        _to_vertices(head, posteriors[1:]).T,
        head.vertices,
        tmin=float(eeg.times_s[window[0]]),
        tstep=step,
        subject=head.subject,
    )
    return LocatedSources(
        estimate,
        _make_sources(head, fit, masses),
        fit.explained,
        probabilities,
        (float(eeg.times_s[window[0]]), float(eeg.times_s[window[-1]])),
        share,
        posteriors[0],
        eeg.repairs,
    )


def _select_samples(eeg: Recording, times: Times) -> np.ndarray:
    """Returns the indices of the samples in a window."""
    if times is None:
        return np.array([int(np.square(eeg.data).sum(0).argmax())])
    ends = (times, times) if isinstance(times, int | float) else tuple(times)
    if len(ends) != 2 or not eeg.times_s[0] - 1e-9 <= ends[0] <= ends[1] <= eeg.times_s[-1] + 1e-9:
        raise ValueError(
            f"times must lie within {eeg.times_s[0]:g} to {eeg.times_s[-1]:g} s, one time or (first, last), "
            f"got {times}."
        )
    first, last = np.abs(eeg.times_s - ends[0]).argmin(), np.abs(eeg.times_s - ends[1]).argmin()
    return np.arange(first, last + 1)


def _main_topography(data: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the topography that explains most of (channels, times), scaled to its strongest time, and its share."""
    left, values, right = np.linalg.svd(data, full_matrices=False)
    if not values[0]:
        raise ValueError("The recording is flat at these times: there is nothing to locate.")
    strongest = right[0, np.abs(right[0]).argmax()]
    return left[:, 0] * values[0] * strongest, float(values[0] ** 2 / np.square(values).sum())


def _to_vertices(head: HeadModel, posteriors: np.ndarray) -> np.ndarray:
    """Maps posteriors (times, 5215) to the vertices of the source space; each sums to 1."""
    values = np.where(head.nearest >= 0, posteriors[:, head.nearest], 0.0)
    return values / np.maximum(values.sum(1, keepdims=True), 1e-30)


def _make_sources(head: HeadModel, fit: decode.Fit, masses: np.ndarray) -> tuple[LocatedSource, ...]:
    confidences = np.minimum(masses * len(masses), 1.0)
    return tuple(
        LocatedSource(
            _triple(head.field.positions_mm[place]),
            _triple(head.mni_mm[place]),
            _triple(moment * 1e9),
            float(explained),
            float(confidence),
        )
        for place, moment, explained, confidence in zip(fit.places, fit.moments, fit.own, confidences, strict=True)
    )


def _triple(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
