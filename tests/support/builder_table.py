"""Tiny models of every builder, which the promises are tested on; as a script, writes their outputs on a backend."""

import functools
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo.registry import builder, builders

SIZES = (16, 24, 32)


@dataclass(frozen=True)
class Tiny:
    """A builder's tiny form, a size that fits and one that does not, and the expected shapes."""

    builder: str
    arguments: dict[str, Any] = field(default_factory=lambda: {"filters": (4, 6)})
    sizes: tuple[int, int, int] = SIZES
    channels: int = 1
    outputs: tuple[tuple[int, ...], ...] = ((*SIZES, 2),)
    bad: tuple[int, int, int] | None = (17, 24, 32)
    refusal: str = r"got \(17, 24, 32\)\. "
    fixed: bool = False

    def build(self, sizes: tuple[int | None, ...] | None = None) -> keras.Model:
        """Builds the model, with open shapes where the builder takes them."""
        open_or_fixed = self.sizes if self.fixed else (None,) * 3
        return builder(self.builder)((*(sizes or open_or_fixed), self.channels), **self.arguments)

    def inputs(self, model: keras.Model, seed: int = 0, sizes: tuple[int, ...] | None = None) -> Any:
        """Draws a batch of two, in the structure that the model takes."""
        draw = np.random.default_rng(seed)

        def draw_tensor(tensor):
            shape = list(tensor.shape[1:])
            for axis, size in enumerate(shape):
                shape[axis] = (sizes or self.sizes)[axis] if size is None else size
            return draw.uniform(-1, 1, (2, *shape)).astype("float32")

        return keras.tree.map_structure(draw_tensor, model.input)


GAN = {"code_size": 8, "filters": (4, 6)}
IMAGE, BAD_PATCH = (8, 12, 16), (9, 12, 16)
gan = functools.partial(
    Tiny, "gan3d", sizes=IMAGE, bad=BAD_PATCH, refusal=r"a multiple of 4, got \(9, 12, 16\)\. ", fixed=True
)

TABLE = {
    "unet3d": Tiny("unet3d", {"filters": ((4, 6), (6, 8), (8, 10))}, refusal=r"a multiple of 4, got \(17, 24"),
    "unet3d_resize": Tiny("unet3d", {"filters": (4, 6), "upsampling": "resize", "norm": "group"}),
    "unet3d_valid": Tiny(
        "unet3d",
        {"filters": ((4,), (6,)), "padding": "valid", "norm": "none"},
        outputs=((8, 16, 24, 2),),
        refusal="without padding: every size must be 10 or a multiple of 2 more, got",
    ),
    "unet3d_all": Tiny(
        "unet3d",
        {
            "filters": (4, 6, 8),
            "strides": ((2, 2, 1), 2),
            "norm": "instance",
            "activation": "leaky_relu",
            "dropout": 0.2,
            "deep_supervision": True,
            "conditioning": 3,
        },
        outputs=((*SIZES, 2), (8, 12, 32, 2)),
        refusal=r"divides the axes by \(4, 4, 2\): every size must be a multiple of \(4, 4, 2\), got \(17, 24",
    ),
    "unet3d_context": Tiny(
        "unet3d",
        {"filters": (4, 6), "context": 2, "norm": "instance"},
        channels=2,
        bad=(18, 24, 32),
        refusal=r"context 2 times as wide: every size must be a multiple of 4, got \(18, 24",
    ),
    "unet3d_folded": Tiny(
        "unet3d",
        {"filters": (4, 6), "fold": 2, "norm": "instance"},
        refusal=r"folds 2 voxels of each axis .* 2 levels: every size must be a multiple of 4, got \(17, 24",
    ),
    "vnet": Tiny("vnet", {"filters": (4, 6)}, refusal="vnet with 2 levels halves each axis once"),
    "vnet_stroke": Tiny(
        "vnet",
        {"filters": (4, 6, 8), "variant": "released", "activation": "elu", "dropout": 0.1, "any_size": True},
        sizes=(9, 14, 19),
        channels=6,
        outputs=((9, 14, 19, 2),),
        bad=None,
    ),
    "vnet_folded": Tiny(
        "vnet",
        {"filters": (8, 12), "fold": 2},
        refusal=r"vnet folds 2 voxels of each axis .* every size must be a multiple of 4, got \(17, 24",
    ),
    "resunet": Tiny("resunet"),
    "resunet_folded": Tiny(
        "resunet",
        {"filters": (4, 6), "fold": 2, "aspp": True},
        refusal=r"resunet folds 2 voxels of each axis .* every size must be a multiple of 4, got \(17, 24",
    ),
    "resunet_plus": Tiny(
        "resunet",
        {"filters": (4, 6), "squeeze_excite": True, "aspp": True, "attention": True, "activation": "prelu"},
    ),
    "siamese": Tiny(
        "siamese",
        {"code_size": 5, "filters": (4, 6, 8)},
        sizes=(15, 18, 21),
        channels=2,
        outputs=((1, 2, 3, 5), (1, 2, 3, 5), (15, 18, 21, 2), (15, 18, 21, 2)),
        bad=(15, 16, 21),
        refusal=r"patches of 15 voxels a side or a multiple of 3 more, got \(15, 16, 21\)\. Cut patches",
    ),
    "gan3d_dcgan": gan({**GAN, "variant": "dcgan"}, outputs=((*IMAGE, 1), (1,))),
    "gan3d_wgan_gp": gan({**GAN, "variant": "wgan_gp"}, outputs=((*IMAGE, 1), (1,))),
    "gan3d_alpha_gan": gan({**GAN, "variant": "alpha_gan"}, outputs=((*IMAGE, 1), (*IMAGE, 1), (8,), (1,), (1,))),
    "gan3d_f_anogan": gan({**GAN, "variant": "f_anogan"}, outputs=((*IMAGE, 1), (8,), (1,))),
    "gan3d_contextual": gan({**GAN, "variant": "contextual"}, outputs=((*IMAGE, 1), (8,), (1,))),
}
# A builder without a row keeps the promises too, in its simplest tiny form.
TABLE |= {name: Tiny(name) for name in builders() if name not in {row.builder for row in TABLE.values()}}


@functools.cache
def build_once(name: str) -> keras.Model:
    """Builds the model of a row once for all the promises that do not change it."""
    keras.utils.set_random_seed(7)
    return TABLE[name].build()


def to_arrays(outputs: Any) -> list[np.ndarray]:
    """Returns all outputs as arrays, in order."""
    return [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(outputs)]


def set_seeded_weights(model: keras.Model) -> None:
    """Gives every weight a value that depends on its path alone, on any backend."""
    for weight in model.weights:
        draw = np.random.default_rng(list(weight.path.encode()))
        spread = draw.normal(0, 1 / np.sqrt(np.prod(weight.shape[:-1]) or 1), weight.shape)
        weight.assign(spread if len(weight.shape) > 1 else 1 + 0.1 * draw.normal(size=weight.shape))


def seeded_outputs(name: str) -> list[np.ndarray]:
    """Returns the outputs of a row's model with those weights."""
    model = TABLE[name].build()
    set_seeded_weights(model)
    return to_arrays(model.predict_on_batch(TABLE[name].inputs(model)))


if __name__ == "__main__":
    outputs = {f"{name}/{i}": out for name in TABLE for i, out in enumerate(seeded_outputs(name))}
    np.savez(Path(sys.argv[1]), backend=keras.backend.backend(), **outputs)
