"""Makes the head model of a recording: the template head by channel names or positions, or an mne.Forward."""

import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from zoo.eeg import grid, head_surfaces
from zoo.eeg.leadfield import LeadField, lead_field
from zoo.source_imaging.channel_names import clean_name, known_names
from zoo.source_imaging.electrodes import place_electrodes
from zoo.source_imaging.recording import MIN_CHANNELS, Recording

_NEAR_MM = 12.0  # a place farther from every source than this lies outside the head's sources
_MIN_COVERED = 0.5  # share of the places that must have a source near
_MIN_NAMED = 12  # electrodes with a 10-05 name, for an affine map by names
_MRI_FRAME, _MRI_SIZE = 5, 256  # mne's number of MRI coordinates; FreeSurfer's cube of 1 mm
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
class HeadModel:
    """The lead field of one recording's channels at the places that the network knows.

    Attributes:
        field: lead field of the channels at the 5,215 places, in the head's own MRI coordinates, mm.
        mni_mm: (5215, 3) the same places in MNI152, mm.
        inside: (5215,) whether the head has a source near the place.
        source_space: `mne.SourceSpaces` that results are returned on: the forward's, or the template's grid.
        vertices: vertex numbers of that source space.
        nearest: for each of these vertices the index of its place; -1 where none is near.
        subject: the subject's name for mne.
        electrode_rms_mm: root mean square distance to the template's scalp of the electrodes that were placed by their
            positions; None where names or a forward solution placed all.
    """

    field: LeadField
    mni_mm: np.ndarray
    inside: np.ndarray
    source_space: Any
    vertices: list[np.ndarray]
    nearest: np.ndarray
    subject: str
    electrode_rms_mm: float | None = None


def template_head_model(recording: Recording) -> tuple[HeadModel, Recording]:
    """Places the electrodes on the template head, fsaverage: each by its 10-05 name, else by its position.

    Returns:
        The head model and the recording, less channels that could not be placed.

    Raises:
        ValueError: fewer than 19 channels, or than half of them, have a name of the 10-05 system or a position; or
            positions that fit no head.

    Example:
        >>> head, eeg = template_head_model(read_recording("spike-ave.fif"))  # doctest: +SKIP
        >>> head.subject  # doctest: +SKIP
        'fsaverage'
    """
    placement = place_electrodes(recording.names, recording.positions_mm)
    places = placement.places_mm
    if len(places) < max(MIN_CHANNELS, len(recording.names) / 2):
        named = sum(name.lower() in known_names() for name in recording.names)
        placed = sum(name in recording.positions_mm for name in recording.names)
        raise ValueError(
            f"{placed} of {len(recording.names)} channels have a position and {named} a name of the 10-05 "
            f"system: {MIN_CHANNELS} are needed, and half of all. Set a montage, as in "
            "recording.set_montage('biosemi64'), or mark the others in recording.info['bads']."
        )
    recording = recording.keep(list(places), "neither a position on the scalp nor a name of the 10-05 system")
    recording = dataclasses.replace(recording, repairs=(*recording.repairs, *placement.repairs))
    field = lead_field().montage(recording.names) if placement.by_name else lead_field(electrodes_mm=places)
    indices = np.arange(grid.NUM_PLACES)
    mni = to_mni(grid.grid()[0])
    inside = np.ones(grid.NUM_PLACES, bool)
    space = template_source_space()
    vertices = [space[0]["vertno"]]
    order = np.argsort(_box_index())
    head = HeadModel(field, mni, inside, space, vertices, indices[order], "fsaverage", placement.rms_mm)
    return head, recording


