"""Reads names of EEG channels: "EEG Fp1-Ref" is Fp1, "Fc5." is Fc5, "EOG left" is no EEG, "Fp1-F7" is bipolar."""

import functools
import re
from collections.abc import Sequence

from zoo.eeg import head_surfaces

OLD_NAMES = ("T3", "T4", "T5", "T6")  # of the 10-20 system, which the 10-05 system calls T7, T8, P7, P8
_OTHER = re.compile(
    r"(?i)([hv]e?og|eog|e[ck]g|emg|resp|phot|pulse|spo2|ekg|gsr|stim?|trig|status|sync|ibi|burst|suppr|dc\d|gnd|ref$"
    r"|loc$|roc$|chin|nasion|thor|abd)"
)
_PREFIX = re.compile(r"(?i)^(eeg|pol|chan(nel)?)[\s_:-]+")
_REFERENCES = r"ref|le|re|ar|avg?|ave|average|car|cle|a1|a2|a1a2|a1\+a2|m1|m2|m1m2|m1\+m2|lm|tp9|tp10|0|g1|g2"
_SUFFIX = re.compile(rf"(?i)[\s_-]*[-_:/\s]\(?({_REFERENCES})\)?$")


@functools.cache
def known_names() -> dict[str, str]:
    """Returns the names of the 10-05 system and four of the old one, by their lower case."""
    return {name.lower(): name for name in (*head_surfaces.electrode_names(), *OLD_NAMES)}


def clean_name(name: str) -> str:
    """Returns the electrode of the 10-05 system that a channel's name means, or the name as it is.

    Example:
        >>> [clean_name(name) for name in ("EEG FP1-REF", "Fc5.", "E12", "cz")]
        ['Fp1', 'FC5', 'E12', 'cz']
    """
    if name.lower() in known_names():
        return name
    bare = _PREFIX.sub("", name.strip()).strip(" .")
    for candidate in (bare, _SUFFIX.sub("", bare)):
        if candidate.lower() in known_names():
            return known_names()[candidate.lower()]
    return name


def is_other(name: str) -> bool:
    """Returns whether a name says that a channel is no EEG: an EOG, ECG, EMG, trigger or reference.

    Example:
        >>> is_other("HEOG"), is_other("EKG1"), is_other("Fp1")
        (True, True, False)
    """
    return clean_name(name).lower() not in known_names() and bool(_OTHER.match(_PREFIX.sub("", name.strip())))


def check_unipolar(names: Sequence[str]) -> None:
    """Raises where channels are differences of neighbours ("Fp1-F7"): their topography is not that of electrodes.

    One electrode behind every name is a common reference and passes.

    Raises:
        ValueError: bipolar channels.

    Example:
        >>> check_unipolar(["Fp1-Cz", "F7-Cz"])
    """
    pairs = {name: _split_pair(name) for name in names}
    seconds = {pair[1] for pair in pairs.values() if pair}
    bipolar = [name for name, pair in pairs.items() if pair]
    if len(seconds) > 1 and len(bipolar) > len(names) / 4:
        raise ValueError(
            f"{len(bipolar)} of {len(names)} channels are bipolar ({', '.join(bipolar[:3])}): source imaging needs "
            "each electrode against one common reference. Export the recording unipolar."
        )


def clean_names(names: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """Returns the electrodes that names mean, and a sentence where that changed some.

    Raises:
        ValueError: bipolar channels, or two channels of one electrode.

    Example:
        >>> clean_names(["EEG Fp1-Ref", "Cz"])
        (('Fp1', 'Cz'), "1 names read as electrodes of the 10-05 system, as 'EEG Fp1-Ref' as Fp1.")
    """
    check_unipolar(names)
    cleaned = tuple(_without_common_reference(names))
    twice = sorted({name for name in cleaned if sum(name.lower() == other.lower() for other in cleaned) > 1})
    if twice:
        sources = [name for name, electrode in zip(names, cleaned, strict=True) if electrode in twice]
        raise ValueError(
            f"Channels {', '.join(sources[:6])} are the same electrode: keep one of each, as in "
            f"recording.drop_channels([{sources[-1]!r}])."
        )
    changed = [(old, new) for old, new in zip(names, cleaned, strict=True) if old != new]
    if not changed:
        return cleaned, None
    text = f"{len(changed)} names read as electrodes of the 10-05 system, as {changed[0][0]!r} as {changed[0][1]}."
    return cleaned, text


def _split_pair(name: str) -> tuple[str, str] | None:
    """Returns both electrodes of "Fp1-F7", in lower case; None for another name."""
    parts = [part.strip(" .").lower() for part in _PREFIX.sub("", name.strip()).split("-")]
    known = [part for part in parts[:2] if part in known_names()]
    return (known[0], known[1]) if len(known) == 2 else None


def _without_common_reference(names: Sequence[str]) -> list[str]:
    pairs = [_split_pair(name) for name in names]
    common = len({pair[1] for pair in pairs if pair}) == 1
    return [
        known_names()[pair[0]] if pair and common else clean_name(name) for name, pair in zip(names, pairs, strict=True)
    ]
