"""The result of `zoo.locate_sources`: sources in the brain, their table, picture and files."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from zoo.eeg import grid
from zoo.files import replacing, write_whole
from zoo.source_imaging.head_model import MNI152_FROM_305


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
