"""What turns a brain into codes in the gates of `epilepsy_lesions`: one entry a network, all judged by one detector.

An entry is `(seed) -> encode`, and `encode` takes (x, y, z, 2) of the common space to codes on a grid of every
`STEP`-th voxel, (ceil(x / STEP), ceil(y / STEP), ceil(z / STEP), d) with d = `CODE_SIZE` where the network has codes. A
network that gives a score rather than codes gives d = 1. To add one, write such a function under `@encoder("name")`.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

STEP, CODE_SIZE, STEPS, BATCH = 3, 64, 700, 32
Encode = Callable[[np.ndarray], np.ndarray]
ENCODERS: dict[str, Callable[[int], Encode]] = {}


def encoder(name: str) -> Callable[[Callable[[int], Encode]], Callable[[int], Encode]]:
    """Registers an entry under a name."""

    def add(make: Callable[[int], Encode]) -> Callable[[int], Encode]:
        ENCODERS[name] = make
        return make

    return add


def task(**changes: Any) -> Any:
    """The task with some fields changed."""
    from zoo.tasks import epilepsy_lesions

    return epilepsy_lesions.TASK.replace(**{"steps": STEPS, "batch_size": BATCH} | changes)


@functools.cache
def painter() -> Callable[[Any], Any]:
    """Batches of training pairs as a function of a seed, compiled once for all networks."""
    import tensorflow as tf

    return tf.function(task().synthesis(task(), "train"), jit_compile=True)


def batches(seed: int) -> Any:
    """The pairs of all training steps: every network of a seed sees the same ones."""
    import tensorflow as tf

    draw, numbers = painter(), tf.data.Dataset.range(STEPS)
    drawn = numbers.map(lambda number: draw(tf.stack([seed, tf.cast(number, tf.int32)])), num_parallel_calls=2)
    return drawn.prefetch(2)


@functools.lru_cache(maxsize=8)
def trained(seed: int, **loss: float) -> Any:
    """The siamese network after `STEPS` steps under a loss."""
    import keras

    from zoo.devices import policy
    from zoo.training import network as networks

    keras.utils.set_random_seed(seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy("auto"))
    model = networks.build(task(loss_arguments=loss), STEPS)
    keras.config.set_dtype_policy(before)
    for patches, wanted in batches(seed):
        model.train_on_batch(patches, wanted)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    return networks.trained_part(model)


def codes(network: Any) -> Encode:
    """Codes of a network with an encoder, in the quickest precision."""
    from zoo.normative.encoding import make_encoder

    return make_encoder(network, step=STEP, precision="auto")


@encoder("siamese")
def siamese(seed: int) -> Encode:
    """Reconstruction, agreement and the hinge."""
    return codes(trained(seed))


@encoder("auto-encoder")
def auto_encoder(seed: int) -> Encode:
    """The same network and batches, reconstruction alone."""
    return codes(trained(seed, alpha=0.0, hinge=0.0))


@encoder("intensity z-score")
def intensity(seed: int) -> Encode:
    """No network: T1 and FLAIR, smoothed a little, each compared with the controls at its own place."""
    from scipy import ndimage

    def encode(images: np.ndarray) -> np.ndarray:
        smooth = ndimage.gaussian_filter(np.asarray(images, np.float32), (1.0, 1.0, 1.0, 0.0))
        return smooth[::STEP, ::STEP, ::STEP]

    return encode
