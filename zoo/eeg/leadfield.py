"""Computes lead fields, the potential of a unit dipole at each electrode, by MNE-Python's boundary elements; cached."""

import dataclasses
import hashlib
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import platformdirs

from zoo.arrays import Entry, read_npz
from zoo.eeg import grid, head_surfaces
from zoo.errors import unknown_choice
from zoo.files import write_whole

BRAIN_SM = 0.33
_VERSION = 1
# Places at once: mne holds a number for each place, direction and point of the surfaces, a few times over.
_CHUNK = {3: 4000, 4: 1000}
# Names of the old 10-20 system and what the 10-05 system calls them.
_OLD_NAMES = {"t3": "T7", "t4": "T8", "t5": "P7", "t6": "P8"}


@dataclasses.dataclass(frozen=True)
class LeadField:
    """Holds the potentials of unit dipoles, against the average of the field's own electrodes.

    Attributes:
        matrix: (channels, places, 3) float32, V / (A m); the last axis is the dipole's direction along x, y, z of
            the head's MRI (RAS), not of mne's head coordinates.
        names: of the channels.
        positions_mm: (places, 3) in the head's own MRI coordinates.
        key: digest of all that the matrix depends on.
    """

    matrix: np.ndarray
    names: tuple[str, ...]
    positions_mm: np.ndarray
    key: str

    def montage(self, names: Sequence[str]) -> "LeadField":
        """Returns the field of some of the channels, in the order of `names`, referenced to their own average.

        Args:
            names: as in the 10-05 system, in upper or lower case; T3, T4, T5, T6 of the old 10-20 system are known.

        Raises:
            ValueError: an unknown or repeated name, or fewer than 2.
        """
        rows = [self._find_row(name) for name in names]
        if len(set(rows)) < max(len(rows), 2):
            raise ValueError(f"A montage is 2 or more different channels, got {', '.join(names) or 'none'}.")
        channels = tuple(self.names[row] for row in rows)
        return LeadField(referenced(self.matrix[rows]), channels, self.positions_mm, f"{self.key}-{_digest(channels)}")

    def _find_row(self, name: str) -> int:
        known = {own.lower(): row for row, own in enumerate(self.names)}
        row_number = known.get(name.lower(), known.get(_OLD_NAMES.get(name.lower(), "").lower()))
        if row_number is None:
            raise unknown_choice("EEG channel", name, self.names)
        return row_number

    @property
    def columns(self) -> np.ndarray:
        """Returns the matrix as (channels, 3 * places) float64, direction fastest, for linear algebra."""
        return self.matrix.reshape(len(self.names), -1).astype(float)


def lead_field(
    head: str | int | head_surfaces.Head = "fsaverage",
    *,
    skull_ratio: float | None = None,
    points_mm: np.ndarray | None = None,
    electrodes_mm: Mapping[str, np.ndarray] | None = None,
    grade: int = 3,
) -> LeadField:
    """Returns the lead field of a head from the cache, or computes it in about 20 s (2 minutes at grade 4).

    Three shells (brain and scalp 0.33 S/m, skull less by the ratio), linear collocation with isolated problem approach
    as MNE-Python does it; a sphere in closed form. The cache is `$ZOO_CACHE/eeg`, or the system's place for caches.

    Args:
        head: as in `head_surfaces.head`, or a head that it returned.
        skull_ratio: conductivity of brain over that of skull; None takes the head's own.
        points_mm: (n, 3) points of the template's brain in mm, moved with the head; None takes the grid's 5,215.
        electrodes_mm: name -> (3,) position in mm in the head's own MRI coordinates, projected on the scalp by mne;
            None takes the 335 of the 10-05 system.
        grade: of the icospheres, 3 (642 points a surface) or 4 (2,562).

    Returns:
        The field of all electrodes, at places of this head.

    Raises:
        ValueError: no such head, a ratio or a grade out of range, points of a wrong shape or outside the brain.
        ImportError: mne is not installed and nothing is cached.
    """
    if grade not in (3, 4):
        raise ValueError(f"grade is 3 or 4, the halvings of the icosahedron, got {grade}.")
    head_surfaces.check_ratio(skull_ratio)
    subject = head if isinstance(head, head_surfaces.Head) else head_surfaces.head(head)
    if skull_ratio is not None:
        subject = dataclasses.replace(subject, skull_ratio=skull_ratio)
    template = grid.grid()[0] if points_mm is None else checked(points_mm)
    places = subject.places(template).astype(np.float32)
    electrodes = electrodes_mm or dict(zip(head_surfaces.electrode_names(), subject.electrodes_mm, strict=True))
    parts = [_VERSION, subject.name, subject.warp, subject.skull_ratio, grade, places.tobytes(), tuple(electrodes)]
    key = _digest([*parts, np.array(list(electrodes.values()), np.float32).tobytes()])
    matrix = cached(key, lambda: _compute(subject, places, electrodes, grade))
    return LeadField(referenced(matrix), tuple(electrodes), places, key)


