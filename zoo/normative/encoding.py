"""Codes of every place of a volume: in one pass, in windows, on every voxel or every few."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from zoo.inference.compiled_network import prepare
from zoo.models.siamese import PATCH, STRIDES, dense_encoder

WINDOW = 63  # voxels of codes along the edge of a window: a multiple of every step
STRIDE = int(np.prod(STRIDES))
Encode = Callable[[np.ndarray], np.ndarray]


def codes_of(model: keras.Model, *, step: int = 1, precision: str = "float32") -> Encode:
    """A function from a volume to the codes of the patches centred on its voxels.

    The encoder runs once over each window, not once a patch: with its stride where `step` is a multiple of it, else as
    `zoo.models.siamese.dense_encoder`. A code equals that of its patch alone to 1e-4 in float32.

    Args:
        model: what `zoo.models.siamese.siamese` built.
        step: voxels from code to code along each axis.
        precision: "float32", "bfloat16" or "auto".

    Returns:
        A function from (x, y, z, channels) to (ceil(x / step), ceil(y / step), ceil(z / step), code size) float32:
        entry (i, j, k) is the code of the patch centred on voxel (i, j, k) step; beyond the volume a patch sees 0.

    Raises:
        ValueError: a step below 1.
    """
    if step < 1:
        raise ValueError(f"step is 1 voxel or more, got {step}. 1 gives a code for every voxel.")
    strided = step % STRIDE == 0
    encoder = model.get_layer("encoder") if strided else dense_encoder(model)
    run, own = prepare(encoder, precision=precision), STRIDE if strided else 1

    def encode(volume: np.ndarray) -> np.ndarray:
        return _in_windows(run, volume, step, own)

    return encode


def _in_windows(run: Any, volume: np.ndarray, step: int, own: int) -> np.ndarray:
    """Windows overlap by a patch less one voxel, so that each code is made once; those without signal share one."""
    half, width = PATCH // 2, WINDOW - WINDOW % step
    padded = np.pad(np.asarray(volume, np.float32), [*[(half, half + width)] * 3, (0, 0)])
    # A strided encoder takes a patch and multiples of its stride more.
    size = PATCH + own * ((width - 1) // own)
    empty = np.asarray(run(np.zeros((1, *[PATCH] * 3, volume.shape[-1]), np.float32)))[0, 0, 0, 0]
    found = np.empty((*(-(-length // step) for length in volume.shape[:3]), len(empty)), np.float32)
    found[...] = empty
    for corner in itertools.product(*[range(0, length, width) for length in volume.shape[:3]]):
        window = padded[tuple(slice(start, start + size) for start in corner)]
        if window.any():
            codes = np.asarray(run(window[None]))[0][(slice(None, None, step // own),) * 3]
            _put(found, codes, [start // step for start in corner])
    return found


def _put(found: np.ndarray, codes: np.ndarray, corner: Sequence[int]) -> None:
    """Writes a window's codes, as many as fit."""
    target = tuple(slice(start, start + size) for start, size in zip(corner, codes.shape[:3], strict=True))
    part = found[target]
    part[...] = codes[tuple(slice(size) for size in part.shape[:3])]
