"""Runs the classical inverses to compare with: MNE-Python's own, and two that it lacks, on one lead field."""

import dataclasses
from typing import Any

import numpy as np

from zoo.eeg import head_surfaces
from zoo.eeg.kernels import normalised
from zoo.eeg.leadfield import LeadField, conductor, measurement_info, transform
from zoo.errors import unknown_choice

LINEAR = {"MNE": 0.8, "dSPM": 0.8, "sLORETA": None, "eLORETA": None}  # and mne's depth weighting, its default for two
SPARSE = ("MxNE", "irMxNE", "gamma-MAP")
LAMBDA2 = 0.1
_SWEEPS = 20


@dataclasses.dataclass(frozen=True)
class Problem:
    """Holds a lead field in the form that MNE-Python takes.

    Attributes:
        head: whose head.
        field: of the montage, at places of that head.
        forward: the same field as an `mne.Forward`; its columns are along mne's head coordinates.
        info: `mne.Info` of the channels.
    """

    head: head_surfaces.Head
    field: LeadField
    forward: Any
    info: Any


def problem(field: LeadField, head: head_surfaces.Head) -> Problem:
    """Wraps a lead field for MNE-Python; takes seconds, because the boundary elements are not solved again.

    Args:
        field: of channels of the 10-05 system on that head.
        head: the head.

    Raises:
        ValueError: a channel that is not of the 10-05 system.
    """
    mne = head_surfaces.require_mne()
    known = dict(zip(head_surfaces.electrode_names(), head.electrodes_mm, strict=True))
    for name in field.names:
        if name not in known:
            raise unknown_choice("EEG channel", name, known)
    info = measurement_info(head, {name: known[name] for name in field.names})
    upward = np.tile([0.0, 0.0, 1.0], (len(field.positions_mm), 1))
    source = mne.setup_volume_source_space(pos={"rr": field.positions_mm * 1e-3, "nn": upward}, verbose="ERROR")
    # A homogeneous ball around everything gives the object and its bookkeeping; its numbers are then replaced by ours.
    ball = mne.make_sphere_model((0.0, 0.0, 0.0), 0.3, relative_radii=(0.9, 1.0), sigmas=(0.33, 0.33), verbose="ERROR")
    forward = mne.make_forward_solution(
        info, transform(head), source, ball, eeg=True, meg=False, mindist=0.0, verbose="ERROR"
    )
    gains = field.matrix.astype(float) @ head.head_from_mri[:3, :3].T
    forward["sol"]["data"] = forward["_orig_sol"] = gains.reshape(len(field.names), -1)
    return Problem(head, field, forward, info)


def linear(problem: Problem, topographies: np.ndarray, method: str, *, lambda2: float = LAMBDA2) -> np.ndarray:
    """Computes power maps of mne's linear inverses; sLORETA and dSPM pool the three directions of a place, as mne does.

    The block-wise standardised sLORETA, which localises single sources better, is channels 3 and 4 of `kernels`.

    Args:
        problem: from `problem`.
        topographies: (n, channels), V.
        method: `"MNE"`, `"dSPM"` (depth weighting 0.8), `"sLORETA"` or `"eLORETA"` (none).
        lambda2: 1 / SNR^2 of amplitudes, as mne defines it.

    Returns:
        (n, places), >= 0.
    """
    if method not in LINEAR:
        raise unknown_choice("linear inverse", method, LINEAR)
    mne = head_surfaces.require_mne()
    evoked = _make_evoked(problem, topographies.T)
    operator = mne.minimum_norm.make_inverse_operator(
        evoked.info,
        problem.forward,
        _noise_covariance(problem, 1.0),
        loose=1.0,
        depth=LINEAR[method],
        rank="info",
        verbose="ERROR",
    )
    estimate = mne.minimum_norm.apply_inverse(evoked, operator, lambda2, method, verbose="ERROR")
    return np.square(estimate.data).T


