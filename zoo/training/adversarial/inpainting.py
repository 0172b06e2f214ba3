"""Reads a volume with a contextual GAN: codes at given places, and each voxel's residual from its prediction."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from zoo.training.adversarial import coarse_context

Tensor = Any
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Visibility:
    """Says what a contextual GAN sees, as in its training; each False is an ablation.

    Attributes:
        context: encoder and critics see the coarse volume.
        position: the generator knows the place.
    """

    context: bool = True
    position: bool = True


SEES_ALL = Visibility()


def fill(
    network: keras.Model,
    patch: Tensor,
    around: tuple[Tensor, Tensor],
    hole: Tensor,
    *,
    sight: Visibility = Visibility(),
    training: bool = False,
) -> tuple[Tensor, Tensor]:
    """Fills the hole of a patch.

    Args:
        network: a `gan3d` of variant "contextual".
        patch: (batch, x, y, z, channels); the values in the hole are ignored.
        around: coarse volume (batch, x, y, z, channels) and position (batch, 3).
        hole: (batch, x, y, z, 1), 1 where to fill.
        sight: what the network sees.
        training: whether norms use the batch.

    Returns:
        The whole patch as generated (batch, x, y, z, channels), and its code (batch, code_size).
    """
    context, position = around
    inputs = ops.concatenate([patch * (1.0 - hole), hole], axis=-1)
    share = network.get_layer("paste")([hole, ops.zeros_like(context[..., :1]), position])
    hidden = ops.cast(share > 1e-6, context.dtype)  # all that the hole touches: a part would give the whole away
    seen = context * (1.0 - hidden) if sight.context else ops.zeros_like(context)
    code = network.get_layer("encoder")([inputs, seen], training=training)
    place = position if sight.position else ops.zeros_like(position)
    return network.get_layer("generator")([code, place], training=training), code


def complete(patch: Tensor, filled: Tensor, hole: Tensor) -> Tensor:
    """Returns the patch with its hole filled; where it has none, all that was generated."""
    none = ops.cast(ops.max(hole, axis=(1, 2, 3, 4), keepdims=True) == 0, hole.dtype)
    shown = hole + none
    return filled * shown + patch * (1.0 - shown)


def critics(network: keras.Model, sight: Visibility = Visibility()) -> list[keras.Model]:
    """Returns the critics of a contextual GAN, the local one first, each returning its features beside its logit."""
    names = ("critic_local", "critic_global") if sight.context else ("critic_local",)
    return [with_features(network.get_layer(name)) for name in names]


def with_features(critic: keras.Model) -> keras.Model:
    """Returns a critic that gives its features beside its logit."""
    features = critic.get_layer(f"{critic.name}_features").output
    return keras.Model(critic.input, [features, critic.output], name=f"{critic.name}_judging")


def judge(
    network: keras.Model,
    models: Sequence[keras.Model],
    patch: Tensor,
    around: tuple[Tensor, Tensor],
    *,
    training: bool = False,
) -> tuple[list[Tensor], Tensor]:
    """Returns the critics' features of a patch and of its surroundings with it, and the mean of their logits."""
    shown = [patch, network.get_layer("paste")([patch, *around])]
    outputs = [critic(image, training=training) for critic, image in zip(models, shown, strict=False)]
    logits = [logit for _, logit in outputs]
    return [ops.cast(features, "float32") for features, _ in outputs], sum(logits) / len(logits)


