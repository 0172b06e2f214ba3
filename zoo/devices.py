"""Reads what the hardware offers: number format, compiler, free memory."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import keras

from zoo.errors import unknown_choice

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def policy(precision: str = "auto") -> str:
    """Returns the Keras dtype policy for a precision.

    Args:
        precision: "auto" (bfloat16 where the hardware has it, else float32), "float32" or "bfloat16".

    Raises:
        ValueError: another word; the nearest match is named.

    Example:
        >>> policy("bfloat16")
        'mixed_bfloat16'
    """
    if precision == "auto":
        return POLICIES["bfloat16" if has_fast_bfloat16() else "float32"]
    if precision not in POLICIES:
        raise unknown_choice("precision", precision, ["auto", *POLICIES])
    return POLICIES[precision]


def use_jit(jit: bool | str = "auto") -> bool:
    """Returns whether XLA compiles: on a GPU or TPU yes; on a CPU no, where oneDNN's 3D convolutions are far quicker.

    Raises:
        ValueError: neither a bool nor "auto".
    """
    if isinstance(jit, bool):
        return jit
    if jit != "auto":
        raise ValueError(f'jit must be True, False or "auto", got {jit!r}. Pass "auto" to let the hardware decide.')
    return bool(accelerators())


def accelerators() -> list[str]:
    """Lists the names of the GPUs and TPUs that the backend sees."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Physical, not logical: looking must not start the runtime, or its threads could no longer be set.
        return [device.name for kind in ("GPU", "TPU") for device in tf.config.list_physical_devices(kind)]
    return [device for device in keras.distribution.list_devices() if not device.startswith("cpu")]


def has_fast_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Returns whether bfloat16 has its own hardware here: compute capability >= 8.0, AVX-512-bf16 or AMX.

    Args:
        cpuinfo: where Linux describes the processor; elsewhere the answer is no.
    """
    if accelerators():
        return all(capability >= (8, 0) for capability in _list_capabilities())
    path = Path(cpuinfo)
    lines = path.read_text().splitlines() if path.exists() else []
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    return not BFLOAT16_FLAGS.isdisjoint(flags)


def _list_capabilities() -> list[tuple[int, int]]:
    """Returns the compute capability of every GPU; on a TPU, and for other backends, one that has bfloat16."""
    if keras.backend.backend() != "tensorflow":
        return [(8, 0)]
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus]


def free_bytes() -> int:
    """Returns the free bytes of the first accelerator, else of the machine."""
    return _gpu_bytes() if accelerators() and shutil.which("nvidia-smi") else machine_bytes()


def machine_bytes(meminfo: str | Path = "/proc/meminfo", cgroup: str | Path = "/sys/fs/cgroup") -> int:
    """Returns the free memory of the machine in bytes, or what the limit of its container leaves where that is less.

    Args:
        meminfo: the file in which Linux describes its memory; where it tells nothing, half the RAM counts as free.
        cgroup: the folder in which Linux describes the limit of a container.

    Example:
        >>> machine_bytes() > 0
        True
    """
    try:
        lines = Path(meminfo).read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    try:
        limit, used = (int((Path(cgroup) / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no container, or "max": no limit
        return free
    return max(min(free, limit - used), 0)


def _gpu_bytes() -> int:
    """Returns the memory of the first GPU less what this process uses: TensorFlow takes the whole GPU at its start."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    total = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]) * 2**20
    if keras.backend.backend() != "tensorflow":
        return total
    import tensorflow as tf

    return total - tf.config.experimental.get_memory_info("GPU:0")["current"]


def processor() -> str:
    """Returns the processor's name."""
    path = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*:\s*(.+)", path.read_text()) if path.exists() else None
    return match[1].strip() if match else platform.processor()
