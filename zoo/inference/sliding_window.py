"""Runs a network over a volume in overlapping windows of one fixed shape and blends the results."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
from scipy import special

from zoo.arrays import first_not_finite
from zoo.errors import unknown_choice
from zoo.inference.compiled_network import Windowed, prepare
from zoo.inference.window_memory import choose_batch_size
from zoo.volumes import context as wide_context
from zoo.volumes import patches


class NotFiniteError(ValueError):
    """Raised when a network gives NaN or infinity, of which no map can be made.

    Attributes:
        fault: the value and its channel, in words.
        windows: (1, *patch, channels) float32, the window that the network was run on.
    """

    def __init__(self, fault: str, windows: np.ndarray) -> None:
        super().__init__(f"The network gives {fault}. Check its weights and the range of its input.")
        self.fault, self.windows = fault, windows


SLAB = 8  # planes blended at once: few enough that their temporaries stay in cache
ACTIVATIONS = ("linear", "relu", "sigmoid", "softmax", "softplus", "tanh")


def sliding_window(  # noqa: PLR0913 - one keyword a choice
    network: keras.Model | Windowed,
    volume: np.ndarray,
    *,
    patch: Sequence[int],
    overlap: float = 0.5,
    batch_size: int | None = None,
    mirror_axes: Sequence[int] = (),
    flip_labels: Sequence[int] | None = None,
    activation: str = "softmax",
    skip: np.ndarray | None = None,
    context: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Runs a network over a whole volume, window by window.

    The volume is padded with zeros to at least one window. Logits are blended in float32 with a Gaussian
    weight (sigma = patch / 8) and averaged over mirror images before the activation. Blending is a running
    weighted mean, so windows that agree give their value bit for bit.

    Args:
        network: a Keras model, or a function from (batch, *patch, channels) to (batch, *patch, num_classes),
            float32 arrays, as `zoo.inference.compiled_network.prepare` makes it; prepare once for many volumes.
        volume: (x, y, z) or (x, y, z, channels), normalised as the network wants it.
        patch: window in voxels, one number or three; a multiple of the network's divisor.
        overlap: least shared fraction of neighbouring windows, in [0, 1).
        batch_size: windows at once, the last batch padded; None chooses from free memory (1 for a function).
        mirror_axes: axes (0, 1, 2) to mirror along; each doubles the work. 0 is left/right in RAS.
        flip_labels: the channel that channel i turns into when left and right swap, for mirroring along axis 0.
        activation: "softmax", "sigmoid", "linear", "tanh", "relu" or "softplus".
        skip: (x, y, z) bool, True where there is something to find. Windows without any are not run, and
            voxels that no window reached become background: the first channel 1 under softmax, else 0.
        context: how many times as wide as a window the surroundings are that it gets as further channels
            (`zoo.volumes.context`), from the same volume, 0 beyond it; needs as much memory again. None for none.
        progress: called with (windows done, windows in all) after every batch.

    Returns:
        (x, y, z, num_classes) float32, after the activation.

    Raises:
        ValueError: an unknown activation, axis or permutation, or a network whose output has another size.
        NotFiniteError: a ValueError, where the network gives NaN or infinity.

    Example:
        >>> values = sliding_window(lambda windows: 2 * windows, np.ones((20, 24, 33)), patch=16, activation="linear")
        >>> values.shape, float(values.max())
        ((20, 24, 33, 1), 2.0)
    """
    if activation not in ACTIVATIONS:
        raise unknown_choice("activation", activation, ACTIVATIONS)
    volume = np.asarray(volume, np.float32)
    volume = volume[..., None] if volume.ndim == 3 else volume
    size = tuple(int(n) for n in np.broadcast_to(patch, 3))
    if isinstance(network, keras.Model):
        batch_size = choose_batch_size(network, size) if batch_size is None else batch_size
        network = prepare(network)
    forward = _average_mirrors(network, mirror_axes, flip_labels)
    padded, inside = patches.pad_to(volume, min_shape=size)
    corners = _choose_corners(padded.shape, size, overlap, _pad_mask(skip, volume, size))
    windows = _Windows(padded, size, context)
    mean, total = _accumulate(forward, windows, corners, batch_size or 1, progress)
    # Contiguous: a view of the padded volume would keep all of it in memory.
    return _activate_seen(np.ascontiguousarray(mean[inside]), total[inside], activation)