def checked(points_mm: np.ndarray) -> np.ndarray:
    """Checks points of the template's brain and returns them as (n, 3) float32.

    Raises:
        ValueError: a wrong shape, not finite, or less than 4 mm below the inner skull.
    """
    points = np.asarray(points_mm, np.float32)
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise ValueError(f"points_mm must be finite and of shape (n, 3), got shape {points.shape}.")
    depth = grid.depth_mm(points)
    if (depth < 4).any():
        raise ValueError(
            f"Point {points[depth.argmin()].tolist()} lies {depth.min():.1f} mm below the inner skull: boundary"
            " elements need 4 mm or more. Move it inwards or leave it out."
        )
    return points


def referenced(matrix: np.ndarray) -> np.ndarray:
    """Subtracts the average over channels, the first axis."""
    return matrix - matrix.mean(0, keepdims=True)


def cache_folder() -> Path:
    """Returns the folder of lead fields, which may not exist: `$ZOO_CACHE/eeg`, or one in the system's cache folder."""
    return Path(os.environ.get("ZOO_CACHE") or platformdirs.user_cache_dir("zoo3d")).expanduser() / "eeg"


def cached(key: str, compute: Any) -> np.ndarray:
    """Returns a matrix (channels, places, 3) from the cache, or computes it in one process while others wait.

    The file is in half precision, each place scaled by its largest value: the error is 5e-4 of that value.
    """
    path = cache_folder() / f"{key}.npz"
    if (known := _read_matrix(path)) is not None:
        return known
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):
        if (known := _read_matrix(path)) is None:
            write_whole(path, _pack(compute()))
            known = _read_matrix(path)
    if known is None:
        raise OSError(f"{path} was written and cannot be read back: check the disk.")
    return known


def _pack(matrix: np.ndarray) -> bytes:
    scale = np.maximum(np.abs(matrix).max((0, 2), keepdims=True), 1e-30).astype(np.float32)
    buffer = io.BytesIO()
    np.savez(buffer, scaled=(matrix / scale).astype(np.float16), scale=scale)
    return buffer.getvalue()


def _read_matrix(path: Path) -> np.ndarray | None:
    """Returns the matrix, or None where the file is missing or broken (`cached` then makes it again)."""
    try:
        stored = read_npz(path, {"scaled": Entry("f", (None, None, 3)), "scale": Entry("f", (1, None, 1))})
        return stored["scaled"].astype(np.float32) * stored["scale"]
    except (OSError, ValueError):
        return None


def _digest(parts: Sequence) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]


def _compute(
    head: head_surfaces.Head, places: np.ndarray, electrodes: Mapping[str, np.ndarray], grade: int
) -> np.ndarray:
    model = conductor(head, grade=grade)
    size = _CHUNK[grade]
    parts = [places[start : start + size] for start in range(0, len(places), size)]
    forwards = [forward(head, part, electrodes, model=model) for part in parts]
    gains = [solution["sol"]["data"].reshape(len(electrodes), -1, 3) for solution in forwards]
    # mne's columns are dipoles along x, y, z of its head coordinates; ours along those of the MRI.
    return np.concatenate(gains, 1) @ head.head_from_mri[:3, :3]


