"""From a detector's score to a z that means the same everywhere: controls judged by the other controls."""

import dataclasses

import numpy as np
from scipy import stats

LADDER = np.arange(-4.0, 6.01, 0.02)
POOLED = 0.2  # share of the brain's typical variance in each voxel's own


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What controls' scores look like when each is judged by the others.

    A score less the voxel's mean and over its SD is ranked among those of all controls and voxels; the z is the normal
    deviate of that rank. One control voxel in a thousand then lies over 3.09. Beyond the last control z goes on along a
    straight line.

    Attributes:
        mean: (voxels,) of the null.
        sd: (voxels,) of the null.
        steps: standardised scores at the normal deviates `LADDER`, up to the largest that the controls support.
    """

    mean: np.ndarray
    sd: np.ndarray
    steps: np.ndarray

    @classmethod
    def of(cls, null: np.ndarray) -> "Calibration":
        """The calibration of null scores (controls, voxels); each is standardised without itself.

        Raises:
            ValueError: fewer than three controls.
        """
        count = len(null)
        if count < 3:
            raise ValueError(f"A null needs the scores of 3 controls or more, got {count}.")
        mean = null.mean(axis=0, dtype=np.float64)
        square = np.sum((null - mean) ** 2, axis=0)
        typical = np.median(square / count)
        apart = (null - mean) * count / (count - 1)
        left = (square - (null - mean) ** 2 * count / (count - 1)) / (count - 1)
        ranked = np.sort((apart / np.sqrt(_pooled(left, typical))).ravel())
        rungs = LADDER[(1 - stats.norm.cdf(LADDER)) * ranked.size >= 5]
        places = stats.norm.cdf(rungs) * (ranked.size - 1)
        steps = np.maximum.accumulate(np.interp(places, np.arange(ranked.size), ranked) + 1e-9 * np.arange(len(rungs)))
        sd = np.sqrt(_pooled(square / count, typical))
        return cls(mean.astype(np.float32), sd.astype(np.float32), steps.astype(np.float32))

    def z(self, scores: np.ndarray) -> np.ndarray:
        """Normal deviates (..., voxels) float32 of scores (..., voxels)."""
        given = (scores - self.mean) / self.sd
        rungs = LADDER[: len(self.steps)]
        found = np.interp(given, self.steps, rungs)
        # The last unit of z gives the slope of the line beyond.
        before = max(len(rungs) - 51, 0)
        rise = (rungs[-1] - rungs[before]) / max(float(self.steps[-1] - self.steps[before]), 1e-6)
        return np.where(given > self.steps[-1], rungs[-1] + rise * (given - self.steps[-1]), found).astype(np.float32)


def _pooled(variance: np.ndarray, typical: float) -> np.ndarray:
    return np.maximum((1 - POOLED) * variance + POOLED * typical, 1e-12)