def sparse(problem: Problem, topography: np.ndarray, noise_sd: float, method: str) -> np.ndarray:
    """Computes the power map of one of mne's sparse inverses, which gets the true noise.

    Args:
        problem: from `problem`.
        topography: (channels,) or (channels, samples), V.
        noise_sd: of a channel, V.
        method: `"MxNE"` (alpha 30 % of the smallest that gives nothing), `"irMxNE"` (ten reweightings of it) or
            `"gamma-MAP"` (one variance per place, alpha 1).

    Returns:
        (places,), mostly 0.
    """
    if method not in SPARSE:
        raise unknown_choice("sparse inverse", method, SPARSE)
    inverse = head_surfaces.require_mne().inverse_sparse
    evoked = _make_evoked(problem, np.reshape(topography, (len(problem.field.names), -1)))
    common = {"loose": 1.0, "depth": 0.8, "pick_ori": "vector", "verbose": "ERROR"}
    covariance = _noise_covariance(problem, noise_sd)
    try:
        if method == "gamma-MAP":
            estimate = inverse.gamma_map(evoked, problem.forward, covariance, alpha=1.0, xyz_same_gamma=True, **common)
        else:
            count = 10 if method == "irMxNE" else 1
            estimate = inverse.mixed_norm(
                evoked, problem.forward, covariance, alpha=30.0, n_mxne_iter=count, dgap_freq=10, debias=False, **common
            )
    except Exception as error:  # mne raises a bare Exception where no place stays active
        if "No active dipoles" not in str(error):
            raise
        return np.zeros(len(problem.field.positions_mm))
    power = np.zeros(len(problem.field.positions_mm))
    power[np.concatenate(estimate.vertices)] = np.square(estimate.data).sum((1, 2))
    return power


def lcmv(problem: Problem, segment: np.ndarray, noise_sd: float) -> np.ndarray:
    """Computes the power map of mne's LCMV beamformer (unit noise gain, invariant to rotation) for a segment.

    Args:
        problem: from `problem`.
        segment: (channels, samples), V; 2 or more samples, because a covariance is needed.
        noise_sd: of a channel, V.

    Raises:
        ValueError: a single sample.
    """
    if np.ndim(segment) != 2 or np.shape(segment)[1] < 2:
        raise ValueError(f"LCMV needs a segment (channels, samples) with 2 or more samples, got {np.shape(segment)}.")
    mne = head_surfaces.require_mne()
    evoked = _make_evoked(problem, segment)
    covariance = mne.Covariance(
        segment @ segment.T / segment.shape[1], list(problem.field.names), [], [], segment.shape[1]
    )
    weights = mne.beamformer.make_lcmv(
        evoked.info,
        problem.forward,
        covariance,
        reg=0.05,
        noise_cov=_noise_covariance(problem, noise_sd),
        pick_ori=None,
        weight_norm="unit-noise-gain-invariant",
        rank="info",
        verbose="ERROR",
    )
    return np.square(mne.beamformer.apply_lcmv(evoked, weights, verbose="ERROR").data).sum(1)


def rap_music(problem: Problem, segment: np.ndarray, noise_sd: float, num: int) -> np.ndarray:
    """Finds `num` sources by mne's RAP-MUSIC, (num, 3) mm; their time courses must differ.

    Args:
        problem: from `problem`.
        segment: (channels, samples), V, with `num` or more samples.
        noise_sd: of a channel, V.
        num: number of sources.
    """
    music = head_surfaces.require_mne().beamformer.rap_music
    evoked = _make_evoked(problem, segment)
    dipoles = music(evoked, problem.forward, _noise_covariance(problem, noise_sd), n_dipoles=num, verbose="ERROR")
    return _to_mri_mm(problem, np.stack([dipole.pos[0] for dipole in dipoles]))


def dipole_fit(problem: Problem, topographies: np.ndarray, noise_sd: float, *, model: Any = None) -> np.ndarray:
    """Fits single dipoles by mne's continuous fit; returns positions (n, 3) mm.

    Args:
        problem: from `problem`.
        topographies: (n, channels), V.
        noise_sd: of a channel, V.
        model: mne's head model; None solves that of the head again.
    """
    mne = head_surfaces.require_mne()
    evoked = _make_evoked(problem, topographies.T)
    bem = conductor(problem.head) if model is None else model
    dipoles, _ = mne.fit_dipole(
        evoked, _noise_covariance(problem, noise_sd), bem, trans=transform(problem.head), rank="info", verbose="ERROR"
    )
    return _to_mri_mm(problem, dipoles.pos)


