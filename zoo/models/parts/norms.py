"""Norms and an activation of Keras, with training steps that take less time and memory; in inference they are Keras'.

Keras keeps a float32 copy of a norm's input for the gradient, and the input of the activation after it. Here the closed
form of the gradient needs the norm's input alone, in its own precision, and the gradient of the activation reads its
output, which the next convolution keeps anyway.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from zoo.models.parts import fused_kernels

register = keras.saving.register_keras_serializable(package="zoo")
MOST_KERNEL_CALLS = 4
_replays: list[None] = []


@contextlib.contextmanager
def replaying() -> Iterator[None]:
    """Keeps batch norms from moving their statistics, in the second call of a step that computes layers again."""
    _replays.append(None)
    try:
        yield
    finally:
        _replays.pop()


@register
class GroupNormalization(keras.layers.GroupNormalization):
    """Normalises groups of channels of each sample, equal to Keras' layer of this name to 1e-5 in float32.

    Source: Wu and He, ECCV 2018, arXiv 1803.08494; with a group for each channel: Ulyanov et al., arXiv 1607.08022.
    """

    def call(self, inputs, training=None):
        """Normalises (batch, ..., channels), in training by `normalise_groups`."""
        if not training or not (self.scale and self.center) or self.axis not in (-1, len(inputs.shape) - 1):
            return super().call(inputs)
        gamma, beta = ops.copy(self.gamma), ops.copy(self.beta)
        return ops.cast(normalise_groups(inputs, gamma, beta, self.groups, self.epsilon), self.compute_dtype)


@register
class BatchNormalization(keras.layers.BatchNormalization):
    """Normalises channels over a batch, equal to Keras' layer of this name to 1e-5 in float32.

    Source: Ioffe and Szegedy, ICML 2015, arXiv 1502.03167.
    """

    def call(self, inputs, training=None, mask=None):
        """Normalises (batch, ..., channels), in training in one pass and its gradient in closed form."""
        plain = self.scale and self.center and not (self.renorm or self.synchronized or mask is not None)
        if not (training and self.trainable and plain) or self.axis not in (-1, len(inputs.shape) - 1):
            return super().call(inputs, training=training, mask=mask)
        gamma, beta = ops.copy(self.gamma), ops.copy(self.beta)
        outputs, mean, variance = normalise_channels(inputs, gamma, beta, self.epsilon)
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)) if not _replays else ():
            moving.assign(moving * self.momentum + ops.stop_gradient(value) * (1 - self.momentum))
        return ops.cast(outputs, self.compute_dtype)


@register
class LeakyReLU(keras.layers.LeakyReLU):
    """Scales what is below zero, as Keras' layer of this name does."""

    def call(self, inputs, training=None):
        """Returns the shape of the inputs; in training the gradient keeps the output instead of the input."""
        if not training or self.negative_slope <= 0:
            return super().call(inputs)
        return fused_kernels.leaky_relu(inputs, self.negative_slope)


def normalise_channels(x: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any]:
    """Normalises each channel over the batch and all voxels.

    Args:
        x: (batch, ..., channels).
        gamma: (channels,) float32.
        beta: (channels,) float32.
        epsilon: added to the variance.

    Returns:
        The result in the shape and dtype of `x`; mean and variance of each channel, (channels,) float32.

    Example:
        >>> y, mean, variance = normalise_channels(ops.ones((2, 3, 4)), ops.ones(4), ops.zeros(4), 1e-5)
        >>> mean.shape, float(variance[0])
        (TensorShape([4]), 0.0)
    """
    fused = fused_kernels.fused_batch_norm(x, gamma, beta, epsilon)
    if fused is not None:
        return fused
    y, mean, variance = _closed_form(epsilon, x.shape[-1])(ops.reshape(x, (1, -1, x.shape[-1])), gamma, beta)
    return ops.reshape(y, ops.shape(x)), ops.reshape(mean, (-1,)), ops.reshape(variance, (-1,))


def normalise_groups(x: Any, gamma: Any, beta: Any, groups: int, epsilon: float) -> Any:
    """Normalises groups of adjacent channels of each sample over all voxels.

    Args:
        x: (batch, ..., channels).
        gamma: (channels,) float32.
        beta: (channels,) float32.
        groups: how many, a divisor of the channels.
        epsilon: added to the variance.

    Returns:
        The shape and dtype of `x`.

    Example:
        >>> y = normalise_groups(ops.reshape(ops.arange(8.0), (1, 4, 2)), ops.ones(2), ops.zeros(2), 2, 0.0)
        >>> round(float(y[0, 3, 1]), 3)
        1.342
    """
    batch, channels = x.shape[0], x.shape[-1]
    if (
        groups == channels
        and batch is not None
        and batch <= MOST_KERNEL_CALLS
        and fused_kernels.serves_fused_batch_norm(x)
    ):
        samples = [normalise_channels(sample, gamma, beta, epsilon)[0] for sample in ops.split(x, batch)]
        return samples[0] if batch == 1 else ops.concatenate(samples)
    y, _, _ = _closed_form(epsilon, groups)(ops.reshape(x, (ops.shape(x)[0], -1, channels)), gamma, beta)
    return ops.reshape(y, ops.shape(x))


def _closed_form(epsilon: float, groups: int):
    """Returns the norm of (batch, voxels, channels); it gives its statistics, too, and its gradient keeps its input.

    With u the upstream gradient, z = (x - mean) / deviation, and averages over a group:
    dx = (gamma u - average(gamma u) - z average(gamma u z)) / deviation.
    The statistics have no gradient; there is no second derivative.
    """

    def average(values):
        """Averages (batch, 1, channels) over groups."""
        channels = values.shape[-1]
        means = ops.mean(ops.reshape(values, (-1, groups, channels // groups)), axis=-1)
        return ops.reshape(ops.repeat(means, channels // groups, axis=-1), (-1, 1, channels))

    def over_voxels(values):
        return average(ops.mean(values, axis=1, keepdims=True))

    @ops.custom_gradient
    def normalise(x, gamma, beta):
        wide = ops.cast(x, "float32")
        mean = over_voxels(wide)
        variance = over_voxels(ops.square(wide - mean))
        inverse = ops.rsqrt(variance + epsilon)
        scale = gamma * inverse
        y = ops.cast(wide * scale + (beta - mean * scale), x.dtype)

        def gradient(*upstream):
            u = ops.cast(keras.tree.flatten(upstream)[0], "float32")
            centred = ops.cast(x, "float32") - mean
            of_beta = ops.sum(u, axis=1, keepdims=True)
            of_gamma = ops.sum(u * centred, axis=1, keepdims=True) * inverse
            count = ops.cast(ops.shape(x)[1], "float32")
            shift, slope = average(gamma * of_beta) / count, average(gamma * of_gamma) / count
            of_x = u * scale - (centred * (slope * inverse * inverse) + shift * inverse)
            return ops.cast(of_x, x.dtype), ops.sum(of_gamma, axis=(0, 1)), ops.sum(of_beta, axis=(0, 1))

        return (y, mean, variance), gradient

    return normalise
