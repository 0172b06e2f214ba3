"""Runs a network on topographies of one montage on one head, and decodes what it finds."""

import dataclasses
import functools
import os
from typing import Any

import numpy as np

from zoo.arrays import first_not_finite
from zoo.eeg import decode, grid
from zoo.eeg.kernels import Kernels, kernels
from zoo.eeg.leadfield import LeadField
from zoo.eeg.sharpening import lengths
from zoo.hub import card_file, trained_models
from zoo.inference.compiled_network import prepare
from zoo.source_imaging.answer import Answer, Selection, split_posterior
from zoo.source_imaging.head_model import HeadModel
from zoo.source_imaging.noise import LEVEL, Whitening
from zoo.source_imaging.recording import Recording, average_reference

MODEL = "unet3d.eeg_sources"
_BATCH = 8
_DRAWS = 400
_CACHE: dict[tuple[str, tuple[int, ...]], Kernels] = {}
_CACHE_SIZE = 4


@dataclasses.dataclass(frozen=True)
class SourceImagingSettings:
    """How a card prepares a model's input and reads its output; the defaults are those of older cards.

    Attributes:
        sbl_steps: numbers of steps of sparse Bayesian learning after which the input has a map.
        sbl_share: share of the last of these maps in the posterior.
        reach_mm: largest distance of a dipole from the peak of the posterior, mm.
        count_by_fit: whether the best fit gives the number of sources, not the network.
    """

    sbl_steps: tuple[int, ...] = ()
    sbl_share: float = 0.0
    reach_mm: float = decode.REACH_MM
    count_by_fit: bool = False


