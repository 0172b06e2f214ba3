"""Measures the memory that a network needs, and compares it with what is free."""

from collections.abc import Sequence

import keras
import numpy as np

from zoo.devices import accelerators, free_bytes, machine_bytes

SHARE = 0.5  # of free memory that a batch of windows may take: kernels need room to rearrange tensors
MAX_BATCH = 8  # more did not make any device here faster


def window_bytes(model: keras.Model, patch: Sequence[int]) -> int:
    """Returns the bytes of the activations alive at the widest moment of one window, without weights or kernel space.

    Every tensor lives from the layer that makes it to the last one that reads it; the answer is the largest
    sum of tensors alive together.

    Args:
        model: a functional model; its first input is the volume.
        patch: window in voxels, (x, y, z).

    Example:
        >>> inputs = keras.Input((None, None, None, 1))
        >>> window_bytes(keras.Model(inputs, keras.layers.Conv3D(3, 1)(inputs)), (8, 8, 8))
        8192
    """
    volume, *others = model.inputs
    window = keras.KerasTensor((1, *patch, volume.shape[-1]))
    beside = [keras.KerasTensor((1, *tensor.shape[1:])) for tensor in others]
    single = [layer for layer in model.layers if len(keras.tree.flatten(layer.output)) == 1]
    tensors = [keras.tree.flatten(layer.output)[0] for layer in single]
    bytes_of = [_bytes(spec) for spec in keras.Function(model.inputs, tensors)([window, *beside])]
    last = {id(tensor): place for place, tensor in enumerate(tensors)}
    for place, layer in enumerate(single):
        last |= {id(tensor): place for tensor in keras.tree.flatten(layer.input)}
    ends = [last[id(tensor)] for tensor in tensors]
    return max(sum(bytes_of[j] for j in range(i + 1) if ends[j] >= i) for i in range(len(tensors)))


def _bytes(spec: keras.KerasTensor) -> int:
    num = 1
    for size in spec.shape:
        num *= size or 1
    return num * (2 if "16" in spec.dtype else 4)


def choose_batch_size(model: keras.Model, patch: Sequence[int], *, free: int | None = None) -> int:
    """Returns the windows to run at once: one on a CPU, where more are no faster; else as many as fit, at most 8.

    Args:
        model: a functional model; of any other the memory is not known, and the answer is one window.
        patch: window in voxels, (x, y, z).
        free: bytes that are free; measured when None.

    Raises:
        ValueError: not even one window fits; the text has what it needs and what is free.
    """
    if not getattr(model, "inputs", None):
        return 1
    free = free_bytes() if free is None else free
    needed = window_bytes(model, patch)
    if needed > free * SHARE * 2:
        raise ValueError(
            f"A window of {tuple(patch)} voxels through {model.name!r} needs about {needed / 2**20:.0f} MiB, and "
            f"{free / 2**20:.0f} MiB are free. Pass a smaller patch, or free memory."
        )
    if not accelerators():
        return 1
    return max(1, min(MAX_BATCH, int(free * SHARE / needed)))


def check_volume_fits(model: keras.Model, shape: Sequence[int], patch: Sequence[int], *, context: bool = False) -> None:
    """Compares what a whole volume needs with free memory, before the work starts.

    Args:
        model: the network.
        shape: (x, y, z, channels) on the network's grid.
        patch: window in voxels, (x, y, z).
        context: whether the network sees the surroundings of each window, a second volume.

    Raises:
        ValueError: it does not fit.
    """
    num_classes = keras.tree.flatten(model.outputs)[0].shape[-1]
    voxels = float(np.prod(np.maximum(shape[:3], patch)))
    wide = shape[3] if context else 0
    needed, free = 4 * voxels * (num_classes + shape[3] + wide + 1), machine_bytes()
    if needed > free:
        raise ValueError(
            f"A volume of {tuple(shape[:3])} voxels and {num_classes} classes needs {needed / 2**20:.0f} MiB, and "
            f"{free / 2**20:.0f} MiB are free. Free memory, or crop the volume."
        )
