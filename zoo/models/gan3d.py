"""Generators, critics and encoders of 3D generative adversarial networks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
from keras import KerasTensor, layers

from zoo.models.parts import blocks
from zoo.models.parts.layers import FourierFeatures, Paste
from zoo.models.parts.sizes import Triple, level_strides, same_sizes

LAYER_NORM_IN_CRITIC = ("f_anogan", "wgan_gp")


@dataclass(frozen=True)
class GanLayout:
    """What the parts of a GAN have in common.

    Attributes:
        shape: of the image, (x, y, z, channels).
        context: of the coarse volume around it, (x, y, z, channels).
        ratio: fine voxels along the edge of a coarse one.
        code_size: numbers in a code.
        filters: width of each level, the finest first.
        steps: stride of each level.
        style: of the generator and the encoder.
        layer_norm: whether a critic normalises each sample by itself.
        spectral_norm: whether the weights of a critic have spectral norm 1.
    """

    shape: tuple[int, ...]
    context: tuple[int, ...]
    ratio: float
    code_size: int
    filters: tuple[int, ...]
    steps: tuple[Triple, ...]
    style: blocks.Style
    layer_norm: bool
    spectral_norm: bool


def gan3d(  # noqa: PLR0913 - one network of many parts, each option by name
    input_shape: Sequence[int] = (32, 32, 32, 1),
    code_size: int = 128,
    *,
    variant: str = "wgan_gp",
    filters: Sequence[int] = (32, 64, 128),
    norm: str = "batch",
    activation: str = "relu",
    strides: Sequence[int | Sequence[int]] | None = None,
    spectral_norm: bool | None = None,
    context_shape: Sequence[int] | None = None,
    context_ratio: float = 3.0,
    name: str = "gan3d",
) -> keras.Model:
    """Builds the parts of a 3D GAN as models of their own inside one model that joins them.

    `get_layer("generator")`, `get_layer("critic")` and so on are functional models; a training loop calls
    those. The features of a critic, for feature matching, are the output of its layer "critic_features".

    | variant | inputs | outputs | parts |
    |---|---|---|---|
    | dcgan, wgan_gp | code | image, logit | generator, critic |
    | alpha_gan | image, code | generated, reconstruction, code, logit of the generated, logit of the code
        | encoder, generator, critic, code_critic |
    | f_anogan | image | reconstruction, code, logit of the reconstruction | encoder, generator, critic |
    | contextual | patch, context, position | filled patch, code, logit
        | encoder, generator, critic_local, critic_global |

    The contextual one fills a masked patch from the patch, (batch, x, y, z, channels + 1) with the mask as the
    last channel, the coarse volume around it with the same region masked, and the patch's centre in it,
    (batch, 3) in [-1, 1]. Its logit is the mean of a critic of the patch and one of the coarse volume with
    the patch pasted in. No critic has batch norm, which would make a gradient penalty depend on the batch.

    Args:
        input_shape: (x, y, z, channels) of the image in voxels, all fixed.
        code_size: numbers in a code.
        variant: one of the table.
        filters: width of each level, the finest first; each level strides.
        norm: of the generator and the encoder: "batch", "instance", "group" or "none".
        activation: of the generator and the encoder: "relu", "leaky_relu", "elu" or "prelu".
        strides: one int or (x, y, z) for each level; None for 2.
        spectral_norm: whether critics are spectrally normalised; None for the contextual one only.
        context_shape: (x, y, z) of the coarse volume in voxels; None for twice the patch.
        context_ratio: spacing of the coarse volume / spacing of the patch.
        name: of the model.

    Returns:
        A functional model; all outputs are float32 and unbounded: images (batch, x, y, z, channels), codes
        (batch, code_size), logits (batch, 1).

    Raises:
        ValueError: a size is open or does not fit, or an option is none of the above.

    Source: Radford et al. 2016, arXiv 1511.06434; Gulrajani et al. 2017, arXiv 1704.00028; Kwon et al. 2019,
    arXiv 1908.02498; Schlegl et al. 2019, doi 10.1016/j.media.2019.01.010; Miyato et al. 2018, arXiv
    1802.05957 for spectral norm. Ours are 3D, with linear images, and without batch norm in any critic.

    Example:
        >>> model = gan3d((8, 8, 8, 1), code_size=4, filters=(2, 4))
        >>> model.get_layer("generator").output_shape
        (None, 8, 8, 8, 1)
    """
    blocks.choose("variant", variant, sorted(VARIANTS))
    levels = tuple(filters)
    steps = level_strides([2] * len(levels) if strides is None else strides, len(levels))
    shape = _check_fixed_shape(name, input_shape, steps)
    context = (*(context_shape or (2 * size for size in shape[:-1])), shape[-1])
    same_sizes(f"the context of {name}", (*steps, (2, 2, 2)), len(levels) + 1).check(context[:-1])
    spectral = variant == "contextual" if spectral_norm is None else spectral_norm
    style = blocks.Style(norm, activation)
    layout = GanLayout(
        shape, context, context_ratio, code_size, levels, steps, style,
        layer_norm=variant in LAYER_NORM_IN_CRITIC, spectral_norm=spectral,
    )  # fmt: skip
    return VARIANTS[variant](layout, name)


def _check_fixed_shape(name: str, input_shape: Sequence[int | None], steps: tuple[Triple, ...]) -> tuple[int, ...]:
    """Returns the shape of the image, with every size fixed."""
    shape = blocks.volume_shape(input_shape)
    sizes = same_sizes(name, steps, len(steps))
    sizes.check(shape[:-1])
    if None in shape:
        raise ValueError(
            f"{name} makes images of one size: every size must be fixed, got {shape[:-1]}. "
            f"Pass sizes that are multiples of {sizes.multiple}."
        )
    return tuple(int(size) for size in shape if size is not None)


def _build_plain(layout: GanLayout, name: str) -> keras.Model:
    code = keras.Input((layout.code_size,), name="code")
    image = _build_generator(layout)(code)
    return keras.Model(code, [image, _build_critic(layout)(image)], name=name)


def _build_alpha_gan(layout: GanLayout, name: str) -> keras.Model:
    image, code = keras.Input(layout.shape, name="image"), keras.Input((layout.code_size,), name="code")
    generator, critic, code_critic = _build_generator(layout), _build_critic(layout), _build_code_critic(layout)
    image_code = _build_encoder(layout)(image)
    generated = generator(code)
    outputs = [generated, generator(image_code), image_code, critic(generated), code_critic(image_code)]
    return keras.Model([image, code], outputs, name=name)


def _build_f_anogan(layout: GanLayout, name: str) -> keras.Model:
    image = keras.Input(layout.shape, name="image")
    code = _build_encoder(layout)(image)
    reconstruction = _build_generator(layout)(code)
    return keras.Model(image, [reconstruction, code, _build_critic(layout)(reconstruction)], name=name)


def _build_contextual(layout: GanLayout, name: str) -> keras.Model:
    patch = keras.Input((*layout.shape[:-1], layout.shape[-1] + 1), name="patch")
    context, position = keras.Input(layout.context, name="context"), keras.Input((3,), name="position")
    code = _build_context_encoder(layout)([patch, context])
    filled = _build_generator(layout, with_position=True)([code, position])
    pasted = Paste(layout.ratio, dtype="float32", name="paste")([filled, context, position])
    logits = [_build_critic(layout, "critic_local")(filled), _build_global_critic(layout)(pasted)]
    logit = layers.Average(dtype="float32", name="logit")(logits)
    return keras.Model([patch, context, position], [filled, code, logit], name=name)


VARIANTS: dict[str, Callable[[GanLayout, str], keras.Model]] = {
    "alpha_gan": _build_alpha_gan,
    "contextual": _build_contextual,
    "dcgan": _build_plain,
    "f_anogan": _build_f_anogan,
    "wgan_gp": _build_plain,
}


def _build_generator(layout: GanLayout, with_position: bool = False) -> keras.Model:
    """Builds the network from a code, and optionally a position, to an image."""
    code = keras.Input((layout.code_size,), name="generator_code")
    position = keras.Input((3,), name="generator_position") if with_position else None
    place = None
    if position is not None:
        place = FourierFeatures(dtype="float32", name="generator_fourier")(position)
    seed = [math.prod(step[axis] for step in layout.steps) for axis in range(3)]
    seed = [size // step for size, step in zip(layout.shape, seed, strict=False)]
    x = layers.Dense(math.prod(seed) * layout.filters[-1], name="generator_dense")(code)
    x = layers.Reshape((*seed, layout.filters[-1]), name="generator_seed")(x)
    x = blocks.finish(x, "generator_seed", layout.style)
    for level in reversed(range(len(layout.steps))):
        part, step = f"generator_{level}", layout.steps[level]
        width = layout.filters[max(level - 1, 0)]
        x = layers.Conv3DTranspose(width, _choose_kernel(step), step, "same", name=f"{part}_up")(x)
        x = blocks.condition_on(blocks.finish(x, f"{part}_up", layout.style), place, part)
    image = layers.Conv3D(layout.shape[-1], 3, padding="same", dtype="float32", name="generator_image")(x)
    return keras.Model(code if position is None else [code, position], image, name="generator")


def _build_encoder(layout: GanLayout) -> keras.Model:
    """Builds the network from an image to a code."""
    image = keras.Input(layout.shape, name="encoder_image")
    x = _descend(image, layout.filters, layout.steps, "encoder", layout.style)
    x = layers.Flatten(name="encoder_flat")(x)
    return keras.Model(image, _encode(x, layout), name="encoder")


def _build_context_encoder(layout: GanLayout) -> keras.Model:
    """Builds the network from a masked patch and its masked surroundings to one code."""
    patch = keras.Input((*layout.shape[:-1], layout.shape[-1] + 1), name="encoder_patch")
    context = keras.Input(layout.context, name="encoder_context")
    near = _descend(patch, layout.filters, layout.steps, "encoder_local", layout.style)
    far = _descend(context, *_add_step(layout), "encoder_global", layout.style)
    flat = [layers.Flatten(name=f"{name}_flat")(x) for name, x in (("encoder_local", near), ("encoder_global", far))]
    x = layers.Concatenate(name="encoder_both")(flat)
    return keras.Model([patch, context], _encode(x, layout), name="encoder")


def _encode(x: KerasTensor, layout: GanLayout) -> KerasTensor:
    return layers.Dense(layout.code_size, dtype="float32", name="encoder_code")(x)


def _add_step(layout: GanLayout) -> tuple[tuple[int, ...], tuple[Triple, ...]]:
    """Returns widths and strides for the context, which has one step more."""
    return (*layout.filters, layout.filters[-1]), (*layout.steps, (2, 2, 2))


def _descend(
    x: KerasTensor, filters: Sequence[int], steps: Sequence[Triple], name: str, style: blocks.Style
) -> KerasTensor:
    for level, (width, step) in enumerate(zip(filters, steps, strict=True)):
        part = f"{name}_{level}"
        x = layers.Conv3D(width, _choose_kernel(step), step, "same", kernel_initializer="he_normal", name=part)(x)
        x = blocks.finish(x, part, style)
    return x


def _build_critic(layout: GanLayout, name: str = "critic") -> keras.Model:
    return _build_judge(layout, name, layout.shape, layout.filters, layout.steps)


def _build_global_critic(layout: GanLayout) -> keras.Model:
    return _build_judge(layout, "critic_global", layout.context, *_add_step(layout))


def _build_judge(
    layout: GanLayout, name: str, shape: tuple[int, ...], filters: tuple[int, ...], steps: tuple[Triple, ...]
) -> keras.Model:
    """Builds the network from an image to one logit, without batch norm; in float32 for a gradient penalty."""
    image = keras.Input(shape, name=f"{name}_image")
    precise = {"dtype": "float32"} if layout.layer_norm else {}
    x = image
    for level, (width, step) in enumerate(zip(filters, steps, strict=True)):
        part = f"{name}_{level}"
        x = _apply_weighted(layout, layers.Conv3D(width, _choose_kernel(step), step, "same", name=part, **precise), x)
        if layout.layer_norm and level:  # the first sees the image itself, whose contrast it must judge
            x = layers.GroupNormalization(1, epsilon=1e-5, name=f"{part}_norm", **precise)(x)
        x = layers.LeakyReLU(negative_slope=0.2, name=f"{part}_leaky_relu", **precise)(x)
    x = layers.Flatten(name=f"{name}_features", **precise)(x)
    logit = _apply_weighted(layout, layers.Dense(1, dtype="float32", name=f"{name}_logit"), x)
    return keras.Model(image, logit, name=name)


def _build_code_critic(layout: GanLayout) -> keras.Model:
    """Builds the network from a code to one logit."""
    code = keras.Input((layout.code_size,), name="code_critic_code")
    x = code
    for index in range(2):
        part = f"code_critic_{index}"
        x = _apply_weighted(layout, layers.Dense(4 * layout.filters[-1], name=part), x)
        x = layers.LeakyReLU(negative_slope=0.2, name=f"{part}_leaky_relu")(x)
    logit = _apply_weighted(layout, layers.Dense(1, dtype="float32", name="code_critic_logit"), x)
    return keras.Model(code, logit, name="code_critic")


def _apply_weighted(layout: GanLayout, layer: keras.layers.Layer, x: KerasTensor) -> KerasTensor:
    """Applies a layer of a critic; its power iteration is float32 whatever the precision of the layer."""
    if layout.spectral_norm:
        return layers.SpectralNormalization(layer, dtype="float32", name=f"{layer.name}_spectral")(x)
    return layer(x)


def _choose_kernel(step: Triple) -> Triple:
    """Returns twice the stride, so that every voxel is seen equally often; 3 where nothing strides."""
    x, y, z = (2 * size if size > 1 else 3 for size in step)
    return x, y, z
