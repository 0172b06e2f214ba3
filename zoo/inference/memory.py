"""How much memory a network needs for one window, and how much there is."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import keras

from zoo.inference.precision import accelerators

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


def free_bytes() -> int:
    """Free bytes of the first accelerator, else of the machine."""
    return _gpu_bytes() if accelerators() and shutil.which("nvidia-smi") else machine_bytes()


def machine_bytes() -> int:
    """Free bytes of the machine, or of its container; half the RAM where the system does not tell."""
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    limits = [limit for limit in (_cgroup_room(),) if limit is not None]
    return min(available + limits, default=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)


def _gpu_bytes() -> int:
    """TensorFlow takes a whole GPU at its start, so what counts is the total less what this process uses."""
    asked = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    total = int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[0]) * 2**20
    if keras.backend.backend() != "tensorflow":
        return total
    import tensorflow as tf

    return total - tf.config.experimental.get_memory_info("GPU:0")["current"]


def _cgroup_room() -> int | None:
    """What a container may still take, None where there is no limit."""
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if not limit.exists() or not used.exists() or limit.read_text().strip() == "max":
        return None
    return max(int(limit.read_text()) - int(used.read_text()), 0)


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
