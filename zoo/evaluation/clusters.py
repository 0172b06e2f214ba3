"""Ranks the clusters of a z-map by how unlikely they are, and scores how well they find a known lesion."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage, stats

from zoo.evaluation import aggregate
from zoo.files import csv_text, write_whole
from zoo.volumes.components import label_components

# A control has about three clusters at this p; it was chosen on synthetic patients of anatomies that trained.
P, LEAST_MM3 = 0.003, 80.0
WITHIN = (1, 3, 5, 10)
LARGEST = 0.1  # of the voxels inside; a larger cluster touches every lesion and points at none
COLUMNS = ("rank", "x_mm", "y_mm", "z_mm", "volume_mm3", "score", "peak_z")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A connected set of voxels that are unlike those of controls.

    Attributes:
        rank: 1 is the least likely.
        centre_mm: of its peak, in the image's world coordinates.
        volume_mm3: its volume.
        score: sum of -log p (natural) over its voxels, times the volume of a voxel: size and deviation in one.
        peak_z: its largest z.
        voxels: (n, 3), indices of its voxels.
    """

    rank: int
    centre_mm: tuple[float, float, float]
    volume_mm3: float
    score: float
    peak_z: float
    voxels: np.ndarray = dataclasses.field(repr=False)


def find_clusters(
    z: np.ndarray, affine: np.ndarray, *, p: float = P, least_mm3: float = LEAST_MM3, top: int | None = None
) -> tuple[Cluster, ...]:
    """Finds the clusters of a z-map (26 neighbours), least likely first.

    Args:
        z: (x, y, z) normal deviates; 0 outside the brain.
        affine: (4, 4), voxels to mm.
        p: a voxel counts where fewer than this share of controls' voxels are as far out.
        least_mm3: smallest volume of a cluster.
        top: number of clusters to return; None for all.

    Raises:
        ValueError: p outside 0 to 1/2.

    Source:
        Alaverdyan et al., Medical Image Analysis 2020, doi 10.1016/j.media.2019.101618.

    Example:
        >>> z = np.zeros((16, 24, 32))
        >>> z[2:7, 2:7, 2:7] = 4
        >>> [(cluster.rank, cluster.volume_mm3) for cluster in find_clusters(z, np.eye(4))]
        [(1, 125.0)]
    """
    if not 0 < p < 0.5:
        raise ValueError(f"p is the share of healthy voxels to pass, over 0 and under 0.5, got {p}. {P} is usual.")
    numbered, _ = label_components(z > stats.norm.isf(p))
    voxel_mm3 = abs(float(np.linalg.det(affine[:3, :3])))
    clusters = []
    for number, box in enumerate(ndimage.find_objects(numbered), start=1):
        voxels = np.argwhere(numbered[box] == number) + [side.start for side in box]
        if len(voxels) * voxel_mm3 < least_mm3:
            continue
        values = z[tuple(voxels.T)].astype(float)
        peak = affine @ [*voxels[np.argmax(values)], 1]
        score = float(-stats.norm.logsf(values).sum() * voxel_mm3)
        clusters.append(Cluster(0, _as_triple(peak), len(voxels) * voxel_mm3, score, float(values.max()), voxels))
    clusters.sort(key=lambda cluster: -cluster.score)
    return tuple(dataclasses.replace(cluster, rank=rank) for rank, cluster in enumerate(clusters[:top], start=1))


def _as_triple(values: Sequence[float]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values[:3])
    return x, y, z


def map_ranks(clusters: Iterable[Cluster], shape: Sequence[int]) -> np.ndarray:
    """Returns (x, y, z) int16: the rank of the cluster that a voxel belongs to, 0 for none."""
    ranks = np.zeros(tuple(shape), np.int16)
    for cluster in clusters:
        ranks[tuple(cluster.voxels.T)] = cluster.rank
    return ranks


def write_clusters(clusters: Iterable[Cluster], path: str | os.PathLike) -> Path:
    """Writes one row for each cluster as CSV, whole or not at all; the header alone for none."""
    rows = []
    for cluster in clusters:
        numbers = (*cluster.centre_mm, cluster.volume_mm3, cluster.score, cluster.peak_z)
        rows.append(dict(zip(COLUMNS, [cluster.rank, *(f"{number:.2f}" for number in numbers)], strict=True)))
    return write_whole(path, csv_text(rows, COLUMNS).encode())


@dataclasses.dataclass(frozen=True)
class MapScore:
    """How well one person's z-map points at the lesion.

    Attributes:
        kind: of the lesion.
        rank: of the first cluster that touches it; None where none does.
        clusters: their number.
        auprc: area under the precision-recall curve over the voxels; NaN without a lesion.
    """

    kind: str
    rank: int | None
    clusters: int
    auprc: float


