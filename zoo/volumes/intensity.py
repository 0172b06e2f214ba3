"""Measures intensity steps as one clip and one linear map a volume, so that it is kept in the dtype of its file.

The numbers are measured on the whole volume, never on a patch, and applied to each patch after it is cut out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.errors import unknown_choice
from zoo.volumes import susceptibility_units

AIR_PERCENTILE = 0.5
AIR_OFF = 0.1  # of the range: ringing and interpolation leave less than that beside 0
SPIKE_PERCENTILE = 99.9  # of what is brighter than air
SPIKE = 1.5  # times that: fat and vessels of real scans reach 1.3


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
    """Measures the brightest value without spikes: where single voxels lie far above the rest, they are clipped."""
    level = air_level(array)
    bright = array[array > level]
    usual = float(np.percentile(bright, SPIKE_PERCENTILE)) - level if bright.size else 0.0
    most = float(np.clip(array.max(), line.low, line.high)) - level
    low, high = (max(line.low, level), line.high) if level else (line.low, line.high)
    if usual > 0 and most > SPIKE * usual:
        most = SPIKE * usual
        high = min(high, level + most)
    return Line(low, high, level, 1.0 / most if most > 0 else 1.0)


def air_level(array: np.ndarray) -> float:
    """Returns the value of air, where it is even or negative and a tenth of the image's range away from 0; else 0.

    Args:
        array: (x, y, z), any real dtype, of a head with air around it.

    Example:
        >>> image = np.full((16, 24, 32), -1000.0)
        >>> image[4:12, 6:18, 8:24] = 300
        >>> air_level(image)
        -1000.0
    """
    low, tenth, high = (float(bound) for bound in np.percentile(array[::2, ::2, ::2], (AIR_PERCENTILE, 10.0, 99.0)))
    is_air = low < 0 or low == tenth  # an image without air may well begin above 0
    return low if is_air and abs(low) > AIR_OFF * (high - low) else 0.0


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