class Locator:
    """Locates topographies of one montage on one head with one network.

    Args:
        model: name or folder of a trained model.
        field: lead field of the channels at the 5,215 places.
        inside: (5215,) bool, where sources can be; None for everywhere.

    Raises:
        ValueError: no such model, or it does not locate sources.

    Example:
        >>> locator = Locator("unet3d.eeg_sources", lead_field().montage(names))  # doctest: +SKIP
        >>> posteriors, counts = locator(topographies)  # doctest: +SKIP
    """

    def __init__(self, model: str | os.PathLike, field: LeadField, *, inside: np.ndarray | None = None) -> None:
        folder = str(trained_models.find(model))
        self.settings = _read_settings(folder)
        self.network = _load_network(folder)
        self.kernels = _cached_kernels(field, self.settings.sbl_steps)
        self.field = field
        self.inside = inside
        self._field: tuple[Whitening, np.ndarray] | None = None
        self._noise_fits: np.ndarray | None = None

    def __call__(self, topographies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Locates topographies.

        Args:
            topographies: (n, channels), any unit.

        Returns:
            Posteriors (n, 5215) that sum to 1, and probabilities of 0 to 5 sources (n, 6).

        Raises:
            ValueError: the network gives NaN or infinity.
        """
        batches = [topographies[first : first + _BATCH] for first in range(0, len(topographies), _BATCH)]
        outputs = [self._locate_batch(batch) for batch in batches]
        posteriors, counts = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
        return posteriors, counts

    def _locate_batch(self, topographies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        number = len(topographies)
        # Two shapes in all, or every new number would compile anew.
        batch = topographies if number in (1, _BATCH) else np.resize(topographies, (_BATCH, topographies.shape[1]))
        volumes = self.kernels.apply(batch)
        logits = self.network(volumes)[:number]
        if (bad := first_not_finite(logits)) is not None:
            raise ValueError(
                f"The network gives {logits[bad]} in channel {bad[-1]} for topography {bad[0]}, and no source would "
                "mean anything. Check the unit of the recording, and the weights (zoo verify)."
            )
        posterior = decode.posterior(logits)
        if self.settings.sbl_share:
            current = lengths(grid.from_box(volumes[:number, ..., -1]))
            posterior = decode.mixed(posterior, current, self.settings.sbl_share)
        if self.inside is not None and not self.inside.all():
            posterior = posterior * self.inside
            posterior /= posterior.sum(-1, keepdims=True)
        return posterior, decode.count_probabilities(logits)

    def decode(
        self, topography: np.ndarray, posterior: np.ndarray, count: int, *, whitening: Whitening | None = None
    ) -> tuple[decode.Fit, np.ndarray]:
        """Returns the dipoles of one topography (channels,), V, and the posterior mass of each, the largest first.

        With `whitening`, dipoles are fitted in units of the noise, and so are the shares that they explain.
        """
        places, masses = decode.peaks(posterior, count)
        data, field = self._whitened(topography, whitening)
        return decode.refine(places, data, field, reach_mm=self.settings.reach_mm), masses

    def count(
        self,
        topography: np.ndarray,
        posterior: np.ndarray,
        counts: np.ndarray,
        *,
        whitening: Whitening | None = None,
    ) -> np.ndarray:
        """Returns probabilities of 0 to 5 sources (6,).

        With known noise, from the whitened residual; else the network's `counts`, or the fit's where the card says so.
        """
        if whitening is not None and whitening.freedom:
            data, field = self._whitened(topography, whitening)
            return decode.count_above_noise(posterior, data, field, freedom=whitening.freedom)
        if not self.settings.count_by_fit:
            return counts
        probabilities = decode.count_by_fit(posterior, topography, self.field.matrix)
        return np.concatenate([[0.0], probabilities])  # a fit has one source at least

    def _whitened(self, topography: np.ndarray, whitening: Whitening | None) -> tuple[np.ndarray, np.ndarray]:
        if whitening is None or not whitening.freedom:
            return topography, self.field.matrix
        if self._field is None or self._field[0] is not whitening:
            self._field = whitening, np.einsum("wc,cpd->wpd", whitening.matrix, self.field.matrix, optimize=True)
        return whitening.matrix @ topography, self._field[1]

    def chance_of_fit(self, topography: np.ndarray) -> float:
        """Returns the probability that one dipole explains white noise of any strength as well as this topography."""
        if self._noise_fits is None:
            draws = np.random.default_rng(0).standard_normal((_DRAWS, len(self.field.names)))
            self._noise_fits = self._fit_one(draws)
        fit = self._fit_one(topography[None])[0]
        return float((1 + (self._noise_fits >= fit).sum()) / (1 + _DRAWS))

    def _fit_one(self, topographies: np.ndarray) -> np.ndarray:
        """Returns the share of each topography (n, channels) that the best single dipole explains, (n,)."""
        unit = average_reference(topographies.T)
        unit = (unit / np.maximum(np.linalg.norm(unit, axis=0), 1e-300)).astype(np.float32)
        fits = np.square(self.kernels.blocks[2] @ unit).reshape(-1, 3, unit.shape[1])
        return fits.sum(1).max(0)


def answer_topography(
    locator: Locator,
    head: HeadModel,
    eeg: Recording,
    selection: Selection,
    whitening: Whitening,
    count: int | None,
) -> Answer:
    """Locates the sources of a topography, and the posterior of each sample of the window.

    Args:
        locator: the network on the head's lead field.
        head: the head model of the recording's channels.
        eeg: the recording.
        selection: the samples and their main topography.
        whitening: of the noise.
        count: number of sources; None for the most probable one.

    Example:
        >>> answer = answer_topography(locator, head, eeg, selection, whitening, None)  # doctest: +SKIP
        >>> answer.posteriors.shape  # doctest: +SKIP
        (1, 5215)
    """
    topography = selection.topography
    posteriors, counts = locator(np.concatenate([topography[None], eeg.data[:, selection.window].T]))
    chance = (
        whitening.chance(topography, looks=selection.looks) if whitening.freedom else locator.chance_of_fit(topography)
    )
    if chance > LEVEL:
        number, probabilities = 0, np.eye(decode.MAX_SOURCES + 1)[0]
    else:
        probabilities = locator.count(topography, posteriors[0], counts[0], whitening=whitening)
        number = int(probabilities[1:].argmax()) + 1 if count is None else count
    fit, masses = locator.decode(topography, posteriors[0], number, whitening=whitening)
    starts = decode.peaks(posteriors[0], number)[0]
    positions = head.field.positions_mm[fit.places].astype(float)
    return Answer(
        "network",
        positions,
        head.mni_mm[fit.places],
        head.field.matrix[:, fit.places].astype(float),
        fit.moments,
        fit.explained,
        fit.own,
        _confidences(masses, probabilities),
        np.linalg.norm(positions - head.field.positions_mm[starts], axis=1),
        split_posterior(head, posteriors[0], starts),
        posteriors[0],
        posteriors[1:],
        probabilities,
        chance,
        _residual(fit, topography, whitening),
    )


def _residual(fit: decode.Fit, topography: np.ndarray, whitening: Whitening) -> float | None:
    """Returns the power that sources leave for each number that they left free, over that of noise."""
    if not whitening.freedom:
        return None
    free = max(len(whitening.matrix) - 3 * len(fit.places), 1)
    return whitening.power(topography) * (1 - fit.explained) * len(whitening.matrix) / free


def _confidences(masses: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns the mass of each ball over that of a certain source, times the probability of so many sources.

    A certain source has a mass of one over the number of sources; a number that was told counts no more than the one
    that the data show, or five sources asked for would all be certain.
    """
    shown = max(int(probabilities.argmax()), 1)
    at_least = np.cumsum(probabilities[::-1])[::-1][1 : len(masses) + 1]
    return np.minimum(masses * min(len(masses), shown), 1.0) * np.minimum(at_least, 1.0)


def _cached_kernels(field: LeadField, sbl_steps: tuple[int, ...]) -> Kernels:
    """Returns the kernels of a lead field; keeps those of the last few, for they take seconds."""
    key = (field.key, sbl_steps)
    if key not in _CACHE:
        while len(_CACHE) >= _CACHE_SIZE:
            _CACHE.pop(next(iter(_CACHE)))
        _CACHE[key] = kernels(field, sbl_steps)
    return _CACHE[key]


def _read_settings(folder: str) -> SourceImagingSettings:
    card = card_file.read(folder)
    parameters = {
        key: value for step in (*card.preprocessing, *card.postprocessing) for key, value in step.parameters.items()
    }
    names = [field.name for field in dataclasses.fields(SourceImagingSettings)]
    settings = {name: parameters[name] for name in names if name in parameters}
    return SourceImagingSettings(**settings | {"sbl_steps": tuple(settings.get("sbl_steps", ()))})


@functools.lru_cache(maxsize=2)
def _load_network(folder: str) -> Any:
    card = card_file.read(folder)
    if card.output.kind != "sources":
        raise ValueError(f"{card.name} does not locate sources, its output is {card.output.kind!r}. Pass {MODEL!r}.")
    return prepare(trained_models.load(folder))
