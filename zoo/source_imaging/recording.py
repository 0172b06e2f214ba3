"""What an EEG recording in MNE's objects holds for source imaging, repaired where that is safe and said aloud."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from zoo.eeg import head_surfaces

FEWEST, MOST = 19, 256
_KINDS = "an mne Evoked, Epochs or Raw"


@dataclasses.dataclass(frozen=True)
class Recording:
    """EEG against the average of its good channels.

    Attributes:
        data: (channels, times) V.
        names: of the channels.
        times_s: (times,) s.
        positions_mm: name -> (3,), mm in mne's head coordinates; empty where the recording has no positions.
        repairs: what was changed, a sentence each.
    """

    data: np.ndarray
    names: tuple[str, ...]
    times_s: np.ndarray
    positions_mm: dict[str, np.ndarray]
    repairs: tuple[str, ...]

    def keep(self, names: list[str], why: str) -> "Recording":
        """The recording with some of its channels, referenced to their average.

        Raises:
            ValueError: fewer than 19 are left.
        """
        rows = [row for row, name in enumerate(self.names) if name in set(names)]
        if len(rows) == len(self.names):
            return self
        lost = [name for name in self.names if name not in set(names)]
        kept = tuple(self.names[row] for row in rows)
        repairs = (*self.repairs, f"{len(lost)} channels left out, {why}: {_few(lost)}.")
        check_number(kept)
        return Recording(referenced(self.data[rows]), kept, self.times_s, self.positions_mm, repairs)


def open_recording(path: str | os.PathLike) -> Any:
    """An mne object from a file: the first average of `-ave.fif`, epochs of `-epo.fif`, or a raw recording.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: mne cannot read it.
    """
    mne, path = head_surfaces.require_mne(), Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    bare = path.name.removesuffix(".gz").removesuffix(".fif")
    try:
        if bare.endswith(("-ave", "_ave")):
            return mne.read_evokeds(path, condition=0, verbose="ERROR")
        if bare.endswith(("-epo", "_epo")):
            return mne.read_epochs(path, verbose="ERROR")
        return mne.io.read_raw(path, preload=True, verbose="ERROR")
    except Exception as error:  # mne raises whatever its parser stumbles over
        raise ValueError(f"mne cannot read {path.name}: {error}. Give {_KINDS} file (-ave.fif, -epo.fif).") from error


def read(recording: Any) -> Recording:
    """The EEG of an mne object: bad and flat channels left out, referenced to the average of the others.

    Args:
        recording: an `mne.Evoked`, `mne.Epochs` (averaged here) or a segment of `mne.io.Raw`, or a file of one.

    Raises:
        TypeError: something else.
        ValueError: no EEG, fewer than 19 good channels or more than 256, NaN or infinity, nothing but flat channels.
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
        raise ValueError(f"The recording has no EEG channel{_others(mne, info)}. Give one with {FEWEST} to {MOST}.")
    names = [info["ch_names"][pick] for pick in picks]
    data = recording.get_data(picks=picks)
    good, repairs = _good(data, names, info["bads"])
    check_number([names[row] for row in good])
    chosen = [info["chs"][picks[row]] for row in good]
    kept = tuple(names[row] for row in good)
    if info["custom_ref_applied"] or not np.allclose(data[good].mean(0), 0, atol=1e-3 * np.abs(data[good]).max()):
        repairs.append(f"Referenced to the average of its {len(good)} good channels.")
    return Recording(referenced(data[good]), kept, np.array(recording.times), _positions(chosen), tuple(repairs))


def _good(data: np.ndarray, names: list[str], bads: list[str]) -> tuple[list[int], list[str]]:
    """Rows that can be used, and what was left out."""
    repairs = []
    bad = [name for name in names if name in bads]
    if bad:
        repairs.append(f"{len(bad)} channels left out, marked bad: {_few(bad)}.")
    good = [row for row, name in enumerate(names) if name not in bads]
    broken = [names[row] for row in good if not np.isfinite(data[row]).all()]
    if broken:
        raise ValueError(
            f"{len(broken)} channels hold NaN or infinity: {_few(broken)}. "
            "Mark them in info['bads'], or cut the segment."
        )
    still = [row for row in good if np.ptp(data[row]) == 0 and (data.shape[1] > 1 or data[row, 0] == 0)]
    if len(still) == len(good):
        raise ValueError(f"All {len(good)} good EEG channels are flat: there is nothing to locate.")
    if still:
        repairs.append(f"{len(still)} channels left out, flat: {_few([names[row] for row in still])}.")
    return [row for row in good if row not in still], repairs


def check_number(names: Any) -> None:
    """Refuses too few or too many channels.

    Raises:
        ValueError: fewer than 19, or more than 256.
    """
    if not FEWEST <= len(names) <= MOST:
        raise ValueError(
            f"Source imaging needs {FEWEST} to {MOST} good EEG channels, got {len(names)}. "
            "Interpolate bad channels, or record with more."
        )


def referenced(data: np.ndarray) -> np.ndarray:
    """Data against the average over channels, the first axis."""
    return data - data.mean(0, keepdims=True)


def _positions(channels: list[Any]) -> dict[str, np.ndarray]:
    """Positions of the channels that have one, mm."""
    found = {channel["ch_name"]: np.array(channel["loc"][:3], float) * 1e3 for channel in channels}
    return {name: place for name, place in found.items() if np.isfinite(place).all() and np.abs(place).max() > 0}


def _others(mne: Any, info: Any) -> str:
    counted: dict[str, int] = {}
    for kind in info.get_channel_types():
        counted[kind] = counted.get(kind, 0) + 1
    told = ", ".join(f"{number} {kind}" for kind, number in counted.items())
    return f", only {told}" if told else ""


def _few(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
