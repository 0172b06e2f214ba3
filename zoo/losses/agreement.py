"""Loss of pairs: reconstructs both, makes their codes agree, and keeps the codes from collapsing to one."""

from collections.abc import Sequence
from typing import Any

from keras import ops

Tensor = Any
EPSILON = 1e-8


class Agreement:
    """Loss of a siamese auto-encoder: `(rec_a + rec_b) - alpha cos(z_a, z_b)`, and a hinge on the codes' spread.

    Reconstruction keeps the information in a code, the cosine makes two people's codes of one place agree, and the
    hinge `mean(max(0, least_sd - sd))` over the code's dimensions keeps each of them in use. The convex form,
    `(1 - alpha) (rec_a + rec_b) - alpha cos`, weighs the two against each other with one number.

    It takes all outputs of the network together (`zoo.training.joint_loss`).

    Args:
        alpha: weight of the agreement; 0 makes it the loss of a plain auto-encoder. In the convex form 0 to 1.
        convex: whether to use the convex form.
        hinge: weight of the hinge; 0 leaves it out.
        least_sd: SD in a batch below which the hinge spreads a dimension of the code.

    Raises:
        ValueError: a negative weight, or alpha over 1 in the convex form.

    Source: Alaverdyan et al., Medical Image Analysis 2020, doi 10.1016/j.media.2019.101618; the hinge is that of
    Bardes et al., VICReg, ICLR 2022, arXiv 2105.04906.

    Example:
        >>> patch, code = ops.zeros((2, 3, 3, 3, 1)), ops.ones((2, 1, 1, 1, 4))
        >>> loss, terms = Agreement(alpha=0.25, hinge=0)([patch, patch], [code, code, patch, patch])
        >>> float(loss)
        -0.25
    """

    terms = ("reconstruction", "cosine", "least_sd", "score")

    def __init__(self, alpha: float = 0.25, *, convex: bool = False, hinge: float = 0.1, least_sd: float = 0.5):
        if min(alpha, hinge, least_sd) < 0 or (convex and alpha > 1):
            raise ValueError(
                f"Weights of the agreement are 0 or more, and alpha at most 1 in the convex form; got alpha={alpha}, "
                f"hinge={hinge}, least_sd={least_sd}, convex={convex}."
            )
        self.alpha, self.convex, self.hinge, self.least_sd = alpha, convex, hinge, least_sd

    def __call__(self, patches: Sequence[Tensor], outputs: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss of a batch, and its terms.

        Args:
            patches: the two patches, each (batch, x, y, z, channels).
            outputs: code a, code b, each (batch, 1, 1, 1, size), reconstruction a, reconstruction b.

        Returns:
            () float32, and () float32 by the names in `terms`: the score is the loss with its sign changed.
        """
        code_a, code_b, copy_a, copy_b = (ops.cast(output, "float32") for output in outputs)
        errors = [
            ops.mean(ops.square(ops.cast(patch, "float32") - copy))
            for patch, copy in zip(patches, (copy_a, copy_b), strict=True)
        ]
        reconstruction, agreement = errors[0] + errors[1], ops.mean(cosine(code_a, code_b))
        sds = ops.concatenate([measure_spread(code_a), measure_spread(code_b)])
        hinge = self.hinge * ops.mean(ops.maximum(0.0, self.least_sd - sds))
        total = (1.0 - self.alpha if self.convex else 1.0) * reconstruction - self.alpha * agreement + hinge
        values = (reconstruction / 2, agreement, ops.min(sds), -total)
        return total, dict(zip(self.terms, values, strict=True))


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Returns the cosine of the angle between codes along the last axis; 0 where one of them is 0."""
    product = ops.sum(first * second, axis=-1)
    lengths = ops.sum(ops.square(first), axis=-1) * ops.sum(ops.square(second), axis=-1)
    return product / ops.sqrt(lengths + EPSILON**2)


def measure_spread(codes: Tensor) -> Tensor:
    """Returns the SD of each dimension over all other axes, (size,) float32."""
    flat = ops.reshape(codes, (-1, codes.shape[-1]))
    return ops.sqrt(ops.var(flat, axis=0) + EPSILON)