def centred_window(
    network: keras.Model | Windowed,
    volume: np.ndarray,
    *,
    patch: Sequence[int],
    overlap: float = 0.5,
    skip: np.ndarray | None = None,
    mirror_axes: Sequence[int] = (),
    **settings: Any,
) -> np.ndarray:
    """Runs a network that learned from windows about the foreground: finds it, then looks straight at it.

    Windows side by side find the foreground; what counts are those that cover the box about it
    (`zoo.volumes.patches.box_about`), a single one where it fits. Outside that box is background.

    Args:
        network: as `sliding_window` takes it, with the background as its first class.
        volume: as `sliding_window` takes it.
        patch: window in voxels.
        overlap: of the windows that count.
        skip: as `sliding_window` takes it.
        mirror_axes: of the windows that count.
        settings: all else that `sliding_window` takes.

    Returns:
        (x, y, z, num_classes) float32, after the activation.

    Example:
        >>> network = lambda windows: np.concatenate([0 * windows, windows], -1)
        >>> centred_window(network, np.ones((20, 24, 33, 1)), patch=16).argmax(-1).min()
        np.int64(1)
    """
    size = tuple(int(n) for n in np.broadcast_to(patch, 3))
    network = prepare(network) if isinstance(network, keras.Model) else network
    volume, inside = patches.pad_to(volume if volume.ndim == 4 else volume[..., None], min_shape=size)
    skip = None if skip is None else patches.pad_to(skip, min_shape=size)[0]
    values = sliding_window(network, volume, patch=size, overlap=0.0, skip=skip, **settings)
    box = patches.box_about(foreground(values, settings.get("activation", "softmax")), size)
    seen = None if skip is None else skip[box]
    middle = sliding_window(
        network, volume[box], patch=size, overlap=overlap, skip=seen, mirror_axes=mirror_axes, **settings
    )
    values[:] = background_values(values.shape[-1], settings.get("activation", "softmax"))
    values[box] = middle
    return np.ascontiguousarray(values[inside])


def foreground(values: np.ndarray, activation: str) -> np.ndarray:
    """Returns where a class other than the background is found, (x, y, z) bool, from values after the activation."""
    return values.argmax(-1) > 0 if activation == "softmax" else values.max(-1) >= 0.5


def background_values(num_classes: int, activation: str) -> np.ndarray:
    """Returns the values of a voxel in which there is nothing: the first class 1 under softmax, else 0."""
    values = np.zeros(num_classes, np.float32)
    values[0] = activation == "softmax"
    return values


def activate(logits: np.ndarray, activation: str) -> np.ndarray:
    """Applies an activation over the last axis, in place where it can.

    Args:
        logits: (x, y, z, num_classes) float32; may be overwritten.
        activation: one of `ACTIVATIONS`.

    Returns:
        The same shape, float32.

    Example:
        >>> activate(np.zeros((1, 1, 1, 4), np.float32), "softmax").ravel()
        array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """
    if activation == "softmax":
        for plane in logits:  # a plane at a time: no second volume in memory
            plane -= plane.max(-1, keepdims=True)
            np.exp(plane, out=plane)
            plane /= plane.sum(-1, keepdims=True)
    elif activation == "sigmoid":
        special.expit(logits, out=logits)
    elif activation == "tanh":
        np.tanh(logits, out=logits)
    elif activation == "relu":
        np.maximum(logits, 0, out=logits)
    elif activation == "softplus":
        np.logaddexp(logits, np.float32(0), out=logits)
    return logits


def _activate_seen(mean: np.ndarray, total: np.ndarray, activation: str) -> np.ndarray:
    """Applies the activation; voxels that no window reached become background."""
    result = activate(mean, activation)
    unseen = total == 0
    if unseen.any():
        result[unseen] = background_values(result.shape[-1], activation)
    return result


def _average_mirrors(network: Windowed, axes: Sequence[int], flip_labels: Sequence[int] | None) -> Windowed:
    """Returns a network that averages its logits over every combination of mirror axes."""
    axes = tuple(axes)
    if len(set(axes)) < len(axes) or not set(axes) <= {0, 1, 2}:
        raise ValueError(f"mirror_axes must be some of 0, 1, 2, each once; got {axes}. 0 is left/right in RAS.")
    flips = [flip for n in range(len(axes) + 1) for flip in itertools.combinations(axes, n)]
    if len(flips) == 1:
        return network

    def mean(windows: np.ndarray) -> np.ndarray:
        result = np.zeros(1, np.float32)
        for index, flip in enumerate(flips):
            batch_axes = tuple(axis + 1 for axis in flip)
            logits = np.flip(network(np.ascontiguousarray(np.flip(windows, batch_axes))), batch_axes)
            if 0 in flip and flip_labels is not None:
                logits = logits[..., _check_permutation(flip_labels, logits.shape[-1])]
            result = result + (logits - result) / np.float32(index + 1)  # exact where they agree
        return result

    return mean


