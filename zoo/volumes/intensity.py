"""Measures intensity steps as one clip and one linear map a volume, so that it is kept in the dtype of its file.

The numbers are measured on the whole volume, never on a patch, and applied to each patch after it is cut out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.errors import unknown_choice
from zoo.volumes import susceptibility_units


@dataclass(frozen=True)
class Line:
    """`(clip(x, low, high) - offset) * scale`; where `keep_zero`, a voxel that is 0 stays 0.

    Attributes:
        low: smaller values become this.
        high: larger values become this.
        offset: subtracted after clipping.
        scale: multiplied last.
        keep_zero: whether 0 marks voxels outside the head.
    """

    low: float = -np.inf
    high: float = np.inf
    offset: float = 0.0
    scale: float = 1.0
    keep_zero: bool = False

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Applies the line to a NumPy volume, in float32."""
        clipped = np.clip(array.astype(np.float32), self.low, self.high)
        mapped = (clipped - np.float32(self.offset)) * np.float32(self.scale)
        return np.where(array == 0, np.float32(0), mapped) if self.keep_zero else mapped


Step = Mapping[str, Any]


def of_channel(steps: Sequence[Step], name: str) -> list[Step]:
    """Selects the steps of a channel: those that name it in `channels`, and those that name none."""
    selected = [step for step in steps if name in step.get("channels", (name,))]
    return [{key: value for key, value in step.items() if key != "channels"} for step in selected]


def measure(array: np.ndarray, steps: Sequence[Step]) -> Line:
    """Measures a volume for named steps.

    Args:
        array: (x, y, z), any real dtype.
        steps: as on a card, `{"name": "clip", "low": -0.25, "high": 0.25}`, in this order where several: "clip"
            (low, high) or "clip_percentiles" (low, high in 0..100, mask) first, then one of "z_score" (mask),
            "range" (low, high: these become 0 and 1; of the volume where left out) or "maximum". `mask` is
            "nonzero" or None; under "nonzero" a z-score leaves zeros zero. "susceptibility" changes nothing and
            raises for anything but a masked map in ppm. Select steps of single channels with `of_channel` first.

    Returns:
        The line that performs the steps.

    Raises:
        ValueError: a step of another name, or a setting that the step does not have.
    """
    line = Line()
    for step in steps:
        settings = {key: value for key, value in step.items() if key != "name"}
        line = _step_function(step.get("name"))(array, line, **_check_settings(step.get("name"), settings))
    return line


def _step_function(name: Any) -> Callable[..., Line]:
    if name not in _STEPS:
        raise unknown_choice("intensity step", name, _STEPS)
    return _STEPS[name][0]


def _check_settings(name: Any, settings: dict[str, Any]) -> dict[str, Any]:
    for key in settings:
        if key not in _STEPS[name][1]:
            raise unknown_choice(f"setting of the intensity step {name!r}:", key, _STEPS[name][1])
    return settings


def _clip(array: np.ndarray, line: Line, low: float = -np.inf, high: float = np.inf) -> Line:
    return Line(float(low), float(high), 0.0, 1.0)


def _clip_percentiles(
    array: np.ndarray, line: Line, low: float = 0.5, high: float = 99.5, mask: str | None = None
) -> Line:
    bounds = np.percentile(array[array != 0] if mask and array.any() else array, (low, high))
    return Line(float(bounds[0]), float(bounds[1]), 0.0, 1.0)


def _z_score(array: np.ndarray, line: Line, mask: str | None = None) -> Line:
    """Measures mean and SD in two passes, slice by slice: float64 sums, without a second volume in memory."""
    num, total, squares = 0, 0.0, 0.0
    for plane in _iterate_planes(array, line, mask):
        num, total = num + plane.size, total + float(plane.sum(dtype=np.float64))
    mean = total / max(num, 1)
    for plane in _iterate_planes(array, line, mask):
        residual = plane.ravel() - np.float32(mean)
        squares += float(np.dot(residual, residual))
    deviation = np.sqrt(squares / max(num, 1))
    return Line(line.low, line.high, mean, 1.0 / deviation if deviation > 0 else 1.0, mask is not None)


def _iterate_planes(array: np.ndarray, line: Line, mask: str | None) -> Any:
    clipped = np.isfinite(line.low) or np.isfinite(line.high)
    for plane in array:
        values = plane.astype(np.float32)
        if mask:
            values = values[plane != 0]
        yield np.clip(values, line.low, line.high) if clipped else values


def _range(array: np.ndarray, line: Line, low: float | None = None, high: float | None = None) -> Line:
    least = float(np.clip(array.min(), line.low, line.high)) if low is None else float(low)
    most = float(np.clip(array.max(), line.low, line.high)) if high is None else float(high)
    return Line(line.low, line.high, least, 1.0 / (most - least) if most > least else 1.0)


def _maximum(array: np.ndarray, line: Line) -> Line:
    most = float(np.clip(array.max(), line.low, line.high))
    return Line(line.low, line.high, 0.0, 1.0 / most if most > 0 else 1.0)


def _susceptibility(array: np.ndarray, line: Line) -> Line:
    susceptibility_units.check(array)
    return line


_STEPS: dict[Any, tuple[Callable[..., Line], tuple[str, ...]]] = {
    "clip": (_clip, ("low", "high")),
    "clip_percentiles": (_clip_percentiles, ("low", "high", "mask")),
    "z_score": (_z_score, ("mask",)),
    "range": (_range, ("low", "high")),
    "maximum": (_maximum, ()),
    "susceptibility": (_susceptibility, ()),
}
