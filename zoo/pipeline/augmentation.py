"""Changes real patches in training, by a seed: for a task's `augment`."""

from typing import Any

from keras import ops

from zoo.synth import seeds


def mirror_and_rescale(image: Any, labels: Any, seed: Any) -> tuple[Any, Any]:
    """Mirrors a patch left to right every other time, and changes each channel's scale and level a little.

    Args:
        image: (x, y, z, channels) float32, scaled to an SD of about 1; 0 in air, which stays 0.
        labels: (x, y, z, channels) integers.
        seed: an integer tensor.

    Returns:
        Image and labels, of the same shapes.

    Example:
        >>> image, labels = ops.ones((2, 2, 2, 1)), ops.ones((2, 2, 2, 1), "int32")
        >>> changed, _ = mirror_and_rescale(image, labels, ops.array([0, 1]))
        >>> bool(ops.all(abs(changed - 1) < 1)), bool(ops.all(changed == 1))
        (True, False)
    """
    flip = seeds.uniform(seed, (), 1) < 0.5
    image, labels = (ops.where(flip, ops.flip(values, axis=0), values) for values in (image, labels))
    change = 0.1 * seeds.normal(seed, (2, image.shape[-1]), 2)
    head = ops.cast(ops.any(image != 0, axis=-1, keepdims=True), "float32")
    return (image * (1.0 + change[0]) + change[1]) * head, labels