def _check_permutation(flip_labels: Sequence[int], num_classes: int) -> np.ndarray:
    partners = np.asarray(flip_labels, np.int64)
    if partners.shape != (num_classes,) or not np.array_equal(np.sort(partners), np.arange(num_classes)):
        raise ValueError(
            f"flip_labels must name each of the {num_classes} channels once, got {tuple(flip_labels)}. "
            "Entry i is the channel that channel i turns into when left and right swap."
        )
    return partners


def _pad_mask(skip: np.ndarray | None, volume: np.ndarray, size: tuple[int, ...]) -> np.ndarray | None:
    if skip is None:
        return None
    if skip.shape != volume.shape[:3]:
        raise ValueError(f"skip must be a mask on the volume's grid {volume.shape[:3]}, got shape {skip.shape}.")
    return patches.pad_to(skip.astype(bool), min_shape=size)[0]


def _choose_corners(shape: Sequence[int], size: tuple[int, ...], overlap: float, mask: np.ndarray | None) -> np.ndarray:
    """Returns the first voxels of the windows to run; at least one, so that the number of channels is known."""
    corners = patches.starts(shape[:3], size, overlap)
    if mask is None:
        return corners
    occupied = [mask[_box(corner, size)].any() for corner in corners]
    return corners[occupied] if any(occupied) else corners[:1]


def _box(corner: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(c, c + p) for c, p in zip(corner, size, strict=True))


class _Windows:
    """Cuts batches of windows of one size, with their surroundings where the network takes them."""

    def __init__(self, volume: np.ndarray, size: tuple[int, ...], ratio: int | None) -> None:
        self.volume, self.size, self.ratio, self.means = volume, size, ratio, None
        if ratio is not None:
            wide_context.check(size, ratio)
            self.means = wide_context.block_means(volume, ratio)

    def batches(self, corners: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields corners and windows; the last batch is filled with zeros, so that one compiled shape serves all."""
        num = self.volume.shape[3]
        for first in range(0, len(corners), batch_size):
            batch = corners[first : first + batch_size]
            windows = np.zeros((batch_size, *self.size, num * (1 if self.ratio is None else 2)), np.float32)
            for window, corner in zip(windows, batch, strict=False):
                window[..., :num] = self.volume[_box(corner, self.size)]
                if self.means is not None and self.ratio is not None:
                    window[..., num:] = wide_context.around(self.means, corner, self.size, self.ratio)
            yield batch, windows


def _accumulate(
    forward: Windowed,
    windows: _Windows,
    corners: np.ndarray,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the blended logits and the weight of each voxel; one thread blends while the network runs on."""
    weight, shape = patches.gaussian_weight(windows.size), windows.volume.shape[:3]
    total = np.zeros(shape, np.float32)
    mean, pending, done = np.zeros(0, np.float32), None, 0
    with ThreadPoolExecutor(1) as blender:
        for places, batch in windows.batches(corners, batch_size):
            logits = forward(batch)
            if not mean.size:
                mean = np.zeros((*shape, _count_classes(logits, batch)), np.float32)
            if pending is not None:
                pending.result()
            _check_finite(logits, batch, places)
            pending = blender.submit(_blend, mean, total, logits, corners=places, weight=weight)
            done += len(places)
            if progress is not None:
                progress(done, len(corners))
        if pending is not None:
            pending.result()
    return mean, total


def _count_classes(logits: np.ndarray, windows: np.ndarray) -> int:
    if logits.ndim != 5 or logits.shape[:4] != windows.shape[:4]:
        raise ValueError(
            f"The network turned windows of {windows.shape} into {logits.shape}. It must keep the size: "
            'build it with padding="same".'
        )
    return logits.shape[4]


def _check_finite(logits: np.ndarray, windows: np.ndarray, corners: np.ndarray) -> None:
    """Refuses NaN in the windows that count: blended and reduced to labels it would pass for background."""
    place = first_not_finite(logits[: len(corners)])
    if place is not None:
        raise NotFiniteError(
            f"{logits[place]} in output channel {place[-1]}", np.ascontiguousarray(windows[place[0] : place[0] + 1])
        )


def _blend(mean: np.ndarray, total: np.ndarray, logits: np.ndarray, *, corners: np.ndarray, weight: np.ndarray) -> None:
    for values, (x, y, z) in zip(logits, corners, strict=False):
        for first in range(0, len(weight), SLAB):
            part = slice(first, first + SLAB)
            patches.blend(mean, total, values[part], start=(x + first, y, z), weight=weight[part])
