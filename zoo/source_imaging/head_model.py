"""The lead field that belongs to a recording: of the template head by names or positions, or out of an mne.Forward."""

import dataclasses
import hashlib
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from zoo.eeg import grid, head_surfaces
from zoo.eeg.leadfield import LeadField, lead_field
from zoo.source_imaging.recording import FEWEST, Recording

_NEAR_MM = 12.0
_MOST_OUTSIDE = 0.5
_NAMED = 12
# FreeSurfer's map from MNI305, fsaverage's space, to MNI152 (CoordinateSystems, FreeSurfer wiki).
MNI152_FROM_305 = np.array(
    [
        [0.9975, -0.0073, 0.0176, -0.0429],
        [0.0146, 1.0009, -0.0024, 1.5496],
        [-0.0130, -0.0093, 0.9971, 1.1840],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


@dataclasses.dataclass(frozen=True)
class Conductor:
    """A head for one recording, on the places that the network knows.

    Attributes:
        field: the channels' lead field at the 5,215 places; places in the head's own MRI coordinates, mm.
        mni_mm: (5215, 3) the same places in MNI152, mm.
        inside: (5215,) whether the head has a source near the place.
        vertices: vertex numbers of the source space that results are told in.
        nearest: for each of these vertices the number of its place; -1 where none is near.
        subject: name of the subject for mne.
    """

    field: LeadField
    mni_mm: np.ndarray
    inside: np.ndarray
    vertices: list[np.ndarray]
    nearest: np.ndarray
    subject: str


def template(recording: Recording) -> tuple[Conductor, Recording]:
    """The template head, fsaverage: electrodes by their 10-05 names, else by their positions.

    Returns:
        The conductor and the recording, less channels that could not be placed.

    Raises:
        ValueError: fewer than 19 channels have a name of the 10-05 system or a position.
    """
    known = {name.lower() for name in head_surfaces.electrode_names()} | {"t3", "t4", "t5", "t6"}
    named = [name for name in recording.names if name.lower() in known]
    placed = [name for name in recording.names if name in recording.positions_mm]
    if len(named) == len(recording.names) or len(named) >= max(FEWEST, len(placed)):
        recording = recording.keep(named, "neither a position nor a name of the 10-05 system")
        field = lead_field().montage(recording.names)
    elif len(placed) < FEWEST:
        raise ValueError(
            f"{len(placed)} of {len(recording.names)} channels have a position and {len(named)} a name of the 10-05 "
            f"system: {FEWEST} are needed. Set a montage: recording.set_montage('biosemi64')."
        )
    else:
        recording = recording.keep(placed, "without a position")
        inverse = np.linalg.inv(head_surfaces.head().head_from_mri)
        places = {name: inverse[:3, :3] @ recording.positions_mm[name] + inverse[:3, 3] for name in recording.names}
        field = lead_field(electrodes_mm=places)
    every = np.arange(grid.NUM_PLACES)
    mni = to_mni(grid.grid()[0])
    return Conductor(field, mni, np.ones(grid.NUM_PLACES, bool), [every], every, "fsaverage"), recording


def of_forward(recording: Recording, forward: Any) -> tuple[Conductor, Recording]:
    """A head that the caller computed: each place takes the nearest source of the forward solution.

    The template's places are carried into the head by an affine map of the electrodes, matched by name; where fewer
    than 12 have a name of the 10-05 system, by the extents of both sets of sources.

    Args:
        recording: its channels must all be in the forward solution.
        forward: an `mne.Forward` of free orientation, its sources filling the brain, or on the cortex.

    Raises:
        TypeError: no `mne.Forward`.
        ValueError: fixed orientation, channels that it lacks, or sources that cover less than half of the brain.
    """
    mne = head_surfaces.require_mne()
    if not isinstance(forward, mne.Forward):
        raise TypeError(f"forward is an mne.Forward or None for the template, got {type(forward).__name__}.")
    if forward["source_ori"] != 2:
        raise ValueError(
            "The forward solution has fixed orientations: the network needs free ones. Compute it so, or undo it with "
            "mne.convert_forward_solution(forward, force_fixed=False)."
        )
    forward = mne.convert_forward_solution(forward, surf_ori=False, force_fixed=False, copy=True, verbose="ERROR")
    names = list(forward["sol"]["row_names"])
    missing = [name for name in recording.names if name not in names]
    if missing:
        raise ValueError(
            f"The forward solution lacks {len(missing)} of the recording's {len(recording.names)} channels "
            f"({', '.join(missing[:6])}): compute it for this montage, or pick its channels."
        )
    rows = [names.index(name) for name in recording.names]
    sources_m = forward["source_rr"] if forward["coord_frame"] == 4 else _to_head(forward, forward["source_rr"])
    places, chosen, apart = _nearest_sources(recording, forward, sources_m * 1e3)
    inside = apart < _NEAR_MM
    if inside.mean() < _MOST_OUTSIDE:
        raise ValueError(
            f"The forward solution has a source near only {inside.mean():.0%} of the places of the brain: compute it "
            "for the whole brain (mne.setup_volume_source_space), 10 mm apart or less."
        )
    matrix, own = _in_mri(forward, rows, sources_m)
    picked = np.ascontiguousarray(matrix[:, chosen]).astype(np.float32)
    picked -= picked.mean(0)
    key = f"own-{hashlib.sha256(picked.tobytes()).hexdigest()[:20]}"
    field = LeadField(picked, recording.names, own[chosen].astype(np.float32), key)
    back, place = cKDTree(places).query(sources_m * 1e3)
    nearest = np.where(back < _NEAR_MM, place, -1)
    vertices = [np.array(space["vertno"]) for space in forward["src"]]
    subject = forward["src"][0].get("subject_his_id") or "subject"
    return Conductor(field, to_mni(grid.grid()[0]), inside, vertices, nearest, subject), recording


def _nearest_sources(
    recording: Recording, forward: Any, sources_mm: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The template's places in this head (head coordinates, mm), the source nearest to each, and how far it is."""
    to_head = head_surfaces.head().head_from_mri
    template_mm = grid.grid()[0] @ to_head[:3, :3].T + to_head[:3, 3]
    known = {name.lower(): row for row, name in enumerate(head_surfaces.electrode_names())}
    located = {c["ch_name"]: np.array(c["loc"][:3]) * 1e3 for c in forward["info"]["chs"]}
    pairs = [(known[name.lower()], located[name]) for name in recording.names if name.lower() in known]
    if len(pairs) >= _NAMED:
        theirs = np.array([place for _, place in pairs])
        ours = head_surfaces.head().electrodes_mm[[row for row, _ in pairs]] @ to_head[:3, :3].T + to_head[:3, 3]
        matrix = np.linalg.lstsq(np.c_[ours, np.ones(len(ours))], theirs, rcond=None)[0]
        places = np.c_[template_mm, np.ones(len(template_mm))] @ matrix
    else:
        low, high = np.percentile(template_mm, [2, 98], axis=0)
        their_low, their_high = np.percentile(sources_mm, [2, 98], axis=0)
        places = their_low + (template_mm - low) * (their_high - their_low) / (high - low)
    apart, chosen = cKDTree(sources_mm).query(places)
    return places, chosen, apart


def _in_mri(forward: Any, rows: list[int], sources_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lead field (channels, sources, 3) along axes of the subject's MRI, and sources in MRI coordinates, mm."""
    transform = forward["mri_head_t"]["trans"]  # from MRI to head, in metres
    gains = forward["sol"]["data"][rows].reshape(len(rows), -1, 3) @ transform[:3, :3]
    return gains, (sources_m - transform[:3, 3]) @ transform[:3, :3] * 1e3


def _to_head(forward: Any, points_m: np.ndarray) -> np.ndarray:
    transform = forward["mri_head_t"]["trans"]
    return points_m @ transform[:3, :3].T + transform[:3, 3]


def to_mni(points_mm: np.ndarray) -> np.ndarray:
    """Points (n, 3) from fsaverage's MRI coordinates (MNI305) to MNI152, mm."""
    return points_mm @ MNI152_FROM_305[:3, :3].T + MNI152_FROM_305[:3, 3]