def forward_head_model(recording: Recording, forward: Any) -> tuple[HeadModel, Recording]:
    """Makes a head model of an mne.Forward: each place takes the nearest source of the forward solution.

    The template's places are carried into the head by an affine map of the electrodes, matched by name; where fewer
    than 12 have a name of the 10-05 system, by the extents of both sets of sources.

    Args:
        recording: a recording whose channels are all in the forward solution.
        forward: an `mne.Forward` of free orientation, its sources filling the brain, or on the cortex.

    Raises:
        TypeError: `forward` is no `mne.Forward`.
        ValueError: fixed orientation, channels that it lacks, or sources that cover less than half of the brain.

    Example:
        >>> head, eeg = forward_head_model(eeg, mne.read_forward_solution("own-fwd.fif"))  # doctest: +SKIP
    """
    forward = _free_forward(forward)
    rows = _channel_rows(recording, forward)
    sources_m = forward["source_rr"] if forward["coord_frame"] == 4 else _to_head(forward, forward["source_rr"])
    places, sources, distance_mm = _nearest_sources(recording, forward, sources_m * 1e3)
    inside = distance_mm < _NEAR_MM
    if inside.mean() < _MIN_COVERED:
        raise ValueError(
            f"The forward solution has a source near only {inside.mean():.0%} of the places of the brain: compute it "
            "for the whole brain (mne.setup_volume_source_space), 10 mm apart or less."
        )
    matrix, sources_mm = _in_mri(forward, rows, sources_m)
    gains = np.ascontiguousarray(matrix[:, sources]).astype(np.float32)
    gains -= gains.mean(0)
    key = f"own-{hashlib.sha256(gains.tobytes()).hexdigest()[:20]}"
    field = LeadField(gains, recording.names, sources_mm[sources].astype(np.float32), key)
    distance_back_mm, nearest_place = cKDTree(places).query(sources_m * 1e3)
    nearest = np.where(distance_back_mm < _NEAR_MM, nearest_place, -1)
    vertices = [np.array(space["vertno"]) for space in forward["src"]]
    subject = forward["src"][0].get("subject_his_id") or "subject"
    return HeadModel(field, to_mni(grid.grid()[0]), inside, forward["src"], vertices, nearest, subject), recording


@functools.cache
def template_source_space() -> Any:
    """Returns the template's 5,215 places as an `mne.SourceSpaces` in fsaverage's MRI coordinates.

    With it mne plots estimates and turns them into images: `estimate.plot(space)`, `estimate.as_volume(space)`.

    Example:
        >>> template_source_space()[0]["nuse"]
        5215
    """
    mne = head_surfaces.require_mne()
    affine_m = grid.affine()
    affine_m[:3] *= 1e-3
    size = int(np.prod(grid.SHAPE))
    half = _MRI_SIZE * 0.5e-3
    voxels_m = np.array([[-1e-3, 0, 0, half], [0, 0, 1e-3, -half], [0, -1e-3, 0, half], [0, 0, 0, 1]])
    voxels = np.stack(np.unravel_index(np.arange(size), grid.SHAPE, order="F"), 1)
    used = np.zeros(size, bool)
    used[_box_index()] = True
    space = {
        "type": "vol",
        "id": -1,
        "np": size,
        "rr": voxels @ affine_m[:3, :3].T + affine_m[:3, 3],
        "nn": np.tile([0.0, 0.0, 1.0], (size, 1)),
        "inuse": used.astype(int),
        "nuse": int(used.sum()),
        "vertno": np.flatnonzero(used),
        "coord_frame": _MRI_FRAME,
        "shape": grid.SHAPE,
        "src_mri_t": mne.Transform("mri_voxel", "mri", affine_m),
        "vox_mri_t": mne.Transform("mri_voxel", "mri", voxels_m),
        "mri_width": _MRI_SIZE,
        "mri_height": _MRI_SIZE,
        "mri_depth": _MRI_SIZE,
        "mri_ras_t": mne.Transform("mri", "ras", np.eye(4)),  # fsaverage's scanner coordinates are its surface's
        "subject_his_id": "fsaverage",
        "nuse_tri": 0,
        "use_tris": np.zeros((0, 3), int),
        "ntri": 0,
        "tris": np.zeros((0, 3), int),
        "nearest": None,
        "nearest_dist": None,
        "pinfo": None,
        "patch_inds": None,
        "dist": None,
        "dist_limit": None,
    }
    return mne.SourceSpaces([space])


