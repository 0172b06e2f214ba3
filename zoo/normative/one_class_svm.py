"""Fits one-class support vector machines by the thousand: one small dual problem per voxel, all solved together."""

import numpy as np

ROUNDS, WARM_ROUNDS, HALVINGS = 120, 25, 12
PART = 2048  # codes at once
FREE = 1e-4  # how far from its bounds a weight is free


def rbf_kernel(first: np.ndarray, second: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    """Returns `exp(-gamma |a - b|^2)` of two sets of codes at each voxel.

    Args:
        first: (voxels, n, d) float32.
        second: (voxels, m, d) float32.
        gamma: (voxels,).

    Returns:
        (voxels, n, m) float32.
    """
    return np.exp(-gamma[:, None, None] * square_distances(first, second))


def square_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the squared distances (voxels, n, m) between two sets of codes at each voxel, 0 or more."""
    lengths = np.sum(first**2, axis=-1)[:, :, None] + np.sum(second**2, axis=-1)[:, None, :]
    return np.maximum(lengths - 2 * np.matmul(first, np.swapaxes(second, 1, 2)), 0)


def scale_gamma(codes: np.ndarray) -> np.ndarray:
    """Returns gamma (voxels,) as scikit-learn's "scale" does: 1 / (d var), over all numbers of a voxel's codes."""
    return 1.0 / np.maximum(codes.shape[-1] * codes.var(axis=(1, 2)), 1e-12)


def solve(
    gram: np.ndarray, nu: float, *, upper: np.ndarray | None = None, start: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Minimises `1/2 a' K a` over `0 <= a <= upper`, `sum a = nu sum upper`, at each voxel.

    Accelerated projected gradients; the projection finds the one shift that makes the sum right.

    Args:
        gram: (voxels, n, n) float32, positive semi-definite with ones on the diagonal.
        nu: share of the controls that may lie outside, in (0, 1].
        upper: (n,) 1, or 0 for a control that is left out; None for all 1.
        start: (voxels, n) a solution to begin with, as when one control is left out; it takes a fifth of the rounds.

    Returns:
        Weights (voxels, n) and offset rho (voxels,), as libsvm defines them: the decision is `sum a k - rho`.

    Raises:
        ValueError: nu out of range.

    Example:
        >>> weights, offset = solve(np.eye(4, dtype=np.float32)[None], 0.5)
        >>> weights.round(2).tolist()
        [[0.5, 0.5, 0.5, 0.5]]

    Source: Schölkopf et al., Neural Computation 2001, doi 10.1162/089976601750264965; Beck and Teboulle, SIAM J.
    Imaging Sciences 2009, doi 10.1137/080716542.
    """
    if not 0 < nu <= 1:
        raise ValueError(f"nu is the share of controls that may lie outside, over 0 and at most 1, got {nu}.")
    most = np.ones(gram.shape[1], np.float32) if upper is None else upper.astype(np.float32)
    total = float(nu * most.sum())
    start_weights = np.broadcast_to(most * np.float32(nu), gram.shape[:2]) if start is None else start
    weights = project(start_weights, most, total)
    step = 1.0 / gram.sum(axis=2).max(axis=1)[:, None]  # no eigenvalue is larger than the largest sum of a row
    ahead, momentum = weights, 1.0
    for _ in range(ROUNDS if start is None else WARM_ROUNDS):
        slope = np.matmul(gram, ahead[..., None])[..., 0]
        following = project(ahead - step * slope, most, total)
        grown = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = following + (momentum - 1) / grown * (following - weights)
        weights, momentum = following, grown
    return weights, _find_offset(gram, weights, most)


def project(values: np.ndarray, upper: np.ndarray, total: float) -> np.ndarray:
    """Returns the nearest point to each row with entries in 0 to `upper` that sum to `total`.

    One shift of a row corrects its sum: bisection finds the linear piece that it lies on, two of Newton's steps its
    place there.

    Example:
        >>> project(np.array([[3.0, 1.0]]), np.ones(2), 1.0).tolist()
        [[1.0, 0.0]]
    """
    low, high = values.min(axis=1) - 1.0, values.max(axis=1)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        over = np.clip(values - middle[:, None], 0, upper).sum(axis=1) > total
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    shift = (low + high) / 2
    for _ in range(2):
        shifted = values - shift[:, None]
        clipped = np.clip(shifted, 0, upper)
        free = np.count_nonzero((clipped == shifted) & (upper > 0), axis=1)
        shift = np.clip(shift + (clipped.sum(axis=1) - total) / np.maximum(free, 1), low, high)
    clipped = np.clip(values - shift[:, None], 0, upper)
    return clipped * (total / np.maximum(clipped.sum(axis=1, keepdims=True), 1e-12))


def _find_offset(gram: np.ndarray, weights: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Returns (voxels,): the slope of the free weights; where none is free, the middle between those at the bounds."""
    slope = np.matmul(gram, weights[..., None])[..., 0]
    used = upper > 0
    free = (weights > FREE) & (weights < upper - FREE) & used
    count = free.sum(axis=1)
    mean = np.where(free, slope, 0).sum(axis=1) / np.maximum(count, 1)
    # Where none is free, those at 0 have the larger slopes and those at their bound the smaller ones.
    at_zero, at_bound = (weights <= FREE) & used, (weights >= upper - FREE) & used
    above = np.min(slope, axis=1, where=at_zero, initial=np.float32(3e38))
    below = np.max(slope, axis=1, where=at_bound, initial=np.float32(-3e38))
    above, below = np.where(at_zero.any(axis=1), above, below), np.where(at_bound.any(axis=1), below, above)
    return np.where(count > 0, mean, above / 2 + below / 2).astype(np.float32)


def score_within_person(codes: np.ndarray, *, nu: float = 0.03, sample: int = 400, seed: int = 0) -> np.ndarray:
    """Scores a person's codes by a machine fitted to that person alone: what is rare in this brain stands out.

    Args:
        codes: (voxels, d), codes of one person.
        nu: share of the brain that may lie outside.
        sample: number of voxels that the machine is fitted to.
        seed: seed of their choice.

    Returns:
        (voxels,) float32; larger is less normal.

    Example:
        >>> score_within_person(np.random.default_rng(0).normal(size=(30, 3))).shape
        (30,)

    Source: Pinon et al., MIDL 2023, arXiv 2302.01066.
    """
    indices = np.random.default_rng(seed).choice(len(codes), min(sample, len(codes)), replace=False)
    fitted = np.asarray(codes[indices], np.float32)[None]
    gamma = scale_gamma(fitted).astype(np.float32)
    weights, offset = solve(rbf_kernel(fitted, fitted, gamma), nu)
    scores = [
        offset[0] - weights[0] @ rbf_kernel(fitted, np.asarray(part, np.float32)[None], gamma)[0]
        for part in np.array_split(codes, max(1, len(codes) // PART))
    ]
    return np.concatenate(scores)
