"""Adds the layers that Keras lacks, written in `keras.ops` to run on every backend."""

import dataclasses
import math
from typing import Any

import keras
from keras import ops

from zoo.models.parts.sizes import Sizes

register = keras.saving.register_keras_serializable(package="zoo")


@register
class SizeCheck(keras.layers.Layer):
    """Returns a volume unchanged, or raises when its size does not fit the network.

    A network with open shapes learns the size only when it is called; without this layer a bad size
    surfaces as a mismatch deep inside a concatenation. Only static shapes are checked, so nothing is
    added to a compiled function.

    Args:
        sizes: which sizes fit, as `Sizes` or as its fields in a dict.
    """

    def __init__(self, sizes: Sizes | dict[str, Any], **layer: Any) -> None:
        super().__init__(**layer)
        fields = dataclasses.asdict(sizes) if isinstance(sizes, Sizes) else dict(sizes)
        for name in ("minimum", "multiple"):
            fields[name] = tuple(fields[name])  # JSON makes lists of tuples
        self.sizes = Sizes(**fields)

    def call(self, volume):
        """Returns `volume` unchanged.

        Raises:
            ValueError: a size does not fit.
        """
        self.sizes.check(tuple(volume.shape)[1:-1])
        return volume

    def compute_output_shape(self, input_shape):
        """Returns the input shape."""
        return input_shape

    def get_config(self):
        """Returns the configuration, sizes as plain numbers and words."""
        return {**super().get_config(), "sizes": dataclasses.asdict(self.sizes)}


