"""Every loss with settings, on data of three different sizes; as a script, writes values and gradients.

The tests compare backends with `KERAS_BACKEND=jax python loss_table.py out.npz`.
"""

import functools
import sys

import numpy as np
from keras import backend, ops

from zoo import losses

SPACING = (1.0, 1.2, 0.8)
SHAPE = (2, 8, 10, 12)


def ball(centre, radius, shape=SHAPE[1:]):
    return sum((axis - c) ** 2 for axis, c in zip(np.indices(shape), centre, strict=True)) <= radius**2


def arrays():
    """Draws labels with two lesions in the first sample and one in the second, and logits that partly agree."""
    rng = np.random.default_rng(3)
    labels = np.zeros((*SHAPE, 1), np.int32)
    labels[0, ball((2, 2, 3), 2), 0] = 1
    labels[0, ball((5, 7, 9), 1.5), 0] = 2
    labels[1, ball((4, 5, 6), 2.5), 0] = 1
    guess = 2.0 * rng.choice([-1, 1], size=(*SHAPE, 3), p=[0.9, 0.1]) + 0.5 * rng.uniform(-1, 1, (*SHAPE, 3))
    guess[..., 0] += 2.0
    guess[..., 1] += 3.0 * (labels[..., 0] == 1)
    return {
        "labels": labels,
        "logits": guess.astype(np.float32),
        "one_logit": (guess[..., 1:2] - 0.5).astype(np.float32),
        "weight": rng.uniform(0, 1, (*SHAPE, 1)).astype(np.float32),
        "mask": (np.indices(SHAPE)[1] < np.array([8, 6])[:, None, None, None]).astype(np.float32)[..., None],
    }


def table(weight):
    """Returns name -> (function, options)."""
    return {
        "dice": (losses.dice, {}),
        "dice_squared": (losses.dice, {"squared": True, "include_background": True}),
        "dice_batch": (losses.dice, {"batch": True}),
        "dice_ignore_empty": (losses.dice, {"ignore_empty": True}),
        "dice_cross_entropy": (losses.dice_cross_entropy, {}),
        "tversky": (losses.tversky, {}),
        "generalised_dice": (losses.generalised_dice, {}),
        "two_class_dice": (losses.two_class_dice, {}),
        "negative_dice": (losses.negative_dice, {}),
        "cross_entropy": (losses.cross_entropy, {}),
        "class_balanced_cross_entropy": (losses.cross_entropy, {"balance": 0.5}),
        "binary_cross_entropy": (losses.binary_cross_entropy, {"positive_weight": 3.0}),
        "balanced_cross_entropy": (losses.binary_cross_entropy, {"positive_weight": None}),
        "focal": (losses.focal, {}),
        "focal_half": (losses.focal, {"gamma": 0.5}),
        "size_penalty": (losses.size_penalty, {"bounds_voxels": (2, 20)}),
        "size_penalty_low": (losses.size_penalty, {"bounds_voxels": (800, 900)}),
        "location_penalty": (losses.location_penalty, {"weight": weight}),
        "boundary": (losses.boundary, {"spacing_mm": SPACING, "reach_mm": 4.0}),
        "component_penalty": (losses.component_penalty, {"spacing_mm": SPACING, "largest_ratio": 2.0}),
        "component_mean": (losses.component_penalty, {"spacing_mm": SPACING, "reduction": "mean"}),
        "blob": (losses.blob, {}),
    }


def value_and_gradient(function, labels, logits):
    """Returns the value of each sample, and the gradient of their sum, on the running backend."""
    if backend.backend() == "jax":
        import jax

        def total(x):
            values = function(labels, x)
            return ops.sum(values), values

        (_, value), slope = jax.jit(jax.value_and_grad(total, has_aux=True))(logits)
        return np.asarray(value), np.asarray(slope)
    import tensorflow as tf

    x = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(tf.constant(labels), x)
    slope = tape.gradient(value, x)
    return value.numpy(), np.zeros_like(logits) if slope is None else slope.numpy()


def gradient(function, labels, logits):
    """Returns the gradient alone."""
    return value_and_gradient(function, labels, logits)[1]


def values_and_gradients():
    data = arrays()
    results = {}
    for name, (function, options) in table(data["weight"]).items():
        with_options = functools.partial(function, **options)
        value, slope = value_and_gradient(with_options, data["labels"], data["logits"])
        results |= {f"{name}/value": value, f"{name}/gradient": slope}
    return results


if __name__ == "__main__":
    np.savez(sys.argv[1], **values_and_gradients())
