"""`zoo.locate_sources`: from an EEG recording to sources in the brain."""

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
from zoo.source_imaging import head_model
from zoo.source_imaging.head_model import Conductor
from zoo.source_imaging.recording import Recording, read

MODEL = "unet3d.eeg_sources"
_BATCH = 8
_KNOWN: dict[tuple[str, tuple[int, ...]], Kernels] = {}
_KEPT = 4
Times = float | tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Source:
    """One source.

    Attributes:
        mri_mm: place in the head's own MRI coordinates (surface RAS), mm: fsaverage's, or those of the own forward.
        mni_mm: place in MNI152, mm.
        moment_nam: moment along x, y, z of the MRI, nA m.
        explained: what of the topography's power would be lost without this source, 0 to 1.
        confidence: posterior mass within 15 mm over what a source that is certain would have, 0 to 1.
    """

    mri_mm: tuple[float, float, float]
    mni_mm: tuple[float, float, float]
    moment_nam: tuple[float, float, float]
    explained: float
    confidence: float


@dataclasses.dataclass(frozen=True)
class Located:
    """What was found.

    Attributes:
        estimate: `mne.VolSourceEstimate`, posterior probability of each place at each time, summing to 1 over places;
            its vertices are those of the own forward, or the numbers of the template's 5,215 places.
        sources: the most massive first.
        explained: goodness of fit of all sources together, 0 to 1.
        counts: (6,) probabilities of 0 to 5 sources; by the fit, where the card says so, which has one at least.
        time_s: time of the topography that was located, or the window whose main topography it was.
        share: of the window's power that this one topography holds; 1 for a single time.
        posterior: (5215,) of that topography.
        repairs: what was changed in the recording, a sentence each.
    """

    estimate: Any
    sources: tuple[Source, ...]
    explained: float
    counts: np.ndarray
    time_s: tuple[float, float]
    share: float
    posterior: np.ndarray
    repairs: tuple[str, ...]

    def table(self) -> list[dict[str, float]]:
        """The sources as rows of plain numbers, for a CSV or `pandas.DataFrame`."""
        rows = []
        for number, source in enumerate(self.sources, start=1):
            places = {"mri": source.mri_mm, "mni": source.mni_mm, "moment": source.moment_nam}
            named = {
                f"{name}_{axis}_{'nam' if name == 'moment' else 'mm'}": round(float(value), 2)
                for name, values in places.items()
                for axis, value in zip("xyz", values, strict=True)
            }
            strength = round(float(np.linalg.norm(source.moment_nam)), 2)
            fit = {"explained": round(source.explained, 4), "confidence": round(source.confidence, 4)}
            rows.append({"source": number, **named, "strength_nam": strength, **fit})
        return rows

    def image(self) -> Any:
        """The posterior as a nibabel image of the template's grid in MNI152, one value a 7 mm voxel."""
        import nibabel

        return nibabel.Nifti1Image(
            grid.to_box(self.posterior.astype(np.float32)), head_model.MNI152_FROM_305 @ grid.affine()
        )

    def plot(self, path: str | os.PathLike | None = None) -> Any:
        """Draws posterior and sources on the MNI152 template.

        Args:
            path: also save the picture there.

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
class Settings:
    """What a card says of a model's input and of how its output is read; older cards say less.

    Attributes:
        sbl_steps: after how many steps of sparse Bayesian learning the input has a map.
        sbl_share: share of the last of these maps in the posterior.
        reach_mm: how far a dipole may lie from where the posterior has most mass.
        count_by_fit: whether the number of sources is that of the best fit, not what the network says.
    """

    sbl_steps: tuple[int, ...] = ()
    sbl_share: float = 0.0
    reach_mm: float = decode.REACH_MM
    count_by_fit: bool = False


class Locator:
    """A network and the kernels of one montage on one head, for as many topographies as there are.

    Args:
        model: name or folder of a trained model.
        field: lead field of the channels at the 5,215 places.
        inside: (5215,) where sources can be; everywhere without.

    Raises:
        ValueError: no such model, or it does not locate sources.
    """

    def __init__(self, model: str | os.PathLike, field: LeadField, *, inside: np.ndarray | None = None) -> None:
        folder = str(trained_models.find(model))
        self.settings = _settings(folder)
        self.network = _network(folder)
        self.kernels = _kernels(field, self.settings.sbl_steps)
        self.field = field
        self.inside = inside

    def __call__(self, topographies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Posteriors of topographies (n, channels), any unit: (n, 5215) summing to 1, and counts (n, 6), 0 to 5."""
        found = [self._some(topographies[first : first + _BATCH]) for first in range(0, len(topographies), _BATCH)]
        posteriors, counts = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return posteriors, counts

    def _some(self, topographies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        number = len(topographies)
        # Two shapes in all, or every new number would compile anew.
        filled = topographies if number in (1, _BATCH) else np.resize(topographies, (_BATCH, topographies.shape[1]))
        volumes = self.kernels.apply(filled)
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
        """Dipoles of one topography (channels,), V, and the posterior mass of each, the largest first."""
        places, masses = decode.peaks(posterior, count)
        return decode.refine(places, topography, self.field.matrix, reach_mm=self.settings.reach_mm), masses

    def count(self, topography: np.ndarray, posterior: np.ndarray, told: np.ndarray) -> np.ndarray:
        """Probabilities of 0 to 5 sources (6,): those that the network told, or by the fit where the card says so."""
        if not self.settings.count_by_fit:
            return told
        some = decode.count_by_fit(posterior, topography, self.field.matrix)
        return np.concatenate([[0.0], some])  # a fit has one source at least


def locate_sources(
    recording: Any,
    forward: Any = None,
    *,
    model: str | os.PathLike = MODEL,
    times: Times = None,
    count: int | None = None,
) -> Located:
    """Locates the sources of an EEG topography.

    Bad and flat channels are left out and the average of the others is the reference; `repairs` tells what was done.
    Without `forward` the head is fsaverage: a channel is placed by its 10-05 name, or by its position. The posterior
    is the network's, and partly that of sparse Bayes where the card says so; each source is then a dipole fitted to the
    data within the card's reach of where the posterior has most mass.

    Args:
        recording: an `mne.Evoked`, `mne.Epochs` (their average) or a segment of `mne.io.Raw` with 19 to 256 good EEG
            channels, or a file of one.
        forward: an own `mne.Forward` of free orientation; its channels include the recording's.
        model: name or folder of a trained model.
        times: the time to look at in s; a window, whose main topography (first singular vector) is located and whose
            every sample is in the estimate; None for the time of the largest global field power.
        count: the number of sources, 1 to 5; None takes the most probable one, at least 1.

    Returns:
        What was found.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: not an mne object of these kinds.
        ValueError: no such model; MEG alone; no montage; fewer than 19 good EEG channels; NaN or infinity; flat
            channels only; times outside the recording; or a forward that does not fit the channels.
        ImportError: mne is not installed.
    """
    mne = head_surfaces.require_mne()
    if count is not None and not 1 <= count <= decode.MAX_SOURCES:
        raise ValueError(f"count is the number of sources, 1 to {decode.MAX_SOURCES}, or None, got {count}.")
    eeg = read(recording)
    conductor, eeg = head_model.template(eeg) if forward is None else head_model.of_forward(eeg, forward)
    window = _window(eeg, times)
    topography, share = _main(eeg.data[:, window])
    locator = Locator(model, conductor.field, inside=conductor.inside)
    posteriors, counts = locator(np.concatenate([topography[None], eeg.data[:, window].T]))
    probable = locator.count(topography, posteriors[0], counts[0])
    number = int(probable[1:].argmax()) + 1 if count is None else count
    fit, masses = locator.decode(topography, posteriors[0], number)
    step = 1.0 if len(eeg.times_s) < 2 else float(eeg.times_s[1] - eeg.times_s[0])
    estimate = mne.VolSourceEstimate(
        _on_vertices(conductor, posteriors[1:]).T,
        conductor.vertices,
        tmin=float(eeg.times_s[window[0]]),
        tstep=step,
        subject=conductor.subject,
    )
    return Located(
        estimate,
        _sources(conductor, fit, masses),
        fit.explained,
        probable,
        (float(eeg.times_s[window[0]]), float(eeg.times_s[window[-1]])),
        share,
        posteriors[0],
        eeg.repairs,
    )


def _window(eeg: Recording, times: Times) -> np.ndarray:
    """Numbers of the samples to look at."""
    if times is None:
        return np.array([int(np.square(eeg.data).sum(0).argmax())])
    wanted = (times, times) if isinstance(times, int | float) else tuple(times)
    if len(wanted) != 2 or not eeg.times_s[0] - 1e-9 <= wanted[0] <= wanted[1] <= eeg.times_s[-1] + 1e-9:
        raise ValueError(
            f"times must lie within {eeg.times_s[0]:g} to {eeg.times_s[-1]:g} s, one time or (first, last), "
            f"got {times}."
        )
    first, last = np.abs(eeg.times_s - wanted[0]).argmin(), np.abs(eeg.times_s - wanted[1]).argmin()
    return np.arange(first, last + 1)


def _main(data: np.ndarray) -> tuple[np.ndarray, float]:
    """The topography that explains most of (channels, times), as large as at its strongest time, and its share."""
    left, values, right = np.linalg.svd(data, full_matrices=False)
    if not values[0]:
        raise ValueError("The recording is flat at these times: there is nothing to locate.")
    strongest = right[0, np.abs(right[0]).argmax()]
    return left[:, 0] * values[0] * strongest, float(values[0] ** 2 / np.square(values).sum())


def _on_vertices(conductor: Conductor, posteriors: np.ndarray) -> np.ndarray:
    """Posteriors (times, 5215) on the vertices of the source space, each summing to 1."""
    values = np.where(conductor.nearest >= 0, posteriors[:, conductor.nearest], 0.0)
    return values / np.maximum(values.sum(1, keepdims=True), 1e-30)


def _sources(conductor: Conductor, fit: decode.Fit, masses: np.ndarray) -> tuple[Source, ...]:
    certain = np.minimum(masses * len(masses), 1.0)
    return tuple(
        Source(
            _triple(conductor.field.positions_mm[place]),
            _triple(conductor.mni_mm[place]),
            _triple(moment * 1e9),
            float(own),
            float(confidence),
        )
        for place, moment, own, confidence in zip(fit.places, fit.moments, fit.own, certain, strict=True)
    )


def _triple(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _kernels(field: LeadField, sbl_steps: tuple[int, ...]) -> Kernels:
    """The kernels of a field; those of the last few are kept, they take seconds."""
    key = (field.key, sbl_steps)
    if key not in _KNOWN:
        while len(_KNOWN) >= _KEPT:
            _KNOWN.pop(next(iter(_KNOWN)))
        _KNOWN[key] = kernels(field, sbl_steps)
    return _KNOWN[key]


def _settings(folder: str) -> Settings:
    card = card_file.read(folder)
    told = {
        key: value for step in (*card.preprocessing, *card.postprocessing) for key, value in step.parameters.items()
    }
    known = {field.name: told[field.name] for field in dataclasses.fields(Settings) if field.name in told}
    return Settings(**known | {"sbl_steps": tuple(known.get("sbl_steps", ()))})


@functools.lru_cache(maxsize=2)
def _network(folder: str) -> Any:
    card = card_file.read(folder)
    if card.output.kind != "sources":
        raise ValueError(f"{card.name} does not locate sources, its output is {card.output.kind!r}. Pass {MODEL!r}.")
    return prepare(trained_models.load(folder))


def write(found: Located, folder: str | os.PathLike, name: str) -> list[Path]:
    """Writes `NAME_sources.csv` and `NAME_posterior.nii.gz` (MNI152), each whole or not at all.

    Returns:
        The files.
    """
    from zoo.files import csv_text
    from zoo.volumes import image

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = write_whole(folder / f"{name}_sources.csv", csv_text(found.table()).encode())
    volume = found.image()
    return [table, image.write(folder / f"{name}_posterior.nii.gz", np.asanyarray(volume.dataobj), volume)]
