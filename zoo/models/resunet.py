"""ResUNet and, with its options, ResUNet++."""

from collections.abc import Sequence
from dataclasses import replace

import keras
from keras import KerasTensor, layers

from zoo.models.parts import blocks
from zoo.models.parts.sizes import Sizes, Triple, any_sizes, folded_sizes, level_strides, valid_sizes

RATES = (1, 2, 4)
NO_STEP = (1, 1, 1)


def resunet(  # noqa: PLR0913 - the options that ARCHITECTURES.md lists, each by name
    input_shape: Sequence[int | None] = (None, None, None, 1),
    num_classes: int = 2,
    *,
    filters: Sequence[int] = (64, 128, 256, 512),
    squeeze_excite: bool = False,
    aspp: bool = False,
    attention: bool = False,
    norm: str = "batch",
    activation: str = "relu",
    dropout: float = 0.0,
    strides: Sequence[int | Sequence[int]] | None = None,
    deep_supervision: bool = False,
    conditioning: int = 0,
    padding: str = "same",
    any_size: bool = False,
    fold: int = 1,
    name: str = "resunet",
) -> keras.Model:
    """Builds ResUNet: a U-Net of pre-activation residual units, in 3D.

    For when a U-Net stops improving with depth; with `squeeze_excite`, `aspp` and `attention` it is
    ResUNet++, made for small bright lesions. A unit is norm, activation, convolution, twice, plus its
    input (through a 1x1x1 convolution when the shape changes); the first unit begins with a
    convolution. The first convolution of a unit steps down; the decoder repeats voxels to step up.

    Args:
        input_shape: (x, y, z, channels) in voxels, None where open.
        num_classes: channels of the logits.
        filters: width of each level, the bottom last.
        squeeze_excite: weigh the channels after each unit of the encoder.
        aspp: see the bottom, and the last volume, at dilations 1, 2 and 4 (these convolutions always pad).
        attention: weigh the voxels of each skip by the decoder's features.
        norm: "batch", "instance", "group" or "none".
        activation: "relu", "leaky_relu", "elu" or "prelu".
        dropout: rate before every convolution of a unit but the very first.
        strides, deep_supervision, conditioning, padding, any_size, fold: as in `zoo.models.unet3d`.
        name: of the model.

    Returns:
        A functional model from (batch, x, y, z, channels) float32 to float32 logits
        (batch, x, y, z, num_classes); with deep supervision a list, full resolution first.

    Raises:
        ValueError: a size does not fit, or an option is none of the above.

    Source: Zhang et al., IEEE GRSL 2018, arXiv 1711.10684; Jha et al., ISM 2019, arXiv 1911.07067. Ours
    is 3D; its dilations are 1, 2, 4 rather than 6, 12, 18, which pass the border of a 3D bottom; its
    attention is the additive gate of Oktay et al. 2018 (arXiv 1804.03999) at the skip's resolution.

    Example:
        >>> model = resunet((16, 24, 32, 1), num_classes=3, filters=(4, 8))
        >>> model.output_shape
        (None, 16, 24, 32, 3)
    """
    style = blocks.Style(norm, activation, dropout, padding, any_size)
    steps = level_strides(strides, len(filters) - 1)
    inputs, x, condition = blocks.entrance(input_shape, conditioning, _find_sizes(name, steps, style, fold))
    x = blocks.fold(x, fold)
    skips: list[KerasTensor] = []
    for level, (width, step) in enumerate(zip(filters, (NO_STEP, *steps), strict=True)):
        part = f"encoder_{level}"
        x = _add_unit(x, width, part, style, step=step, plain_start=level == 0)
        x = _squeeze_excite(x, part) if squeeze_excite else x
        x = blocks.condition_on(x, condition, part)
        skips.append(x)
    x = _sum_dilations(x, filters[-1], "bottom", style) if aspp else x
    outputs: list[KerasTensor] = []
    for level in reversed(range(len(steps))):
        part = f"decoder_{level}"
        x = layers.UpSampling3D(steps[level], name=f"{part}_up")(x)
        x, skip = blocks.fit(x, skips[level], part, style)
        skip = _gate_skip(skip, x, part) if attention else skip
        x = layers.Concatenate(name=f"{part}_concat")([x, skip])
        x = blocks.condition_on(_add_unit(x, filters[level], part, style), condition, part)
        outputs.insert(0, x)
    outputs[0] = _sum_dilations(x, filters[0], "top", style) if aspp else x
    return keras.Model(inputs, blocks.heads(outputs, num_classes, deep_supervision, fold), name=name)