@register
class CropLike(keras.layers.Layer):
    """Crops a volume to the size of a second one.

    Args:
        keep: "center" for a skip beside an unpadded decoder; "start" drops the last voxels, for an
            up-convolution that overshoots an odd size by one.
    """

    def __init__(self, keep: str = "center", **layer: Any) -> None:
        super().__init__(**layer)
        self.keep = keep

    def call(self, pair):
        """Crops the first of two (batch, x, y, z, channels) to the size of the second."""
        volume, like = pair
        sizes, target_sizes = ops.shape(volume)[1:-1], ops.shape(like)[1:-1]
        starts = [(a - b) // 2 if self.keep == "center" else 0 for a, b in zip(sizes, target_sizes, strict=True)]
        x, y, z = (slice(start, start + size) for start, size in zip(starts, target_sizes, strict=True))
        return volume[:, x, y, z]

    def compute_output_shape(self, input_shape):
        """Returns the size of the second with the channels of the first."""
        volume, like = input_shape
        return (*like[:-1], volume[-1])

    def get_config(self):
        """Returns the configuration with `keep`."""
        return {**super().get_config(), "keep": self.keep}


@register
class Half(keras.layers.Layer):
    """Takes the first or the second half of the channels.

    Args:
        second: take the second half.
    """

    def __init__(self, second: bool = False, **layer: Any) -> None:
        super().__init__(**layer)
        self.second = second

    def call(self, volume):
        """Maps (batch, x, y, z, channels) to (batch, x, y, z, channels / 2)."""
        middle = volume.shape[-1] // 2
        return volume[..., middle:] if self.second else volume[..., :middle]

    def compute_output_shape(self, input_shape):
        """Returns the input shape with half as many channels."""
        return (*input_shape[:-1], input_shape[-1] // 2)

    def get_config(self):
        """Returns the configuration with `second`."""
        return {**super().get_config(), "second": self.second}


@register
class Fold(keras.layers.Layer):
    """Folds cubes of voxels into channels (space to depth), exactly: `Unfold` gives the volume back.

    Folds one axis at a time, so that no tensor has more than five axes and every export supports it. Output channels
    are ordered by the voxel's place in its cube along x, then y, then z, then by channel.

    Args:
        factor: edge of a cube in voxels.
    """

    def __init__(self, factor: int = 2, **layer: Any) -> None:
        super().__init__(**layer)
        self.factor = factor

    def call(self, volume):
        """Maps (batch, x, y, z, channels) to (batch, x / factor, y / factor, z / factor, factor^3 channels)."""
        by = self.factor
        channels = volume.shape[-1]
        batch, x, y, z = ops.shape(volume)[:-1]
        lines = ops.reshape(volume, (batch * x, y // by, by, z // by, by * channels))
        planes = ops.reshape(ops.transpose(lines, (0, 1, 3, 2, 4)), (batch, x // by, by, -1, by * by * channels))
        return ops.reshape(ops.transpose(planes, (0, 1, 3, 2, 4)), (batch, x // by, y // by, z // by, by**3 * channels))

    def compute_output_shape(self, input_shape):
        """Returns the shape with fewer voxels and more channels."""
        batch, *sizes, channels = input_shape
        return (batch, *(size and size // self.factor for size in sizes), channels * self.factor**3)

    def get_config(self):
        """Returns the configuration with `factor`."""
        return {**super().get_config(), "factor": self.factor}


@register
class Unfold(keras.layers.Layer):
    """Spreads channels over cubes of voxels (depth to space), the inverse of `Fold`.

    Args:
        factor: edge of a cube in voxels.
    """

    def __init__(self, factor: int = 2, **layer: Any) -> None:
        super().__init__(**layer)
        self.factor = factor

    def call(self, volume):
        """Maps (batch, x, y, z, factor^3 channels) to (batch, factor x, factor y, factor z, channels)."""
        by = self.factor
        channels = volume.shape[-1] // by**3
        batch, x, y, z = ops.shape(volume)[:-1]
        planes = ops.reshape(volume, (batch, x, y * z, by, by * by * channels))
        lines = ops.reshape(ops.transpose(planes, (0, 1, 3, 2, 4)), (batch * x * by, y, z, by, by * channels))
        lines = ops.transpose(lines, (0, 1, 3, 2, 4))
        return ops.reshape(lines, (batch, x * by, y * by, z * by, channels))

    def compute_output_shape(self, input_shape):
        """Returns the shape with more voxels and fewer channels."""
        batch, *sizes, channels = input_shape
        return (batch, *(size and size * self.factor for size in sizes), channels // self.factor**3)

    def get_config(self):
        """Returns the configuration with `factor`."""
        return {**super().get_config(), "factor": self.factor}


@register
class FiLM(keras.layers.Layer):
    """Scales and shifts every channel by a linear function of tabular values; the identity at start.

    `y = x (1 + W_s c) + W_t c + b`, all of W and b zero at first, so an untrained condition changes nothing.

    Source: Perez et al., AAAI 2018, arXiv 1709.07871. Ours starts as the identity.
    """

    def build(self, input_shape):
        """Makes the kernel and the bias for `[(batch, x, y, z, channels), (batch, n)]`."""
        volume, condition = input_shape
        zeros = {"initializer": "zeros", "trainable": True}
        self.kernel = self.add_weight(name="kernel", shape=(condition[-1], 2 * volume[-1]), **zeros)
        self.bias = self.add_weight(name="bias", shape=(2 * volume[-1],), **zeros)

    def call(self, pair):
        """Returns the modulated volume, in the shape of the volume."""
        volume, condition = pair
        modulation = ops.matmul(condition, self.kernel) + self.bias
        scale, shift = ops.split(modulation[:, None, None, None, :], 2, axis=-1)
        return volume * (1 + scale) + shift

    def compute_output_shape(self, input_shape):
        """Returns the shape of the volume."""
        return input_shape[0]


@register
class FourierFeatures(keras.layers.Layer):
    """Computes sines and cosines of a position at octave frequencies, so that a small network can separate places.

    `[sin(2^k pi p), cos(2^k pi p)]` for k = 0 ... `octaves` - 1.

    Args:
        octaves: number of frequencies.

    Source: Tancik et al., NeurIPS 2020, arXiv 2006.10739.
    """

    def __init__(self, octaves: int = 4, **layer: Any) -> None:
        super().__init__(**layer)
        self.octaves = octaves

    def call(self, position):
        """Takes (batch, 3) in [-1, 1], returns (batch, 6 octaves) in [-1, 1]."""
        frequencies = ops.cast([math.pi * 2**k for k in range(self.octaves)], position.dtype)
        phases = position[:, :, None] * frequencies
        phases = ops.reshape(phases, (-1, position.shape[1] * self.octaves))
        return ops.concatenate([ops.sin(phases), ops.cos(phases)], axis=-1)

    def compute_output_shape(self, input_shape):
        """Returns (batch, 2 x axes x octaves)."""
        return (input_shape[0], 2 * input_shape[1] * self.octaves)

    def get_config(self):
        """Returns the configuration with `octaves`."""
        return {**super().get_config(), "octaves": self.octaves}


@register
class Paste(keras.layers.Layer):
    """Pastes a fine patch into a coarse volume at a position, smoothly and differentiably.

    Each coarse voxel under the patch becomes the triangle-weighted mean of the patch voxels around it;
    all others stay. Uses one small matrix for each axis, so it compiles to three matrix products.

    Args:
        ratio: fine voxels along the edge of a coarse one (coarse spacing / fine spacing).
    """

    def __init__(self, ratio: float = 3.0, **layer: Any) -> None:
        super().__init__(**layer)
        self.ratio = ratio

    def call(self, triple):
        """Pastes the patch.

        Args:
            triple: patch (batch, x, y, z, channels), volume (batch, X, Y, Z, channels) and the patch's
                centre (batch, 3), where -1 and 1 are the centres of the volume's first and last voxels.

        Returns:
            (batch, X, Y, Z, channels).
        """
        patch, volume, position = triple
        covered = 1.0
        for axis in range(3):
            weights, inside = self._weights(position[:, axis], patch.shape[axis + 1], volume.shape[axis + 1])
            order = [0, *(i + 1 for i in range(4) if i != axis), axis + 1]
            moved = ops.transpose(patch, order)  # the axis last
            shape = ops.shape(moved)
            flat = ops.reshape(moved, (shape[0], -1, shape[-1]))
            flat = ops.matmul(flat, ops.transpose(weights, (0, 2, 1)))
            moved = ops.reshape(flat, (*shape[:-1], volume.shape[axis + 1]))
            patch = ops.transpose(moved, [order.index(i) for i in range(5)])
            spread = [1, 1, 1, 1, 1]
            spread[axis + 1] = volume.shape[axis + 1]
            covered = covered * ops.reshape(inside, (-1, *spread[1:]))
        return volume * (1 - covered) + patch * covered

    def _weights(self, position, fine: int, coarse: int):
        """Returns (batch, coarse, fine) weights, each row with sum 1, and (batch, coarse) 1 under the patch."""
        coarse_centres = ops.arange(coarse, dtype=position.dtype) - (coarse - 1) / 2
        offset = coarse_centres - position[:, None] * (coarse - 1) / 2
        distance = ops.abs(offset[:, :, None] * self.ratio - (ops.arange(fine, dtype=position.dtype) - (fine - 1) / 2))
        weights = ops.maximum(0.0, 1 - distance / max(self.ratio, 1.0))
        weights = weights / ops.maximum(ops.sum(weights, axis=-1, keepdims=True), 1e-6)
        inside = ops.cast(ops.abs(offset) * self.ratio <= fine / 2, position.dtype)
        return weights, inside

    def compute_output_shape(self, input_shape):
        """Returns the shape of the volume."""
        return input_shape[1]

    def get_config(self):
        """Returns the configuration with `ratio`."""
        return {**super().get_config(), "ratio": self.ratio}
