"""Encoders of images: into the codes of a trained generator, and the auto-encoders that GANs are compared with."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from zoo.training.adversarial.inpainting import with_features
from zoo.training.adversarial.learner import Learner

Tensor = Any


class GanEncoder(Learner):
    """Trains the encoder of f-AnoGAN; generator and critic, trained before, stay as they are.

    `mean (x - G(E(x)))^2 + kappa mean (f(x) - f(G(E(x))))^2` with the critic's features f: the "izi_f" of the source.
    Data are pairs of images (batch, x, y, z, channels), of which the second is used.

    Args:
        network: a `gan3d` of variant "f_anogan".
        kappa: weight of the features' residual.

    Source: Schlegl et al. 2019, doi 10.1016/j.media.2019.01.010.
    """

    def __init__(self, network: keras.Model, *, kappa: float = 1.0) -> None:
        super().__init__(network, {"encoder": ("encoder",)}, logs=("loss", "residual", "feature_residual"))
        self.kappa = kappa
        self.judge = with_features(self.part("critic"))

    def restore(self, images: Tensor, training: bool = False) -> Tensor:
        """Returns what the generator makes of the images' codes."""
        return self.part("generator")(self.part("encoder")(images, training=training), training=False)

    def train_step(self, data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Takes one step of the encoder."""
        real = data[1]
        real_features, _ = self.judge(real, training=False)
        with tf.GradientTape() as tape:
            fake = self.restore(real, training=True)
            fake_features, _ = self.judge(fake, training=False)
            residual = ops.mean(ops.square(real - fake))
            feature_residual = ops.mean(ops.square(ops.cast(real_features - fake_features, "float32")))
            loss = residual + self.kappa * feature_residual
        self.descend(tape, loss, "encoder")
        return self.add_to_means(self.means, loss, residual, feature_residual)

    def test_step(self, data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Measures how well images are restored."""
        fake = self.restore(data[1])
        return self.log_test(ops.mean(ops.square(data[1] - fake)), data[1], fake)

    def montage_rows(self, data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Returns the rows of a montage: title -> images."""
        return {"real": data[1], "restored": self.restore(data[1])}


class AutoEncoder(Learner):
    """Trains encoder and generator to restore images; with noise, a denoising auto-encoder.

    The noise is coarse: drawn on a grid of `cell` voxels, shifted at random, interpolated, and added where there is
    tissue (voxels that are not 0). Data are pairs of images (batch, x, y, z, channels), of which the second is used.

    Args:
        network: a `gan3d` of variant "f_anogan"; its critic is left alone.
        noise: SD of the noise, in units of the images; 0 for a plain auto-encoder.
        cell: voxels between two nodes of the noise.
        seed: of the noise; None draws it from Keras' global seed.

    Source: Kascenas et al., MIDL 2022 (PMLR 172): noise of 16 x 16 on slices of 128 x 128 and SD 0.2 on images from 0
    to 1. Theirs is a U-Net; here the code is the only way through, so that codes can be compared.
    """

    def __init__(self, network: keras.Model, *, noise: float = 0.0, cell: int = 8, seed: int | None = None) -> None:
        trained = {"generator": ("encoder", "generator")}
        super().__init__(network, trained, logs=("loss",), seed=seed)
        self.noise, self.cell = noise, cell

    def restore(self, images: Tensor, training: bool = False) -> Tensor:
        """Returns the images that encoder and generator make of images."""
        return self.part("generator")(self.part("encoder")(images, training=training), training=training)

    def add_noise(self, images: Tensor) -> Tensor:
        """Returns the images with another draw of the noise."""
        shape = tuple(images.shape)
        coarse = coarse_noise(shape[1:-1], self.cell, (shape[0], shape[-1]), self.seed_generator)
        return images + self.noise * coarse * ops.cast(images != 0, images.dtype)

    def train_step(self, data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Takes one step on the mean absolute difference from the clean images."""
        real = data[1]
        inputs = self.add_noise(real) if self.noise else real
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.abs(self.restore(inputs, training=True) - real))
        self.descend(tape, loss, "generator")
        return self.add_to_means(self.means, loss)

    def test_step(self, data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Measures how well clean images are restored."""
        fake = self.restore(data[1])
        return self.log_test(ops.mean(ops.square(data[1] - fake)), data[1], fake)

    def montage_rows(self, data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Returns the rows of a montage: title -> images."""
        rows = {"noisy": self.add_noise(data[1])} if self.noise else {}
        return {"real": data[1], **rows, "restored": self.restore(data[1])}


def coarse_noise(shape: Sequence[int], cell: int, many: tuple[int, int], generator: Any) -> Tensor:
    """Draws smooth noise of SD 1 at its nodes, which lie `cell` voxels apart, at random places.

    Args:
        shape: voxels (x, y, z).
        cell: voxels between two nodes.
        many: (batch, channels).
        generator: a Keras seed generator.

    Returns:
        (batch, x, y, z, channels) float32.
    """
    nodes = [-(-size // cell) + 2 for size in shape]
    grid = keras.random.normal((*nodes, many[0] * many[1]), seed=generator)
    shift = keras.random.uniform((3,), seed=generator) * float(cell)
    for axis, size in enumerate(shape):
        place = (ops.arange(size, dtype="float32") + shift[axis]) / float(cell)
        weight = ops.relu(1.0 - ops.abs(place[:, None] - ops.arange(nodes[axis], dtype="float32")))
        grid = ops.moveaxis(ops.tensordot(weight, grid, axes=[[1], [axis]]), 0, axis)
    volumes = ops.reshape(grid, (*shape, *many))
    return ops.transpose(volumes, (3, 0, 1, 2, 4))
