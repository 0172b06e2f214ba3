"""3D U-Net."""

from collections.abc import Sequence

import keras

from zoo.models.parts import blocks
from zoo.models.parts.sizes import (
    Sizes,
    Triple,
    any_sizes,
    context_sizes,
    folded_sizes,
    level_of_context,
    level_strides,
    valid_sizes,
)

PAPER = ((32, 64), (64, 128), (128, 256), (256, 512))


def unet3d(  # noqa: PLR0913 - the options that ARCHITECTURES.md lists, each by name
    input_shape: Sequence[int | None] = (None, None, None, 1),
    num_classes: int = 2,
    *,
    filters: Sequence[int | Sequence[int]] = PAPER,
    decoder_filters: Sequence[int | Sequence[int]] | None = None,
    up_filters: Sequence[int] | None = None,
    up_kernel_size: int | None = None,
    up_bias: bool = True,
    upsampling: str = "transpose",
    norm: str = "batch",
    activation: str = "relu",
    dropout: float = 0.0,
    strides: Sequence[int | Sequence[int]] | None = None,
    deep_supervision: bool = False,
    conditioning: int = 0,
    padding: str = "same",
    any_size: bool = False,
    context: int | None = None,
    fold: int = 1,
    name: str = "unet3d",
) -> keras.Model:
    """Builds the 3D U-Net: convolutions and pooling down, up-convolutions and skips up.

    The first network to try on any segmentation: it trains on tens of scans and has no weak spot.
    With the defaults it is the network of the paper. A convolution is followed by norm, activation and
    dropout; the up-convolved volume is concatenated with the skip, in this order.

    Args:
        input_shape: (x, y, z, channels) in voxels, None where open.
        num_classes: channels of the logits.
        filters: one entry a level, the bottom last: the widths of its convolutions, or one int for two
            convolutions of that width. `(16, 32, 64, 128)` fixes width and depth; `()` is a level without
            convolutions.
        decoder_filters: as `filters`, full resolution first, without the bottom; None for the last
            width of each level of the encoder, as often as that has convolutions.
        up_filters: width of each up-convolution, full resolution first; None to keep the width of what
            comes in.
        up_kernel_size: edge of the up-convolutions in voxels; None for the strides.
        up_bias: whether up-convolutions have a bias.
        upsampling: "transpose" or "resize" (nearest neighbours, then a 3x3x3 convolution).
        norm: "batch", "instance", "group" or "none".
        activation: "relu", "leaky_relu", "elu" or "prelu".
        dropout: rate after every convolution.
        strides: one int or (x, y, z) for each step down; None for 2. `(2, 2, 1)` suits thick slices.
        deep_supervision: return logits of every level of the decoder.
        conditioning: number of tabular values that scale and shift the channels of every level (FiLM,
            the identity at start); they are a second input, (batch, conditioning).
        padding: "same", or "valid" for an output smaller than the input in which no voxel saw a border.
        any_size: take every size, by cropping what an up-convolution overshoots.
        context: how many times as wide as the volume its surroundings are, which are then the second half of the
            channels, averaged down to as many voxels (`zoo.volumes.context`); None for none. See below.
        fold: edge of the cubes of voxels that are folded into channels before the first level, and their logits
            unfolded after the last: with 2 every level has an eighth of the voxels, for wide filters at a fraction of
            the time. 1 for none.
        name: of the model.

    With `context` a second U-Net of the same widths sees the surroundings, and the middle of its features joins the
    level of the encoder whose stride is `context`: there both have voxels of one size at one place, so nothing is
    resampled. Surroundings that were joined to the volume itself would lie at the wrong place (voxel beside voxel), or
    lose what lies outside the patch (enlarged until they fit). It costs as much as the network again.

    Returns:
        A functional model from (batch, x, y, z, channels) float32 to float32 logits
        (batch, x, y, z, num_classes); with deep supervision a list, full resolution first.

    Raises:
        ValueError: a size does not fit, or an option is none of the above.

    Source: Cicek et al., MICCAI 2016, arXiv 1606.06650. Ours pads by default; the paper does not. Several scales in
    branches that meet late: Ghafoorian et al., NeuroImage: Clinical 2017, doi 10.1016/j.nicl.2017.01.033, who classify
    single voxels; ours segments, so the branches meet where their voxels do.
    """
    style = blocks.Style(norm, activation, dropout, padding, any_size)
    down = _widths(filters)
    steps = level_strides(strides, len(down) - 1)
    up = _decoder_widths(decoder_filters, down)
    joined = level_of_context(context, steps) if context else None
    sizes = _sizes(name, steps, down, up, style, fold)
    if fold != 1 and context:
        raise ValueError(f"Folded voxels have no context yet, got fold={fold} and context={context}. Leave one out.")
    inputs, x, condition = blocks.entrance(input_shape, conditioning, _with_context(name, context, sizes, style))
    x = blocks.fold(x, fold)
    x, wide = blocks.halves(x) if context else (x, None)
    skips = []
    for level, widths in enumerate(down):
        if level:
            x = blocks.pool(x, steps[level - 1], f"encoder_{level}_pool")
        if level == joined:
            x = blocks.join_middle(x, _surroundings(wide, down, steps, style), f"encoder_{level}_context")
        x = blocks.stage(x, widths, f"encoder_{level}", style)
        x = blocks.condition_on(x, condition, f"encoder_{level}")
        skips.append(x)
    outputs: list[keras.KerasTensor] = []
    for level in reversed(range(len(steps))):
        part = f"decoder_{level}"
        width = up_filters[level] if up_filters else x.shape[-1]
        x = blocks.rise(
            x, width, steps[level], f"{part}_up",
            kernel_size=up_kernel_size, use_bias=up_bias, upsampling=upsampling,
        )  # fmt: skip
        x = blocks.join(x, skips[level], part, style)
        x = blocks.condition_on(blocks.stage(x, up[level], part, style), condition, part)
        outputs.insert(0, x)
    return keras.Model(inputs, blocks.heads(outputs, num_classes, deep_supervision, fold), name=name)


