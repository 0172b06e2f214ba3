"""GANs and auto-encoders of patches in the gates of `epilepsy_lesions`, registered beside the siamese network.

All are small, read patches of 16 mm with codes of the same size, and see the same batches of one seed. They have no
dense form: a code costs a patch, so theirs lie every `APART` voxels and are interpolated to the common grid.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from studies.epilepsy_encoders import CODE_SIZE, STEP, Encode, encoder
from zoo.training.experiments.study import Criterion, format_spread

PATCH, HOLE, CONTEXT, RATIO = (16, 16, 16), (8, 8, 8), (32, 32, 32), 6
FILTERS, BATCH, STEPS, PEOPLE = (8, 16, 32), 16, 300, 12
APART = 2 * STEP
RATE, NOISE, CELL = 1e-3, 1.0, 8  # the noise is 0.2 of the range of values, which spans about 5 SD
LEAST_GAIN = 0.02
CONTEXTUAL = "contextual GAN"
LOCAL, PLACELESS = f"{CONTEXTUAL}, no global volume", f"{CONTEXTUAL}, no coordinates"


@functools.cache
def sampler() -> Callable[[Any], Any]:
    """Batches of patches with their surroundings, of controls of the training anatomies."""
    import tensorflow as tf

    from zoo.normative import synthetic_cohort as cohorts
    from zoo.training.adversarial import coarse_context

    images = cohorts.stack_images(cohorts.load_cohort("train", PEOPLE))
    sample = coarse_context.sampler(images, cohorts.brain(), size=BATCH, patch=PATCH, ratio=RATIO, shape=CONTEXT)
    return tf.function(sample)


def batches(seed: int) -> Iterator[Any]:
    """The batches of one seed, the same for every network."""
    import tensorflow as tf

    for number in range(STEPS):
        yield sampler()(tf.constant([seed, number]))


def network(variant: str, seed: int) -> Any:
    """A small GAN."""
    import keras

    from zoo.models.gan3d import gan3d

    keras.utils.set_random_seed(seed)
    more = {"context_shape": CONTEXT, "context_ratio": float(RATIO)} if variant == "contextual" else {}
    style = {"norm": "group", "activation": "leaky_relu", "filters": FILTERS}
    return gan3d((*PATCH, 2), CODE_SIZE, variant=variant, **style, **more)


def adam(rate: float = RATE, beta_1: float = 0.0) -> Any:
    """Adam as GANs take it; what has no critic takes momentum."""
    import keras

    return keras.optimizers.Adam(rate, beta_1, 0.9)


def teach(learner: Any, seed: int) -> None:
    """All steps of a learner; those that read patches alone get them alone."""
    from zoo.training.adversarial import ContextualGan

    for around, patch in batches(seed):
        learner.train_on_batch(around if isinstance(learner, ContextualGan) else patch, patch)


def contextual(seed: int, **sight: bool) -> Encode:
    """The contextual GAN, or one that may not see something."""
    from zoo.normative import synthetic_cohort as cohorts
    from zoo.training.adversarial import ContextualGan, Setting
    from zoo.training.adversarial.inpainting import Reader, Visibility

    made, sees = network("contextual", seed), Visibility(**sight)
    teach(ContextualGan(made, Setting(hole=HOLE, sight=sees), seed=seed).prepare(adam(), adam()), seed)
    reader = Reader(made, HOLE, sight=sees, batch_size=512)
    region = ndimage.binary_dilation(cohorts.brain(), iterations=APART)  # so that no code is blended with nothing
    return lambda images: finer(reader.on_grid(np.asarray(images, np.float32), region, APART), images.shape[:3])


@encoder(CONTEXTUAL)
def full(seed: int) -> Encode:
    """Local, global, and the place."""
    return contextual(seed)


@encoder(LOCAL)
def local(seed: int) -> Encode:
    """The ablation of the global volume."""
    return contextual(seed, context=False)


@encoder(PLACELESS)
def placeless(seed: int) -> Encode:
    """The ablation of the coordinates."""
    return contextual(seed, position=False)


@encoder("f-AnoGAN")
def f_anogan(seed: int) -> Encode:
    """The GAN first, WGAN-GP, then its encoder."""
    from zoo.training.adversarial import GanEncoder, PlainGan

    made = network("f_anogan", seed)
    teach(PlainGan(made, "wasserstein", seed=seed).prepare(adam(2e-4), adam(4e-4)), seed)
    teach(GanEncoder(made).prepare(adam(beta_1=0.9)), seed)
    return codes(made.get_layer("encoder"))


@encoder("auto-encoder of 16 mm")
def auto_encoder(seed: int, noise: float = 0.0) -> Encode:
    """Encoder and generator of the f-AnoGAN, trained to restore patches."""
    from zoo.training.adversarial import AutoEncoder

    made = network("f_anogan", seed)
    teach(AutoEncoder(made, noise=noise, cell=CELL, seed=seed).prepare(adam(beta_1=0.9)), seed)
    return codes(made.get_layer("encoder"))


@encoder("denoising auto-encoder of 16 mm")
def denoising(seed: int) -> Encode:
    """The same, with coarse noise to take away."""
    return auto_encoder(seed, NOISE)


def codes(part: Any) -> Encode:
    """Reads a volume patch by patch with an encoder of patches alone."""
    import tensorflow as tf

    from zoo.normative import synthetic_cohort as cohorts

    forward = tf.function(lambda patch: part(patch, training=False))
    region = ndimage.binary_dilation(cohorts.brain(), iterations=APART)
    where = np.argwhere(region[(slice(None, None, APART),) * 3])

    def encode(images: np.ndarray) -> np.ndarray:
        half = np.array(PATCH) // 2
        padded = np.pad(np.asarray(images, np.float32), [*((size, size) for size in half), (0, 0)])
        grid = np.zeros((*(-(-size // APART) for size in images.shape[:3]), CODE_SIZE), np.float32)
        for some in np.array_split(where, -(-len(where) // 512)):
            grid[tuple(some.T)] = forward(tf.constant(cut(padded, some * APART))).numpy()
        return finer(grid, images.shape[:3])

    return encode


def cut(padded: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Patches (n, *PATCH, channels) by their first voxels."""
    boxes = (tuple(slice(first, first + size) for first, size in zip(one, PATCH, strict=True)) for one in corners)
    return np.stack([padded[box] for box in boxes])


