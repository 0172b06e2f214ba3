"""How much memory a network needs for one window, and how much there is."""

from collections.abc import Sequence

import keras

from zoo.devices import accelerators, free_bytes

SHARE = 0.5  # of free memory that a batch of windows may take: kernels need room to rearrange tensors
MAX_BATCH = 8  # more did not make any device here faster


def window_bytes(model: keras.Model, patch: Sequence[int]) -> int:
    """Bytes that one window holds at its widest moment while a network runs, weights and kernels' own room apart.

    Every tensor lives from the layer that makes it to the last one that reads it; the answer is the largest
    sum of tensors alive together.

    Args:
        model: a functional model; its first input is the volume.
        patch: window in voxels, (x, y, z).
    """
    volume, *others = model.inputs
    given = [keras.KerasTensor((1, *patch, volume.shape[-1])), *(keras.KerasTensor((1, *o.shape[1:])) for o in others)]
    single = [layer for layer in model.layers if len(keras.tree.flatten(layer.output)) == 1]
    tensors = [keras.tree.flatten(layer.output)[0] for layer in single]
    bytes_of = [_bytes(spec) for spec in keras.Function(model.inputs, tensors)(given)]
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
    """Windows to run at once: one on a CPU, where more were no faster; on an accelerator as many as fit, at most 8.

    Args:
        model: a functional model; of any other the memory is not known, and one window is the answer.
        patch: window in voxels, (x, y, z).
        free: bytes that are free; measured when None.

    Raises:
        ValueError: not even one window fits, with what it needs and what there is.
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