def _surroundings(
    x: keras.KerasTensor, down: tuple[tuple[int, ...], ...], steps: tuple[Triple, ...], style: blocks.Style
) -> keras.KerasTensor:
    """Features of the surroundings, as many voxels as came in: a U-Net, so that each has seen all of them."""
    skips = []
    for level, widths in enumerate(down):
        if level:
            x = blocks.pool(x, steps[level - 1], f"context_{level}_pool")
        x = blocks.stage(x, widths, f"context_{level}", style)
        skips.append(x)
    for level in reversed(range(len(steps))):
        part = f"context_{level}_back"
        x = blocks.rise(x, x.shape[-1], steps[level], f"{part}_up")
        x = blocks.stage(blocks.join(x, skips[level], part, style), down[level], part, style)
    return x


def _with_context(name: str, context: int | None, sizes: Sizes, style: blocks.Style) -> Sizes:
    if context and (style.padding != "same" or style.any_size):
        raise ValueError(
            'The middle of a context fits volumes that keep their size through padding="same", got '
            f"padding={style.padding!r} and any_size={style.any_size}. Leave these out, or pass context=None."
        )
    return context_sizes(name, context, sizes) if context else sizes


def _widths(filters: Sequence[int | Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple((entry, entry) if isinstance(entry, int) else tuple(entry) for entry in filters)


def _decoder_widths(
    decoder_filters: Sequence[int | Sequence[int]] | None, down: tuple[tuple[int, ...], ...]
) -> tuple[tuple[int, ...], ...]:
    if decoder_filters is None:
        return tuple(widths[-1:] * len(widths) for widths in down[:-1])
    if len(decoder_filters) != len(down) - 1:
        raise ValueError(
            f'{len(down)} levels of "filters" have {len(down) - 1} levels above the bottom: '
            f'"decoder_filters" needs as many entries, got {len(decoder_filters)}. Leave the bottom out.'
        )
    return _widths(decoder_filters)


def _sizes(
    name: str,
    steps: tuple[Triple, ...],
    down: tuple[tuple[int, ...], ...],
    up: tuple[tuple[int, ...], ...],
    style: blocks.Style,
    fold: int,
) -> Sizes:
    blocks.check_fold(fold, style)
    if style.any_size:
        return any_sizes()
    if style.padding == "same":
        return folded_sizes(name, fold, steps)
    taken = [2 * len(widths) for widths in down], [2 * len(widths) for widths in up]
    return valid_sizes(name, steps, *taken)
