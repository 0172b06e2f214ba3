"""A generator of images from noise, against one critic: DCGAN and WGAN-GP in 3D."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from zoo.training.adversarial.learner import Learner, split
from zoo.training.adversarial.objectives import check_precision, gradient_penalty, objective

Tensor = Any


class PlainGan(Learner):
    """Trains generator and critic of a `gan3d` of variant "dcgan", "wgan_gp" or, as its first stage, "f_anogan".

    Data are pairs of images (batch, x, y, z, channels), of which the second is used. The batch is shared between the
    critic's steps, and the generator then makes as many fakes as one of them saw.

    Args:
        network: the GAN.
        goal: "nonsaturating" (DCGAN), "hinge" or "wasserstein" (WGAN).
        penalty: weight of the gradient penalty, 10 for WGAN-GP, 0 for none.
        critic_steps: of the critic for one of the generator.
        seed: of the noise; None draws it from Keras' global seed.

    Raises:
        ValueError: no such objective, or a penalty on a critic that does not compute in float32.

    Source: Radford et al. 2016, arXiv 1511.06434; Gulrajani et al. 2017, arXiv 1704.00028.
    """

    def __init__(
        self,
        network: keras.Model,
        goal: str = "wasserstein",
        *,
        penalty: float = 10.0,
        critic_steps: int = 1,
        seed: int | None = None,
    ) -> None:
        trained = {"generator": ("generator",), "critic": ("critic",)}
        super().__init__(network, trained, logs=("loss", "critic_loss"), seed=seed)
        self.objective, self.penalty, self.critic_steps = objective(goal), penalty, critic_steps
        if penalty:
            check_precision([self.part("critic")])

    def noise(self, count: int) -> Tensor:
        """Draws standard normal codes, (count, code_size)."""
        return keras.random.normal((count, self.part("generator").input_shape[-1]), seed=self.seed_generator)

    def train_step(self, data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Takes the critic's steps, then one of the generator."""
        for real in split(data[1], self.critic_steps):
            critic_loss = self._train_critic(real)
        with tf.GradientTape() as tape:
            fake = self.part("generator")(self.noise(real.shape[0]), training=True)
            loss = self.objective.generator(self.part("critic")(fake))
        self.descend(tape, loss, "generator")
        return self.add_to_means(self.means, loss, critic_loss)

    def _train_critic(self, real: Tensor) -> Tensor:
        fake = self.part("generator")(self.noise(real.shape[0]), training=True)
        critic = self.part("critic")
        with tf.GradientTape() as tape:
            both = critic(ops.concatenate([real, fake], axis=0), training=True)
            loss = self.objective.critic(*ops.split(both, 2, axis=0))
            if self.penalty:
                mix = self.uniform((real.shape[0], 1, 1, 1, 1))
                loss = loss + self.penalty * gradient_penalty(critic, real, fake, mix)
        self.descend(tape, loss, "critic")
        return loss

    def test_step(self, data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Compares the mean images of fakes and real ones (as "psnr"), and measures how alike fakes are."""
        real = data[1]
        fake = self.part("generator")(self.noise(ops.shape(real)[0]), training=False)
        error = ops.mean(ops.square(ops.mean(real, axis=0) - ops.mean(fake, axis=0)))
        return self.log_test(error, real, fake)

    def montage_rows(self, data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Returns the rows of a montage: title -> images."""
        return {"real": data[1], "fake": self.part("generator")(self.noise(data[1].shape[0]), training=False)}