class Reader:
    """Reads volumes with a contextual GAN.

    Args:
        network: a `gan3d` of variant "contextual".
        hole: voxels (x, y, z) of the hole, as in training.
        sight: what the network sees.
        batch_size: patches at a time; fixed, so that one function is compiled.
        jit: whether XLA compiles.

    Raises:
        ValueError: the hole is larger than the patch, or half of the rest is no whole number of voxels.
    """

    def __init__(
        self,
        network: keras.Model,
        hole: Sequence[int],
        *,
        sight: Visibility = Visibility(),
        batch_size: int = 16,
        jit: bool = False,
    ) -> None:
        self.network, self.hole, self.sight, self.batch_size = network, tuple(hole), sight, batch_size
        self.patch = tuple(network.get_layer("generator").output_shape[1:-1])
        self.context = tuple(network.get_layer("encoder").input_shape[1][1:-1])
        self.code_size = int(network.get_layer("encoder").output_shape[-1])
        self.ratio = int(network.get_layer("paste").ratio)
        around = [size - inner for size, inner in zip(self.patch, self.hole, strict=True)]
        if any(rest < 0 or rest % 2 for rest in around):
            raise ValueError(
                f"The hole lies in the middle of the patch of {self.patch}, with as much on either side, got "
                f"{self.hole}. Give sizes that are smaller by an even number."
            )
        self.critics = critics(network, sight)
        self._score = tf.function(self._measure_residuals, jit_compile=jit)
        self._encode = tf.function(self._codes, jit_compile=jit)
        self._near, self._far, self._last = _split_encoder(network.get_layer("encoder"))

    def codes(self, volume: np.ndarray, places: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """Returns the codes of patches without a hole.

        Args:
            volume: (x, y, z, channels), normalised as in training.
            places: (n, 3) voxels in the middle of the patches.
            progress: called with (patches done, patches in all).

        Returns:
            (n, code_size) float32.
        """
        padded, shift = self._pad(volume)
        context = coarse_context.coarse(volume, self.ratio, self.context)[None]
        far = self._far(context if self.sight.context else np.zeros_like(context), training=False)
        codes = []
        for start in self._fill_batches(places + shift - np.array(self.patch) // 2, progress):
            codes.append(self._encode(tf.constant(_cut_patches(padded, start, self.patch)), far).numpy())
        return np.concatenate(codes)[: len(places)]

    def on_grid(self, volume: np.ndarray, region: np.ndarray, step: int) -> np.ndarray:
        """Returns the codes about every `step`-th voxel of a region, as `zoo.normative.model` takes them.

        Args:
            volume: (x, y, z, channels), normalised as in training.
            region: (x, y, z) bool.
            step: voxels from code to code.

        Returns:
            (x / step, y / step, z / step, code_size) float32, rounded up; 0 outside the region.
        """
        where = np.argwhere(region[(slice(None, None, step),) * 3])
        grid = np.zeros((*(-(-size // step) for size in region.shape), self.code_size), np.float32)
        grid[tuple(where.T)] = self.codes(volume, where * step)
        return grid

    def _codes(self, patch: Tensor, far: Tensor) -> Tensor:
        inputs = ops.concatenate([patch, ops.zeros_like(patch[..., :1])], axis=-1)
        near = self._near(inputs, training=False)
        far = ops.repeat(ops.cast(far, near.dtype), near.shape[0], axis=0)
        return ops.cast(self._last(ops.concatenate([near, far], axis=-1)), "float32")

    def residuals(
        self,
        volume: np.ndarray,
        inside: np.ndarray,
        *,
        shifts: int = 8,
        kappa: float = 1.0,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Returns how far each voxel is from what its surroundings predict, mean over several grids of holes.

        `|x - G| + kappa mean |f(x) - f(G)|`: the difference in the voxel, mean over channels, and that of the critics'
        features of the patch. The holes of one grid tile the volume; the grids are shifted against one another.

        Args:
            volume: (x, y, z, channels), normalised as in training.
            inside: (x, y, z) bool, voxels that need a score.
            shifts: number of grids.
            kappa: weight of the features.
            progress: called with (patches done, patches in all).

        Returns:
            (x, y, z) float32, 0 outside.

        Raises:
            ValueError: fewer than one shift, or nothing inside.
        """
        if shifts < 1 or not inside.any():
            raise ValueError(f"Scores need a voxel inside and a shift, got {int(inside.sum())} and {shifts}.")
        padded, shift = self._pad(volume)
        margin = (np.array(self.patch) - self.hole) // 2
        corners = np.concatenate([self._tile(inside, offset) for offset in grid_shifts(shifts, self.hole)])
        context = tf.constant(coarse_context.coarse(volume, self.ratio, self.context)[None])
        total, count = (np.zeros(padded.shape[:3], np.float32) for _ in range(2))
        done = 0
        for start in self._fill_batches(corners + shift - margin, progress):
            place = coarse_context.positions(start - shift, self.patch, volume.shape[:3], self.ratio, self.context)
            patch = tf.constant(_cut_patches(padded, start, self.patch))
            scores = self._score(patch, context, tf.constant(place, tf.float32), tf.constant(kappa, tf.float32)).numpy()
            for score, first in zip(scores[: len(corners) - done], start + margin, strict=False):
                where = tuple(slice(begin, begin + size) for begin, size in zip(first, self.hole, strict=True))
                total[where] += score
                count[where] += 1
            done += len(start)
        cropped = tuple(slice(begin, begin + size) for begin, size in zip(shift, volume.shape[:3], strict=True))
        return np.where(inside, total[cropped] / np.maximum(count[cropped], 1), 0).astype(np.float32)

    def _measure_residuals(self, patch: Tensor, context: Tensor, place: Tensor, kappa: Tensor) -> Tensor:
        around = ops.repeat(context, patch.shape[0], axis=0), place
        hole = hole_in_middle(self.patch, self.hole) + ops.zeros_like(patch[..., :1])
        filled, _ = fill(self.network, patch, around, hole, sight=self.sight)
        real_features, _ = judge(self.network, self.critics, patch, around)
        features, _ = judge(self.network, self.critics, complete(patch, filled, hole), around)
        pairs = zip(real_features, features, strict=True)
        residual = sum(ops.mean(ops.abs(a - b), axis=-1) for a, b in pairs) / len(features)
        margin = [(size - inner) // 2 for size, inner in zip(self.patch, self.hole, strict=True)]
        x, y, z = (slice(more, more + inner) for more, inner in zip(margin, self.hole, strict=True))
        error = ops.mean(ops.abs(patch - filled), axis=-1)[:, x, y, z]
        return error + kappa * residual[:, None, None, None]

    def _tile(self, inside: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Returns the first voxels (n, 3) of the holes of one grid that touch the mask; below 0 outside the volume."""
        sizes = np.array(self.hole)
        touched = np.unique((np.argwhere(inside) + offset) // sizes, axis=0)
        return touched * sizes - offset

    def _pad(self, volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pads the volume with room for every patch about it, and returns the shift of its first voxel, too."""
        shift = np.array(self.patch)
        return np.pad(volume.astype(np.float32), [*((size, size) for size in shift), (0, 0)]), shift

    def _fill_batches(self, starts: np.ndarray, progress: Progress | None) -> Any:
        """Yields fixed batches, the last filled up with its own first row."""
        for first in range(0, len(starts), self.batch_size):
            batch = starts[first : first + self.batch_size]
            yield np.concatenate([batch, np.repeat(batch[:1], self.batch_size - len(batch), axis=0)])
            if progress:
                progress(min(first + self.batch_size, len(starts)), len(starts))


def hole_in_middle(patch: Sequence[int], hole: Sequence[int]) -> np.ndarray:
    """Returns (1, *patch, 1) float32, 1 in a hole in the middle.

    Example:
        >>> hole_in_middle((4, 4, 4), (2, 2, 2)).sum()
        np.float32(8.0)
    """
    pads = [((size - inner) // 2,) * 2 for size, inner in zip(patch, hole, strict=True)]
    return np.pad(np.ones(tuple(hole), np.float32), pads)[None, ..., None]


def grid_shifts(count: int, hole: Sequence[int]) -> np.ndarray:
    """Returns offsets (count, 3) of grids of holes, in voxels from 0 to the hole, spread as evenly as `count` allows.

    The first eight are the corners of half a hole; those after them lie between.
    """
    fractions = itertools.chain(
        itertools.product((0.0, 0.5), repeat=3), itertools.product((0.25, 0.75), repeat=3), _spread_fractions()
    )
    shifts = np.array(list(itertools.islice(fractions, count)))
    return np.floor(shifts * np.array(hole)).astype(np.int64)


def _spread_fractions() -> Any:
    """Yields more fractions, each far from those before it: multiples of the golden ratio's relatives in 3D."""
    for number in itertools.count(1):
        yield tuple((number / 1.2207440846 ** (axis + 1)) % 1 for axis in range(3))


def _cut_patches(volume: np.ndarray, starts: np.ndarray, patch: Sequence[int]) -> np.ndarray:
    return np.stack(
        [
            volume[tuple(slice(first, first + size) for first, size in zip(start, patch, strict=True))]
            for start in starts
        ]
    )


def _split_encoder(encoder: keras.Model) -> tuple[keras.Model, keras.Model, keras.layers.Layer]:
    """Returns the encoder in parts: near patch to features, far volume to features, both to the code."""
    near, far = encoder.input
    features = [encoder.get_layer(f"encoder_{part}_flat").output for part in ("local", "global")]
    return keras.Model(near, features[0]), keras.Model(far, features[1]), encoder.get_layer("encoder_code")
