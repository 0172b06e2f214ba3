"""Measures generated volumes: their variety and likeness, their distribution, and the tissue in them.

`ms_ssim` is written in `keras.ops` and serves inside a compiled step; the others measure arrays.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

Tensor = Any
# Wang et al. 2003: how much each scale counts, the finest first.
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA, K1, K2 = 7, 1.5, 0.01, 0.03


def ms_ssim(
    images: Tensor,
    others: Tensor,
    *,
    span: Tensor,
    window: int = WINDOW,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Returns the multi-scale structural similarity of pairs of volumes.

    Compares contrast and structure at each scale under a Gaussian window (SD 1.5 voxels), at the coarsest the mean as
    well; averaging halves the scales. A negative mean counts as 0.

    Args:
        images: (batch, x, y, z, channels).
        others: the same shape.
        span: largest minus smallest value that images can have.
        window: edge of the window in voxels.
        weights: of the scales, the finest first; None takes as many of the five published ones as fit the volume,
            scaled to the sum 1.

    Returns:
        (batch,) float32, the mean over channels; 1 for equal volumes.

    Raises:
        ValueError: the shapes differ, or the volume is too small for the scales.

    Source: Wang, Simoncelli and Bovik 2003, doi 10.1109/ACSSC.2003.1292216; published for slices with a window of 11.

    Example:
        >>> volume = np.random.default_rng(0).random((1, 8, 9, 10, 1))
        >>> ms_ssim(volume, volume, span=1).numpy().round(3)
        array([1.], dtype=float32)
    """
    shape = tuple(images.shape)
    if shape[1:] != tuple(others.shape)[1:]:
        raise ValueError(f"Pairs of volumes share a shape, got {shape} and {tuple(others.shape)}. Crop one of them.")
    scale_weights = _scale_weights(shape[1:-1], window, weights)
    a, b = (_split_channels(ops.cast(each, "float32")) for each in (images, others))
    product: Any = 1.0
    for scale, weight in enumerate(scale_weights):
        structure, whole = _measure_similarity(a, b, span, window)
        last = scale == len(scale_weights) - 1
        product = product * ops.relu(whole if last else structure) ** weight
        if not last:
            a, b = (ops.average_pool(each, 2) for each in (a, b))
    return ops.mean(ops.reshape(product, (-1, shape[-1])), axis=-1)


def _scale_weights(sizes: Sequence[int], window: int, weights: Sequence[float] | None) -> list[float]:
    room = max(0, math.floor(math.log2(min(sizes) / window)) + 1)
    if room < (1 if weights is None else len(weights)):
        least = window * 2 ** (len(weights or (1,)) - 1)
        raise ValueError(
            f"A window of {window} voxels at {len(weights or (1,))} scale(s) needs {least} voxels a side, got "
            f"{tuple(sizes)}. Pass fewer weights, a smaller window or larger volumes."
        )
    if weights is not None:
        return list(weights)
    fitting = SCALES[: min(room, len(SCALES))]
    return [weight / sum(fitting) for weight in fitting]


def _split_channels(images: Tensor) -> Tensor:
    """Moves channels to the batch: (batch x channels, x, y, z, 1)."""
    sizes = tuple(images.shape)[1:-1]
    return ops.reshape(ops.transpose(images, (0, 4, 1, 2, 3)), (-1, *sizes, 1))


