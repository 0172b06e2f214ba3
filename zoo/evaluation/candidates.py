"""Finds the candidates of a probability map, selects them by size, shape and place, and writes them as CSV."""

import dataclasses
import math
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from zoo.files import csv_text, write_whole
from zoo.volumes.components import label_components

ROUNDING = 1e-6  # relative: an affine in float32 must not decide whether two voxels in a row are twice as long as wide


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A connected component of a thresholded probability map.

    Attributes:
        centre_mm: its centre of mass, weighted by probability, in the image's world coordinates.
        diameter_mm: diameter of the ball of its volume.
        volume_mm3: its volume.
        elongation: longest over shortest principal SD, 1 for a cube; each voxel counts with its own extent.
        region: label at the voxel of its centre, 0 without regions.
        confidence: mean probability of its voxels.
    """

    centre_mm: tuple[float, float, float]
    diameter_mm: float
    volume_mm3: float
    elongation: float
    region: int
    confidence: float


def find_candidates(
    probability: np.ndarray, affine: np.ndarray, *, threshold: float = 0.5, regions: np.ndarray | None = None
) -> tuple[Candidate, ...]:
    """Measures the components of `probability > threshold` (26 neighbours), surest first.

    Args:
        probability: (x, y, z) in 0 to 1.
        affine: (4, 4), voxels to mm; may be oblique.
        threshold: from 0, below 1.
        regions: (x, y, z) integers on the same grid, for the region of each candidate.

    Returns:
        The candidates in descending order of confidence.

    Raises:
        ValueError: a threshold outside its range, or regions on another grid.

    Example:
        >>> probability = np.zeros((16, 24, 32))
        >>> probability[2:6, 4:6, 8:10] = 0.9
        >>> (candidate,) = find_candidates(probability, np.diag([1, 2, 3, 1]))
        >>> candidate.volume_mm3, candidate.elongation
        (96.0, 1.5)
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"A threshold lies from 0 to below 1, got {threshold}. Probabilities exceed it or do not.")
    if regions is not None and regions.shape != probability.shape:
        raise ValueError(
            f"Regions and probabilities share a grid, got {regions.shape} and {probability.shape}. "
            "Resample the regions to the image first."
        )
    numbered, _ = label_components(probability > threshold)
    where = np.argwhere(numbered)
    owners = numbered[tuple(where.T)]
    order = np.argsort(owners, kind="stable")
    where, starts = where[order], np.flatnonzero(np.diff(owners[order])) + 1
    groups = np.split(where, starts) if len(where) else []
    candidates = [_measure(voxels, probability, np.asarray(affine, float), regions) for voxels in groups]
    return tuple(sorted(candidates, key=lambda candidate: -candidate.confidence))


def _measure(voxels: np.ndarray, probability: np.ndarray, affine: np.ndarray, regions: np.ndarray | None) -> Candidate:
    weight = probability[tuple(voxels.T)].astype(float)
    centre = weight @ voxels / weight.sum()
    matrix = affine[:3, :3]
    # A voxel is a box, not a point: its own variance of 1/12 keeps lines and single voxels finite.
    spread = np.cov(voxels.T, bias=True) + np.eye(3) / 12
    principal = np.linalg.eigvalsh(matrix @ spread @ matrix.T)
    volume = len(voxels) * abs(float(np.linalg.det(matrix)))
    x, y, z = (matrix @ centre + affine[:3, 3]).tolist()
    return Candidate(
        centre_mm=(x, y, z),
        diameter_mm=(6 * volume / math.pi) ** (1 / 3),
        volume_mm3=volume,
        elongation=float(np.sqrt(principal[-1] / principal[0])),
        region=0 if regions is None else int(regions[tuple(np.rint(centre).astype(int))]),
        confidence=float(weight.mean()),
    )


def select(
    candidates: Iterable[Candidate],
    *,
    diameter_mm: tuple[float, float] = (3.0, 15.0),
    elongation: float = 3.0,
    impossible: Iterable[int] = (),
) -> tuple[Candidate, ...]:
    """Returns the candidates that have the size, the shape and the place of a lacune.

    What is smaller or drawn out is more likely a perivascular space.

    Args:
        candidates: as `find_candidates` returns them.
        diameter_mm: smallest and largest diameter.
        elongation: largest elongation.
        impossible: regions that cannot hold a lacune.

    Source:
        Wardlaw et al., Lancet Neurology 2013, doi:10.1016/S1474-4422(13)70124-8: 3 to 15 mm, round or ovoid; the
        elongation is our choice.

    Example:
        >>> dot = Candidate((0, 0, 0), diameter_mm=1.2, volume_mm3=1, elongation=1, region=0, confidence=0.9)
        >>> len(select([dot])), len(select([dot], diameter_mm=(1, 15)))
        (0, 1)
    """
    banned, (least, most) = frozenset(impossible), diameter_mm
    return tuple(
        candidate
        for candidate in candidates
        if least * (1 - ROUNDING) <= candidate.diameter_mm <= most * (1 + ROUNDING)
        and candidate.elongation <= elongation * (1 + ROUNDING)
        and candidate.region not in banned
    )


COLUMNS = ("x_mm", "y_mm", "z_mm", "diameter_mm", "volume_mm3", "elongation", "region", "confidence")


def write_candidates(candidates: Iterable[Candidate], path: str | os.PathLike) -> Path:
    """Writes one row for each candidate as CSV, whole or not at all; the header alone for none.

    Example:
        >>> write_candidates(find_candidates(probability, affine), "candidates.csv")  # doctest: +SKIP
        PosixPath('candidates.csv')
    """
    rows = []
    for candidate in candidates:
        sizes = (candidate.diameter_mm, candidate.volume_mm3, candidate.elongation)
        numbers = [f"{number:.3f}" for number in (*candidate.centre_mm, *sizes)]
        rows.append(dict(zip(COLUMNS, [*numbers, candidate.region, f"{candidate.confidence:.4f}"], strict=True)))
    return write_whole(path, csv_text(rows, COLUMNS).encode())
