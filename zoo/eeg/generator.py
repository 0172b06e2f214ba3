"""Makes test sets of topographies without inverse crime: other elements, other places, noise of unknown size.

The truth comes from boundary elements of grade 4 at places anywhere between those of the grid; the methods
under test invert with grade 3 on the grid.
"""

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist

from zoo.eeg import grid, head_surfaces
from zoo.eeg.leadfield import LeadField, lead_field
from zoo.errors import unknown_choice

# name -> fewest and most sources, and whether they are patches.
SETS = {"D1": (1, 1, False), "D2": (2, 2, False), "D3": (3, 3, False), "P13": (1, 3, True)}
SEEDS = {"validation": 71, "test": 97}
MAX_SOURCES = 3
APART_MM = 30.0
PATCH_SD_MM = (5.0, 12.0)
STRENGTH = (0.5, 1.0)
SNR_DB = (5.0, 20.0)
CLOUD_MM, CLOUD_DEPTH_MM = 5.0, 7.0


@dataclasses.dataclass(frozen=True)
class TestSet:
    """Holds topographies and the sources that made them.

    Attributes:
        topographies: (n, channels) float64, V for moments in A m, average reference, noise included; with time
            (n, channels, samples).
        clean: the same without noise.
        snr_db: (n,), power of the signal over that of the noise.
        positions_mm: (n, 3, 3), MRI coordinates of the head; NaN where a case has fewer sources.
        moments: (n, 3, 3), A m along x, y, z of the MRI; NaN likewise. Of a patch: the sum over its places.
        sd_mm: (n, 3), of the patches, 0 for dipoles; NaN likewise.
        depth_mm: (n, 3), below the inner skull of the template, before the head's warp; NaN likewise.
        names: of the channels.
    """

    __test__ = False  # not a test for pytest to collect

    topographies: np.ndarray
    clean: np.ndarray
    snr_db: np.ndarray
    positions_mm: np.ndarray
    moments: np.ndarray
    sd_mm: np.ndarray
    depth_mm: np.ndarray
    names: tuple[str, ...]

    @property
    def num_sources(self) -> np.ndarray:
        """Returns the number of sources of each case, (n,)."""
        return np.isfinite(self.positions_mm[..., 0]).sum(1)

    @property
    def sources_mm(self) -> list[np.ndarray]:
        """Returns the positions of each case, (k, 3), without the empty rows."""
        return [case[np.isfinite(case[:, 0])] for case in self.positions_mm]

    @property
    def noise_sd(self) -> np.ndarray:
        """Returns the standard deviation of a channel's noise before the average reference, V, (n,)."""
        power = np.square(self.clean.reshape(len(self.clean), len(self.names), -1)).sum(1).mean(1)
        return np.sqrt(power / (len(self.names) - 1) / 10 ** (self.snr_db / 10))


@dataclasses.dataclass(frozen=True)
class Truth:
    """Holds the places where true sources can be: a lead field off the grid, and the depth of its places.

    Attributes:
        field: of all 335 positions at the places of a head.
        template_mm: (places, 3), the same places in the template.
        depth_mm: (places,), below the template's inner skull.
    """

    field: LeadField
    template_mm: np.ndarray
    depth_mm: np.ndarray


def cloud(seed: int) -> np.ndarray:
    """Draws places in the template's brain: one in each cube of 5 mm, 7 mm or more below the skull.

    Returns:
        (about 11,000, 3) float32, mm.
    """
    random = np.random.default_rng([seed, 5])
    low, high = grid.grid()[0].min(0), grid.grid()[0].max(0)
    axes = [np.arange(start, stop, CLOUD_MM) for start, stop in zip(low, high, strict=True)]
    corners = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    points = (corners + random.uniform(0, CLOUD_MM, corners.shape)).astype(np.float32)
    return points[grid.depth_mm(points) >= CLOUD_DEPTH_MM]


def truth(
    head: str | int | head_surfaces.Head = "fsaverage",
    *,
    split: str = "test",
    skull_ratio: float | None = None,
    grade: int = 4,
) -> Truth:
    """Returns the lead field that test sets are made with; takes minutes the first time, then reads the cache.

    Args:
        head: as in `head_surfaces.head`.
        split: `"test"` or `"validation"`; the two share no place.
        skull_ratio: a ratio other than the head's, to test the effect of a wrong skull.
        grade: of the boundary elements.
    """
    if split not in SEEDS:
        raise unknown_choice("split", split, SEEDS)
    points = cloud(SEEDS[split])
    field = lead_field(head, skull_ratio=skull_ratio, points_mm=points, grade=grade)
    return Truth(field, points, grid.depth_mm(points))