def conductor(head: head_surfaces.Head, *, grade: int = 3) -> Any:
    """Solves mne's head model of a head, an `mne.bem.ConductorModel`."""
    mne = head_surfaces.require_mne()
    conductivity = (BRAIN_SM, BRAIN_SM / head.skull_ratio, BRAIN_SM)
    if head.name == "sphere":
        radii = np.linalg.norm(head.surfaces_mm[:, 0] - head.warp.centre_mm, axis=1)
        centre = to_head_m(head, [head.warp.centre_mm])[0]
        relative = radii / radii[-1]
        return mne.make_sphere_model(centre, radii[-1] * 1e-3, relative_radii=relative, sigmas=conductivity, verbose=40)
    directions, triangles = head_surfaces.icosphere(grade)
    with tempfile.TemporaryDirectory() as folder:
        bem = Path(folder) / "head" / "bem"
        bem.mkdir(parents=True)
        for name, surface in zip(("inner_skull", "outer_skull", "outer_skin"), head.surfaces_mm, strict=True):
            mne.write_surface(bem / f"{name}.surf", surface[: len(directions)], triangles)
        model = mne.make_bem_model("head", ico=None, conductivity=conductivity, subjects_dir=folder, verbose="ERROR")
    return mne.make_bem_solution(model, verbose="ERROR")


def forward(
    head: head_surfaces.Head, places_mm: np.ndarray, electrodes_mm: Mapping[str, np.ndarray], *, model: Any = None
) -> Any:
    """Computes an `mne.Forward` of places in a head's MRI coordinates, free orientation, along mne's head axes.

    Args:
        head: the head.
        places_mm: (n, 3), mm, inside the brain.
        electrodes_mm: name -> (3,), mm.
        model: a head model that `conductor` returned; None solves it again.

    Raises:
        ValueError: a place lies outside the brain, where mne drops it.
    """
    mne = head_surfaces.require_mne()
    upward = np.tile([0.0, 0.0, 1.0], (len(places_mm), 1))
    source = mne.setup_volume_source_space(pos={"rr": places_mm * 1e-3, "nn": upward}, verbose="ERROR")
    solution = mne.make_forward_solution(
        measurement_info(head, electrodes_mm),
        trans=transform(head),
        src=source,
        bem=conductor(head) if model is None else model,
        eeg=True,
        meg=False,
        mindist=0.0,
        verbose="ERROR",
    )
    if solution["nsource"] != len(places_mm):
        raise ValueError(
            f"{len(places_mm) - solution['nsource']} of {len(places_mm)} places lie outside the brain of {head.name}."
        )
    return solution


def measurement_info(head: head_surfaces.Head, electrodes_mm: Mapping[str, np.ndarray]) -> Any:
    """Makes an `mne.Info` of EEG channels at positions in a head's MRI coordinates, mm."""
    mne = head_surfaces.require_mne()
    positions = to_head_m(head, list(electrodes_mm.values()))
    montage = mne.channels.make_dig_montage(dict(zip(electrodes_mm, positions, strict=True)), coord_frame="head")
    info = mne.create_info(list(electrodes_mm), 1000.0, "eeg", verbose="ERROR")
    return info.set_montage(montage, verbose="ERROR")


def transform(head: head_surfaces.Head) -> Any:
    """Returns the `mne.Transform` from a head's MRI coordinates to mne's head coordinates, in metres."""
    matrix = head.head_from_mri.copy()
    matrix[:3, 3] *= 1e-3
    return head_surfaces.require_mne().Transform("mri", "head", matrix)


def to_head_m(head: head_surfaces.Head, points_mm: Sequence | np.ndarray) -> np.ndarray:
    """Maps points (n, 3) from a head's MRI coordinates in mm to mne's head coordinates in metres."""
    matrix = head.head_from_mri
    return (np.asarray(points_mm) @ matrix[:3, :3].T + matrix[:3, 3]) * 1e-3
