"""Reads an EEG recording from MNE: drops bad and flat channels, re-references to the average, lists each repair."""

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from zoo.eeg import head_surfaces
from zoo.source_imaging.channel_names import clean_names, is_other
from zoo.source_imaging.noise import Noise, measure_noise
from zoo.source_imaging.recording_files import open_recording, select_condition
from zoo.source_imaging.units import constant_offset, repair, volts_per_unit

MIN_CHANNELS, MAX_CHANNELS = 19, 256
_OFFSET_SAMPLES = 20


@dataclasses.dataclass(frozen=True)
class Recording:
    """An EEG recording, referenced to the average of its good channels.

    Attributes:
        data: (channels, times) V.
        names: names of the channels.
        times_s: (times,) in s.
        positions_mm: name -> (3,), mm in mne's head coordinates; empty where the recording has no positions.
        repairs: what was changed, a sentence each.
        continuous: whether it is a continuous recording, not an average.
        averages: number of epochs in the average.
        baseline_s: the baseline that was applied, as mne has it; None where none was.
        noise: of the average, measured in single epochs; None where it is not of epochs.

    Example:
        >>> eeg = Recording(np.zeros((19, 2)), tuple("abcdefghijklmnopqrs"), np.arange(2) / 250, {}, ())
        >>> eeg.keep(list(eeg.names), "all have a position") is eeg
        True
    """

    data: np.ndarray
    names: tuple[str, ...]
    times_s: np.ndarray
    positions_mm: dict[str, np.ndarray]
    repairs: tuple[str, ...]
    continuous: bool = False
    averages: int = 1
    baseline_s: tuple[float, float] | None = None
    noise: Noise | None = None

    def keep(self, names: list[str], why: str) -> "Recording":
        """Returns the recording with some of its channels, referenced to their average.

        Args:
            names: the channels to keep.
            why: the reason for the repairs, as "without a position".

        Raises:
            ValueError: fewer than 19 are left.
        """
        rows = [row for row, name in enumerate(self.names) if name in set(names)]
        if len(rows) == len(self.names):
            return self
        dropped = [name for name in self.names if name not in set(names)]
        names_left = tuple(self.names[row] for row in rows)
        repairs = (*self.repairs, f"{len(dropped)} channels left out, {why}: {_shorten(dropped)}.")
        check_channel_count(names_left)
        noise = self.noise.keep(rows) if self.noise else None
        data = average_reference(self.data[rows])
        return dataclasses.replace(self, data=data, names=names_left, repairs=repairs, noise=noise)


def read_recording(recording: Any, *, condition: str | None = None) -> Recording:
    """Reads the EEG of an mne object: drops bad and flat channels, references to the average of the others.

    Args:
        recording: an `mne.Evoked`, `mne.Epochs` (averaged here) or `mne.io.Raw`, or a file of one.
        condition: which average, kind of epochs, or event; None where there is only one, or for continuous data.

    Raises:
        TypeError: something else.
        ValueError: several conditions and none named; no EEG; bipolar channels; fewer than 19 good ones or more than
            256; NaN or infinity; flat channels alone; or an amplitude that is no EEG.

    Example:
        >>> read_recording("sub-01_spike-ave.fif").repairs  # doctest: +SKIP
        ('1 channels left out, marked bad: T8.',)
    """
    mne = head_surfaces.require_mne()
    if isinstance(recording, str | os.PathLike):
        recording = open_recording(recording)
    recording = select_condition(recording, condition)
    epochs = recording if isinstance(recording, mne.BaseEpochs) else None
    if epochs is not None:
        recording = epochs.average(picks="all")
    picks = _pick_eeg(recording.info)
    data = recording.get_data(picks=picks)
    all_names = [recording.info["ch_names"][pick] for pick in picks]
    good, repairs = _select_good(data, all_names, recording.info["bads"])
    check_channel_count(good)
    names, renamed = clean_names([all_names[row] for row in good])
    factor, scaled = volts_per_unit(data[good])
    volts, level = _level(data[good] * factor, recording)
    repairs += [text for text in (renamed, scaled, level) if text]
    if recording.info["custom_ref_applied"] or not np.allclose(volts.mean(0), 0, atol=1e-3 * np.abs(volts).max()):
        repairs.append(f"Referenced to the average of its {len(good)} good channels.")
    return Recording(
        average_reference(volts),
        names,
        np.array(recording.times),
        _read_positions([recording.info["chs"][picks[row]] for row in good], names),
        tuple(repairs),
        isinstance(recording, mne.io.BaseRaw),
        getattr(recording, "nave", 1),
        getattr(recording, "baseline", None),
        None if epochs is None else _measure_epochs(epochs, picks[good], factor),
    )


