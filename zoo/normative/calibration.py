"""Calibrates a detector's scores: turns them into z that mean the same at every voxel, by leaving controls out."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

from zoo.normative.owners import number_people

LADDER = np.arange(-4.0, 6.01, 0.02)
POOLED = 0.2  # share of the brain's typical variance in each voxel's own


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Holds how controls' scores are spread when each is scored by the others.

    A score, standardised by the voxel's mean and SD, is ranked among those of all controls and voxels; z is the normal
    deviate of that rank, so that one control voxel in a thousand lies over 3.09. Beyond the last control z continues
    along a straight line.

    Attributes:
        mean: (voxels,) mean of the null scores.
        sd: (voxels,) SD of the null scores.
        steps: standardised scores at the normal deviates `LADDER`, up to the largest that the controls support.

    Example:
        >>> null = np.random.default_rng(0).normal(size=(20, 500)).astype(np.float32)
        >>> Calibration.of(null).z(np.zeros(500)).shape
        (500,)
    """

    mean: np.ndarray
    sd: np.ndarray
    steps: np.ndarray

    @classmethod
    def of(cls, null: np.ndarray, people: Sequence[str] | None = None) -> "Calibration":
        """Returns the calibration of null scores; each is standardised by those of other people.

        Args:
            null: (controls, voxels), each control scored by the controls of other people.
            people: whose scan each control is; None where everybody has one.

        Raises:
            ValueError: fewer than three controls or people.
        """
        count = len(null)
        if count < 3:
            raise ValueError(f"A null needs the scores of 3 controls or more, got {count}.")
        owners = number_people(people, count)
        mean = null.mean(axis=0, dtype=np.float64)
        square = np.sum((null - mean) ** 2, axis=0)
        typical = np.median(square / count)
        standardised = [
            (null[owners == person] - others.mean(axis=0, dtype=np.float64))
            / np.sqrt(_shrink_variance(others.var(axis=0, dtype=np.float64), typical))
            for person in np.unique(owners)
            for others in (null[owners != person],)
        ]
        ranked = np.sort(np.concatenate(standardised).ravel())
        rungs = LADDER[(1 - stats.norm.cdf(LADDER)) * ranked.size >= 5]
        places = stats.norm.cdf(rungs) * (ranked.size - 1)
        steps = np.maximum.accumulate(np.interp(places, np.arange(ranked.size), ranked) + 1e-9 * np.arange(len(rungs)))
        sd = np.sqrt(_shrink_variance(square / count, typical))
        return cls(mean.astype(np.float32), sd.astype(np.float32), steps.astype(np.float32))

    def z(self, scores: np.ndarray) -> np.ndarray:
        """Returns normal deviates (..., voxels) float32 of scores (..., voxels)."""
        standardised = (scores - self.mean) / self.sd
        rungs = LADDER[: len(self.steps)]
        within = np.interp(standardised, self.steps, rungs)
        # The last unit of z gives the slope of the line beyond.
        before = max(len(rungs) - 51, 0)
        rise = (rungs[-1] - rungs[before]) / max(float(self.steps[-1] - self.steps[before]), 1e-6)
        beyond = rungs[-1] + rise * (standardised - self.steps[-1])
        return np.where(standardised > self.steps[-1], beyond, within).astype(np.float32)


def _shrink_variance(variance: np.ndarray, typical: float) -> np.ndarray:
    return np.maximum((1 - POOLED) * variance + POOLED * typical, 1e-12)
