"""The callback that writes a run folder: checkpoints by step and by minute, best weights, log, curves; NaN, signals."""

import math
import pathlib
import signal
import threading
import time
from typing import Any

import keras

from zoo.training.run import checkpoint, run_folder
from zoo.training.run.run_folder import LAST

BEST, LOG, CURVES = "best.safetensors", "log.csv", "curves.png"


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop and has written its state."""


class NonFiniteLossError(Exception):
    """The loss is no longer finite; nothing was written since."""


class RunCallback(keras.callbacks.Callback):
    """Keeps a run folder up to date.

    The state is written at each epoch's end and every few minutes, at any step; the log is rewritten with it, so the
    two never disagree. Ctrl-C and SIGTERM finish the step, write the state and stop.

    Args:
        out: the run folder.
        monitor: the logged value that chooses the best weights, higher is better.
        minutes: write the state at least this often.
        writes: False on the workers of a cluster that leave the folder to the chief.
    """

    def __init__(self, out: pathlib.Path, *, monitor: str, minutes: float = 3.0, writes: bool = True):
        super().__init__()
        self.out, self.monitor, self.minutes, self.writes = out, monitor, minutes, writes
        self.step, self.seconds = 0, 0.0
        self.rows: list[dict[str, float]] = []
        self.best: float | None = None
        self.stop_signal: str | None = None
        self._written = self._tick = time.monotonic()
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "RunCallback":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._request_stop)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _request_stop(self, number: int, _: Any) -> None:
        self.stop_signal = signal.Signals(number).name

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Counts the step; writes the state when it is due."""
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise NonFiniteLossError
        self.add_steps(1)

    def add_steps(self, count: int) -> None:
        """Counts steps; stops where a signal requested it, and writes the state when it is due."""
        self.step += count
        if self.stop_signal:
            self.write()
            raise Interrupted(f"{self.stop_signal} after step {self.step}: the state is in {self.out / LAST}.")
        if time.monotonic() - self._written > 60 * self.minutes:
            self.write()

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        """Keeps the weights as validated: the averaged ones, where weights are averaged."""
        self.keep_best(self.model, logs or {})

    def keep_best(self, model: keras.Model, metrics: dict[str, float]) -> None:
        """Writes the model's weights when the monitored value is the best so far.

        Raises:
            ValueError: the monitored metric is not among the metrics.
        """
        if self.monitor not in metrics:
            raise ValueError(f"The task monitors {self.monitor!r}, and validation gave only {sorted(metrics)}.")
        if self.writes and (self.best is None or metrics[self.monitor] > self.best):
            self.best = float(metrics[self.monitor])
            checkpoint.save_weights(model, self.out / BEST)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Adds the epoch's row to the log and writes everything."""
        numbers = {key: float(value) for key, value in (logs or {}).items()}
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self.rows.append({"step": self.step, "seconds": self._measure_elapsed(), "learning_rate": rate} | numbers)
        self.write()
        if self.writes:
            run_folder.draw_curves(self.rows, self.out / CURVES)

    def resume_from(self, progress: dict[str, Any]) -> None:
        """Continues from the progress that `checkpoint.restore` returned."""
        self.step, self.rows = progress["step"], progress["rows"]
        self.best, self.seconds = progress["best"], progress["seconds"]

    def progress(self) -> dict[str, Any]:
        """Returns where the run is: step, log rows, best monitored value, seconds of work."""
        return {"step": self.step, "rows": self.rows, "best": self.best, "seconds": self._measure_elapsed()}

    def _measure_elapsed(self) -> float:
        now = time.monotonic()
        self.seconds, self._tick = self.seconds + now - self._tick, now
        return self.seconds

    def write(self) -> None:
        """Writes the log and then the state that it belongs to."""
        self._written = time.monotonic()
        if not self.writes:
            return
        if self.rows:
            run_folder.write_log(self.out / LOG, self.rows)
        checkpoint.save(self.model, self.out / LAST, self.progress())
