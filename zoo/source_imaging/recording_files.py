"""Opens EEG recordings of every format that mne reads, and averages one of their conditions."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.eeg import head_surfaces

KINDS = "an mne Evoked, Epochs or Raw"
EPOCH_S, BASELINE_S = (-0.5, 1.0), (-0.5, -0.1)  # around an event; the baseline ends before a spike's first deflection
_IGNORED = ("bad", "edge", "boundary", "new segment")


def open_recording(path: str | os.PathLike) -> Any:
    """Opens a recording with mne, by its name.

    Args:
        path: averages (`-ave.fif`), epochs (`-epo.fif`, `.set`), or a continuous recording (`.fif`, `.set`, `.vhdr`,
            `.edf`, `.bdf` and whatever else mne reads).

    Returns:
        A list of `mne.Evoked`, an `mne.Epochs` or an `mne.io.Raw`.

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
            averages = mne.read_evokeds(path, verbose="ERROR")
            return [evoked for evoked in averages if evoked.kind == "average"] or averages
        if stem.endswith(("-epo", "_epo")):
            return mne.read_epochs(path, verbose="ERROR")
        if path.suffix == ".set":
            return _open_eeglab(path)
        return mne.io.read_raw(path, preload=True, verbose="ERROR")
    except Exception as error:  # mne raises whatever its parser stumbles over
        raise ValueError(
            f"mne cannot read {path.name}: {error}. Give a file of {KINDS}: -ave.fif, -epo.fif, .fif, .set, .vhdr, "
            ".edf or .bdf."
        ) from error


def _open_eeglab(path: Path) -> Any:
    """Opens continuous or epoched EEGLAB data; mne tells them apart by an error alone."""
    mne = head_surfaces.require_mne()
    try:
        return mne.io.read_raw_eeglab(path, preload=True, verbose="ERROR")
    except TypeError as error:
        if "trials" not in str(error):
            raise
        return mne.read_epochs_eeglab(path, verbose="ERROR")


def list_conditions(recording: Any) -> tuple[str, ...]:
    """Returns the names of the conditions in what `open_recording` returned: averages, kinds of epochs, or events.

    Example:
        >>> list_conditions(open_recording("sub-01-epo.fif"))  # doctest: +SKIP
        ('left', 'right')
    """
    mne = head_surfaces.require_mne()
    if isinstance(recording, list):
        return tuple(_name_average(recording, number) for number in range(len(recording)))
    if isinstance(recording, mne.BaseEpochs):
        used = set(recording.events[:, 2])
        return tuple(name for name, code in recording.event_id.items() if code in used)
    if isinstance(recording, mne.io.BaseRaw):
        return tuple(_find_events(recording)[1])
    return ()


def is_continuous(recording: Any) -> bool:
    """Returns whether what `open_recording` returned is a continuous recording.

    Example:
        >>> is_continuous([])
        False
    """
    return isinstance(recording, head_surfaces.require_mne().io.BaseRaw)


def select_condition(recording: Any, condition: str | None) -> Any:
    """Returns one condition: an `mne.Evoked`, `mne.Epochs` of one kind, or the continuous recording where None.

    Events of a continuous recording become epochs from 0.5 s before to 1 s after them, with the mean of 0.5 to 0.1 s
    before subtracted.

    Args:
        recording: what `open_recording` returned, or an object of mne.
        condition: the name of one; None where there is only one, or the recording is continuous.

    Raises:
        TypeError: another object.
        ValueError: no such condition, or several and none was named.

    Example:
        >>> select_condition(open_recording("sub-01-epo.fif"), "left")  # doctest: +SKIP
    """
    mne = head_surfaces.require_mne()
    if isinstance(recording, mne.Evoked):
        recording = [recording]
    if not isinstance(recording, list | mne.BaseEpochs | mne.io.BaseRaw):
        raise TypeError(f"Give {KINDS}, got {type(recording).__name__}.")
    names = list_conditions(recording)
    continuous = isinstance(recording, mne.io.BaseRaw)
    if condition is None and continuous:
        return recording
    if condition is None and len(names) > 1:
        cure = "recording.average() for all together, or " if isinstance(recording, mne.BaseEpochs) else ""
        raise ValueError(
            f"The recording has {len(names)} conditions ({', '.join(names[:8])}): pass {cure}condition={names[0]!r}."
        )
    condition = names[0] if condition is None else condition
    if condition not in names:
        known = f"its conditions are {', '.join(names[:8])}" if names else "it has no events"
        raise ValueError(f"The recording has no condition {condition!r}; {known}.")
    if continuous:
        return _cut_epochs(recording, condition)
    return recording[names.index(condition)] if isinstance(recording, list) else recording[condition]


def _name_average(averages: Sequence[Any], number: int) -> str:
    comment = averages[number].comment or f"average {number + 1}"
    twice = sum(other.comment == averages[number].comment for other in averages) > 1
    return f"{comment} ({number + 1})" if twice else comment


def _find_events(raw: Any) -> tuple[np.ndarray, dict[str, int]]:
    """Returns the events (n, 3) of a recording, by its annotations or its trigger channel, and their names."""
    mne = head_surfaces.require_mne()
    names = [name for name in dict.fromkeys(raw.annotations.description) if not str(name).lower().startswith(_IGNORED)]
    if names:
        codes = {str(name): number for number, name in enumerate(names, start=1)}
        return mne.events_from_annotations(raw, codes, verbose="ERROR")
    if not len(mne.pick_types(raw.info, meg=False, stim=True)):
        return np.zeros((0, 3), int), {}
    events = mne.find_events(raw, shortest_event=1, initial_event=True, verbose="ERROR")
    return events, {str(code): int(code) for code in np.unique(events[:, 2])}


def _cut_epochs(raw: Any, condition: str) -> Any:
    mne = head_surfaces.require_mne()
    events, codes = _find_events(raw)
    epochs = mne.Epochs(
        raw,
        events,
        {condition: codes[condition]},
        *EPOCH_S,
        baseline=BASELINE_S,
        picks="all",
        preload=True,
        event_repeated="drop",
        verbose="ERROR",
    )
    if not len(epochs):
        raise ValueError(
            f"No event {condition!r} has {-EPOCH_S[0]:g} s before and {EPOCH_S[1]:g} s after it that is free of bad "
            "segments: cut epochs with mne.Epochs and pass them."
        )
    return epochs
