"""What the learners share: parts with an optimiser each, seeded draws, means for the log, similarity of fakes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from zoo.evaluation.generated_volumes import ms_ssim

Tensor = Any
SSIM_REAL, SSIM_FAKE = "ssim_real", "ssim_fake"


class Learner(keras.Model):
    """A network whose parts are trained in turns, each by an optimiser of its own.

    Args:
        network: what a builder made; its nested models are the parts.
        trained: name of an optimiser -> the parts that it moves; the first is the one whose weights are averaged.
        logs: names of the means that a step reports, "loss" first.
        seed: of all draws in training; None draws it from Keras' global seed.
    """

    def __init__(
        self,
        network: keras.Model,
        trained: Mapping[str, Sequence[str]],
        *,
        logs: Sequence[str],
        seed: int | None = None,
    ) -> None:
        super().__init__(name=network.name)
        self.network = network
        self.trained = {name: tuple(parts) for name, parts in trained.items()}
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.means = [keras.metrics.Mean(name=name) for name in logs]
        self.test_means = [keras.metrics.Mean(name=name) for name in ("psnr", SSIM_REAL, SSIM_FAKE)]
        self.optimizers: dict[str, keras.optimizers.Optimizer] = {}
        self.built = True

    def prepare(self, *optimizers: keras.optimizers.Optimizer, jit: bool = False) -> "Learner":
        """Compiles the step with one optimiser for each of `trained`, in its order.

        Raises:
            ValueError: their number differs.
        """
        if len(optimizers) != len(self.trained):
            raise ValueError(
                f"{type(self).__name__} needs {len(self.trained)} optimisers, for {', '.join(self.trained)}, got "
                f"{len(optimizers)}. Pass one for each, in this order."
            )
        self.compile(optimizer=optimizers[0], jit_compile=jit, auto_scale_loss=False)
        self.optimizers = dict(zip(self.trained, optimizers, strict=True))
        for name, optimizer in self.optimizers.items():
            optimizer.build(self.variables_of(name))
        return self

    def part(self, name: str) -> keras.Model:
        """Returns a part of the network."""
        return self.network.get_layer(name)

    def variables_of(self, name: str) -> list[Any]:
        """Returns the variables that the optimiser of that name moves."""
        return [variable for part in self.trained[name] for variable in self.part(part).trainable_variables]

    def descend(self, tape: tf.GradientTape, loss: Tensor, name: str) -> None:
        """Takes one step of the optimiser of that name."""
        variables = self.variables_of(name)
        self.optimizers[name].apply(tape.gradient(loss, variables), variables)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Calls the network itself."""
        return self.network(inputs, training=training)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Returns numbers in 0 to 1, float32; another draw at each call."""
        return keras.random.uniform(shape, seed=self.seed_generator)

    def add_to_means(self, means: Sequence[keras.metrics.Mean], *values: Tensor) -> dict[str, Tensor]:
        """Adds values to the means of the epoch and returns these."""
        for mean, value in zip(means, values, strict=True):
            mean.update_state(value)
        return {mean.name: mean.result() for mean in means}

    def log_test(self, error: Tensor, real: Tensor, fake: Tensor, distance: int = 1) -> dict[str, Tensor]:
        """Returns the logs of a test step.

        Args:
            error: () mean square of what was to be restored.
            real: images (batch, x, y, z, channels).
            fake: images of the same shape.
            distance: of the two images of a pair in the batch.
        """
        span = ops.maximum(ops.max(real) - ops.min(real), 1e-3)
        psnr = 10.0 / ops.log(10.0) * ops.log(ops.square(span) / ops.maximum(error, 1e-12))
        among = (ops.mean(ms_ssim(ops.roll(images, distance, axis=0), images, span=span)) for images in (real, fake))
        return self.add_to_means(self.test_means, psnr, *among)


def split(batch: Tensor, parts: int) -> Iterator[Tensor]:
    """Splits a batch into equal parts.

    Raises:
        ValueError: it cannot be split so.
    """
    if batch.shape[0] is None or batch.shape[0] % parts:
        raise ValueError(
            f"A batch serves {parts} steps of the critic, in equal parts: its size must be fixed and a multiple of "
            f"{parts}, got {batch.shape[0]}. Change the batch size or critic_steps."
        )
    yield from ops.split(batch, parts, axis=0)