def score_map(z: np.ndarray, affine: np.ndarray, lesion: np.ndarray, inside: np.ndarray, *, kind: str = "") -> MapScore:
    """Scores a z-map against the true lesion; a cluster of a tenth of the brain or more finds nothing.

    Args:
        z: (x, y, z) normal deviates.
        affine: (4, 4), voxels to mm.
        lesion: (x, y, z) bool on the same grid.
        inside: (x, y, z) bool, the voxels that z holds a value for.
        kind: name of the lesion's kind.

    Example:
        >>> z, inside = np.zeros((16, 24, 32)), np.ones((16, 24, 32), bool)
        >>> z[2:7, 2:7, 2:7] = 4
        >>> score_map(z, np.eye(4), z > 0, inside, kind="flair")
        MapScore(kind='flair', rank=1, clusters=1, auprc=1.0)
    """
    clusters = find_clusters(z, affine)
    most = LARGEST * inside.sum()
    touching = (cluster for cluster in clusters if len(cluster.voxels) < most and lesion[tuple(cluster.voxels.T)].any())
    rank = next((cluster.rank for cluster in touching), None)
    return MapScore(kind, rank, len(clusters), average_precision(z[inside], lesion[inside]))


def coarsen_mask(mask: np.ndarray, step: int) -> np.ndarray:
    """Brings a mask onto the grid of every `step`-th voxel: a place is set where any of the voxels nearest to it is.

    Example:
        >>> mask = np.zeros((7, 7, 7), bool)
        >>> mask[4, 0, 0] = True
        >>> np.argwhere(coarsen_mask(mask, 3)).tolist()
        [[1, 0, 0]]
    """
    half = step // 2
    padded = np.pad(mask, [(half, -(size + half) % step) for size in mask.shape])
    blocks = [length for size in padded.shape for length in (size // step, step)]
    coarse = np.max(padded.reshape(blocks), axis=(1, 3, 5))
    return coarse[tuple(slice(-(-size // step)) for size in mask.shape)]


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Returns the area under the precision-recall curve, summed over distinct scores; NaN where nothing is true.

    Args:
        scores: (n,), larger is surer.
        truth: (n,) bool.

    Example:
        >>> average_precision(np.array([0.9, 0.8, 0.1]), np.array([True, False, True])).__round__(3)
        0.833
    """
    if not truth.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])
    last = np.append(np.diff(scores[order]).astype(bool), True)  # ties count together
    precision, recall = hits[last] / (np.flatnonzero(last) + 1), hits[last] / hits[-1]
    return float(np.sum(precision * np.diff(recall, prepend=0)))


def summarise_scores(patients: Sequence[MapScore], controls: Sequence[MapScore] = ()) -> dict[str, float]:
    """Returns sensitivity within so many clusters, mean AUPRC, both by kind (within 5), and clusters per control.

    Example:
        >>> scores = summarise_scores([MapScore("flair", 1, 3, 0.5), MapScore("flair", None, 2, 0.1)])
        >>> scores["sensitivity_within_1"], scores["auprc_flair"]
        (0.5, 0.3)
    """
    row: dict[str, float] = {"n": len(patients)}
    for most in WITHIN:
        row[f"sensitivity_within_{most}"] = _share_within(patients, most)
    row["auprc"] = float(aggregate.mean(score.auprc for score in patients))
    for kind in sorted({score.kind for score in patients}):
        of_kind = [score for score in patients if score.kind == kind]
        row[f"sensitivity_within_5_{kind}"] = _share_within(of_kind, 5)
        row[f"auprc_{kind}"] = float(aggregate.mean(score.auprc for score in of_kind))
    if controls:
        row["clusters_a_control"] = float(np.mean([score.clusters for score in controls]))
    return row


def bootstrap_intervals(patients: Sequence[MapScore], *, within: int = 5) -> dict[str, float]:
    """Returns bootstrap intervals (95 %) over patients: `auprc_low`, `auprc_high` and of `sensitivity_within_5`."""
    share = f"sensitivity_within_{within}"
    cases = {
        f"patient {number}": {1: {"auprc": score.auprc, share: float(_is_within(score, within))}}
        for number, score in enumerate(patients)
    }
    rows = [row for row in aggregate.summarise(cases, metrics=("auprc", share)) if row["label"] == "1"]
    return {f"{row['metric']}_{end}": float(row[end]) for row in rows for end in ("low", "high")}


def _is_within(score: MapScore, most: int) -> bool:
    return score.rank is not None and score.rank <= most


def _share_within(scores: Sequence[MapScore], most: int) -> float:
    return float(np.mean([_is_within(score, most) for score in scores]))
