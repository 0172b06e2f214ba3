"""How a trained model is run: every choice but the model, the image and where the result goes."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Says how a trained model is run.

    Attributes:
        probabilities: return (x, y, z, num_classes) float32 after the activation, not labels.
        mirror: average over mirror images: True along the left/right axis, or axes such as (0, 1, 2). Left and right
            labels are swapped back. Each axis doubles the work. A card may say that left/right always is.
        patch: window in voxels; None for the card's. Larger is quicker while it fits memory.
        overlap: least shared fraction of neighbouring windows, in [0, 1).
        batch_size: windows at once; None chooses from free memory.
        precision: "float32", "bfloat16", or "auto": bfloat16 where the hardware has it.
        jit: "auto" (XLA on GPU and TPU, a plain graph on a CPU), True or False.
        conditioning: the raw vector of a network whose card does not name its values; in place of `tabular`.
        skip: do not run windows in which every channel is exactly 0 (outside a head that was stripped or masked);
            what no window reached is background. None does so for segmentations.
        memory_budget_mb: what probabilities on the input's grid may take at once; above it they are made and reduced
            to labels in slabs.
        progress: show a bar on stderr; None when that is a terminal.
        runtime: "keras", or what runs `network`: "onnx", "openvino", "litert" or "tensorflow".
        network: an exported network (`zoo.exporters.export.runtime_file`) that runs in place of the Keras one.

    Example:
        >>> Settings(overlap=0.25, mirror=True).mirror_axes
        (0,)
    """

    probabilities: bool = False
    mirror: bool | Sequence[int] = False
    patch: Sequence[int] | int | None = None
    overlap: float = 0.5
    batch_size: int | None = None
    precision: str = "float32"
    jit: bool | str = "auto"
    conditioning: Sequence[float] | None = None
    skip: bool | None = None
    memory_budget_mb: float = 2048
    progress: bool | None = None
    runtime: str = "keras"
    network: os.PathLike | None = None

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """The axes to mirror along."""
        if isinstance(self.mirror, bool):
            return (0,) if self.mirror else ()
        return tuple(self.mirror)

    def as_record(self) -> dict[str, Any]:
        """Returns the settings that decide a result, as the record beside it has them; not those of speed and memory.

        Example:
            >>> Settings(mirror=True).as_record()["Mirror"]
            True
        """
        axes, patch = self.mirror_axes, self.patch
        sizes = patch if patch is None or isinstance(patch, Iterable) else [patch] * 3
        return {
            "Probabilities": self.probabilities,
            "Mirror": list(axes) if axes not in ((), (0,)) else bool(axes),
            "Patch": None if sizes is None else [int(size) for size in sizes],
            "Overlap": self.overlap,
            "Precision": self.precision,
            "Conditioning": None if self.conditioning is None else [float(value) for value in self.conditioning],
            "Skip": self.skip,
            "Runtime": self.runtime,
        }

    @property
    def budget_bytes(self) -> int:
        """`memory_budget_mb` in bytes."""
        return int(self.memory_budget_mb * 2**20)