def alternating_projections(field: LeadField, topography: np.ndarray, num: int) -> np.ndarray:
    """Finds the places of `num` free dipoles that together explain most, by moving each in turn to its best place.

    Ziskind and Wax, IEEE Trans ASSP 1988, doi 10.1109/29.7543; for EEG and MEG Adler, Wax and Pantazis, IEEE Trans
    Med Imaging 2022.

    Args:
        field: of the montage.
        topography: (channels,) or (channels, samples), average reference.
        num: number of sources, known beforehand; 1 is a dipole scan.

    Returns:
        (num,) indices of places.
    """
    data = np.reshape(topography, (len(field.names), -1))
    basis = normalised(field)[1]
    columns = (basis @ field.columns).reshape(len(basis), -1, 3)
    data = basis @ data
    places: list[int] = []
    while len(places) < num:
        places.append(_find_best_place(columns, data, places))
    for _ in range(_SWEEPS if num > 1 else 0):
        before = list(places)
        for source in range(num):
            places[source] = _find_best_place(columns, data, places[:source] + places[source + 1 :])
        if places == before:
            break
    return np.array(places)


def _find_best_place(columns: np.ndarray, data: np.ndarray, others: list[int]) -> int:
    """Returns the place whose dipole best explains the others' residual: max over i of b' M^-1 b, M = L_i' P L_i."""
    known = columns[:, others].reshape(len(columns), -1)
    span = np.linalg.qr(known)[0] if others else known
    flat = columns.reshape(len(columns), -1)
    left = (flat - span @ (span.T @ flat)).reshape(columns.shape)
    hits = np.einsum("cnd,ct->ndt", left, data - span @ (span.T @ data), optimize=True)
    gram = np.einsum("cnd,cne->nde", left, left)
    gram += 1e-9 * np.square(columns).sum((0, 2)).mean() * np.eye(3)
    power = (hits * np.linalg.solve(gram, hits)).sum((1, 2))
    power[others] = -np.inf
    return int(power.argmax())


def sparse_bayes(field: LeadField, topography: np.ndarray, noise_sd: float, *, steps: int = 40) -> np.ndarray:
    """Computes the power map of sparse Bayesian learning with MacKay's updates, one variance per place.

    Wipf and Nagarajan, NeuroImage 2009, doi 10.1016/j.neuroimage.2008.02.059.

    Args:
        field: of the montage.
        topography: (channels,), average reference, V.
        noise_sd: of a channel, V.
        steps: of the fixed-point iteration.
    """
    whitened, basis = normalised(field)
    data, noise = basis @ topography, noise_sd**2
    variance = np.full(whitened.shape[1] // 3, float(data @ data) / len(basis))
    current = np.zeros((len(variance), 3))
    for _ in range(steps):
        weighted = whitened * np.repeat(variance, 3)
        inverse = np.linalg.inv(weighted @ whitened.T + noise * np.eye(len(basis)))
        turned = inverse @ whitened
        current = variance[:, None] * (data @ turned).reshape(-1, 3)
        determined = variance * (whitened * turned).sum(0).reshape(-1, 3).sum(1)
        variance = np.square(current).sum(1) / np.maximum(determined, 1e-12)
    return np.square(current).sum(1)


def _make_evoked(problem: Problem, data: np.ndarray) -> Any:
    """Wraps topographies (channels, n) as an `mne.Evoked` with the average reference that inverses need."""
    evoked = head_surfaces.require_mne().EvokedArray(np.asarray(data, float), problem.info, verbose="ERROR")
    return evoked.set_eeg_reference("average", projection=True, verbose="ERROR")


def _noise_covariance(problem: Problem, noise_sd: float) -> Any:
    return head_surfaces.require_mne().make_ad_hoc_cov(problem.info, {"eeg": float(noise_sd)}, verbose="ERROR")


def _to_mri_mm(problem: Problem, points_m: np.ndarray) -> np.ndarray:
    matrix = np.linalg.inv(problem.head.head_from_mri)
    return points_m * 1e3 @ matrix[:3, :3].T + matrix[:3, 3]
