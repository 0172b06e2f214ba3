"""Builds the parts that networks share: functions from tensor to tensor, with every layer named."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import keras
from keras import KerasTensor, layers

from zoo.errors import unknown_choice
from zoo.models.parts.layers import CropLike, FiLM, Fold, Half, SizeCheck, Unfold
from zoo.models.parts.norms import BatchNormalization, GroupNormalization, LeakyReLU
from zoo.models.parts.sizes import Sizes, Triple

NORMS = ("batch", "group", "instance", "none")
ACTIVATIONS = ("elu", "leaky_relu", "none", "prelu", "relu")
PADDINGS = ("same", "valid")
UPSAMPLINGS = ("resize", "transpose")


@dataclass(frozen=True)
class Style:
    """Settings that all convolutions of a network share.

    Attributes:
        norm: "batch", "instance", "group" (8 groups, or the largest number below that divides) or "none".
        activation: "relu", "leaky_relu" (slope 0.01), "elu", "prelu" (one slope a channel) or "none".
        dropout: rate after every convolution, in [0, 1).
        padding: "same", or "valid" for outputs that no border affects.
        any_size: take odd sizes too, by cropping the overshoot of an up-convolution.

    Raises:
        ValueError: a value is none of these.
    """

    norm: str = "batch"
    activation: str = "relu"
    dropout: float = 0.0
    padding: str = "same"
    any_size: bool = False

    def __post_init__(self) -> None:
        choose("norm", self.norm, NORMS)
        choose("activation", self.activation, ACTIVATIONS)
        choose("padding", self.padding, PADDINGS)
        if not 0 <= self.dropout < 1:
            raise ValueError(
                f'"dropout" is the share of values set to zero, 0 <= dropout < 1, got {self.dropout}. Pass 0 for none.'
            )
        if self.any_size and self.padding == "valid":
            raise ValueError(
                'Valid padding takes certain sizes only, got any_size=True with padding="valid". '
                'Pass padding="same" for volumes of any size.'
            )


def choose(kind: str, value: object, choices: Sequence[str]) -> None:
    """Checks that a value is one of the choices.

    Raises:
        ValueError: the nearest match and all choices are named.
    """
    if value not in choices:
        raise unknown_choice(kind, value, choices)


def entrance(input_shape: Sequence[int | None], conditioning: int, sizes: Sizes) -> tuple:
    """Makes the inputs of a network: a volume of a size that fits, and tabular values if there are any.

    Args:
        input_shape: (x, y, z, channels), None where open.
        conditioning: number of tabular values, 0 for none.
        sizes: which sizes fit.

    Returns:
        The input or the list of both, the checked volume, and the tabular values or None.

    Raises:
        ValueError: the shape is no (x, y, z, channels), or a size does not fit.
    """
    shape = volume_shape(input_shape)
    sizes.check(shape[:-1])
    volume = keras.Input(shape, name="volume")
    checked = SizeCheck(sizes, name="size_check")(volume)
    if not conditioning:
        return volume, checked, None
    condition = keras.Input((conditioning,), name="conditioning")
    return [volume, condition], checked, condition


def volume_shape(input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
    """Checks an input shape and returns (x, y, z, channels) as a tuple.

    Raises:
        ValueError: it has not four entries, or the number of channels is open.
    """
    shape = tuple(input_shape)
    if len(shape) != 4 or not shape[-1]:
        raise ValueError(
            f'"input_shape" is (x, y, z, channels) without the batch, got {shape}. '
            "Pass for example (None, None, None, 1): sizes may be open, channels may not."
        )
    return shape


def convolution(
    x: KerasTensor,
    filters: int,
    name: str,
    style: Style,
    *,
    kernel_size: int | Triple = 3,
    strides: int | Triple = 1,
    dilation_rate: int = 1,
    use_bias: bool = True,
) -> KerasTensor:
    """Applies a convolution, by default 3x3x3.

    Args:
        x: (batch, x, y, z, channels).
        filters: output channels.
        name: of the layer.
        style: settings that the network's convolutions share; only the padding is used here.
        kernel_size: edge in voxels.
        strides: voxels from one output to the next.
        dilation_rate: voxels from one tap of the kernel to the next.
        use_bias: False before an instance norm, which would take the bias away again at once.

    Returns:
        (batch, x, y, z, filters), the sizes as padding and strides make them.
    """
    convolve = layers.Conv3D(
        filters,
        kernel_size,
        strides,
        style.padding,
        dilation_rate=dilation_rate,
        use_bias=use_bias,
        kernel_initializer="he_normal",
        name=name,
    )
    return convolve(x)


def normalise(x: KerasTensor, name: str, norm: str) -> KerasTensor:
    """Applies a norm; its statistics are float32 in any precision."""
    if norm == "none":
        return x
    if norm == "batch":
        return BatchNormalization(name=name)(x)
    groups = -1 if norm == "instance" else math.gcd(8, x.shape[-1])
    return GroupNormalization(groups=groups, epsilon=1e-5, name=name)(x)


def activate(x: KerasTensor, name: str, activation: str) -> KerasTensor:
    """Applies an activation, as a layer of its own."""
    if activation == "none":
        return x
    if activation == "prelu":
        return layers.PReLU(shared_axes=[1, 2, 3], alpha_initializer=keras.initializers.Constant(0.25), name=name)(x)
    if activation == "leaky_relu":
        return LeakyReLU(negative_slope=0.01, name=name)(x)
    return layers.Activation(activation, name=name)(x)


def drop(x: KerasTensor, name: str, rate: float) -> KerasTensor:
    """Drops single values in training."""
    return layers.Dropout(rate, name=name)(x) if rate else x


def finish(x: KerasTensor, name: str, style: Style) -> KerasTensor:
    """Applies what follows a convolution: norm, activation, dropout."""
    x = normalise(x, f"{name}_norm", style.norm)
    x = activate(x, f"{name}_{style.activation}", style.activation)
    return drop(x, f"{name}_dropout", style.dropout)


def stage(x: KerasTensor, filters: Sequence[int], name: str, style: Style) -> KerasTensor:
    """Applies convolution, norm, activation and dropout, once for each number of filters."""
    for index, width in enumerate(filters):
        part = f"{name}_conv_{index}"
        x = convolution(x, width, part, style, use_bias=style.norm != "instance")
        x = finish(x, part, style)
    return x


def pool(x: KerasTensor, strides: Triple, name: str) -> KerasTensor:
    """Takes the maximum over `strides` voxels; an odd rest makes one voxel more."""
    return layers.MaxPooling3D(strides, strides, padding="same", name=name)(x)


def rise(
    x: KerasTensor,
    filters: int,
    strides: Triple,
    name: str,
    *,
    kernel_size: int | None = None,
    use_bias: bool = True,
    upsampling: str = "transpose",
) -> KerasTensor:
    """Enlarges a volume `strides` times.

    Args:
        x: (batch, x, y, z, channels).
        filters: output channels.
        strides: factor for each axis.
        name: of the layer.
        kernel_size: voxels along an edge; None for as many as the strides.
        use_bias: whether the convolution has one.
        upsampling: "transpose" for a transposed convolution; "resize" for nearest neighbours and then a
            convolution, free of checkerboards and faster where XLA lowers transposed ones badly.

    Returns:
        (batch, x strides, y strides, z strides, filters).
    """  # fmt: skip
    choose("upsampling", upsampling, UPSAMPLINGS)
    settings = {
        "kernel_size": kernel_size or strides,
        "padding": "same",
        "use_bias": use_bias,
        "kernel_initializer": "he_normal",
        "name": name,
    }
    if upsampling == "transpose":
        return layers.Conv3DTranspose(filters, strides=strides, **settings)(x)
    x = layers.UpSampling3D(strides, name=f"{name}_resize")(x)
    return layers.Conv3D(filters, **{**settings, "kernel_size": kernel_size or 3})(x)


def fit(x: KerasTensor, skip: KerasTensor, name: str, style: Style) -> tuple[KerasTensor, KerasTensor]:
    """Crops a volume or a skip to equal size, where the padding or an odd size made them differ."""
    if style.padding == "valid":
        skip = CropLike("center", name=f"{name}_crop")([skip, x])
    if style.any_size:
        x = CropLike("start", name=f"{name}_crop")([x, skip])
    return x, skip


def fit_shortcut(shortcut: KerasTensor, x: KerasTensor, name: str, style: Style) -> KerasTensor:
    """Crops the shortcut of a residual stage, where unpadded convolutions took voxels from the border."""
    return CropLike("center", name=f"{name}_add_crop")([shortcut, x]) if style.padding == "valid" else shortcut


def join(x: KerasTensor, skip: KerasTensor, name: str, style: Style) -> KerasTensor:
    """Concatenates a volume and a skip, in this order."""
    return layers.Concatenate(name=f"{name}_concat")(list(fit(x, skip, name, style)))


def halves(volume: KerasTensor) -> tuple[KerasTensor, KerasTensor]:
    """Splits channels into a patch and its surroundings (`zoo.volumes.context`), the second half.

    Raises:
        ValueError: the number of channels is odd.
    """
    if volume.shape[-1] % 2:
        raise ValueError(
            'With "context" the second half of the channels is the surroundings of the first: "input_shape" ends in '
            f"an even number, got {volume.shape[-1]}. Pass twice the number of images."
        )
    return Half(False, name="patch")(volume), Half(True, name="surroundings")(volume)


def join_middle(x: KerasTensor, wide: KerasTensor, name: str) -> KerasTensor:
    """Concatenates a volume and the middle of a larger one of the same voxels, in this order."""
    return layers.Concatenate(name=f"{name}_concat")([x, CropLike("center", name=f"{name}_crop")([wide, x])])


def condition_on(x: KerasTensor, condition: KerasTensor | None, name: str) -> KerasTensor:
    """Scales and shifts channels by the tabular values, if there are any."""
    return x if condition is None else FiLM(name=f"{name}_film")([x, condition])


def check_fold(factor: int, style: Style) -> None:
    """Checks that folded voxels unfold to the size that came in.

    Raises:
        ValueError: they are folded, and the network changes sizes or takes every size.
    """
    if factor != 1 and (style.padding != "same" or style.any_size):
        raise ValueError(
            'Folded voxels unfold to the size that came in with padding="same" alone, got '
            f"fold={factor} with padding={style.padding!r} and any_size={style.any_size}. "
            "Leave these out, or pass fold=1."
        )


def fold(x: KerasTensor, factor: int) -> KerasTensor:
    """Folds cubes of `factor` voxels an edge into channels; 1 leaves the volume as it is."""
    return x if factor == 1 else Fold(factor, name="fold")(x)


def head(x: KerasTensor, num_classes: int, level: int, fold: int = 1) -> KerasTensor:
    """Makes logits in float32 in any precision of the network, named "logits", or "logits_1" a level down.

    With `fold` the convolution gives the logits of a cube of voxels, which are then unfolded.
    """
    name = f"logits_{level}" if level else "logits"
    x = layers.Conv3D(num_classes * fold**3, 1, dtype="float32", name=name)(x)
    return x if fold == 1 else Unfold(fold, dtype="float32", name=f"{name}_unfold")(x)


def heads(levels: Sequence[KerasTensor], num_classes: int, deep_supervision: bool, fold: int = 1):
    """Makes the logits of the full resolution, or with deep supervision a list from every level, full resolution first.

    Args:
        levels: the decoder's volumes, full resolution first.
        num_classes: channels of the logits.
        deep_supervision: whether the lower levels have logits too, each at its own resolution.
        fold: edge of the cubes of voxels that were folded into channels; 1 for none.
    """
    if not deep_supervision:
        return head(levels[0], num_classes, 0, fold)
    return [head(x, num_classes, level, fold) for level, x in enumerate(levels)]
