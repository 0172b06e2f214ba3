"""Runs a few steps of sparse Bayesian learning on many topographies: maps sharper than any linear inverse's.

Wipf and Nagarajan, NeuroImage 2009, doi 10.1016/j.neuroimage.2008.02.059: each place has one variance g_i for its three
directions, and the data y have the covariance S = sum_i g_i L_i L_i' + noise. MacKay's fixed point,
g_i <- g_i |L_i' S^-1 y|^2 / trace(L_i' S^-1 L_i), drives most of them to 0. `zoo.eeg.classical.sparse_bayes` runs it
to the end with the true noise; here a network continues from a few steps with a fixed noise.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

STEPS = (4, 12)
RANK = 32
# Share of the topography's power, which a network does not get; of 0.05 to 0.5 this one found most of two dipoles.
NOISE = 0.15
DECADES = 4.0
_TINY = 1e-12
_LEAST = 1e-8  # of the first variance; smaller numbers would slow processors down


@dataclasses.dataclass(frozen=True)
class Sharpening:
    """Holds what the steps need of a montage on a head, as arrays of NumPy or tensors of any backend.

    Attributes:
        projector: (32, channels), onto the leading left singular vectors of the lead field; white noise as strong as
            the topography has a variance of 1 in each. Rows beyond the rank are 0.
        columns: (32, 3 * places), the lead field in this space, direction fastest, in any unit.
    """

    projector: Any
    columns: Any


def sharpening(whitened: np.ndarray, basis: np.ndarray) -> Sharpening:
    """Returns the space of the steps: the 32 strongest patterns of the lead field, over 99 % of its power.

    Args:
        whitened: (rank, 3 * places), as `kernels.normalised` returns it.
        basis: (rank, channels) likewise.
    """
    _, vectors = np.linalg.eigh(whitened @ whitened.T)
    leading = vectors[:, ::-1][:, :RANK].T
    columns = leading @ whitened
    room = ((0, RANK - len(leading)), (0, 0))
    projector = leading @ basis * np.sqrt(len(basis))
    return Sharpening(
        np.pad(projector, room).astype(np.float32),
        np.pad(columns / np.abs(columns).max(), room).astype(np.float32),
    )


def checked_steps(steps: Sequence[int]) -> tuple[int, ...]:
    """Checks numbers of steps and returns them as a tuple.

    Raises:
        ValueError: they do not ascend from 1.
    """
    numbers = tuple(int(step) for step in steps)
    if any(first >= second for first, second in zip((0, *numbers), numbers, strict=False)):
        raise ValueError(
            f"sbl_steps ascend from 1, as in {STEPS}, or are empty for the linear maps alone, got {numbers}."
        )
    return numbers


def products(columns: Any, ops: Any = np) -> Any:
    """Returns the upper triangle of L_i L_i' of each place, (places, 528), from columns (32, 3 * places).

    A step of a batch is then two matrix products.
    """
    rows, others = np.triu_indices(columns.shape[0])
    blocks = _split_columns(columns, ops)
    return ops.transpose(ops.sum(ops.take(blocks, rows, axis=0) * ops.take(blocks, others, axis=0), axis=2))


def sharpened(
    known: Sharpening, topographies: Any, steps: Sequence[int], *, ops: Any = np, pairs: Any = None
) -> list[Any]:
    """Returns maps of the current's length after some numbers of steps.

    All places start with the same power at the electrodes, so that deep ones have no disadvantage.

    Args:
        known: of the montage and head.
        topographies: (n, channels) of norm 1, average reference.
        steps: ascending; one map is returned for each.
        ops: `numpy` or `keras.ops`.
        pairs: `products` of the columns; None computes them.

    Returns:
        For each of `steps` (n, places), 0 to 1: the logarithm of length over largest length, scaled to 1 for the
        largest and 0 for a ten thousandth of it or less. The logarithm keeps weak sources visible beside strong ones.
    """
    pairs = products(known.columns, ops) if pairs is None else pairs
    data = ops.matmul(topographies, ops.transpose(known.projector))
    power = ops.sum(ops.square(_split_columns(known.columns, ops)), axis=(0, 2))
    variance = ops.sum(ops.square(data), axis=1, keepdims=True) / (power[None] * power.shape[0])
    least = variance * _LEAST
    maps = []
    for step in range(1, steps[-1] + 1):
        inverse = _invert_covariance(variance, pairs, known.columns.shape[0], ops)
        turned = ops.matmul(ops.matmul(inverse, data[:, :, None])[..., 0], known.columns)
        seen = ops.sum(ops.square(ops.reshape(turned, (-1, power.shape[0], 3))), axis=2)
        if step in steps:
            maps.append(_scale_decades(variance * ops.sqrt(seen), ops))
        variance = ops.maximum(variance * seen / ops.maximum(_take_traces(inverse, pairs, ops), _TINY), least)
    return maps


def _scale_decades(length: Any, ops: Any) -> Any:
    share = length / (ops.max(length, axis=1, keepdims=True) + _TINY)
    return 1.0 + ops.log10(ops.maximum(share, 10.0**-DECADES)) / DECADES


def lengths(maps: np.ndarray) -> np.ndarray:
    """Returns the current's length over its largest, from maps of `sharpened`."""
    return 10.0 ** (DECADES * (np.asarray(maps, np.float64) - 1.0))


def _invert_covariance(variance: Any, pairs: Any, rank: int, ops: Any) -> Any:
    """Returns the inverse of sum_i g_i L_i L_i' + noise, (n, rank, rank)."""
    rows, others = np.triu_indices(rank)
    square = np.zeros((rank, rank), np.int32)
    square[rows, others] = square[others, rows] = np.arange(len(rows), dtype=np.int32)
    covariance = ops.reshape(ops.take(ops.matmul(variance, pairs), square.ravel(), axis=1), (-1, rank, rank))
    return ops.linalg.inv(covariance + NOISE * np.eye(rank, dtype=np.float32))


def _take_traces(inverse: Any, pairs: Any, ops: Any) -> Any:
    """Returns trace(L_i' S^-1 L_i), (n, places), from S^-1 (n, rank, rank)."""
    rank = inverse.shape[1]
    rows, others = np.triu_indices(rank)
    twice = np.where(rows == others, 1.0, 2.0).astype(np.float32)
    flat = ops.take(ops.reshape(inverse, (-1, rank * rank)), rows * rank + others, axis=1)
    return ops.matmul(flat * twice, ops.transpose(pairs))


def _split_columns(columns: Any, ops: Any) -> Any:
    return ops.reshape(columns, (columns.shape[0], columns.shape[1] // 3, 3))
