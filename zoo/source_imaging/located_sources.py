"""The result of `zoo.locate_sources`: sources in the brain, their table, picture and files."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from zoo.eeg import grid
from zoo.files import replacing, write_whole
from zoo.source_imaging.head_model import MNI152_FROM_305

LOCATED, NONE = "located", "no source above noise"
TEMPLATE = "fsaverage"
_COLUMNS = (
    "source",
    *(f"{name}_{axis}_mm" for name in ("mri", "mni") for axis in "xyz"),
    *(f"moment_{axis}_nam" for axis in "xyz"),
    "strength_nam",
    "explained",
    "confidence",
    "from_peak_mm",
    "credible_ml",
)


@dataclasses.dataclass(frozen=True)
class LocatedSource:
    """One dipole in the brain.

    Attributes:
        mri_mm: place in the head's own MRI coordinates (surface RAS), mm: fsaverage's, or those of the forward passed.
        mni_mm: place in MNI152, mm.
        moment_nam: moment along x, y, z of the MRI, nA m.
        explained: share of the topography's power that would be lost without this source, 0 to 1.
        confidence: posterior mass within 15 mm, as a share of what a certain source would have, times the probability
            that there are so many sources; 0 to 1.
        from_peak_mm: how far the fit to the data moved the dipole from the middle of the posterior's ball, mm.
        credible_ml: volume of the fewest places that hold 95 % of the source's posterior, ml; 0.34 ml is one place.
    """

    mri_mm: tuple[float, float, float]
    mni_mm: tuple[float, float, float]
    moment_nam: tuple[float, float, float]
    explained: float
    confidence: float
    from_peak_mm: float
    credible_ml: float = float("nan")


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What tells a topography from noise.

    Attributes:
        noise: where the noise was measured; "unknown" where it was not.
        power: power of the topography over that of noise, after whitening; None where the noise is unknown.
        chance: probability that noise alone looks so: by its power; where the noise is unknown, by how well one dipole
            explains it.
        residual: power of what the sources leave, over that of noise: about 1 where they explain the signal; None where
            the noise is unknown.
    """

    noise: str
    power: float | None
    chance: float
    residual: float | None


