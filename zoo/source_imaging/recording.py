"""Reads an EEG recording from MNE: drops bad and flat channels, re-references to the average, lists each repair."""

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.eeg import head_surfaces
from zoo.source_imaging.channel_names import clean_names, is_other
from zoo.source_imaging.units import to_volts

MIN_CHANNELS, MAX_CHANNELS = 19, 256
_KINDS = "an mne Evoked, Epochs or Raw"


@dataclasses.dataclass(frozen=True)
class Recording:
    """An EEG recording, referenced to the average of its good channels.

    Attributes:
        data: (channels, times) V.
        names: names of the channels.
        times_s: (times,) in s.
        positions_mm: name -> (3,), mm in mne's head coordinates; empty where the recording has no positions.
        repairs: what was changed, a sentence each.

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
        return Recording(average_reference(self.data[rows]), names_left, self.times_s, self.positions_mm, repairs)


def open_recording(path: str | os.PathLike) -> Any:
    """Opens a recording with mne: the first average of `-ave.fif`, epochs of `-epo.fif`, or a raw recording.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: mne cannot read it.

    Example:
        >>> open_recording("sub-01_spike-ave.fif")  # doctest: +SKIP
    """
    mne, path = head_surfaces.require_mne(), Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    stem = path.name.removesuffix(".gz").removesuffix(".fif")
    try:
        if stem.endswith(("-ave", "_ave")):
            return mne.read_evokeds(path, condition=0, verbose="ERROR")
        if stem.endswith(("-epo", "_epo")):
            return mne.read_epochs(path, verbose="ERROR")
        return mne.io.read_raw(path, preload=True, verbose="ERROR")
    except Exception as error:  # mne raises whatever its parser stumbles over
        raise ValueError(f"mne cannot read {path.name}: {error}. Give {_KINDS} file (-ave.fif, -epo.fif).") from error


def read_recording(recording: Any) -> Recording:
    """Reads the EEG of an mne object: drops bad and flat channels, references to the average of the others.

    Args:
        recording: an `mne.Evoked`, `mne.Epochs` (averaged here) or a segment of `mne.io.Raw`, or a file of one.

    Raises:
        TypeError: something else.
        ValueError: no EEG, fewer than 19 good channels or more than 256, NaN or infinity, or flat channels alone.

    Example:
        >>> read_recording("sub-01_spike-ave.fif").repairs  # doctest: +SKIP
        ('1 channels left out, marked bad: T8.',)
    """
    mne = head_surfaces.require_mne()
    if isinstance(recording, str | os.PathLike):
        recording = open_recording(recording)
    if isinstance(recording, mne.BaseEpochs):
        recording = recording.average(picks="all")
    if not isinstance(recording, mne.Evoked | mne.io.BaseRaw):
        raise TypeError(f"Give {_KINDS}, got {type(recording).__name__}.")
    info = recording.info
    picks = mne.pick_types(info, meg=False, eeg=True, exclude=[])
    if not len(picks):
        raise ValueError(
            f"The recording has no EEG channel{_describe_other_channels(info)}. "
            f"Give one with {MIN_CHANNELS} to {MAX_CHANNELS}."
        )
    data = recording.get_data(picks=picks)
    names = [info["ch_names"][pick] for pick in picks]
    good, repairs = _select_good(data, names, info["bads"])
    check_channel_count([names[row] for row in good])
    channels = [info["chs"][picks[row]] for row in good]
    good_names, renamed = clean_names([names[row] for row in good])
    volts, scaled = to_volts(data[good])
    repairs += [text for text in (renamed, scaled) if text]
    if info["custom_ref_applied"] or not np.allclose(volts.mean(0), 0, atol=1e-3 * np.abs(volts).max()):
        repairs.append(f"Referenced to the average of its {len(good)} good channels.")
    positions_mm = _read_positions(channels, good_names)
    return Recording(average_reference(volts), good_names, np.array(recording.times), positions_mm, tuple(repairs))


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


def check_channel_count(names: Sequence[str]) -> None:
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
