"""Computes linear inverse maps of one montage on one head: the network's input, by one matrix product.

Montage and head enter the network through these matrices alone, so one network serves any of them.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zoo.eeg import grid
from zoo.eeg.leadfield import LeadField
from zoo.eeg.sharpening import Sharpening, checked_steps, products, sharpened, sharpening

CHANNELS = (
    "eloreta_x",
    "eloreta_y",
    "eloreta_z",
    "sloreta_smooth",
    "sloreta_sharp",
    "dipole_fit",
    "mask",
    "x",
    "y",
    "z",
)
ELORETA_LAMBDA2 = 0.1
SLORETA_LAMBDA2 = (0.3, 0.03)
LINEAR_MAPS = CHANNELS.index("mask")
_RANK_TOLERANCE = 1e-9
_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class Kernels:
    """Holds kernels as float32 and int32 arrays; `features` takes them as they are or as tensors of any backend.

    Attributes:
        eloreta: (3 * 5215, channels), direction fastest.
        blocks: (3, 3 * 5215, channels): the two standardised LORETAs and the fit of one free dipole. The sum of
            squares of a place's three rows times a topography is a number in 0..1 times its `energy`.
        energy: (3, channels, channels): roots of quadratic forms; row 2 is the identity on average-referenced data.
        constant: (24, 28, 24, 4): mask, and x, y, z of the template in units of 100 mm from its middle, 0 outside.
        slots: (16128,), the index of the place in each voxel of the padded box, 5215 where there is none.
        names: of the channels.
        sharpening: what steps of sparse Bayesian learning need.
        sbl_steps: numbers of such steps, for one more map after each; () for the linear maps alone.
    """

    eloreta: np.ndarray
    blocks: np.ndarray
    energy: np.ndarray
    constant: np.ndarray
    slots: np.ndarray
    names: tuple[str, ...]
    sharpening: Sharpening
    sbl_steps: tuple[int, ...] = ()

    def apply(self, topographies: np.ndarray) -> np.ndarray:
        """Returns the network's input (n, 24, 28, 24, 10 + maps) of topographies (n, channels), any unit and reference.

        Raises:
            ValueError: a wrong shape, a number that is not finite, or a topography that is flat.
        """
        measured = checked(topographies, len(self.names))
        arrays = (self.eloreta, self.blocks, self.energy, self.constant, self.slots)
        return features(*arrays, topographies=measured, sharpen=self._sharpen if self.sbl_steps else None)

    def _sharpen(self, unit: np.ndarray) -> list[np.ndarray]:
        return sharpened(self.sharpening, unit, self.sbl_steps, pairs=self._pairs)

    @functools.cached_property
    def _pairs(self) -> np.ndarray:
        return products(self.sharpening.columns)


def channel_names(sbl_steps: Sequence[int] = ()) -> tuple[str, ...]:
    """Returns the names of the input channels, with a map after each of these numbers of steps."""
    return (*CHANNELS, *(f"sbl_{steps}" for steps in sbl_steps))


def kernels(field: LeadField, sbl_steps: Sequence[int] = ()) -> Kernels:
    """Computes the kernels of a montage on a head's grid; takes seconds for 64 channels.

    L is the lead field against the average reference, scaled so that trace(L L') = rank; the noise is white.
    The maps are eLORETA (Pascual-Marqui, arXiv:0710.3341) with full 3 x 3 weights and lambda2 = 0.1; sLORETA
    (Pascual-Marqui, Methods Find Exp Clin Pharmacol 2002, 24D) standardised by the 3 x 3 block of the resolution
    matrix, lambda2 = 0.3 and 0.03, as a fraction of its bound v' C^-1 v; and the fraction of variance that one free
    dipole explains.

    Args:
        field: of a montage on the 5,215 places of the grid.
        sbl_steps: ascending numbers of steps of sparse Bayesian learning, for a map after each, see
            `zoo.eeg.sharpening`.

    Raises:
        ValueError: other places than the grid's, fewer than 6 channels, or steps that do not ascend from 1.
    """
    channels, places, _ = field.matrix.shape
    if places != grid.NUM_PLACES or channels < 6:
        expected = f"6 or more channels at the {grid.NUM_PLACES} places of the grid"
        raise ValueError(f"Kernels need {expected}, got a lead field of shape {field.matrix.shape}.")
    whitened, basis = normalised(field)
    steps = checked_steps(sbl_steps)
    standardised = [_standardise(whitened, lambda2) for lambda2 in SLORETA_LAMBDA2]
    fit = np.linalg.qr(whitened.reshape(-1, places, 3).transpose(1, 0, 2))[0].transpose(0, 2, 1).reshape(3 * places, -1)
    blocks = [*(block for block, _ in standardised), fit]
    energy = [*(root for _, root in standardised), np.eye(len(whitened))]
    return Kernels(
        (eloreta(whitened, ELORETA_LAMBDA2) @ basis).astype(np.float32),
        np.stack([block @ basis for block in blocks]).astype(np.float32),
        np.stack([basis.T @ root @ basis for root in energy]).astype(np.float32),
        constant(),
        grid.slots(),
        field.names,
        sharpening(whitened, basis),
        steps,
    )


def features(
    eloreta: Any,
    blocks: Any,
    energy: Any,
    constant: Any,
    slots: Any,
    *,
    topographies: Any,
    ops: Any = np,
    sharpen: Callable[[Any], Sequence[Any]] | None = None,
) -> Any:
    """Computes the input channels, in NumPy or, with `ops=keras.ops`, in a graph, from the arrays of `Kernels`.

    Channels: eLORETA's current along x, y, z of the MRI over its largest length (-1..1); the roots of both sLORETAs
    and of the dipole's fit (0..1); mask; coordinates; and what `sharpen` adds. The scale and the reference of a
    topography have no effect.

    Args:
        eloreta: (3 * places, channels).
        blocks: (3, 3 * places, channels).
        energy: (3, channels, channels).
        constant: (24, 28, 24, 4).
        slots: (16128,).
        topographies: (n, channels), float32.
        ops: `numpy` or `keras.ops`.
        sharpen: from topographies of norm 1 to more maps (n, places), as `sharpening.sharpened` does.

    Returns:
        (n, 24, 28, 24, 10 + maps) float32.
    """
    referenced = topographies - ops.mean(topographies, axis=1, keepdims=True)
    unit = referenced / (ops.sqrt(ops.sum(ops.square(referenced), axis=1, keepdims=True)) + _TINY)
    places = eloreta.shape[0] // 3
    current = ops.reshape(ops.matmul(unit, ops.transpose(eloreta)), (-1, places, 3))
    length = ops.sqrt(ops.max(ops.sum(ops.square(current), axis=2, keepdims=True), axis=1, keepdims=True))
    parts = [current / (length + _TINY)]
    for kind in range(3):
        rows = ops.reshape(ops.matmul(unit, ops.transpose(blocks[kind])), (-1, places, 3))
        bound = ops.sum(ops.square(ops.matmul(unit, energy[kind])), axis=1)[:, None, None]
        parts.append(ops.sqrt(ops.sum(ops.square(rows), axis=2, keepdims=True) / (bound + _TINY)))
    parts += [sharp_map[..., None] for sharp_map in (sharpen(unit) if sharpen else ())]
    maps = ops.concatenate(parts, axis=2)
    padded = ops.concatenate([maps, ops.zeros_like(maps[:, :1])], axis=1)
    box = ops.reshape(ops.take(padded, slots, axis=1), (-1, *grid.SHAPE, maps.shape[-1]))
    spread = ops.zeros_like(box[..., :1]) + constant[None]
    return ops.concatenate([box[..., :LINEAR_MAPS], spread, box[..., LINEAR_MAPS:]], axis=-1)


def normalised(field: LeadField) -> tuple[np.ndarray, np.ndarray]:
    """Projects the lead field to the space that the average reference leaves.

    Returns:
        (rank, 3 * places) float64 with trace(L L') = rank, and an orthonormal basis (rank, channels) of that space.
    """
    columns = field.columns - field.columns.mean(0)
    values, vectors = np.linalg.eigh(columns @ columns.T)
    significant = values > values[-1] * _RANK_TOLERANCE
    basis = vectors[:, significant].T
    projected = basis @ columns
    return projected * np.sqrt(len(basis) / np.square(projected).sum()), basis


def eloreta(whitened: np.ndarray, lambda2: float, *, iterations: int = 30, tolerance: float = 1e-6) -> np.ndarray:
    """Computes eLORETA's kernel (3 * places, rank), which localises a single source without noise exactly.

    Iterates W_i = [L_i' (L W^-1 L' + lambda2 I)^-1 L_i]^(1/2) and keeps trace(L W^-1 L') = rank, as mne does.

    Args:
        whitened: (rank, 3 * places) with trace(L L') = rank.
        lambda2: regularisation, > 0.
        iterations: at most.
        tolerance: relative change of the weights at which to stop.
    """
    rank = len(whitened)
    blocks = whitened.reshape(rank, -1, 3).transpose(1, 0, 2)
    inverse = np.tile(np.eye(3), (len(blocks), 1, 1))
    for _ in range(iterations):
        before = inverse
        weighted = blocks @ inverse
        gram = _sum_products(weighted, blocks)
        scale = rank / np.trace(gram)
        inner = np.linalg.inv(gram * scale + lambda2 * np.eye(rank))
        inverse = _raise_to_power(blocks.transpose(0, 2, 1) @ (inner @ blocks), -0.5)
        if np.linalg.norm(inverse - before) < tolerance * np.linalg.norm(before):
            break
    weighted = blocks @ inverse
    gram = _sum_products(weighted, blocks)
    scale = rank / np.trace(gram)
    inner = np.linalg.inv(gram * scale + lambda2 * np.eye(rank))
    return (scale * weighted.transpose(0, 2, 1) @ inner).reshape(-1, rank)


def _sum_products(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns the sum over places of left_i right_i', for blocks (places, rank, 3)."""
    rank = left.shape[1]
    return left.transpose(1, 0, 2).reshape(rank, -1) @ right.transpose(1, 0, 2).reshape(rank, -1).T


def _standardise(whitened: np.ndarray, lambda2: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns sLORETA's rows (3 * places, rank), S_i^(-1/2) L_i' C^-1, and the root of C^-1, C = L L' + lambda2 I."""
    rank = len(whitened)
    values, vectors = np.linalg.eigh(whitened @ whitened.T + lambda2 * np.eye(rank))
    root = (vectors / np.sqrt(values)) @ vectors.T
    # In the metric of C^-1 the statistic is the projection on the three columns: an orthonormal basis gives it.
    columns = (root @ whitened).reshape(rank, -1, 3).transpose(1, 0, 2)
    return np.linalg.qr(columns)[0].transpose(0, 2, 1).reshape(-1, rank) @ root, root


def _raise_to_power(blocks: np.ndarray, exponent: float) -> np.ndarray:
    """Raises symmetric positive 3 x 3 matrices to a power."""
    values, vectors = np.linalg.eigh(blocks)
    values = np.maximum(values, values[:, -1:] * 1e-12)
    return (vectors * values[:, None] ** exponent) @ vectors.transpose(0, 2, 1)


def constant() -> np.ndarray:
    """Returns mask and coordinates of the template's grid, (24, 28, 24, 4) float32, in 100 mm from its middle."""
    positions, mask, _ = grid.grid()
    middle = (positions.min(0) + positions.max(0)) / 2
    coordinates = grid.to_box(((positions - middle) / 100).T)
    return np.concatenate([mask[..., None], np.moveaxis(coordinates, 0, -1)], -1).astype(np.float32)


def checked(topographies: np.ndarray, channels: int) -> np.ndarray:
    """Checks topographies and returns them as (n, channels) float32.

    Raises:
        ValueError: a wrong shape, a number that is not finite, or a topography that is flat.
    """
    array = np.asarray(topographies, np.float64)
    if array.ndim != 2 or array.shape[1] != channels:
        raise ValueError(f"topographies must be of shape (n, {channels}), one column a channel, got {array.shape}.")
    if not np.isfinite(array).all():
        rows = np.flatnonzero(~np.isfinite(array).all(1)).tolist()
        raise ValueError(f"Topographies {rows[:5]} hold NaN or infinity: repair or drop the channel first.")
    span = np.ptp(array, axis=1)
    if (span <= 1e-9 * np.abs(array).max(1)).any():
        raise ValueError(f"Topography {int(span.argmin())} is flat: all {channels} channels have the same value.")
    return (array / span[:, None]).astype(np.float32)
