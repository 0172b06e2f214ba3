"""Siamese auto-encoder of patch pairs, and its codes for every voxel at once."""

from collections.abc import Sequence

import keras
from keras import KerasTensor, layers

from zoo.models.parts import blocks
from zoo.models.parts.layers import SizeCheck
from zoo.models.parts.sizes import Sizes

KERNELS = (5, 3, 3, 3)
STRIDES = (1, 1, 3, 1)
PATCH = 15


def siamese(
    input_shape: Sequence[int | None] = (PATCH, PATCH, PATCH, 2),
    code_size: int = 64,
    *,
    filters: Sequence[int] = (16, 32, 64),
    norm: str = "none",
    activation: str = "relu",
    dropout: float = 0.0,
    name: str = "siamese",
) -> keras.Model:
    """Builds two copies of one auto-encoder, for patches of the same place in two people.

    Trained to reconstruct both patches while their codes agree, it learns what is normal at a place
    without labels: outliers among the codes are lesions. The encoder is four unpadded convolutions, of
    edge 5, 3, 3 (stride 3) and 3 voxels, from a patch of 15 voxels to one code; the decoder mirrors it.
    A larger patch, 3 voxels at a time, gives a grid of codes, one every 3 voxels; `dense_encoder` gives one
    for every voxel.

    Args:
        input_shape: (x, y, z, channels) in voxels of one patch: 15 or a multiple of 3 more, None where open.
        code_size: numbers in a code.
        filters: width of the encoder's first three convolutions.
        norm: "none", "batch", "instance" or "group".
        activation: "relu", "leaky_relu", "elu" or "prelu".
        dropout: rate after every convolution but the last of encoder and decoder.
        name: of the model.

    Returns:
        A functional model from the list `[patch_a, patch_b]`, each (batch, x, y, z, channels) float32, to the
        list `[code_a, code_b, reconstruction_a, reconstruction_b]` in float32: codes (batch, 1, 1, 1, code_size)
        for patches of 15 voxels, unbounded; reconstructions in the shape of the patches, unbounded.
        `get_layer("encoder")` and `get_layer("decoder")` are models of their own.

    Raises:
        ValueError: a size does not fit, or an option is none of the above.

    Source: Alaverdyan et al., Medical Image Analysis 2020, doi 10.1016/j.media.2019.101618. Ours is 3D and
    reads all channels at once.

    Example:
        >>> model = siamese(code_size=8, filters=(2, 3, 4))
        >>> model.output_shape[0]
        (None, 1, 1, 1, 8)
    """
    if len(filters) != len(KERNELS) - 1:
        raise ValueError(
            f'The encoder has {len(KERNELS)} convolutions and the last makes the code: "filters" needs '
            f"{len(KERNELS) - 1} entries, got {len(filters)}. Pass for example (16, 32, 64)."
        )
    style = blocks.Style(norm, activation, dropout, padding="valid")
    shape = blocks.volume_shape(input_shape)
    sizes = _find_sizes(name)
    sizes.check(shape[:-1])
    widths = (*filters, code_size)
    channels = int(shape[-1] or 0)
    encoder = _build_encoder(shape, widths, style, sizes)
    decoder = _build_decoder(encoder.output_shape[1:], (*reversed(filters), channels), style)
    patches = [keras.Input(shape, name=f"patch_{side}") for side in "ab"]
    codes = [_name_output(encoder(patch), f"code_{side}") for side, patch in zip("ab", patches, strict=True)]
    copies = [_name_output(decoder(code), f"reconstruction_{side}") for side, code in zip("ab", codes, strict=True)]
    return keras.Model(patches, [*codes, *copies], name=name)


