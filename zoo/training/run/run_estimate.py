"""Estimates time and memory of a run from one measured step, before it starts."""

import dataclasses
import resource
import time
from typing import Any

import keras

from zoo.devices import free_bytes
from zoo.training.run import checkpoint


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Cost of a run: seconds to compile, seconds a step, bytes at the peak and bytes free."""

    compile_s: float
    step_s: float
    peak_bytes: int
    free_bytes: int

    def sentence(self, steps: int) -> str:
        """Returns the needs of a run in words; warns when memory is short.

        Example:
            >>> Estimate(1.0, 0.5, 2**30, 2**33).sentence(100)
            '100 steps of 0.50 s take about 50 s (compiled in 1.0 s) and 1.0 GiB of memory; 8.0 GiB are free.'
        """
        text = (
            f"{steps} steps of {self.step_s:.2f} s take about {format_duration(steps * self.step_s)} "
            f"(compiled in {self.compile_s:.1f} s) and {self.peak_bytes / 2**30:.1f} GiB of memory"
        )
        short = " - this is tight: use a smaller patch or batch" if self.free_bytes < self.peak_bytes * 0.15 else ""
        return f"{text}; {self.free_bytes / 2**30:.1f} GiB are free{short}."


def format_duration(seconds: float) -> str:
    """Returns a duration in hours and minutes, or in seconds when it is short.

    Example:
        >>> format_duration(3700)
        '1 h 02 min'
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def measure(model: keras.Model, x: Any, y: Any) -> Estimate:
    """Takes two steps on one batch, the first to compile and the second to time, and undoes both."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    before = {key: keras.ops.convert_to_numpy(v) for key, v in checkpoint.variables(model).items()}
    times = []
    for _ in range(2):
        begin = time.monotonic()
        model.train_on_batch(x, y)
        times.append(time.monotonic() - begin)
    for key, variable in checkpoint.variables(model).items():
        variable.assign(before[key])
    model.reset_metrics()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Estimate(max(times[0] - times[1], 0.0), times[1], peak, free_bytes())