def _add_unit(
    x: KerasTensor,
    width: int,
    name: str,
    style: blocks.Style,
    *,
    step: Triple = NO_STEP,
    plain_start: bool = False,
) -> KerasTensor:
    """Applies a residual unit with pre-activation."""
    shortcut = _make_shortcut(x, width, name, style, step)
    if not plain_start:
        x = blocks.finish(x, f"{name}_before_0", style)
    x = blocks.convolution(x, width, f"{name}_conv_0", style, strides=step, use_bias=style.norm != "instance")
    x = blocks.finish(x, f"{name}_before_1", style)
    x = blocks.convolution(x, width, f"{name}_conv_1", style)
    return layers.Add(name=f"{name}_add")([x, blocks.fit_shortcut(shortcut, x, name, style)])


def _make_shortcut(x: KerasTensor, width: int, name: str, style: blocks.Style, step: Triple) -> KerasTensor:
    if x.shape[-1] == width and step == NO_STEP:
        return x
    if style.padding == "valid" and step != NO_STEP:  # meet the centres of the strided convolution
        x = layers.Cropping3D(1, name=f"{name}_project_crop")(x)
    settings = {"kernel_size": 1, "strides": step, "padding": style.padding}
    return layers.Conv3D(width, name=f"{name}_project", **settings)(x)


def _squeeze_excite(x: KerasTensor, name: str) -> KerasTensor:
    """Weighs channels by what the whole volume shows (Hu et al. 2018, arXiv 1709.01507)."""
    width = x.shape[-1]
    weight = layers.GlobalAveragePooling3D(keepdims=True, name=f"{name}_squeeze")(x)
    weight = layers.Dense(max(width // 8, 4), "relu", name=f"{name}_excite_0")(weight)
    weight = layers.Dense(width, "sigmoid", name=f"{name}_excite_1")(weight)
    return layers.Multiply(name=f"{name}_excited")([x, weight])


def _sum_dilations(x: KerasTensor, width: int, name: str, style: blocks.Style) -> KerasTensor:
    """Sums convolutions at several dilations, then mixes their channels."""
    style, use_bias = replace(style, padding="same"), style.norm != "instance"
    dilations = []
    for rate in RATES:
        part = f"{name}_rate_{rate}"
        dilated = blocks.convolution(x, width, part, style, dilation_rate=rate, use_bias=use_bias)
        dilations.append(blocks.normalise(dilated, f"{part}_norm", style.norm))
    x = layers.Add(name=f"{name}_rates")(dilations)
    return layers.Conv3D(width, 1, name=f"{name}_mix")(x)


def _gate_skip(skip: KerasTensor, x: KerasTensor, name: str) -> KerasTensor:
    """Weighs the voxels of a skip: sigmoid(w . relu(A skip + B x))."""
    width = skip.shape[-1]
    from_skip = layers.Conv3D(width, 1, use_bias=False, name=f"{name}_gate_skip")(skip)
    from_decoder = layers.Conv3D(width, 1, name=f"{name}_gate_ask")(x)
    both = layers.Activation("relu", name=f"{name}_gate_relu")(
        layers.Add(name=f"{name}_gate_add")([from_skip, from_decoder])
    )
    weight = layers.Conv3D(1, 1, activation="sigmoid", name=f"{name}_gate_weight")(both)
    return layers.Multiply(name=f"{name}_gated")([skip, weight])


def _find_sizes(name: str, steps: tuple[Triple, ...], style: blocks.Style, fold: int) -> Sizes:
    blocks.check_fold(fold, style)
    if style.any_size:
        return any_sizes()
    if style.padding == "same":
        return folded_sizes(name, fold, steps)
    return valid_sizes(name, steps, [4, *(2 for _ in steps)], [4 for _ in steps], between=2)
