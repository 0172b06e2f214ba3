"""`zoo.locate_sources`: locates sources of EEG in the brain."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.eeg import decode, grid, head_surfaces
from zoo.eeg.kernels import Kernels, kernels
from zoo.eeg.leadfield import LeadField
from zoo.eeg.sharpening import lengths
from zoo.files import replacing, write_whole
from zoo.hub import card_file, trained_models
from zoo.inference.compiled_network import prepare
from zoo.source_imaging.head_model import MNI152_FROM_305, HeadModel, forward_head_model, template_head_model
from zoo.source_imaging.recording import Recording, read_recording

MODEL = "unet3d.eeg_sources"
_BATCH = 8
_CACHE: dict[tuple[str, tuple[int, ...]], Kernels] = {}
_CACHE_SIZE = 4
Times = float | tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class LocatedSource:
    """One dipole in the brain.

    Attributes:
        mri_mm: place in the head's own MRI coordinates (surface RAS), mm: fsaverage's, or those of the forward passed.
        mni_mm: place in MNI152, mm.
        moment_nam: moment along x, y, z of the MRI, nA m.
        explained: share of the topography's power that would be lost without this source, 0 to 1.
        confidence: posterior mass within 15 mm, as a share of what a certain source would have, 0 to 1.
    """

    mri_mm: tuple[float, float, float]
    mni_mm: tuple[float, float, float]
    moment_nam: tuple[float, float, float]
    explained: float
    confidence: float


@dataclasses.dataclass(frozen=True)
class LocatedSources:
    """The sources of a topography, and the posterior that they were read from.

    Attributes:
        estimate: `mne.VolSourceEstimate`, posterior probability of each place at each time, summing to 1 over places;
            its vertices are those of the forward passed, or the numbers of the template's 5,215 places.
        sources: the one with most posterior mass first.
        explained: goodness of fit of all sources together, 0 to 1.
        counts: (6,) probabilities of 0 to 5 sources; where the card counts by the fit, 0 has none.
        time_s: first and last time of the window whose main topography was located; equal for a single time.
        share: share of the window's power in that topography; 1 for a single time.
        posterior: (5215,) posterior of that topography.
        repairs: what was changed in the recording, a sentence each.
    """

    estimate: Any
    sources: tuple[LocatedSource, ...]
    explained: float
    counts: np.ndarray
    time_s: tuple[float, float]
    share: float
    posterior: np.ndarray
    repairs: tuple[str, ...]

    def table(self) -> list[dict[str, float]]:
        """Returns the sources as rows of plain numbers, for a CSV or `pandas.DataFrame`."""
        rows = []
        for number, source in enumerate(self.sources, start=1):
            places = {"mri": source.mri_mm, "mni": source.mni_mm, "moment": source.moment_nam}
            coordinates = {
                f"{name}_{axis}_{'nam' if name == 'moment' else 'mm'}": round(float(value), 2)
                for name, values in places.items()
                for axis, value in zip("xyz", values, strict=True)
            }
            strength = round(float(np.linalg.norm(source.moment_nam)), 2)
            fit = {"explained": round(source.explained, 4), "confidence": round(source.confidence, 4)}
            rows.append({"source": number, **coordinates, "strength_nam": strength, **fit})
        return rows

    def image(self) -> Any:
        """Returns the posterior as a nibabel image of the template's grid in MNI152, one value per 7 mm voxel."""
        import nibabel

        return nibabel.Nifti1Image(grid.to_box(self.posterior.astype(np.float32)), MNI152_FROM_305 @ grid.affine())

    def plot(self, path: str | os.PathLike | None = None) -> Any:
        """Draws posterior and sources on the MNI152 template.

        Args:
            path: file to save the picture in, too; None for none.

        Returns:
            nilearn's display.

        Raises:
            ImportError: nilearn or matplotlib is not installed.
        """
        try:
            from nilearn import datasets, plotting
        except ImportError as error:
            raise ImportError("Plots need nilearn and matplotlib: pip install 'zoo3d[report]'.") from error
        places = [source.mni_mm for source in self.sources]
        display = plotting.plot_stat_map(
            self.image(),
            bg_img=datasets.load_mni152_template(resolution=2),
            cut_coords=places[0] if places else None,
            cmap="hot",
            threshold=float(self.posterior.max()) / 20,
            vmin=0,
            symmetric_cbar=False,
            title=f"{len(places)} sources, {self.explained:.0%} explained",
        )
        if places:
            display.add_markers(np.array(places), marker_color="cyan", marker_size=30)
        if path is not None:
            with replacing(path) as temporary:
                display.savefig(str(temporary))
        return display


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

    def __call__(self, topographies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Locates topographies.

        Args:
            topographies: (n, channels), any unit.

        Returns:
            Posteriors (n, 5215) that sum to 1, and probabilities of 0 to 5 sources (n, 6).
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
        posterior = decode.posterior(logits)
        if self.settings.sbl_share:
            current = lengths(grid.from_box(volumes[:number, ..., -1]))
            posterior = decode.mixed(posterior, current, self.settings.sbl_share)
        if self.inside is not None and not self.inside.all():
            posterior = posterior * self.inside
            posterior /= posterior.sum(-1, keepdims=True)
        return posterior, decode.count_probabilities(logits)

    def decode(self, topography: np.ndarray, posterior: np.ndarray, count: int) -> tuple[decode.Fit, np.ndarray]:
        """Returns the dipoles of one topography (channels,), V, and the posterior mass of each, the largest first."""
        places, masses = decode.peaks(posterior, count)
        return decode.refine(places, topography, self.field.matrix, reach_mm=self.settings.reach_mm), masses

    def count(self, topography: np.ndarray, posterior: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Returns probabilities of 0 to 5 sources (6,): the network's `counts`, or the fit's where the card says so."""
        if not self.settings.count_by_fit:
            return counts
        probabilities = decode.count_by_fit(posterior, topography, self.field.matrix)
        return np.concatenate([[0.0], probabilities])  # a fit has one source at least


def locate_sources(
    recording: Any,
    forward: Any = None,
    *,
    model: str | os.PathLike = MODEL,
    times: Times = None,
    count: int | None = None,
) -> LocatedSources:
    """Locates the sources of an EEG topography.

    Drops bad and flat channels and references to the average of the others; `repairs` of the result lists this.
    Without `forward` the head is fsaverage, and channels are placed by their 10-05 names or their positions. The
    posterior is the network's, mixed with that of sparse Bayes where the card says so; each source is then a dipole
    fitted to the data within the card's reach of a peak of the posterior.

    Args:
        recording: an `mne.Evoked`, `mne.Epochs` (their average) or a segment of `mne.io.Raw` with 19 to 256 good EEG
            channels, or a file of one.
        forward: an `mne.Forward` of free orientation whose channels include the recording's.
        model: name or folder of a trained model.
        times: a time in s; or a window (first, last), whose main topography (first singular vector) is located and
            whose samples are all in the estimate; None for the time of the largest global field power.
        count: the number of sources, 1 to 5; None takes the most probable one, at least 1.

    Returns:
        The sources, with places in mm and moments in nA m, the posterior, and `plot` and `table`.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: not an mne object of these kinds.
        ValueError: no such model; MEG alone; no montage; fewer than 19 good EEG channels; NaN or infinity; flat
            channels only; times outside the recording; or a forward that does not fit the channels.
        ImportError: mne is not installed.

    Example:
        >>> result = zoo.locate_sources("sub-01_spike-ave.fif")  # doctest: +SKIP
        >>> result.sources[0].mni_mm  # doctest: +SKIP
        (-38.2, -17.5, 8.1)
    """
    mne = head_surfaces.require_mne()
    if count is not None and not 1 <= count <= decode.MAX_SOURCES:
        raise ValueError(f"count is the number of sources, 1 to {decode.MAX_SOURCES}, or None, got {count}.")
    eeg = read_recording(recording)
    head, eeg = template_head_model(eeg) if forward is None else forward_head_model(eeg, forward)
    window = _select_samples(eeg, times)
    topography, share = _main_topography(eeg.data[:, window])
    locator = Locator(model, head.field, inside=head.inside)
    posteriors, counts = locator(np.concatenate([topography[None], eeg.data[:, window].T]))
    probabilities = locator.count(topography, posteriors[0], counts[0])
    number = int(probabilities[1:].argmax()) + 1 if count is None else count
    fit, masses = locator.decode(topography, posteriors[0], number)
    step = 1.0 if len(eeg.times_s) < 2 else float(eeg.times_s[1] - eeg.times_s[0])
    estimate = mne.VolSourceEstimate(
        _to_vertices(head, posteriors[1:]).T,
        head.vertices,
        tmin=float(eeg.times_s[window[0]]),
        tstep=step,
        subject=head.subject,
    )
    return LocatedSources(
        estimate,
        _make_sources(head, fit, masses),
        fit.explained,
        probabilities,
        (float(eeg.times_s[window[0]]), float(eeg.times_s[window[-1]])),
        share,
        posteriors[0],
        eeg.repairs,
    )


def _select_samples(eeg: Recording, times: Times) -> np.ndarray:
    """Returns the indices of the samples in a window."""
    if times is None:
        return np.array([int(np.square(eeg.data).sum(0).argmax())])
    ends = (times, times) if isinstance(times, int | float) else tuple(times)
    if len(ends) != 2 or not eeg.times_s[0] - 1e-9 <= ends[0] <= ends[1] <= eeg.times_s[-1] + 1e-9:
        raise ValueError(
            f"times must lie within {eeg.times_s[0]:g} to {eeg.times_s[-1]:g} s, one time or (first, last), "
            f"got {times}."
        )
    first, last = np.abs(eeg.times_s - ends[0]).argmin(), np.abs(eeg.times_s - ends[1]).argmin()
    return np.arange(first, last + 1)


def _main_topography(data: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the topography that explains most of (channels, times), scaled to its strongest time, and its share."""
    left, values, right = np.linalg.svd(data, full_matrices=False)
    if not values[0]:
        raise ValueError("The recording is flat at these times: there is nothing to locate.")
    strongest = right[0, np.abs(right[0]).argmax()]
    return left[:, 0] * values[0] * strongest, float(values[0] ** 2 / np.square(values).sum())


def _to_vertices(head: HeadModel, posteriors: np.ndarray) -> np.ndarray:
    """Maps posteriors (times, 5215) to the vertices of the source space; each sums to 1."""
    values = np.where(head.nearest >= 0, posteriors[:, head.nearest], 0.0)
    return values / np.maximum(values.sum(1, keepdims=True), 1e-30)


def _make_sources(head: HeadModel, fit: decode.Fit, masses: np.ndarray) -> tuple[LocatedSource, ...]:
    confidences = np.minimum(masses * len(masses), 1.0)
    return tuple(
        LocatedSource(
            _triple(head.field.positions_mm[place]),
            _triple(head.mni_mm[place]),
            _triple(moment * 1e9),
            float(explained),
            float(confidence),
        )
        for place, moment, explained, confidence in zip(fit.places, fit.moments, fit.own, confidences, strict=True)
    )


def _triple(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


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


def write(located: LocatedSources, folder: str | os.PathLike, name: str) -> list[Path]:
    """Writes `NAME_sources.csv` and `NAME_posterior.nii.gz` (MNI152).

    Returns:
        The two files.

    Example:
        >>> files = write(zoo.locate_sources("spike-ave.fif"), "out", "sub-01")  # doctest: +SKIP
    """
    from zoo.files import csv_text
    from zoo.volumes import image

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = write_whole(folder / f"{name}_sources.csv", csv_text(located.table()).encode())
    volume = located.image()
    return [table, image.write(folder / f"{name}_posterior.nii.gz", np.asanyarray(volume.dataobj), volume)]
