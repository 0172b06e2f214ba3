"""Encodes a whole volume with a patch network: in one pass, in windows, on every voxel or every few."""

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


def make_encoder(model: keras.Model, *, step: int = 1, precision: str = "float32") -> Encode:
    """Returns a function from a volume to the codes of the patches centred on its voxels.

    The encoder runs once per window, not once per patch: with its stride where `step` is a multiple of it, else as
    `zoo.models.siamese.dense_encoder`. A code equals that of its patch alone to 1e-4 in float32.

    Args:
        model: a model built by `zoo.models.siamese.siamese`.
        step: voxels from code to code along each axis.
        precision: "float32", "bfloat16" or "auto".

    Returns:
        A function from (x, y, z, channels) to (ceil(x / step), ceil(y / step), ceil(z / step), code size) float32:
        entry (i, j, k) is the code of the patch centred on voxel (i, j, k) step; beyond the volume a patch sees 0.

    Raises:
        ValueError: a step below 1.

    Example:
        >>> encode = make_encoder(zoo.load("siamese.epilepsy_lesions"), step=3)  # doctest: +SKIP
        >>> encode(np.zeros((60, 72, 60, 2), np.float32)).shape[:3]  # doctest: +SKIP
        (20, 24, 20)
    """
    if step < 1:
        raise ValueError(f"step is 1 voxel or more, got {step}. 1 gives a code for every voxel.")
    strided = step % STRIDE == 0
    encoder = model.get_layer("encoder") if strided else dense_encoder(model)
    run, stride = prepare(encoder, precision=precision), STRIDE if strided else 1

    def encode(volume: np.ndarray) -> np.ndarray:
        return _encode_in_windows(run, volume, step, stride)

    return encode


def _encode_in_windows(run: Any, volume: np.ndarray, step: int, stride: int) -> np.ndarray:
    """Encodes windows that overlap by a patch less one voxel, so that each code is made once; empty ones share one."""
    half, width = PATCH // 2, WINDOW - WINDOW % step
    padded = np.pad(np.asarray(volume, np.float32), [*[(half, half + width)] * 3, (0, 0)])
    # A strided encoder takes a patch and multiples of its stride more.
    size = PATCH + stride * ((width - 1) // stride)
    empty_code = np.asarray(run(np.zeros((1, *[PATCH] * 3, volume.shape[-1]), np.float32)))[0, 0, 0, 0]
    codes = np.empty((*(-(-length // step) for length in volume.shape[:3]), len(empty_code)), np.float32)
    codes[...] = empty_code
    for corner in itertools.product(*[range(0, length, width) for length in volume.shape[:3]]):
        window = padded[tuple(slice(start, start + size) for start in corner)]
        if window.any():
            window_codes = np.asarray(run(window[None]))[0][(slice(None, None, step // stride),) * 3]
            _write_window(codes, window_codes, [start // step for start in corner])
    return codes


def _write_window(codes: np.ndarray, window_codes: np.ndarray, corner: Sequence[int]) -> None:
    """Writes a window's codes, as many as fit."""
    target = tuple(slice(start, start + size) for start, size in zip(corner, window_codes.shape[:3], strict=True))
    part = codes[target]
    part[...] = window_codes[tuple(slice(size) for size in part.shape[:3])]
