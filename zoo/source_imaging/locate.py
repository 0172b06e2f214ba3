"""`zoo.locate_sources`: locates sources of EEG in the brain."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from zoo.eeg import decode, head_surfaces
from zoo.errors import unknown_choice
from zoo.source_imaging.answer import (
    METHODS,
    Answer,
    Selection,
    credible_ml,
    moments_over_time,
    samples_near,
)
from zoo.source_imaging.bad_electrodes import find_bad_electrodes
from zoo.source_imaging.head_model import HeadModel, forward_head_model, template_head_model
from zoo.source_imaging.located_sources import LOCATED, NONE, Evidence, LocatedSource, LocatedSources
from zoo.source_imaging.locator import MODEL, Locator, answer_topography
from zoo.source_imaging.noise import (
    LEVEL,
    MIN_SAMPLES,
    Noise,
    Whitening,
    given_noise,
    independent_samples,
    measure_noise,
    unknown_noise,
)
from zoo.source_imaging.recording import MIN_CHANNELS, Recording, baseline_samples, read_recording
from zoo.source_imaging.recording_files import list_conditions
from zoo.source_imaging.units import repair
from zoo.source_imaging.window_answer import PAIR, answer_window

Times = float | tuple[float, float] | None
Count = int | Literal["pair"] | None
_SEGMENT_S = 2.0  # a continuous recording that is longer needs a time
_APART_S, _NEAR_S = 0.25, 15.0  # of the noise of a continuous recording from the window
_COURSE_S = 1.0
_LEADING = 5  # components that may be signal
_STRONGEST_NAM = 5000.0
_AGREE_MM = 25.0
_STRUCTURE = 1.5  # residual over noise above which sources are missing


def locate_sources(
    recording: Any,
    forward: Any = None,
    *,
    model: str | os.PathLike = MODEL,
    times: Times = None,
    count: Count = None,
    condition: str | None = None,
    noise_cov: Any = None,
    method: str = "auto",
) -> LocatedSources:
    """Locates the sources of an EEG topography, or says that there is none above the noise.

    Reads names such as "EEG Fp1-Ref"; drops channels that are bad, flat, no EEG, or that no source can explain; scales
    what surely is in uV to V; subtracts constant offsets; references to the average. `repairs` of the result lists
    this, and what changes places or strengths is a `RecordingWarning`, too. Without `forward` the head is fsaverage:
    each channel is placed by its 10-05 name, or else by its position, fitted to the scalp.

    A single time goes to the network: its posterior is mixed with that of sparse Bayes where the card says so, and each
    source is a dipole fitted to the data within the card's reach of a peak of the posterior. A window goes to sparse
    Bayesian learning on all its whitened samples and dipoles that move over the whole brain, which is more exact.

    Args:
        recording: an `mne.Evoked`, `mne.Epochs` (their average) or `mne.io.Raw` with 19 to 256 good EEG channels, or a
            file of one (`-ave.fif`, `-epo.fif`, `.fif`, `.set`, `.vhdr`, `.edf`, ...).
        forward: an `mne.Forward` of free orientation whose channels include the recording's.
        model: name or folder of a trained model, for the method "network".
        times: a time in s; or a window (first, last); None for the time of the largest global field power, which a
            continuous recording of more than 2 s does not take: that would be a blink.
        count: the number of sources, 1 to 5; "pair" for two that mirror each other in the midline, as in auditory
            responses (no network); None takes the most probable number.
        condition: which average, kind of epochs, or event of a continuous recording; None where there is only one.
        noise_cov: `mne.Covariance` of single epochs; None measures the noise before 0 s, or in a continuous recording
            within 15 s around the window.
        method: "auto", the network for a single time and sparse Bayes for windows and pairs; "network", which locates
            the main topography (first singular vector) of a window; or "sparse_bayes".

    Returns:
        The sources, with places in mm and moments in nA m, the posterior, and `plot` and `table`; no sources, and the
        status "no source above noise", where noise alone gives such a topography in more than 1 % of cases.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: not an mne object of these kinds.
        ValueError: no such model or method; a continuous recording without a time; several conditions and none named;
            MEG alone; no montage, or one that fits no head; fewer than 19 good EEG channels; an amplitude that is no
            EEG; NaN or infinity; flat channels only; times outside the recording; a forward or covariance that does
            not fit.
        ImportError: mne is not installed.

    Example:
        >>> result = zoo.locate_sources("sub-01_spike-ave.fif")  # doctest: +SKIP
        >>> result.sources[0].mni_mm  # doctest: +SKIP
        (-38.2, -17.5, 8.1)
    """
    head_surfaces.require_mne()
    method = _choose_method(method, times, count)
    eeg = read_recording(recording, condition=condition)
    _check_continuous(eeg, times, recording)
    head, eeg = template_head_model(eeg) if forward is None else forward_head_model(eeg, forward)
    head, eeg = _leave_out_bad(head, eeg, times)
    selection = _select(eeg, times)
    whitening, note = _find_whitening(eeg, selection, noise_cov)
    selection = dataclasses.replace(selection, note=note)
    if method == "network" and count != PAIR:
        locator = Locator(model, head.field, inside=head.inside)
        answer = answer_topography(locator, head, eeg, selection, whitening, count)
    else:
        answer = answer_window(head, eeg, selection, whitening, count)
    return _assemble(head, eeg, selection, whitening, answer, count)


def _choose_method(method: str, times: Times, count: Count) -> Literal["network", "sparse_bayes"]:
    """Returns which method locates, and refuses numbers of sources that cannot be."""
    if method not in METHODS:
        raise unknown_choice("method", method, METHODS)
    if count == PAIR:
        if method == "network":
            raise ValueError('A pair needs method="sparse_bayes" or "auto": networks know of no symmetry.')
        return "sparse_bayes"
    if count is not None and not (isinstance(count, int) and 1 <= count <= decode.MAX_SOURCES):
        raise ValueError(f'count is the number of sources, 1 to {decode.MAX_SOURCES}, "pair" or None, got {count!r}.')
    if method == "auto":
        return "network" if times is None or isinstance(times, int | float) else "sparse_bayes"
    return "network" if method == "network" else "sparse_bayes"


def _assemble(
    head: HeadModel, eeg: Recording, selection: Selection, whitening: Whitening, answer: Answer, count: Count
) -> LocatedSources:
    power = whitening.power(selection.topography) if whitening.freedom else None
    evidence = Evidence(whitening.origin, power, answer.chance, answer.residual)
    window, sources = selection.window, _make_sources(answer)
    near = samples_near(eeg, window, _COURSE_S)
    moments = moments_over_time(answer.columns, whitening.matrix, eeg.data[:, near]) * 1e9
    return LocatedSources(
        _make_estimate(head, eeg, window, answer),
        head.source_space,
        sources,
        LOCATED if sources else NONE,
        evidence,
        answer.explained,
        answer.counts,
        (float(eeg.times_s[window[0]]), float(eeg.times_s[window[-1]])),
        selection.share,
        answer.posterior,
        _strengths(answer, whitening, eeg.data[:, near]),
        eeg.times_s[near],
        head.electrode_rms_mm,
        eeg.repairs,
        (*([selection.note] if selection.note else []), *_notes(head, evidence, sources, answer.posterior, count)),
        answer.method,
        moments,
        answer.places,
        _to_vertices(head, answer.posterior[None])[0],
    )


def _check_continuous(eeg: Recording, times: Times, recording: Any) -> None:
    """Refuses to search a long continuous recording for its largest field, which is a blink or a movement."""
    length_s = float(eeg.times_s[-1] - eeg.times_s[0])
    if not eeg.continuous or times is not None or length_s <= _SEGMENT_S:
        return
    names = [] if isinstance(recording, str | os.PathLike) else list(list_conditions(recording))
    events = f" Its events are {', '.join(names[:8])}." if names else ""
    raise ValueError(
        f"A continuous recording of {length_s:.0f} s needs a time: pass times=12.3 or times=(12.2, 12.4) in s (--time, "
        f"--window), or the name of its events as condition (--condition).{events} Its largest field would be a blink."
    )


def _leave_out_bad(head: HeadModel, eeg: Recording, times: Times) -> tuple[HeadModel, Recording]:
    """Leaves out electrodes that dominate the topography and that no source in the brain explains."""
    rows = find_bad_electrodes(_select(eeg, times).topography, head.field)
    bad = [eeg.names[row] for row in rows]  # the field may call T3 of the old system T7
    if not bad:
        return head, eeg
    kept = [name for name in eeg.names if name not in bad]
    if len(kept) < MIN_CHANNELS:
        raise ValueError(
            f"Channel {', '.join(bad)} looks bad: nothing in the brain explains it beside the {len(kept)} others, and "
            f"fewer than {MIN_CHANNELS} would be left. Interpolate it, or take another time."
        )
    eeg = eeg.keep(kept, "bad, for no source explains them beside all others")
    repair(eeg.repairs[-1])
    return dataclasses.replace(head, field=head.field.montage(kept)), eeg


def _select(eeg: Recording, times: Times) -> Selection:
    """Selects the samples and their main topography."""
    window = _select_samples(eeg, times)
    topography, share = _main_topography(eeg.data[:, window])
    searched = eeg.data[:, _searched(eeg)] if times is None else eeg.data[:, window]
    return Selection(window, topography, share, independent_samples(searched, of_power=True))


def _searched(eeg: Recording) -> np.ndarray:
    """Returns which samples are searched for the largest field: not the baseline, where there is more."""
    after = eeg.times_s >= 0
    return after if after.any() and not eeg.continuous else np.ones(len(eeg.times_s), bool)


def _select_samples(eeg: Recording, times: Times) -> np.ndarray:
    """Returns the indices of the samples in a window."""
    if times is None:
        power = np.where(_searched(eeg), np.square(eeg.data).sum(0), -1.0)
        return np.array([int(power.argmax())])
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


def _find_whitening(eeg: Recording, selection: Selection, noise_cov: Any) -> tuple[Whitening, str | None]:
    """Returns the noise that was given or is measured, and a note where the samples before 0 s are not taken for it.

    An average without a baseline of its own may hold the signal before 0 s, as rhythmic discharges do: then these
    samples cannot show that there is none.
    """
    density = _measure_density(eeg, selection.window)
    if noise_cov is not None:
        given = given_noise(noise_cov, eeg.names, averages=eeg.averages)
        return dataclasses.replace(given, density=density).whiten(), None
    unknown = dataclasses.replace(unknown_noise(len(eeg.names)), density=density)
    noise = eeg.noise or _measure_rest(eeg, selection.window)
    if noise is None:
        return unknown, None
    whitening = noise.whiten()
    if eeg.continuous or eeg.baseline_s is not None:
        return whitening, None
    chance = whitening.chance(selection.topography, looks=selection.looks)
    if chance <= LEVEL:
        return whitening, None
    note = (
        f"The field is no stronger than before 0 s (probability {chance:.2g}): if those samples are noise, there is no "
        "source; recording.apply_baseline((None, 0)) tells so."
    )
    return unknown, note


def _measure_density(eeg: Recording, window: np.ndarray) -> float:
    """Returns independent samples of noise for each sample: of what varies beside the leading components nearby."""
    data = eeg.data[:, samples_near(eeg, window, _NEAR_S)]
    if data.shape[1] < MIN_SAMPLES:
        return 1.0
    patterns = np.linalg.eigh(data @ data.T)[1][:, :-_LEADING]
    return min(independent_samples(patterns.T @ data) / data.shape[1], 1.0)


def _measure_rest(eeg: Recording, window: np.ndarray) -> Noise | None:
    """Measures the noise in the baseline of an average, or in a continuous recording around the window."""
    times = eeg.times_s
    first, last = times[window[0]], times[window[-1]]
    if eeg.continuous:
        away = np.maximum(first - times, times - last)
        return measure_noise(eeg.data[:, (away > _APART_S) & (away < _NEAR_S)], "the recording around the window")
    rest = baseline_samples(times, eeg.baseline_s) & ((times < first) | (times > last))
    return measure_noise(eeg.data[:, rest], "the baseline")


def _strengths(answer: Answer, whitening: Whitening, data: np.ndarray) -> np.ndarray:
    """Returns the strength of each source along its moment, (sources, times), nA m."""
    if not len(answer.moments):
        return np.zeros((0, data.shape[1]))
    unit = answer.moments / np.maximum(np.linalg.norm(answer.moments, axis=1, keepdims=True), 1e-300)
    columns = np.einsum("csd,sd->cs", answer.columns, unit)
    weights = np.eye(len(data)) if answer.method == "network" else whitening.matrix
    return np.linalg.lstsq(weights @ columns, weights @ data, rcond=None)[0] * 1e9


def _make_estimate(head: HeadModel, eeg: Recording, window: np.ndarray, answer: Answer) -> Any:
    """Spreads at each time the strength of sources over the places by their probability."""
    data = eeg.data[:, window]
    if answer.posteriors is not None or not len(answer.places):
        posteriors = answer.posterior[None] if answer.posteriors is None else answer.posteriors
        place = decode.peaks(answer.posterior, 1)[0]
        columns = head.field.matrix[:, place[0]].astype(float)
        strength = np.linalg.norm(np.linalg.lstsq(columns, data, rcond=None)[0], axis=0) * 1e9
        values = (_to_vertices(head, posteriors) * strength[:, None]).T
    else:
        moments = moments_over_time(answer.columns, np.eye(len(data)), data)
        values = _to_vertices(head, answer.places).T @ np.linalg.norm(moments, axis=1) * 1e9
    step = 1.0 if len(eeg.times_s) < 2 else float(eeg.times_s[1] - eeg.times_s[0])
    return head_surfaces.require_mne().VolSourceEstimate(
        values,
        head.vertices,
        tmin=float(eeg.times_s[window[0]]),
        tstep=step,
        subject=head.subject,
    )


def _to_vertices(head: HeadModel, posteriors: np.ndarray) -> np.ndarray:
    """Maps posteriors (times, 5215) to the vertices of the source space; each sums to 1."""
    values = np.where(head.nearest >= 0, posteriors[:, head.nearest], 0.0)
    return values / np.maximum(values.sum(1, keepdims=True), 1e-30)


def _make_sources(answer: Answer) -> tuple[LocatedSource, ...]:
    return tuple(
        LocatedSource(
            _triple(answer.positions_mm[row]),
            _triple(answer.mni_mm[row]),
            _triple(answer.moments[row] * 1e9),
            float(answer.own[row]),
            float(answer.confidences[row]),
            float(answer.from_peak_mm[row]),
            credible_ml(answer.places[row]),
        )
        for row in range(len(answer.positions_mm))
    )


def _notes(
    head: HeadModel, evidence: Evidence, sources: Sequence[LocatedSource], posterior: np.ndarray, count: Count
) -> list[str]:
    """Words what to know about a result."""
    notes = []
    if evidence.noise == "unknown":
        notes.append(
            "The noise is unknown (no baseline): how well one dipole explains the field was compared with white noise; "
            "pass noise_cov."
        )
    if not sources:
        told = f", so that the {2 if count == PAIR else count} that were asked for are not given" if count else ""
        return [*notes, f"Noise alone looks like this with a probability of {evidence.chance:.2g}{told}."]
    if evidence.residual is not None and evidence.residual > _STRUCTURE:
        notes.append(
            f"The sources leave {evidence.residual:.1f} times the power of noise: there is more than they explain."
        )
    strongest = max(float(np.linalg.norm(source.moment_nam)) for source in sources)
    if strongest > _STRONGEST_NAM:
        notes.append(
            f"A moment of {strongest:.0f} nA m is stronger than the brain's (up to {_STRONGEST_NAM:g}): an artefact, "
            "or dipoles that cancel each other."
        )
    peak = head.field.positions_mm[posterior.argmax()]
    away = min(float(np.linalg.norm(peak - source.mri_mm)) for source in sources)
    if away > _AGREE_MM:
        notes.append(
            f"The posterior's largest single value lies {away:.0f} mm from the nearest source: sources are where balls "
            "of 15 mm hold most of it, moved to fit the data (from_peak_mm)."
        )
    return notes


def _triple(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