def _box_index() -> np.ndarray:
    """Returns the number of each place in the box, first axis fastest, as mne counts."""
    return np.ravel_multi_index(tuple(grid.grid()[2].T), grid.SHAPE, order="F")


def _free_forward(forward: Any) -> Any:
    """Returns a copy of a forward solution with free orientations along mne's head axes."""
    mne = head_surfaces.require_mne()
    if not isinstance(forward, mne.Forward):
        raise TypeError(f"forward is an mne.Forward or None for the template, got {type(forward).__name__}.")
    if forward["source_ori"] != 2:
        raise ValueError(
            "The forward solution has fixed orientations: the network needs free ones. Compute it so, or undo it with "
            "mne.convert_forward_solution(forward, force_fixed=False)."
        )
    return mne.convert_forward_solution(forward, surf_ori=False, force_fixed=False, copy=True, verbose="ERROR")


def _channel_rows(recording: Recording, forward: Any) -> list[int]:
    """Returns the row of each of the recording's channels in the forward solution."""
    own = list(forward["sol"]["row_names"])
    rows = {clean_name(name): row for row, name in enumerate(own)} | {name: row for row, name in enumerate(own)}
    missing = [name for name in recording.names if name not in rows]
    if missing:
        raise ValueError(
            f"The forward solution lacks {len(missing)} of the recording's {len(recording.names)} channels "
            f"({', '.join(missing[:6])}): compute it for this montage, or pick its channels."
        )
    return [rows[name] for name in recording.names]


def _nearest_sources(
    recording: Recording, forward: Any, sources_mm: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the template's places in head coordinates, mm, the nearest source to each, and its distance, mm."""
    to_head = head_surfaces.head().head_from_mri
    template_mm = grid.grid()[0] @ to_head[:3, :3].T + to_head[:3, 3]
    known = {name.lower(): row for row, name in enumerate(head_surfaces.electrode_names())}
    located = {clean_name(c["ch_name"]): np.array(c["loc"][:3]) * 1e3 for c in forward["info"]["chs"]}
    pairs = [(known[name.lower()], located[name]) for name in recording.names if name.lower() in known]
    if len(pairs) >= _MIN_NAMED:
        own_mm = np.array([place for _, place in pairs])
        electrodes_mm = (
            head_surfaces.head().electrodes_mm[[row for row, _ in pairs]] @ to_head[:3, :3].T + to_head[:3, 3]
        )
        matrix = np.linalg.lstsq(np.c_[electrodes_mm, np.ones(len(electrodes_mm))], own_mm, rcond=None)[0]
        places = np.c_[template_mm, np.ones(len(template_mm))] @ matrix
    else:
        low, high = np.percentile(template_mm, [2, 98], axis=0)
        own_low, own_high = np.percentile(sources_mm, [2, 98], axis=0)
        places = own_low + (template_mm - low) * (own_high - own_low) / (high - low)
    distance_mm, sources = cKDTree(sources_mm).query(places)
    return places, sources, distance_mm


def _in_mri(forward: Any, rows: list[int], sources_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lead field (channels, sources, 3) along axes of the MRI, and the sources in MRI coordinates, mm."""
    transform = forward["mri_head_t"]["trans"]  # from MRI to head, in metres
    gains = forward["sol"]["data"][rows].reshape(len(rows), -1, 3) @ transform[:3, :3]
    return gains, (sources_m - transform[:3, 3]) @ transform[:3, :3] * 1e3


def _to_head(forward: Any, points_m: np.ndarray) -> np.ndarray:
    transform = forward["mri_head_t"]["trans"]
    return points_m @ transform[:3, :3].T + transform[:3, 3]


def to_mni(points_mm: np.ndarray) -> np.ndarray:
    """Maps points (n, 3) from fsaverage's MRI coordinates (MNI305) to MNI152, mm.

    Example:
        >>> to_mni(np.zeros((1, 3))).round(2).tolist()
        [[-0.04, 1.55, 1.18]]
    """
    return points_mm @ MNI152_FROM_305[:3, :3].T + MNI152_FROM_305[:3, 3]
