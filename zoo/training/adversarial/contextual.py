"""A generator that fills holes of a patch from what is around them, near and far, and from where they are."""

import dataclasses
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from zoo.training.adversarial import inpainting
from zoo.training.adversarial.inpainting import SEES_ALL, Visibility, complete
from zoo.training.adversarial.learner import Learner
from zoo.training.adversarial.objectives import check_precision, gradient_penalty, objective

Tensor = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Balance:
    """Weights of the terms of the generator's loss.

    Attributes:
        masked: mean absolute difference in the hole.
        visible: the same outside of it.
        adversarial: the generator's objective on the critics' logits.
        features: mean absolute difference of the critics' features between the filled patch and the real one.
        cosine: `1 - cos` of the codes of neighbours 2i and 2i + 1 in the batch, which are the same place in two people.
    """

    masked: float = 100.0
    visible: float = 10.0
    adversarial: float = 1.0
    features: float = 10.0
    cosine: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """How the contextual GAN is trained.

    Attributes:
        hole: voxels (x, y, z) of the region that is masked, at a random place of the patch.
        whole: share of samples without a hole, so that the code of an unmasked patch is one that the network knows.
        goal: "hinge", "wasserstein" or "nonsaturating".
        penalty: weight of the gradient penalty; 0 for none, since the critics have spectral norm.
        sight: what the network sees, for ablations.
        balance: weights of the loss.
    """

    hole: tuple[int, int, int] = (16, 16, 16)
    whole: float = 0.25
    goal: str = "hinge"
    penalty: float = 0.0
    sight: Visibility = SEES_ALL
    balance: Balance = Balance()


