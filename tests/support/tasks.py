"""A task that learns in seconds: find the bright ball in noise. Run as a script, it trains into the folder OUT."""

import sys

import keras
import tensorflow as tf

from zoo.training.task import CardText, Data, Fit, Network, Synthesis, Task

SHAPE = (16, 24, 32)


def draw_balls(task, split):
    """Draws a ball of radius 4 at a place that the seed decides."""
    axes = [tf.range(n, dtype="float32") for n in task.data.patch]
    grid = tf.stack(tf.meshgrid(*axes, indexing="ij"), -1)

    def sample(seed):
        centre = tf.random.stateless_uniform((3,), seed) * [float(n - 8) for n in task.data.patch] + 4.0
        ball = tf.reduce_sum((grid - centre) ** 2, -1, keepdims=True) < 16.0
        noise = 0.3 * tf.random.stateless_normal((*task.data.patch, 1), seed + 1)
        return tf.cast(ball, "float32") + noise, tf.cast(ball, "int32")

    return sample


def loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def metrics():
    return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]


BALL = Task(
    name="ball",
    data=Data(
        channels=("T1w",),
        labels={0: ("background", 0), 1: ("ball", 7)},
        spacing_mm=(1.0, 1.0, 1.0),
        patch=SHAPE,
        preprocessing=({"name": "resample", "spacing_mm": [1.0, 1.0, 1.0]},),
    ),
    network=Network(
        builder="unet3d",
        arguments={"filters": (4, 8), "dropout": 0.1},
        divisor=(2, 2, 2),
    ),
    fit=Fit(
        loss=loss,
        metrics=metrics,
        monitor="accuracy",
        optimizer={
            "name": "adam",
            "learning_rate": 3e-3,
            "schedule": "polynomial",
            "use_ema": True,
            "ema_momentum": 0.9,
        },
        batch_size=2,
        steps=60,
        validation_batches=2,
    ),
    synthesis=Synthesis(
        samples=draw_balls,
    ),
    card=CardText(
        description="Finds a bright ball in noise.",
        training_data={"data": "balls in noise, made on the fly", "licence": "none needed"},
    ),
)

if __name__ == "__main__":
    from zoo.training import fit

    fit.train(BALL, "synthetic", sys.argv[1], options=fit.TrainOptions(deterministic=True, precision="float32"))