def finer(grid: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Codes of every `APART`-th voxel on the grid of every `STEP`-th, linear in between, the last ones repeated."""
    for axis, size in enumerate(shape):
        last = grid.shape[axis] - 1
        place = np.minimum(np.arange(-(-size // STEP)) * STEP / APART, last)
        low = np.minimum(np.floor(place).astype(int), max(last - 1, 0))
        weight = (place - low).astype(np.float32).reshape([-1 if other == axis else 1 for other in range(grid.ndim)])
        grid = (1 - weight) * grid.take(low, axis) + weight * grid.take(np.minimum(low + 1, last), axis)
    return grid


def gates(rows: Mapping[str, Sequence[Mapping[str, float]]], siamese: str) -> list[Criterion]:
    """The promises about the GANs: two of training, and two that nothing but the code decides."""
    where = "auprc_context"
    gan, without, pairs = ([row[where] for row in rows[name]] for name in (CONTEXTUAL, LOCAL, siamese))
    gains = [[one - other for one, other in zip(gan, others, strict=True)] for others in (pairs, without)]
    names = ("the siamese network", "itself without the global volume")
    return [
        *(
            Criterion(
                f"contextual GAN against {name}, AUPRC of the context lesion",
                f">= {LEAST_GAIN} more",
                format_spread(gain),
                bool(np.mean(gain) >= LEAST_GAIN),
            )
            for name, gain in zip(names, gains, strict=True)
        ),
        penalty(),
        spectral(),
    ]


def told() -> dict[str, Any]:
    """Sizes and lengths, for the page."""
    return {"GANs: steps": STEPS, "GANs: batch": BATCH, "GANs: patch": PATCH, "GANs: voxels from code to code": APART}


def penalty(lengths: Sequence[float] = (0.0, 0.5, 1.0, 3.0)) -> Criterion:
    """The gradient penalty of linear critics of known slope."""
    import tensorflow as tf

    from zoo.training.adversarial import gradient_penalty

    draw = np.random.default_rng(0)
    real, fake = (tf.constant(draw.normal(size=(4, *PATCH, 2)), tf.float32) for _ in range(2))
    direction = draw.normal(size=(int(np.prod(PATCH)) * 2, 1))
    direction /= np.linalg.norm(direction)
    worst = 0.0
    for length in lengths:
        linear = functools.partial(_linear, weights=tf.constant(length * direction, tf.float32))
        found = float(gradient_penalty(linear, real, fake, tf.fill((4, 1, 1, 1, 1), 0.3)))
        worst = max(worst, abs(found - (length - 1) ** 2))
    return Criterion(
        "gradient penalty of a linear critic", "(|w| - 1)^2 within 1e-5", f"off by {worst:.1g}", worst < 1e-5
    )


def _linear(images: Any, weights: Any) -> Any:
    import tensorflow as tf

    return tf.matmul(tf.reshape(images, (images.shape[0], -1)), weights)


def spectral(iterations: int = 50) -> Criterion:
    """The largest singular value of every weight of the contextual critics."""
    import keras
    import tensorflow as tf

    norms = []
    for name in ("critic_local", "critic_global"):
        critic = network("contextual", 0).get_layer(name)
        iterate = tf.function(functools.partial(critic, training=True))
        for number in range(iterations):
            iterate(keras.random.normal((1, *critic.input_shape[1:]), seed=number))
        kernels = (np.asarray(v) for v in critic.trainable_variables if v.path.endswith("kernel"))
        norms += [np.linalg.svd(k.reshape(-1, k.shape[-1]), compute_uv=False)[0] for k in kernels]
    low, high = min(norms), max(norms)
    name = f"spectral norms of the critics after {iterations} iterations"
    return Criterion(name, "0.95 to 1.05", f"{low:.3f} to {high:.3f}", bool(low >= 0.95 and high <= 1.05))