def _measure_similarity(a: Tensor, b: Tensor, span: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Returns means over each volume, (n,): of contrast and structure alone, and with the mean."""
    both = ops.concatenate([a, b, a * a, b * b, a * b], axis=0)
    mean_a, mean_b, square_a, square_b, product = ops.split(_blur(both, window), 5, axis=0)
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    variances = square_a - mean_a**2 + square_b - mean_b**2
    structure = (2 * (product - mean_a * mean_b) + c2) / (variances + c2)
    whole = structure * (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    axes = (1, 2, 3, 4)
    return ops.mean(structure, axis=axes), ops.mean(whole, axis=axes)


def _blur(volumes: Tensor, window: int) -> Tensor:
    """Blurs with the Gaussian window, only where all of it fits."""
    place = np.arange(window) - (window - 1) / 2
    line = np.exp(-0.5 * (place / SIGMA) ** 2)
    line = (line / line.sum()).astype(np.float32)
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[axis] = window
        volumes = ops.conv(volumes, ops.convert_to_tensor(line.reshape(shape)), padding="valid")
    return volumes


def pair_similarity(
    images: np.ndarray, others: np.ndarray | None = None, *, span: float, pairs: int = 200, seed: int = 0
) -> float:
    """Returns the mean MS-SSIM of random pairs: among the images (variety), or across two sets (likeness).

    Args:
        images: (n, x, y, z, channels).
        others: (m, x, y, z, channels); None pairs images with one another, never with themselves.
        span: as in `ms_ssim`.
        pairs: number of pairs.
        seed: of the random choice.

    Raises:
        ValueError: fewer than two images to pair.

    Example:
        >>> images = np.random.default_rng(0).random((3, 8, 9, 10, 1))
        >>> 0 < pair_similarity(images, span=1, pairs=2) < 1
        True
    """
    if len(images) < (2 if others is None else 1):
        raise ValueError(f"Pairs among images need two of them at least, got {len(images)}. Generate more.")
    draw = np.random.default_rng(seed)
    first = draw.integers(0, len(images), pairs)
    if others is None:
        second, others = (first + draw.integers(1, len(images), pairs)) % len(images), images
    else:
        second = draw.integers(0, len(others), pairs)
    similarities = [
        ops.convert_to_numpy(ms_ssim(images[first[at : at + 8]], others[second[at : at + 8]], span=span))
        for at in range(0, pairs, 8)
    ]
    return float(np.concatenate(similarities).mean())


def mmd(samples: np.ndarray, others: np.ndarray, *, bandwidth: float | None = None) -> float:
    """Returns the squared maximum mean discrepancy between two sets under a Gaussian kernel, without bias.

    `mean k(x, x') + mean k(y, y') - 2 mean k(x, y)` over pairs of different samples, `k = exp(-|a - b|^2 / 2 s^2)`;
    about 0, and also below it, for samples of one distribution.

    Args:
        samples: (n, ...), volumes or features; each entry of the first axis is one point.
        others: (m, ...).
        bandwidth: s, in the unit of the distances; None takes the median distance in the joined set.

    Raises:
        ValueError: fewer than two samples on a side, or of different sizes.

    Source: Gretton et al. 2012, JMLR 13, equation 3.

    Example:
        >>> draw = np.random.default_rng(0)
        >>> mmd(draw.normal(size=(50, 2)), draw.normal(3, size=(50, 2))) > 0.5
        True
    """
    x, y = (np.asarray(each, np.float64).reshape(len(each), -1) for each in (samples, others))
    if min(len(x), len(y)) < 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"MMD compares two sets of at least two samples of one size, got {samples.shape} and {others.shape}. "
            "Generate more, or crop one set."
        )
    joined = np.concatenate([x, y])
    squares = np.sum(joined**2, axis=1)
    distance = np.maximum(squares[:, None] + squares - 2 * joined @ joined.T, 0)
    if bandwidth is None:
        bandwidth = float(np.sqrt(np.median(distance[np.triu_indices(len(joined), 1)]))) or 1.0
    kernel = np.exp(-distance / (2 * bandwidth**2))
    n, m = len(x), len(y)
    within = lambda part, count: (part.sum() - np.trace(part)) / (count * (count - 1))  # noqa: E731
    return float(within(kernel[:n, :n], n) + within(kernel[n:, n:], m) - 2 * kernel[:n, n:].mean())


def tissue_limits(images: np.ndarray, tissues: int = 3, *, steps: int = 50) -> np.ndarray:
    """Returns the values that part tissues in real images: half-way between the means of k-means.

    Args:
        images: any shape, one channel; voxels that are 0 are no tissue.
        tissues: their number.
        steps: of k-means, at most.

    Returns:
        (tissues - 1,) rising.

    Raises:
        ValueError: fewer than two tissues, or fewer different values than tissues.

    Example:
        >>> tissue_limits(np.repeat([0, 1, 2, 3], 9))
        array([1.5, 2.5])
    """
    values = np.asarray(images, np.float64)
    values = np.sort(values[values != 0].ravel())
    if tissues < 2 or len(np.unique(values[:: max(1, len(values) // 1000)])) < tissues:
        raise ValueError(
            f"Images are parted into two tissues or more, each with values of its own, got {tissues} tissues in "
            f"{len(values)} voxels that are not 0. Ask for fewer, or pass images with tissue."
        )
    means = np.quantile(values, (np.arange(tissues) + 0.5) / tissues)
    for _ in range(steps):
        limits = (means[1:] + means[:-1]) / 2
        parts = np.split(values, np.searchsorted(values, limits))
        moved = np.array([part.mean() if len(part) else mean for part, mean in zip(parts, means, strict=True)])
        if np.allclose(moved, means):
            break
        means = moved
    return (means[1:] + means[:-1]) / 2


def tissue_volumes_ml(
    images: np.ndarray, limits: Sequence[float] | np.ndarray, spacing_mm: Sequence[float]
) -> np.ndarray:
    """Returns the volume of each tissue in each image.

    Args:
        images: (n, x, y, z), one channel; voxels that are 0 are no tissue.
        limits: values that part the tissues, rising.
        spacing_mm: voxel size along x, y, z.

    Returns:
        (n, tissues) float64, in ml.

    Example:
        >>> tissue_volumes_ml(np.repeat([0, 1, 2], 1000).reshape(1, 3, 10, 100), [1.5], (1, 1, 1))
        array([[1., 1.]])
    """
    which = np.searchsorted(np.asarray(limits, np.float64), images)
    counts = [[np.sum((indices == tissue) & (image != 0)) for tissue in range(len(limits) + 1)]
              for indices, image in zip(which, images, strict=True)]  # fmt: skip
    return np.array(counts, np.float64) * float(np.prod(spacing_mm)) / 1000


def volume_wasserstein(volumes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the Wasserstein distance between the distributions of each tissue's volume, in the unit of the volumes.

    It is the mean volume to move to turn one cohort's distribution into the other's, and grows with a shift of the mean
    and with a loss of variety alike.

    Args:
        volumes: (n, tissues).
        others: (m, tissues).

    Returns:
        (tissues,) float64.

    Raises:
        ValueError: the numbers of tissues differ, or a side is empty.

    Example:
        >>> volume_wasserstein(np.array([[1.0], [3.0]]), np.array([[2.0], [4.0]]))
        array([1.])
    """
    if (
        volumes.ndim != 2
        or others.ndim != 2
        or volumes.shape[1] != others.shape[1]
        or not min(map(len, (volumes, others)))
    ):
        raise ValueError(
            f"Two cohorts are compared tissue by tissue, as (images, tissues), got {volumes.shape} and {others.shape}. "
            "Measure both with the same limits."
        )
    return np.array([_distance_of_distributions(a, b) for a, b in zip(volumes.T, others.T, strict=True)])


def _distance_of_distributions(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the area between two empirical distribution functions."""
    every = np.sort(np.concatenate([a, b]))
    shares = [np.searchsorted(np.sort(each), every[:-1], side="right") / len(each) for each in (a, b)]
    return float(np.sum(np.abs(shares[0] - shares[1]) * np.diff(every)))


def compare(
    fakes: np.ndarray, reals: np.ndarray, *, spacing_mm: Sequence[float], pairs: int = 200, seed: int = 0
) -> dict[str, float]:
    """Returns all measures of a set of generated volumes against real ones outside the training data.

    Args:
        fakes: (n, x, y, z, channels).
        reals: (m, x, y, z, channels); the first channel parts the tissues.
        spacing_mm: voxel size.
        pairs: number of pairs of each kind.
        seed: of the random choice.

    Returns:
        `ms_ssim` of fakes with real ones, `ms_ssim_fakes` and `ms_ssim_reals` among themselves (fakes above the reals
        lack variety), `mmd` of the volumes, and `wasserstein_ml_0` ... for the tissues, the darkest first.
    """
    span = float(reals.max() - reals.min())
    settings: dict[str, Any] = {"span": span, "pairs": pairs, "seed": seed}
    limits = tissue_limits(reals[..., 0])
    volumes = (tissue_volumes_ml(each[..., 0], limits, spacing_mm) for each in (fakes, reals))
    tissues = volume_wasserstein(*volumes)
    return {
        "ms_ssim": pair_similarity(fakes, reals, **settings),
        "ms_ssim_fakes": pair_similarity(fakes, **settings),
        "ms_ssim_reals": pair_similarity(reals, **settings),
        "mmd": mmd(fakes, reals),
        **{f"wasserstein_ml_{number}": float(distance) for number, distance in enumerate(tissues)},
    }