def make_set(
    name: str,
    truth: Truth,
    montage: Sequence[str],
    *,
    seed: int,
    size: int = 200,
    samples: int = 1,
    correlation: float = 0.0,
) -> TestSet:
    """Draws one of the test sets of `SETS`.

    Sources are dipoles at places of the cloud, or patches (Gaussian weights of SD 5 to 12 mm around them, one
    direction), 30 mm or more apart, with directions uniform on the sphere. The strongest has a topography of norm 1 nV,
    the others of 0.5 to 1 of that; white noise is added against the average reference at 5 to 20 dB. With `samples`,
    each source has its own Gaussian time course of unit power.

    Args:
        name: `"D1"`, `"D2"`, `"D3"` (1, 2, 3 dipoles) or `"P13"` (1 to 3 patches).
        truth: the field.
        montage: names of the channels.
        seed: >= 0; the same seed draws the same places and moments on any head of the same split.
        size: number of cases.
        samples: time points; above 1 the topographies have a third axis.
        correlation: of the time courses of any two sources, 0 to 1.

    Raises:
        ValueError: an unknown set or channel, or a correlation out of range.
    """
    if name not in SETS:
        raise unknown_choice("set", name, SETS)
    if not 0 <= correlation <= 1:
        raise ValueError(f"correlation is that of two time courses, 0 to 1, got {correlation}.")
    field = truth.field.montage(montage)
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    cases = [_draw_case(name, truth, field, random) for _ in range(size)]
    topographies, places, moments, extents = (_stack_padded([case[part] for case in cases]) for part in range(4))
    snr_db = random.uniform(*SNR_DB, size)
    courses = random.standard_normal((size, MAX_SOURCES, samples)) if samples > 1 else np.ones((size, MAX_SOURCES, 1))
    if correlation and samples > 1:
        shared = random.standard_normal((size, 1, samples))
        courses = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * courses
    clean = np.nan_to_num(topographies).transpose(0, 2, 1) @ courses
    noiseless = TestSet(
        clean,
        clean,
        snr_db,
        _take_rows(field.positions_mm, places),
        moments,
        extents,
        _take_rows(truth.depth_mm, places),
        field.names,
    )
    noise = noiseless.noise_sd[:, None, None] * random.standard_normal(clean.shape)
    noisy = clean + noise - noise.mean(1, keepdims=True)
    if samples == 1:
        noisy, clean = noisy[..., 0], clean[..., 0]
    return dataclasses.replace(noiseless, topographies=noisy, clean=clean)


def _draw_case(
    name: str, truth: Truth, field: LeadField, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draws one case: topographies (k, channels) in V, places (k,), moments (k, 3) in A m, extents (k,)."""
    fewest, most, patches = SETS[name]
    num = int(random.integers(fewest, most + 1))
    places = _draw_places(num, truth.template_mm, random)
    extents = random.uniform(*PATCH_SD_MM, num) if patches else np.zeros(num)
    moments = random.standard_normal((num, 3))
    moments /= np.linalg.norm(moments, axis=1, keepdims=True)
    gains = [_gain(field, place, extent) for place, extent in zip(places, extents, strict=True)]
    seen = np.stack([gain @ moment for gain, moment in zip(gains, moments, strict=True)])
    strength = random.uniform(*STRENGTH, num)
    strength[random.integers(num)] = 1.0
    factor = 1e-9 * strength / np.linalg.norm(seen, axis=1)
    return seen * factor[:, None], places, moments * factor[:, None], extents


def _draw_places(num: int, points_mm: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draws `num` places that lie 30 mm or more from each other."""
    while True:
        places = random.integers(len(points_mm), size=num)
        distances = cdist(points_mm[places], points_mm[places])[np.triu_indices(num, 1)]
        if (distances >= APART_MM).all():
            return places


def _gain(field: LeadField, place: int, sd_mm: float) -> np.ndarray:
    """Returns the gain (channels, 3) of a dipole, or of places around it weighted by a Gaussian of mass 1."""
    if not sd_mm:
        return field.matrix[:, place].astype(float)
    squared = np.square(field.positions_mm - field.positions_mm[place]).sum(1)
    near = np.flatnonzero(squared < (3 * sd_mm) ** 2)
    weights = np.exp(-squared[near] / (2 * sd_mm**2))
    return np.einsum("cnd,n->cd", field.matrix[:, near], weights / weights.sum())


def _stack_padded(rows: list[np.ndarray]) -> np.ndarray:
    """Stacks arrays (k, ...) into one (n, 3, ...), NaN after the k-th row."""
    filled = np.full((len(rows), MAX_SOURCES, *rows[0].shape[1:]), np.nan)
    for target, row in zip(filled, rows, strict=True):
        target[: len(row)] = row
    return filled


def _take_rows(table: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns rows of a table by index; NaN where the index is NaN."""
    values = np.asarray(table, float)[np.nan_to_num(places).astype(int)]
    values[np.isnan(places)] = np.nan
    return values
