"""V-Net."""

from collections.abc import Sequence

import keras
from keras import KerasTensor, layers

from zoo.models.parts import blocks
from zoo.models.parts.sizes import Sizes, Triple, any_sizes, folded_sizes, level_strides, valid_sizes

VARIANTS = ("paper", "released")
KERNEL = 5


def vnet(  # noqa: PLR0913 - the options that ARCHITECTURES.md lists, each by name
    input_shape: Sequence[int | None] = (None, None, None, 1),
    num_classes: int = 2,
    *,
    variant: str = "paper",
    filters: Sequence[int] = (16, 32, 64, 128, 256),
    norm: str = "none",
    activation: str = "prelu",
    dropout: float = 0.0,
    strides: Sequence[int | Sequence[int]] | None = None,
    deep_supervision: bool = False,
    conditioning: int = 0,
    padding: str = "same",
    any_size: bool = False,
    fold: int = 1,
    name: str = "vnet",
) -> keras.Model:
    """Builds V-Net: 5x5x5 convolutions with a residual around every stage, strided convolutions down.

    For large structures: it sees 551 voxels of context. Monteiro's stroke network is
    `vnet((None, None, None, 6), activation="relu", dropout=0.1, any_size=True)`.

    The first stage adds the input, repeated to its width, or through a 1x1x1 convolution where the
    channels do not divide the width. Stages of the decoder work on the concatenation of the
    up-convolved volume and the skip, and add it.

    Args:
        input_shape: (x, y, z, channels) in voxels, None where open.
        num_classes: channels of the logits.
        variant: "paper" for the convolutions of the paper's figure, 1, 2, 3, 3, 3 a level and back;
            "released" for the authors' Caffe network, 1, 1, 2, 3, 3.
        filters: width of each level, the bottom last.
        norm: "none" as in the paper, "batch", "instance" or "group".
        activation: "prelu" as in the paper, "relu", "leaky_relu" or "elu".
        dropout: rate after every convolution.
        strides, deep_supervision, conditioning, padding, any_size, fold: as in `zoo.models.unet3d`.
        name: of the model.

    Returns:
        A functional model from (batch, x, y, z, channels) float32 to float32 logits
        (batch, x, y, z, num_classes); with deep supervision a list, full resolution first.

    Raises:
        ValueError: a size does not fit, or an option is none of the above.

    Source: Milletari et al., 3DV 2016, arXiv 1606.04797; Monteiro et al., IEEE TMI 2020,
    doi 10.1109/TMI.2020.2966511 for dropout and any size.

    Example:
        >>> model = vnet((16, 24, 32, 1), num_classes=3, filters=(4, 8))
        >>> model.output_shape
        (None, 16, 24, 32, 3)
    """
    style = blocks.Style(norm, activation, dropout, padding, any_size)
    steps = level_strides(strides, len(filters) - 1)
    depths = _list_depths(variant, len(filters))
    inputs, x, condition = blocks.entrance(input_shape, conditioning, _find_sizes(name, steps, depths, style, fold))
    x = blocks.fold(x, fold)
    skips: list[KerasTensor] = []
    for level, (width, depth) in enumerate(zip(filters, depths, strict=True)):
        part = f"encoder_{level}"
        if level:
            x = _descend(x, width, steps[level - 1], f"{part}_down", style)
        x = _add_stage(x, width, depth, part, style)
        x = blocks.condition_on(x, condition, part)
        skips.append(x)
    outputs: list[KerasTensor] = []
    for level in reversed(range(len(steps))):
        part = f"decoder_{level}"
        x = blocks.rise(x, filters[level], steps[level], f"{part}_up")
        x = blocks.join(blocks.finish(x, f"{part}_up", style), skips[level], part, style)
        x = blocks.condition_on(_add_stage(x, 2 * filters[level], depths[level], part, style), condition, part)
        outputs.insert(0, _convolve_to_labels(x, num_classes * fold**3, level, style))
    return keras.Model(inputs, blocks.heads(outputs, num_classes, deep_supervision, fold), name=name)


def _list_depths(variant: str, levels: int) -> list[int]:
    """Returns the number of convolutions of each level, the bottom last."""
    blocks.choose("variant", variant, VARIANTS)
    later = 1 if variant == "paper" else 0
    return [3 if level == levels - 1 else min(max(level + later, 1), 3) for level in range(levels)]


def _descend(x: KerasTensor, width: int, strides: Triple, name: str, style: blocks.Style) -> KerasTensor:
    x = blocks.convolution(x, width, name, style, kernel_size=strides, strides=strides)
    return blocks.finish(x, name, style)


def _add_stage(x: KerasTensor, width: int, depth: int, name: str, style: blocks.Style) -> KerasTensor:
    """Applies convolutions, and adds the input before the last activation."""
    shortcut = _widen(x, width, name)
    for index in range(depth):
        part = f"{name}_conv_{index}"
        x = blocks.convolution(x, width, part, style, kernel_size=KERNEL, use_bias=style.norm != "instance")
        x = blocks.normalise(x, f"{part}_norm", style.norm)
        if index == depth - 1:
            x = layers.Add(name=f"{name}_add")([x, blocks.fit_shortcut(shortcut, x, name, style)])
        x = blocks.activate(x, f"{part}_{style.activation}", style.activation)
        x = blocks.drop(x, f"{part}_dropout", style.dropout)
    return x


def _widen(x: KerasTensor, width: int, name: str) -> KerasTensor:
    channels = x.shape[-1]
    if channels == width:
        return x
    if width % channels:
        return layers.Conv3D(width, 1, name=f"{name}_project")(x)
    return layers.Concatenate(name=f"{name}_repeat")([x] * (width // channels))


def _convolve_to_labels(x: KerasTensor, width: int, level: int, style: blocks.Style) -> KerasTensor:
    """Applies the 5x5x5 convolution to the labels, before the last one of 1x1x1."""
    name = f"labels_{level}" if level else "labels"
    x = blocks.convolution(x, width, name, style, kernel_size=KERNEL)
    return blocks.activate(x, f"{name}_{style.activation}", style.activation)


def _find_sizes(name: str, steps: tuple[Triple, ...], depths: list[int], style: blocks.Style, fold: int) -> Sizes:
    blocks.check_fold(fold, style)
    if style.any_size:
        return any_sizes()
    if style.padding == "same":
        return folded_sizes(name, fold, steps)
    taken = [(KERNEL - 1) * depth for depth in depths]
    labels = taken[0] + KERNEL - 1  # the last stage and the convolution to the labels
    return valid_sizes(name, steps, taken, [labels, *taken[1:-1]])
