"""Kernels of TensorFlow that do in one pass what `keras.ops` does in many; None where they do not serve."""

import functools
from typing import Any

import keras


def fused_batch_norm(x: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any] | None:
    """Normalises each channel over everything else, by the kernel that the kernel library of the processor has.

    Its gradient keeps the input and the statistics alone. It is quick where channels fill the processor's registers.

    Args:
        x: (..., channels) float32 or bfloat16 of known channels.
        gamma: (channels,) float32.
        beta: (channels,) float32.
        epsilon: added to the variance.

    Returns:
        The result in the shape and dtype of `x`, mean and variance (channels,) float32. None on another backend, on an
        accelerator, and for channels that the kernel is slow at.

    Example:
        >>> y, mean, variance = fused_batch_norm(keras.ops.ones((4, 8)), keras.ops.ones(8), keras.ops.zeros(8), 1e-5)
        >>> float(mean[0])
        1.0
    """
    if not serves_fused_batch_norm(x):
        return None
    import tensorflow as tf

    channels = x.shape[-1]
    flat = tf.reshape(x, (1, 1, -1, channels))
    none = tf.zeros((0,))
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=flat, scale=gamma, offset=beta, mean=none, variance=none, epsilon=epsilon, is_training=True
    )
    count = tf.cast(tf.shape(flat)[2], tf.float32)
    return tf.reshape(y, tf.shape(x)), mean, variance * (count - 1) / count  # the kernel divides by count - 1


def serves_fused_batch_norm(x: Any) -> bool:
    """Returns whether `fused_batch_norm` serves a tensor: TensorFlow on a processor, channels that fill registers."""
    width = {"float32": 8, "bfloat16": 16}.get(keras.backend.standardize_dtype(x.dtype))
    return width is not None and x.shape[-1] % width == 0 and _on_processor()


@functools.cache
def _on_processor() -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not any(tf.config.list_physical_devices(kind) for kind in ("GPU", "TPU"))


def leaky_relu(x: Any, slope: float) -> Any:
    """Applies a leaky ReLU whose gradient keeps the output, which the next convolution keeps anyway.

    Args:
        x: any shape.
        slope: below zero, above 0.

    Returns:
        In the shape of `x`.

    Example:
        >>> leaky_relu(keras.ops.array([-2.0, 3.0]), 0.5).numpy().tolist()
        [-1.0, 3.0]
    """
    if keras.backend.backend() != "tensorflow":
        return keras.ops.leaky_relu(x, slope)
    import tensorflow as tf

    @tf.custom_gradient
    def activate(x):
        y = tf.nn.leaky_relu(x, slope)
        return y, lambda upstream: tf.raw_ops.LeakyReluGrad(gradients=upstream, features=y, alpha=slope)

    return activate(x)
