"""Loads the 3D U-Net of nobrainer, which ANTsPyNet builds as well, with its weights as a `unet3d` of the zoo.

Both (nobrainer/models/unet.py, antspynet/architectures/create_custom_unet_model.py) build one network, of 4,768,289
parameters with one output: two 3x3x3 convolutions a level, no norm, learned up-sampling. A file names its layers
`conv3d`, `conv3d_1`, ... and `conv3d_transpose`, ... by the order in which they were built, and any number may come
first. The mapping is this order, and what is joined (skip first there, last here):

| nobrainer | zoo |
|---|---|
| 8 convolutions down | encoder_0 ... encoder_3, two each |
| up-convolution, 2 convolutions; three times | decoder_2, decoder_1, decoder_0 |
| 1x1x1 convolution | logits |
"""

import os
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo.hub import trained_models
from zoo.interop import local_h5

PARAMETERS = 4_768_289
FILTERS = ((16, 32), (32, 64), (64, 128), (128, 256))
_NAME = re.compile(r"(conv3d(?:_transpose)?)(?:_(\d+))?")
_CONVOLUTIONS, _RISES = 15, 3


def load_unet(path: str | os.PathLike, *, num_classes: int = 1) -> keras.Model:
    """Loads an .h5 file of nobrainer's U-Net without batch norms: whole models and weights alone.

    Args:
        path: the file.
        num_classes: of its output; 1 has 4,768,289 parameters.

    Returns:
        A `unet3d` that returns logits: nobrainer ends in a sigmoid (one class) or softmax.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not HDF5, with batch norms, or with other layers or shapes.
    """
    convolutions = _read_convolutions(Path(path))
    model = trained_models.load("unet3d", num_classes=num_classes, filters=FILTERS, norm="none")
    layers = [layer for layer in model.layers if layer.weights]
    down, rises = convolutions["conv3d"], convolutions["conv3d_transpose"]
    if (len(down), len(rises)) != (_CONVOLUTIONS, _RISES):
        raise ValueError(
            f"nobrainer's U-Net has {_CONVOLUTIONS} convolutions and {_RISES} up-convolutions, {path} has {len(down)} "
            f"and {len(rises)}. Name another file, or load it with zoo.interop.addons."
        )
    ordered = down[:8]
    for step, rise in enumerate(rises):
        (kernel, bias), second = down[8 + 2 * step : 10 + 2 * step]
        ordered += [rise, (_reorder_channels(kernel), bias), second]
    ordered.append(down[14])
    for layer, (kernel, bias) in zip(layers, ordered, strict=True):
        expected = [tuple(variable.shape) for variable in layer.weights]
        if expected != [kernel.shape, bias.shape]:
            raise ValueError(
                f"{path} has {kernel.shape} where {layer.name} has {expected[0]}. Check num_classes={num_classes}."
            )
        layer.set_weights([kernel, bias])
    return model


def _reorder_channels(kernel: np.ndarray) -> np.ndarray:
    """Reorders input channels from (skip, up-convolved) to (up-convolved, skip); a skip is as wide as the output."""
    skip = kernel.shape[-1]
    return np.concatenate([kernel[..., skip:, :], kernel[..., :skip, :]], axis=-2)


def _read_convolutions(path: Path) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Reads kernel and bias of each convolution, by kind, in the order of the numbers in their names."""
    kinds: dict[str, dict[int, Any]] = {"conv3d": {}, "conv3d_transpose": {}}
    with local_h5.open_h5(path) as file:
        root = local_h5.get_group(file, "model_weights") if "model_weights" in file else file
        if any(name.startswith("batch_normalization") for name in root):
            raise ValueError(f"{path} has batch norms, this network none. Load it whole with zoo.interop.addons.")
        for name in root:
            part = _NAME.fullmatch(name)
            if part:
                kinds[part[1]][int(part[2] or 0)] = _read_layer(local_h5.get_group(root, name), path)
    return {kind: [numbered[number] for number in sorted(numbered)] for kind, numbered in kinds.items()}


def _read_layer(group: Any, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads the kernel and the bias of a layer."""
    names = local_h5.read_names(group)
    if len(names) != 2:
        raise ValueError(f"{path}: {group.name} has {len(names)} weights, and a kernel and a bias are expected.")
    kernel, bias = (local_h5.read_array(group, name) for name in names)
    return kernel, bias