class ContextualGan(Learner):
    """Trains a `gan3d` of variant "contextual".

    Data are `((context, position), patch)`: the coarse volume (batch, x, y, z, channels), the patch's centre in it
    (batch, 3) in [-1, 1], and the patch (batch, x, y, z, channels). Both critics see the completed patch, filled in the
    hole and real around it, the global one pasted into the coarse volume; of a patch without a hole they see all that
    the generator made.

    Args:
        network: the GAN.
        setting: how it is trained.
        seed: of the holes; None draws it from Keras' global seed.

    Raises:
        ValueError: no such objective, a hole larger than the patch, or a penalty on critics below float32.

    Source: Pathak et al. 2016, arXiv 1604.07379; Iizuka et al. 2017, doi 10.1145/3072959.3073659 (critics near and
    far); Salimans et al. 2016, arXiv 1606.03498 (feature matching).
    """

    def __init__(self, network: keras.Model, setting: Setting | None = None, *, seed: int | None = None) -> None:
        setting = setting or Setting()
        names = ("critic_local", "critic_global") if setting.sight.context else ("critic_local",)
        trained = {"generator": ("encoder", "generator"), "critic": names}
        logs = ("loss", "critic_loss", "masked", "visible", "features", "code_cosine")
        super().__init__(network, trained, logs=logs, seed=seed)
        self.setting, self.objective = setting, objective(setting.goal)
        self.critics = inpainting.critics(network, setting.sight)
        if self.setting.penalty:
            check_precision([self.part(name) for name in names])
        sizes = self.part("generator").output_shape[1:-1]
        if any(hole > size for hole, size in zip(self.setting.hole, sizes, strict=True)):
            raise ValueError(
                f"The hole must fit into the patch of {sizes}, got {self.setting.hole}. Give a smaller hole."
            )

    def holes(self, count: int) -> Tensor:
        """Draws masks (count, x, y, z, 1), 1 in the hole, each at its own place; some have none."""
        start = self.uniform((count, 3))
        whole = self.uniform((count,)) < self.setting.whole
        return self._make_boxes(start) * ops.cast(ops.logical_not(whole), "float32")[:, None, None, None, None]

    def _make_boxes(self, start: Tensor) -> Tensor:
        """Returns a hole for each row of `start`, 0 for the first place on an axis and almost 1 for the last."""
        sizes = self.part("generator").output_shape[1:-1]
        mask = ops.ones((1, 1, 1, 1, 1))
        for axis, (size, hole) in enumerate(zip(sizes, self.setting.hole, strict=True)):
            first = ops.floor(start[:, axis, None] * float(size - hole + 1))
            place = ops.arange(size, dtype="float32")[None]
            inside = ops.cast((place >= first) & (place < first + hole), "float32")
            mask = mask * ops.reshape(inside, (-1, *(size if other == axis else 1 for other in range(3)), 1))
        return mask

    def fill(self, patch: Tensor, around: tuple[Tensor, Tensor], hole: Tensor, training: bool = False) -> Any:
        """Returns the patch as the generator makes it, and its code: `zoo.training.adversarial.inpainting.fill`."""
        return inpainting.fill(self.network, patch, around, hole, sight=self.setting.sight, training=training)

    def judge(self, patch: Tensor, around: tuple[Tensor, Tensor], training: bool = False) -> tuple[list, Tensor]:
        """Returns the critics' features and mean logit: `zoo.training.adversarial.inpainting.judge`."""
        return inpainting.judge(self.network, self.critics, patch, around, training=training)

    def train_step(self, data: tuple[tuple[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
        """Takes one step of the critics, then one of encoder and generator."""
        around, patch = data[:2]
        hole = self.holes(patch.shape[0])
        with tf.GradientTape() as tape:
            filled, code = self.fill(patch, around, hole, training=True)
            made = complete(patch, filled, hole)
            with tape.stop_recording():
                critic_loss = self._train_critics(patch, made, around)
                real_features, _ = self.judge(patch, around)
            features, logit = self.judge(made, around)
            terms = self._compute_terms(patch, filled, hole, code) | {"features": distance(real_features, features)}
            weights = dataclasses.asdict(self.setting.balance)
            loss = sum(weights[name] * value for name, value in terms.items() if weights[name])
            loss = loss + weights["adversarial"] * self.objective.generator(logit)
        self.descend(tape, loss, "generator")
        shown = (terms[name] for name in ("masked", "visible", "features"))
        return self.add_to_means(self.means, loss, critic_loss, *shown, 1.0 - terms["cosine"])

    def _compute_terms(self, patch: Tensor, filled: Tensor, hole: Tensor, code: Tensor) -> dict[str, Tensor]:
        error = ops.mean(ops.abs(filled - patch), axis=-1, keepdims=True)
        unit = code / ops.maximum(ops.norm(code, axis=-1, keepdims=True), 1e-6)
        cosine = ops.mean(ops.sum(unit[0::2] * unit[1::2], axis=-1)) if code.shape[0] % 2 == 0 else ops.ones(())
        return {"masked": average(error, hole), "visible": average(error, 1.0 - hole), "cosine": 1.0 - cosine}

    def _train_critics(self, patch: Tensor, made: Tensor, around: tuple[Tensor, Tensor]) -> Tensor:
        twice = tuple(ops.concatenate([part, part], axis=0) for part in around)
        with tf.GradientTape() as tape:
            _, logits = self.judge(ops.concatenate([patch, made], axis=0), twice, training=True)
            loss = self.objective.critic(*ops.split(logits, 2, axis=0))
            if self.setting.penalty:
                mix = self.uniform((patch.shape[0], 1, 1, 1, 1))
                slope = gradient_penalty(lambda between: self.judge(between, around)[1], patch, made, mix)
                loss = loss + self.setting.penalty * slope
        self.descend(tape, loss, "critic")
        return loss

    def test_step(self, data: tuple[tuple[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
        """Measures how well a hole in the middle is filled, and how alike the completed patches are."""
        around, patch = data[:2]
        hole = self.middle()
        everywhere = hole + ops.zeros_like(patch[..., :1])
        filled, _ = self.fill(patch, around, everywhere)
        error = average(ops.mean(ops.square(filled - patch), axis=-1, keepdims=True), everywhere)
        return self.log_test(error, patch, complete(patch, filled, everywhere), distance=2)

    def middle(self) -> Tensor:
        """Returns the mask of a hole in the middle of the patch, (1, x, y, z, 1)."""
        return self._make_boxes(ops.full((1, 3), 0.5))

    def montage_rows(self, data: tuple[tuple[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
        """Returns the rows of a montage: title -> images."""
        around, patch = data[:2]
        hole = self.middle() + ops.zeros_like(patch[..., :1])
        filled, _ = self.fill(patch, around, hole)
        rows = {"real": patch, "given": patch * (1.0 - hole), "completed": complete(patch, filled, hole)}
        return {**rows, "generated": filled}


def average(values: Tensor, weights: Tensor) -> Tensor:
    """Returns the weighted mean over everything; 0 without weights."""
    return ops.sum(values * weights) / ops.maximum(ops.sum(weights), 1.0)


def distance(features: list[Tensor], others: list[Tensor]) -> Tensor:
    """Returns the mean absolute difference of lists of features."""
    parts = [ops.mean(ops.abs(a - b)) for a, b in zip(features, others, strict=True)]
    return sum(parts) / len(parts)