@dataclasses.dataclass(frozen=True)
class LocatedSources:
    """The sources of a topography, and the posterior that they were read from.

    Attributes:
        estimate: `mne.VolSourceEstimate` in nA m: the strength of all sources at each time, spread over the places by
            the posterior of that time. `estimate.plot(source_space)`, `.as_volume(source_space)` and `.save` work.
        source_space: `mne.SourceSpaces` of the estimate: that of the forward passed, or the template's 5,215 places.
        sources: the one with most posterior mass first; none where nothing stands above the noise.
        status: "located", or "no source above noise".
        evidence: what tells the topography from noise.
        explained: goodness of fit of all sources together, 0 to 1.
        counts: (6,) probabilities of 0 to 5 sources; 0 is certain where nothing stands above the noise.
        time_s: first and last time of the window whose main topography was located; equal for a single time.
        share: share of the window's power in that topography; 1 for a single time.
        posterior: (5215,) posterior of that topography.
        courses_nam: (sources, times) strength of each source along its moment, nA m, over the whole average, or one
            second around the window of a continuous recording.
        course_times_s: (times,) s.
        electrode_rms_mm: root mean square distance to the template's scalp of electrodes placed by position; None
            where names or a forward placed all.
        repairs: what was changed in the recording, a sentence each.
        notes: what to know about this result, a sentence each.
        method: "network" or "sparse_bayes".
        moments_nam: (sources, 3, times) moment of each source at `course_times_s`, along x, y, z of the MRI, nA m.
        places: (sources, 5215) probability of each place for each source.
        vertex_posterior: (vertices,) the posterior on the source space, summing to 1; None where there is no estimate.
    """

    estimate: Any
    source_space: Any
    sources: tuple[LocatedSource, ...]
    status: str
    evidence: Evidence
    explained: float
    counts: np.ndarray
    time_s: tuple[float, float]
    share: float
    posterior: np.ndarray
    courses_nam: np.ndarray
    course_times_s: np.ndarray
    electrode_rms_mm: float | None
    repairs: tuple[str, ...]
    notes: tuple[str, ...]
    method: str = "network"
    moments_nam: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 3, 0)))
    places: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, grid.NUM_PLACES)))
    vertex_posterior: np.ndarray | None = None

    def table(self) -> list[dict[str, float]]:
        """Returns the sources as rows of plain numbers, for a CSV or `pandas.DataFrame`."""
        rows = []
        for number, source in enumerate(self.sources, start=1):
            strength = float(np.linalg.norm(source.moment_nam))
            places = (*source.mri_mm, *source.mni_mm, *source.moment_nam, strength)
            fit = (source.explained, source.confidence)
            values = (*(round(value, 2) for value in places), *(round(value, 4) for value in fit))
            row = (number, *values, round(source.from_peak_mm, 2), round(source.credible_ml, 2))
            rows.append(dict(zip(_COLUMNS, row, strict=True)))
        return rows

    def courses(self) -> list[dict[str, float]]:
        """Returns the strength of each source over time as rows of plain numbers, nA m."""
        names = [f"source_{number}_nam" for number in range(1, len(self.sources) + 1)]
        return [
            {"time_s": round(float(time), 6), **dict(zip(names, np.round(values, 3).tolist(), strict=True))}
            for time, values in zip(self.course_times_s, self.courses_nam.T, strict=True)
        ]

    def summary(self) -> dict[str, Any]:
        """Returns what JSON has beside the table: status, number of sources, evidence, repairs and notes."""
        evidence = dataclasses.asdict(self.evidence)
        return {
            "status": self.status,
            "method": self.method,
            "count": len(self.sources),
            "counts": [round(float(value), 4) for value in self.counts],
            "time_s": [round(time, 6) for time in self.time_s],
            "evidence": {key: float(f"{v:.4g}") if isinstance(v, float) else v for key, v in evidence.items()},
            "electrode_rms_mm": None if self.electrode_rms_mm is None else round(self.electrode_rms_mm, 1),
            "repairs": list(self.repairs),
            "notes": list(self.notes),
        }

    @property
    def message(self) -> str:
        """Returns the result in a line for people."""
        at = f"{self.time_s[0]:g} s" if self.time_s[0] == self.time_s[1] else "{:g} to {:g} s".format(*self.time_s)
        if not self.sources:
            return " ".join([f"no source above noise at {at}.", *self.notes, *self.repairs])
        places = "; ".join("({:.0f}, {:.0f}, {:.0f})".format(*source.mni_mm) for source in self.sources)
        number = f"{len(self.sources)} source{'s' if len(self.sources) > 1 else ''}"
        text = f"{number} at {places} mm MNI, {self.explained:.0%} explained at {at}."
        return " ".join([text, *self.notes, *self.repairs])

    def image(self) -> Any:
        """Returns the posterior as a nibabel image of the template's grid in MNI152, one value per 7 mm voxel."""
        import nibabel

        return nibabel.Nifti1Image(grid.to_box(self.posterior.astype(np.float32)), MNI152_FROM_305 @ grid.affine())

    @property
    def own_head(self) -> bool:
        """Returns whether the head is another than the template."""
        return self.estimate is not None and self.estimate.subject != TEMPLATE

    @property
    def has_grid(self) -> bool:
        """Returns whether the estimate's source space is one regular grid, so that it has an image."""
        space = self.source_space
        return space is not None and len(space) == 1 and "shape" in space[0] and "src_mri_t" in space[0]

    def subject_image(self) -> Any:
        """Returns the posterior as a nibabel image of the head's own MRI, one voxel for each point of its source space.

        Its coordinates are the scanner's where the source space knows them, else those of the surfaces (tkRAS).

        Raises:
            ValueError: the sources of the forward solution lie on no regular grid, as those of a cortex.
        """
        import nibabel

        if self.vertex_posterior is None or not self.has_grid:
            raise ValueError(
                "The posterior is an image where the forward solution has a volume source space "
                "(mne.setup_volume_source_space(subject, pos=7.0)); these sources lie on no grid."
            )
        space = self.source_space[0]
        values = np.zeros(int(np.prod(space["shape"])), np.float32)
        values[space["vertno"]] = self.vertex_posterior
        affine = np.array(space["src_mri_t"]["trans"], float)
        if space.get("mri_ras_t") is not None:
            affine = space["mri_ras_t"]["trans"] @ affine
        affine[:3] *= 1e3
        return nibabel.Nifti1Image(values.reshape(space["shape"], order="F"), affine)

    def report(self, path: str | os.PathLike, *, title: str = "EEG sources") -> Path:
        """Writes one HTML file with sources, the posterior, courses and repairs; needs `zoo3d[report]`."""
        from zoo.source_imaging.source_report import write_report

        return write_report(self, path, title=title)

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
            title=f"{len(places)} sources, {self.explained:.0%} explained" if places else NONE,
        )
        if places:
            display.add_markers(np.array(places), marker_color="cyan", marker_size=30)
        if path is not None:
            with replacing(path) as temporary:
                display.savefig(str(temporary))
        return display


def write(located: LocatedSources, folder: str | os.PathLike, name: str) -> list[Path]:
    """Writes `NAME_sources.csv`, `NAME_posterior.nii.gz` (MNI152) and `NAME_courses.csv` (nA m over time).

    On an own head with a volume source space, `NAME_space-subject_posterior.nii.gz` has the posterior in its MRI.

    Returns:
        The files.

    Example:
        >>> files = write(zoo.locate_sources("spike-ave.fif"), "out", "sub-01")  # doctest: +SKIP
    """
    from zoo.files import csv_text
    from zoo.volumes import image

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = write_whole(folder / f"{name}_sources.csv", csv_text(located.table(), _COLUMNS).encode())
    volume = located.image()
    posterior = image.write(folder / f"{name}_posterior.nii.gz", np.asanyarray(volume.dataobj), volume)
    courses = write_whole(folder / f"{name}_courses.csv", csv_text(located.courses()).encode())
    written = [table, posterior, courses]
    if located.own_head and located.has_grid:
        volume = located.subject_image()
        values = np.asanyarray(volume.dataobj)
        written.append(image.write(folder / f"{name}_space-subject_posterior.nii.gz", values, volume))
    return written
