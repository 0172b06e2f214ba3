"""Clusters of a z-map, ranked by how unlikely they are, and how well they find a known lesion."""

import csv
import dataclasses
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage, stats

from zoo.evaluation import aggregate
from zoo.files import write_whole
from zoo.volumes.components import label_components

# A control has about three clusters at this p; it was chosen on synthetic patients of anatomies that trained.
P, LEAST_MM3 = 0.003, 80.0
WITHIN = (1, 3, 5, 10)
LARGEST = 0.1  # of what was judged; a larger cluster touches every lesion and points at none
COLUMNS = ("rank", "x_mm", "y_mm", "z_mm", "volume_mm3", "score", "peak_z")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """One connected set of voxels that controls do not have.

    Attributes:
        rank: 1 is the least likely.
        centre_mm: of its peak, in the image's world coordinates.
        volume_mm3: its volume.
        score: sum over its voxels of -log p, natural, times the volume of a voxel: size and deviation in one.
        peak_z: its largest z.
        voxels: (n, 3) which voxels.
    """

    rank: int
    centre_mm: tuple[float, float, float]
    volume_mm3: float
    score: float
    peak_z: float
    voxels: np.ndarray = dataclasses.field(repr=False)


def clusters(
    z: np.ndarray, affine: np.ndarray, *, p: float = P, least_mm3: float = LEAST_MM3, top: int | None = None
) -> tuple[Cluster, ...]:
    """The clusters of a z-map (26 neighbours), least likely first.

    Args:
        z: (x, y, z) normal deviates; 0 outside the brain.
        affine: (4, 4), voxels to mm.
        p: a voxel counts where fewer than this share of controls' voxels are as far out.
        least_mm3: smallest volume of a cluster.
        top: how many are kept; None for all.

    Raises:
        ValueError: p outside 0 to 1/2.

    Source: Alaverdyan et al., Medical Image Analysis 2020, doi 10.1016/j.media.2019.101618.
    """
    if not 0 < p < 0.5:
        raise ValueError(f"p is the share of healthy voxels to pass, over 0 and under 0.5, got {p}. {P} is usual.")
    numbered, _ = label_components(z > stats.norm.isf(p))
    voxel_mm3 = abs(float(np.linalg.det(affine[:3, :3])))
    found = []
    for number, box in enumerate(ndimage.find_objects(numbered), start=1):
        voxels = np.argwhere(numbered[box] == number) + [side.start for side in box]
        if len(voxels) * voxel_mm3 < least_mm3:
            continue
        values = z[tuple(voxels.T)].astype(float)
        peak = affine @ [*voxels[np.argmax(values)], 1]
        score = float(-stats.norm.logsf(values).sum() * voxel_mm3)
        found.append(Cluster(0, _triple(peak), len(voxels) * voxel_mm3, score, float(values.max()), voxels))
    found.sort(key=lambda one: -one.score)
    return tuple(dataclasses.replace(one, rank=rank) for rank, one in enumerate(found[:top], start=1))


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values[:3])
    return x, y, z


def rank_map(found: Iterable[Cluster], shape: Sequence[int]) -> np.ndarray:
    """(x, y, z) int16: the rank of the cluster that a voxel belongs to, 0 for none."""
    ranks = np.zeros(tuple(shape), np.int16)
    for one in found:
        ranks[tuple(one.voxels.T)] = one.rank
    return ranks


def write_clusters(found: Iterable[Cluster], path: str | os.PathLike) -> Path:
    """Writes one row a cluster as CSV, whole or not at all; a header alone where there is none."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for one in found:
        numbers = (*one.centre_mm, one.volume_mm3, one.score, one.peak_z)
        rows.writerow([one.rank, *(f"{number:.2f}" for number in numbers)])
    return write_whole(path, text.getvalue().encode())


@dataclasses.dataclass(frozen=True)
class Judged:
    """How one person's map fared.

    Attributes:
        kind: of the lesion.
        rank: of the first cluster that touches it; None where none does.
        clusters: how many there are.
        auprc: area under the precision-recall curve over the voxels; NaN without a lesion.
    """

    kind: str
    rank: int | None
    clusters: int
    auprc: float


def judged(z: np.ndarray, affine: np.ndarray, lesion: np.ndarray, inside: np.ndarray, *, kind: str = "") -> Judged:
    """Measures a z-map against the lesion that is there; a cluster of a tenth of the brain or more finds nothing.

    Args:
        z: (x, y, z) normal deviates.
        affine: (4, 4), voxels to mm.
        lesion: (x, y, z) bool on the same grid.
        inside: (x, y, z) bool, the voxels that were judged.
        kind: name of the lesion's kind.
    """
    found = clusters(z, affine)
    most = LARGEST * inside.sum()
    touching = (one for one in found if len(one.voxels) < most and lesion[tuple(one.voxels.T)].any())
    rank = next((one.rank for one in touching), None)
    return Judged(kind, rank, len(found), average_precision(z[inside], lesion[inside]))


def coarse(lesion: np.ndarray, step: int) -> np.ndarray:
    """A mask on a grid of every `step`-th voxel: whether any voxel nearer to this place than to the next is set."""
    half = step // 2
    padded = np.pad(lesion, [(half, -(size + half) % step) for size in lesion.shape])
    blocks = [length for size in padded.shape for length in (size // step, step)]
    found = np.max(padded.reshape(blocks), axis=(1, 3, 5))
    return found[tuple(slice(-(-size // step)) for size in lesion.shape)]


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the precision-recall curve as a sum over distinct scores; NaN where nothing is true."""
    if not truth.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])
    last = np.append(np.diff(scores[order]).astype(bool), True)  # ties count together
    precision, recall = hits[last] / (np.flatnonzero(last) + 1), hits[last] / hits[-1]
    return float(np.sum(precision * np.diff(recall, prepend=0)))


def summary(patients: Sequence[Judged], controls: Sequence[Judged] = ()) -> dict[str, float]:
    """Sensitivity within so many clusters, mean AUPRC, sensitivity within 5 by kind, clusters a control."""
    row: dict[str, float] = {"n": len(patients)}
    for most in WITHIN:
        row[f"sensitivity_within_{most}"] = _share(patients, most)
    row["auprc"] = float(aggregate.mean(one.auprc for one in patients))
    for kind in sorted({one.kind for one in patients}):
        row[f"sensitivity_within_5_{kind}"] = _share([one for one in patients if one.kind == kind], 5)
        row[f"auprc_{kind}"] = float(aggregate.mean(one.auprc for one in patients if one.kind == kind))
    if controls:
        row["clusters_a_control"] = float(np.mean([one.clusters for one in controls]))
    return row


def intervals(patients: Sequence[Judged], *, within: int = 5) -> dict[str, float]:
    """Bootstrap intervals (95 %) over patients: `auprc_low`, `auprc_high` and those of `sensitivity_within_5`."""
    share = f"sensitivity_within_{within}"
    cases = {
        f"patient {number}": {1: {"auprc": one.auprc, share: float(one.rank is not None and one.rank <= within)}}
        for number, one in enumerate(patients)
    }
    rows = [row for row in aggregate.summarise(cases, metrics=("auprc", share)) if row["label"] == "1"]
    return {f"{row['metric']}_{end}": float(row[end]) for row in rows for end in ("low", "high")}


def _share(some: Sequence[Judged], most: int) -> float:
    return float(np.mean([one.rank is not None and one.rank <= most for one in some]))
