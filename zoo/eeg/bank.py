"""Collects heads, conductivities and montages to train on, with their fields and kernels stacked into arrays."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence

import filelock
import numpy as np
from scipy.spatial.distance import cdist

from zoo import files
from zoo.eeg import grid, head_surfaces
from zoo.eeg.kernels import ELORETA_LAMBDA2, SLORETA_LAMBDA2, Kernels, kernels
from zoo.eeg.leadfield import LeadField, cache_folder, lead_field
from zoo.eeg.sharpening import RANK

_VERSION = 3
CHANNELS = 128
SMALLEST = 19
SPREAD_MM = 25.0
DROPOUT = 0.1
# Head, conductivity ratio of the truth, ratio that the kernels believe in (None: the head's own).
HEADS: tuple[tuple[str | int, float | None, float | None], ...] = (
    ("fsaverage", None, None),
    ("fsaverage", 30.0, None),
    ("fsaverage", 75.0, None),
    (1, None, 50.0),
    (2, None, 50.0),
    (3, None, 50.0),
    (4, None, None),
    (5, None, None),
)
TEN_TWENTY = (
    "Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz", "C4", "T8", "P7", "P3", "Pz", "P4", "P8", "O1", "O2",
)  # fmt: skip
STANDARD = ("biosemi64", "biosemi64", "biosemi32", "standard_1020")


@dataclasses.dataclass(frozen=True)
class Bank:
    """Holds the arrays of every member (a montage on a head); missing channels are 0.

    Attributes:
        eloreta: (members, 3 * 5215, 128) float16.
        blocks: (members, 3, 3 * 5215, 128) float16.
        energy: (members, 3, 128, 128) float32.
        field: (members, 128, 3 * 5215) float16, V / (A m) over the member's largest value, of the true conductivity.
        colour: (members, 128, 128) float32, a root of the covariance of background dipoles, mean variance 1.
        present: (members, 128) float32, 1 where there is an electrode.
        projector: (members, 32, 128) float32, see `zoo.eeg.sharpening.Sharpening`, of what the kernels believe in.
        columns: (members, 32, 3 * 5215) float16 likewise.
        spread: (members, 5215, 128) float32, weights that spread potentials into the volume, see `spread_weights`.
    """

    eloreta: np.ndarray
    blocks: np.ndarray
    energy: np.ndarray
    field: np.ndarray
    colour: np.ndarray
    present: np.ndarray
    projector: np.ndarray
    columns: np.ndarray
    spread: np.ndarray

    @property
    def members(self) -> int:
        """Returns the number of members."""
        return len(self.present)


def bank(each: int = 4, *, seed: int = 0, which: Sequence[tuple] = HEADS) -> Bank:
    """Returns a bank of heads, each with several montages of 19 to 128 channels.

    The first montage of a head is a BioSemi-64, the second is one of the usual caps, the others are a random number of
    well-spread positions. All but the first lose up to a tenth of their channels, as recordings do.

    Args:
        each: montages per head.
        seed: of the montages.
        which: (head, ratio of the truth, ratio of the kernels) each.

    Returns:
        `len(which) * each` members; from the cache of lead fields where they are stored.
    """
    key = repr((_VERSION, each, seed, tuple(which), CHANNELS, ELORETA_LAMBDA2, SLORETA_LAMBDA2, RANK))
    folder = cache_folder() / f"bank-{hashlib.sha256(key.encode()).hexdigest()[:20]}"
    if (stored := _read(folder)) is not None:
        return stored
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        if (stored := _read(folder)) is None:
            stored = _build(each, seed, which)
            with files.replacing_folder(folder, overwrite=True) as temporary:
                for field in dataclasses.fields(Bank):
                    np.save(temporary / f"{field.name}.npy", getattr(stored, field.name))
    return stored


def _read(folder: pathlib.Path) -> Bank | None:
    """Returns the bank of a folder, or None where it is missing or broken."""
    try:
        return Bank(*(np.load(folder / f"{field.name}.npy") for field in dataclasses.fields(Bank)))
    except (OSError, ValueError, EOFError):
        return None


def _build(each: int, seed: int, which: Sequence[tuple]) -> Bank:
    random = np.random.default_rng([seed, 64])
    parts = []
    for number, (head, ratio, believed) in enumerate(which):
        true = lead_field(head, skull_ratio=ratio)
        assumed = true if believed is None and head != "fsaverage" else lead_field(head, skull_ratio=believed)
        for turn in range(each):
            names = _draw_names(random, number, turn)
            member = _make_member(true.montage(names), kernels(assumed.montage(names)))
            parts.append((*member, spread_weights(head_surfaces.head(head), names)))
    return Bank(*(np.stack(arrays) for arrays in zip(*parts, strict=True)))


def _draw_names(random: np.random.Generator, number: int, turn: int) -> list[str]:
    if turn == 0:
        return montage_names("biosemi64")
    if turn == 1:
        names = montage_names(STANDARD[number % len(STANDARD)])
    else:
        names = scattered(int(random.integers(SMALLEST, CHANNELS + 1)), random)
    lost = int(random.integers(0, 1 + int(DROPOUT * len(names))))
    indices = random.permutation(len(names))[: max(len(names) - lost, SMALLEST)]
    return [names[index] for index in sorted(indices)]


def montage_names(name: str) -> list[str]:
    """Returns the channels of an mne montage that are in the 10-05 system; 19 for "standard_1020"."""
    if name == "standard_1020":
        return list(TEN_TWENTY)
    known = {own.lower() for own in head_surfaces.electrode_names()}
    names = head_surfaces.require_mne().channels.make_standard_montage(name).ch_names
    return [own for own in names if own.lower() in known]


def scattered(count: int, random: np.random.Generator) -> list[str]:
    """Draws `count` of the 335 positions, well spread: a random first, then each the farthest of 40 tries."""
    names, places = head_surfaces.electrode_names(), head_surfaces.head().electrodes_mm
    distances = cdist(places, places)
    indices = [int(random.integers(len(names)))]
    for _ in range(count - 1):
        free = np.setdiff1d(np.arange(len(names)), indices)
        tries = random.choice(free, min(40, len(free)), replace=False)
        indices.append(int(tries[distances[tries][:, indices].min(1).argmax()]))
    return [names[index] for index in indices]


def spread_weights(head: head_surfaces.Head, names: Sequence[str]) -> np.ndarray:
    """Returns Gaussian weights (SD 25 mm) of electrodes at places, (5215, 128) float32, summing to 1.

    Multiplying potentials by them fills the volume from its rim, without any physics.
    """
    rows = [head_surfaces.electrode_names().index(name) for name in names]
    distances = cdist(head.places(grid.grid()[0]), head.electrodes_mm[rows])
    nearest = distances.min(1, keepdims=True)
    weights = np.exp(-0.5 * (distances**2 - nearest**2) / SPREAD_MM**2)
    return np.pad(weights / weights.sum(1, keepdims=True), ((0, 0), (0, CHANNELS - len(names)))).astype(np.float32)


def _make_member(true: LeadField, seen: Kernels) -> tuple[np.ndarray, ...]:
    count = len(true.names)
    room = CHANNELS - count
    columns = true.columns / np.abs(true.matrix).max()
    values, vectors = np.linalg.eigh(columns @ columns.T)
    colour = vectors * np.sqrt(np.maximum(values, 0.0) * count / values.sum())
    return (
        np.pad(seen.eloreta, ((0, 0), (0, room))).astype(np.float16),
        np.pad(seen.blocks, ((0, 0), (0, 0), (0, room))).astype(np.float16),
        np.pad(seen.energy, ((0, 0), (0, room), (0, room))),
        np.pad(columns, ((0, room), (0, 0))).astype(np.float16),
        np.pad(colour, ((0, room), (0, room))).astype(np.float32),
        (np.arange(CHANNELS) < count).astype(np.float32),
        np.pad(seen.sharpening.projector, ((0, 0), (0, room))),
        seen.sharpening.columns.astype(np.float16),
    )
