"""Chooses the number format and the compiler for the hardware at hand."""

import pathlib

from zoo.registry import unknown

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "mixed_bfloat16": "mixed_bfloat16"}
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
JIT_CHOICES = {"auto", "true", "false"}


def gpus() -> list:
    """The GPUs that TensorFlow sees."""
    import tensorflow as tf

    return tf.config.list_physical_devices("GPU")


def cpu_flags(cpuinfo: str = "/proc/cpuinfo") -> set[str]:
    """Feature flags of the processor; empty where the system does not tell."""
    path = pathlib.Path(cpuinfo)
    lines = path.read_text().splitlines() if path.exists() else []
    return set(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))


def has_fast_bfloat16() -> bool:
    """Whether bfloat16 runs on matrix units here: compute capability >= 8.0, AVX-512-bf16 or AMX."""
    import tensorflow as tf

    devices = gpus()
    if not devices:
        return bool(BF16_FLAGS & cpu_flags())
    details = [tf.config.experimental.get_device_details(device) for device in devices]
    return all(detail.get("compute_capability", (0, 0)) >= (8, 0) for detail in details)


def policy(precision: str = "auto") -> str:
    """The Keras dtype policy for a precision.

    Args:
        precision: "auto" (mixed_bfloat16 where the hardware has it, else float32), "float32" or "bfloat16".

    Raises:
        ValueError: another word; float16 is refused because CPU kernels for it are missing.
    """
    if precision == "auto":
        return "mixed_bfloat16" if has_fast_bfloat16() else "float32"
    if precision not in POLICIES:
        raise unknown("precision", precision, ["auto", *POLICIES])
    return POLICIES[precision]


def use_jit(jit: str | bool = "auto") -> bool:
    """Whether steps are compiled by XLA: on a GPU yes, on a CPU no, where oneDNN's 3D convolutions are faster.

    Raises:
        ValueError: neither a bool nor "auto".
    """
    if isinstance(jit, bool):
        return jit
    if jit.lower() not in JIT_CHOICES:
        raise unknown("jit setting", jit, JIT_CHOICES)
    return bool(gpus()) if jit == "auto" else jit.lower() == "true"