def dense_encoder(model: keras.Model) -> keras.Model:
    """Turns a siamese network's encoder into one that gives a code for every voxel in one pass.

    The stride becomes 1 and the convolution after it is dilated by 3 instead, which visits the same voxels:
    the code at (x, y, z) is that of the patch whose first corner is there.

    Args:
        model: what `siamese` built; its weights are copied.

    Returns:
        A functional model from (batch, x, y, z, channels), sizes open from 15 voxels on, to float32 codes
        (batch, x - 14, y - 14, z - 14, code_size).

    Raises:
        ValueError: the encoder normalises over the patch, so a code depends on where the patch ends.

    Example:
        >>> dense_encoder(siamese(code_size=8, filters=(2, 3, 4))).output_shape
        (None, None, None, None, 8)
    """
    encoder = model.get_layer("encoder")
    pooled = [layer.name for layer in encoder.layers if isinstance(layer, layers.GroupNormalization)]
    if pooled:
        raise ValueError(
            f"Dense codes equal patch-wise codes only where nothing is averaged over a patch, got {pooled[0]!r}. "
            'Build siamese with norm="none" or "batch".'
        )
    changes = _dilate(encoder)

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        return layer.from_config({**layer.get_config(), **changes.get(layer.name, {})})

    volume = keras.Input((None, None, None, encoder.input_shape[-1]), name="volume")
    dense = keras.models.clone_model(encoder, input_tensors=volume, clone_function=clone)
    dense.set_weights(encoder.get_weights())
    return dense


def _dilate(encoder: keras.Model) -> dict[str, dict]:
    """Returns the new settings of each layer: a stride becomes the dilation of all later layers."""
    rule = f"a dense encoder reads {PATCH} voxels a side or more"
    sizes = Sizes((PATCH,) * 3, (1, 1, 1), rule, "Pad the volume.")
    changes: dict[str, dict] = {f"{encoder.name}_size_check": {"sizes": sizes}}
    dilation = 1
    for layer in encoder.layers:
        if isinstance(layer, layers.Conv3D):
            changes[layer.name] = {"strides": (1, 1, 1), "dilation_rate": (dilation,) * 3}
            dilation *= layer.strides[0]
    return changes


def _build_encoder(
    shape: Sequence[int | None], widths: Sequence[int], style: blocks.Style, sizes: Sizes
) -> keras.Model:
    patch = keras.Input(shape, name="encoder_patch")
    x = SizeCheck(sizes, name="encoder_size_check")(patch)
    for index, settings in enumerate(zip(widths, KERNELS, STRIDES, strict=True)):
        x = _convolve(x, index, settings, "encoder", style)
    return keras.Model(patch, x, name="encoder")


def _build_decoder(shape: Sequence[int | None], widths: Sequence[int], style: blocks.Style) -> keras.Model:
    code = keras.Input(shape, name="decoder_code")
    x = code
    for index, settings in enumerate(zip(widths, reversed(KERNELS), reversed(STRIDES), strict=True)):
        x = _convolve(x, index, settings, "decoder", style)
    return keras.Model(code, x, name="decoder")


def _convolve(x: KerasTensor, index: int, settings: tuple, model: str, style: blocks.Style) -> KerasTensor:
    """Applies one convolution, transposed in the decoder; the last of a model is linear."""
    width, kernel_size, step = settings
    name = f"{model}_conv_{index}"
    last = index == len(KERNELS) - 1
    layer = layers.Conv3D if model == "encoder" else layers.Conv3DTranspose
    use_bias = last or style.norm != "instance"
    start = {"kernel_initializer": "he_normal", "use_bias": use_bias, "name": name}
    x = layer(width, kernel_size, step, **start)(x)
    return x if last else blocks.finish(x, name, style)


def _name_output(x: KerasTensor, name: str) -> KerasTensor:
    return layers.Identity(dtype="float32", name=name)(x)


def _find_sizes(name: str) -> Sizes:
    rule = f"{name} reads patches of {PATCH} voxels a side or a multiple of 3 more"
    return Sizes((PATCH,) * 3, (3, 3, 3), rule, "Cut patches of (15, 15, 15), or use dense_encoder for volumes.")
