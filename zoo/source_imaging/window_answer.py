"""Locates a window by all its samples: sparse Bayesian learning and dipoles, without a network."""

import dataclasses
from typing import Literal

import numpy as np

from zoo.eeg.dipole_search import Dipole, DipoleSearch, best_pair, dipole_position
from zoo.eeg.sparse_bayes import COMPONENTS, Window, learn_current, make_window
from zoo.eeg.window_sources import WindowSources, describe_dipoles, find_sources
from zoo.source_imaging.answer import Answer, Selection, ball_masses, moments_over_time
from zoo.source_imaging.head_model import HeadModel
from zoo.source_imaging.noise import LEVEL, Whitening
from zoo.source_imaging.recording import Recording

PAIR: Literal["pair"] = "pair"
_MANY_SAMPLES = 12  # enough to see the noise beside the leading components
_NOISE_SHARE = 0.15  # of the power of a few samples, where nothing tells


def answer_window(
    head: HeadModel,
    eeg: Recording,
    selection: Selection,
    whitening: Whitening,
    count: int | Literal["pair"] | None,
) -> Answer:
    """Locates the sources of all samples of a window together.

    Args:
        head: the head model of the recording's channels.
        eeg: the recording.
        selection: the samples.
        whitening: of the noise; where its strength is unknown, the window itself tells it.
        count: number of sources; "pair" for two that mirror each other in the midline; None for the most probable.

    Example:
        >>> answer = answer_window(head, eeg, selection, whitening, None)  # doctest: +SKIP
        >>> answer.positions_mm.shape  # doctest: +SKIP
        (2, 3)
    """
    whitening = whitening if whitening.freedom else scale_unknown(whitening, eeg.data[:, selection.window])
    independent = whitening.density * len(selection.window)
    window = make_window(
        eeg.data[:, selection.window], head.field.matrix, whitening.matrix, independent=max(independent, 1.0)
    )
    found = _find(window, head, count)
    known = whitening.freedom > 0
    chance = whitening.chance(selection.topography, looks=selection.looks) if known else found.chance
    if chance > LEVEL:
        found = _without_sources(found)
    samples = eeg.data[:, selection.window]
    return _to_answer(head, samples, whitening, found, (chance, known))


def scale_unknown(whitening: Whitening, samples: np.ndarray) -> Whitening:
    """Scales the whitening of noise of unknown strength by what the window shows beside its leading components.

    With fewer than 12 samples, the noise is taken for 15 % of the power.

    Args:
        whitening: of `noise.unknown_noise`.
        samples: (channels, times), V.

    Example:
        >>> from zoo.source_imaging.noise import unknown_noise
        >>> noise = np.random.default_rng(0).standard_normal((19, 400)) * 3e-6
        >>> scaled = scale_unknown(unknown_noise(19), noise - noise.mean(0))
        >>> sd = 1 / np.linalg.svd(scaled.matrix)[1].mean()
        >>> bool(2.5e-6 < sd < 3.2e-6)
        True
    """
    values = np.linalg.svd(whitening.matrix @ samples, compute_uv=False)
    patterns, number = len(whitening.matrix), samples.shape[1]
    variance = _NOISE_SHARE * float(np.square(values).sum()) / (patterns * number)
    if number >= _MANY_SAMPLES:
        left = COMPONENTS // 2
        variance = float(np.square(values[left:]).sum()) / ((patterns - left) * (number - left))
    return dataclasses.replace(whitening, matrix=whitening.matrix / np.sqrt(max(variance, 1e-300)))


def _find(window: Window, head: HeadModel, count: int | Literal["pair"] | None) -> WindowSources:
    if count != PAIR:
        return find_sources(window, count=count, inside=head.inside)
    search = DipoleSearch(window, inside=head.inside)
    return describe_dipoles(search, best_pair(search), learn_current(window) * head.inside)


def _without_sources(found: WindowSources) -> WindowSources:
    counts = np.eye(len(found.counts))[0]
    none = np.zeros((0, found.places.shape[1]))
    return dataclasses.replace(found, dipoles=(), explained=0.0, own=np.zeros(0), places=none, counts=counts)


def _to_answer(
    head: HeadModel,
    samples: np.ndarray,
    whitening: Whitening,
    found: WindowSources,
    evidence: tuple[float, bool],
) -> Answer:
    positions = _stack([dipole_position(dipole, head.field.positions_mm) for dipole in found.dipoles])
    columns = _columns(head, found.dipoles)
    moments = _stack([_main_moment(course) for course in moments_over_time(columns, whitening.matrix, samples)])
    peaks = _stack([head.field.positions_mm[row.argmax()] for row in found.places])
    posterior = found.places.mean(0) if found.dipoles else found.current / max(float(found.current.sum()), 1e-300)
    return Answer(
        "sparse_bayes",
        positions,
        _stack([dipole_position(dipole, head.mni_mm) for dipole in found.dipoles]),
        columns,
        moments,
        found.explained,
        found.own,
        found.confidences(ball_masses(found.places, head.field.positions_mm, positions)),
        np.linalg.norm(positions - peaks, axis=1),
        found.places,
        posterior,
        None,
        found.counts,
        evidence[0],
        found.noise if evidence[1] else None,
    )


def _main_moment(course: np.ndarray) -> np.ndarray:
    """Returns the direction that most of a course (3, times) has, with the strength of its strongest time, (3,)."""
    left, values, right = np.linalg.svd(course, full_matrices=False)
    return left[:, 0] * values[0] * right[0, np.abs(right[0]).argmax()]


def _columns(head: HeadModel, dipoles: tuple[Dipole, ...]) -> np.ndarray:
    """Returns the potentials of unit dipoles, (channels, sources, 3)."""
    values = head.field.matrix.astype(float).transpose(0, 2, 1)
    columns = [dipole.interpolate(values) for dipole in dipoles]
    return np.stack(columns, 1) if columns else np.zeros((len(values), 0, 3))


def _stack(rows: list[np.ndarray]) -> np.ndarray:
    return np.stack(rows) if rows else np.zeros((0, 3))
