"""Tiny GANs and their batches. Run as a script, it trains one into the folder OUT."""

import sys

import keras
import numpy as np
import tensorflow as tf

from zoo.models.gan3d import gan3d
from zoo.training import adversarial
from zoo.training.task import CardText, Data, Fit, Network, Output, Synthesis, Task

PATCH, CONTEXT, CODE, BATCH = (8, 12, 16), (8, 8, 16), 6, 4
TINY = {"filters": (4, 6), "norm": "group"}


def synthesis(task, split):
    """Draws two patches of a ramp at one place, in a ramp of coarse voxels, with a little noise."""

    def sample(seed):
        place = tf.random.stateless_uniform((2, 3), seed, -0.5, 0.5)
        position = tf.repeat(place, 2, axis=0)
        ramp = [tf.cast(tf.linspace(-1.0, 1.0, size), "float32") for size in (*PATCH, *CONTEXT)]
        fine = ramp[0][:, None, None] + ramp[1][None, :, None] + ramp[2]
        coarse = ramp[3][:, None, None] + ramp[4][None, :, None] + ramp[5]
        level = tf.reduce_sum(position, axis=1)[:, None, None, None, None]
        noise = 0.1 * tf.random.stateless_normal((BATCH, *PATCH, 1), seed + 1)
        context = tf.repeat(coarse[None, ..., None], BATCH, axis=0)
        return (context, position), 0.3 * fine[None, ..., None] + level + noise

    return sample


def learner(task, network, steps, jit):
    setting = adversarial.Setting(hole=(4, 6, 8), balance=adversarial.Balance(cosine=0.1))
    made = adversarial.ContextualGan(network, setting)
    average = {"use_ema": True, "ema_momentum": 0.9}
    return made.prepare(
        keras.optimizers.Adam(1e-3, 0.0, 0.9, **average), keras.optimizers.Adam(4e-3, 0.0, 0.9), jit=jit
    )


def watchers(out, validation):
    return [adversarial.CollapseWatch(), adversarial.Montage(out / "samples", validation)]


TASK = Task(
    name="ramps",
    data=Data(
        channels=("T1w",),
        labels={},
        spacing_mm=(1.0, 1.0, 1.0),
        patch=PATCH,
    ),
    network=Network(
        builder="gan3d",
        arguments={**TINY, "variant": "contextual", "context_shape": CONTEXT, "context_ratio": 2.0},
        code_size=CODE,
        fixed_size=True,
        divisor=(4, 4, 4),
    ),
    output=Output(
        kind="generation",
        activation="linear",
    ),
    fit=Fit(
        loss=dict,
        learner=learner,
        watchers=watchers,
        monitor="psnr",
        batch_size=BATCH,
        steps=30,
        validation_batches=1,
    ),
    synthesis=Synthesis(
        batched=True,
        samples=synthesis,
    ),
    card=CardText(
        description="Fills holes in ramps.",
        training_data={"data": "ramps", "licence": "none needed"},
    ),
)


def network(variant, **options):
    """Builds a tiny GAN of any variant."""
    more = {"context_shape": CONTEXT, "context_ratio": 2.0} if variant == "contextual" else {}
    return gan3d((*PATCH, 1), CODE, variant=variant, **{**TINY, **more, **options})


def images(count=BATCH, seed=0):
    """Draws noise over a ramp, (count, *PATCH, 1) float32."""
    noise = np.random.default_rng(seed).normal(0, 0.3, (count, *PATCH, 1))
    return (noise + np.linspace(-1, 1, PATCH[0])[:, None, None, None]).astype(np.float32)


def context_batch(seed=0):
    """Draws a batch of the contextual GAN."""
    draw = np.random.default_rng(seed)
    around = draw.normal(size=(BATCH, *CONTEXT, 1)), draw.uniform(-0.5, 0.5, (BATCH, 3))
    return tuple(each.astype(np.float32) for each in around), images(seed=seed)


if __name__ == "__main__":
    from zoo.training import fit

    fit.train(
        TASK,
        "synthetic",
        sys.argv[1],
        steps=int(sys.argv[2]),
        options=fit.TrainOptions(deterministic=True, precision="float32"),
    )