def _pick_eeg(info: Any) -> np.ndarray:
    picks = head_surfaces.require_mne().pick_types(info, meg=False, eeg=True, exclude=[])
    if not len(picks):
        raise ValueError(
            f"The recording has no EEG channel{_describe_other_channels(info)}. "
            f"Give one with {MIN_CHANNELS} to {MAX_CHANNELS}."
        )
    return picks


def _level(volts: np.ndarray, recording: Any) -> tuple[np.ndarray, str | None]:
    """Subtracts constant offsets of the channels, of the baseline or of a continuous recording, where they dominate."""
    continuous = isinstance(recording, head_surfaces.require_mne().io.BaseRaw)
    times = np.asarray(recording.times)
    rest = np.ones(len(times), bool) if continuous else baseline_samples(times, None)
    if len(times) < _OFFSET_SAMPLES or (offset := constant_offset(volts, rest)) is None:
        return volts, None
    size = np.sqrt(np.square(offset).mean()) * 1e6
    where = "mean of the recording" if continuous else "baseline before 0 s"
    return volts - offset, repair(f"Constant offsets of the channels, {size:.3g} uV, were subtracted ({where}).")


def baseline_samples(times_s: np.ndarray, baseline_s: tuple[float, float] | None) -> np.ndarray:
    """Returns which samples are the baseline, (times,) bool: the one that was applied, else all before 0 s.

    Example:
        >>> baseline_samples(np.array([-0.2, -0.1, 0.0]), None).tolist()
        [True, True, False]
    """
    if baseline_s is None:
        return times_s < -1e-9
    return (times_s >= baseline_s[0] - 1e-9) & (times_s <= baseline_s[1] + 1e-9)


def _measure_epochs(epochs: Any, picks: np.ndarray, factor: float) -> Noise | None:
    """Measures the noise of the average in the baselines of single epochs."""
    rest = baseline_samples(epochs.times, epochs.baseline)
    data = epochs.get_data(picks=picks)[:, :, rest] * factor
    if data.size == 0:
        return None
    centred = data - data.mean(2, keepdims=True)
    samples = centred.transpose(1, 0, 2).reshape(len(picks), -1)
    return measure_noise(samples, f"the baselines of {len(epochs)} epochs", averages=len(epochs))


def _select_good(data: np.ndarray, names: list[str], bads: list[str]) -> tuple[list[int], list[str]]:
    """Returns the rows of usable channels, and a sentence for each kind that was left out."""
    repairs = []
    bad = [name for name in names if name in bads]
    if bad:
        repairs.append(f"{len(bad)} channels left out, marked bad: {_shorten(bad)}.")
    other = [name for name in names if name not in bads and is_other(name)]
    if other:
        repairs.append(f"{len(other)} channels left out, no EEG by their names: {_shorten(other)}.")
    good = [row for row, name in enumerate(names) if name not in bads and name not in other]
    broken = [names[row] for row in good if not np.isfinite(data[row]).all()]
    if broken:
        raise ValueError(
            f"{len(broken)} channels hold NaN or infinity: {_shorten(broken)}. "
            "Mark them in info['bads'], or cut the segment."
        )
    flat = [row for row in good if np.ptp(data[row]) == 0 and (data.shape[1] > 1 or data[row, 0] == 0)]
    if len(flat) == len(good):
        raise ValueError(f"All {len(good)} good EEG channels are flat: there is nothing to locate.")
    if flat:
        repairs.append(f"{len(flat)} channels left out, flat: {_shorten([names[row] for row in flat])}.")
    return [row for row in good if row not in flat], repairs


def check_channel_count(names: Sequence) -> None:
    """Raises where there are too few or too many channels.

    Raises:
        ValueError: fewer than 19, or more than 256.

    Example:
        >>> check_channel_count([f"E{number}" for number in range(64)])
    """
    if not MIN_CHANNELS <= len(names) <= MAX_CHANNELS:
        raise ValueError(
            f"Source imaging needs {MIN_CHANNELS} to {MAX_CHANNELS} good EEG channels, got {len(names)}. "
            "Interpolate bad channels, or record with more."
        )


def average_reference(data: np.ndarray) -> np.ndarray:
    """Subtracts the average over channels, the first axis.

    Example:
        >>> average_reference(np.array([1.0, 3.0]))
        array([-1.,  1.])
    """
    return data - data.mean(0, keepdims=True)


def _read_positions(channels: list[Any], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads the positions of the channels that have one, mm."""
    positions = {name: np.array(channel["loc"][:3], float) * 1e3 for name, channel in zip(names, channels, strict=True)}
    return {name: place for name, place in positions.items() if np.isfinite(place).all() and np.abs(place).max() > 0}


def _describe_other_channels(info: Any) -> str:
    counts = Counter(info.get_channel_types())
    text = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return f", only {text}" if text else ""


def _shorten(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
