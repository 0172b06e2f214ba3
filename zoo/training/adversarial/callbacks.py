"""Callbacks of a GAN in training: montages of its images, and a watch for the collapse of its modes."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from zoo.files import write_whole
from zoo.training.adversarial.learner import SSIM_FAKE, SSIM_REAL

MARGIN, TIMES, YOUNG = 0.05, 3, 0.4
COLUMNS = 6


class CollapsedError(RuntimeError):
    """The generator makes nearly the same image whatever it is given."""


class CollapseWatch(keras.callbacks.Callback):
    """Stops a training whose fakes are more alike than real images are.

    Compares fakes and real images of the validation batches pair by pair, by MS-SSIM. Put it after the run callback, so
    that the state is written before it stops.

    Args:
        margin: by how much the fakes' mean may pass the real ones'.
        times: validations in a row that pass it before it stops.
        young: share of the epochs to ignore: what a generator makes first is the mean of everything.

    Source: the use of MS-SSIM among fakes after Odena et al. 2017, arXiv 1610.09585.
    """

    def __init__(self, margin: float = MARGIN, times: int = TIMES, young: float = YOUNG) -> None:
        super().__init__()
        self.margin, self.times, self.young = margin, times, young
        self.seen: list[tuple[float, float]] = []

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Compares the similarities of the last validation.

        Raises:
            CollapsedError: the fakes' similarity passed the margin `times` times in a row.
        """
        logs = logs or {}
        if f"val_{SSIM_FAKE}" in logs and epoch >= self.young * (self.params or {}).get("epochs", 0):
            self.seen.append((float(logs[f"val_{SSIM_FAKE}"]), float(logs[f"val_{SSIM_REAL}"])))
        last = self.seen[-self.times :]
        if len(last) == self.times and all(fake > real + self.margin for fake, real in last):
            fake, real = last[-1]
            raise CollapsedError(
                f"The generator has collapsed: in {self.times} validations in a row its images were more alike than "
                f"real ones by over {self.margin} of MS-SSIM, at last {fake:.3f} against {real:.3f}. Lower its "
                "learning rate, raise the critic's, or give the critic more steps; the last state is kept."
            )


class Montage(keras.callbacks.Callback):
    """Draws what the learner makes of the first validation batch, after each validation, as a PNG.

    Args:
        folder: gets `epoch_NNN.png`.
        validation: batches as the learner takes them.
    """

    def __init__(self, folder: Path, validation: Any) -> None:
        super().__init__()
        self.folder, self.validation = folder, validation
        self._number = 0
        self._batch: Any = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes the epoch."""
        self._number = epoch

    def on_test_end(self, logs: Any = None) -> None:
        """Draws, with the weights as validated."""
        if self._batch is None:
            self._batch = keras.tree.map_structure(keras.ops.convert_to_tensor, next(iter(self.validation)))
        state = keras.ops.copy(self.model.seed_generator.state)  # what is drawn here must not change the training
        rows = {
            title: keras.ops.convert_to_numpy(images) for title, images in self.model.montage_rows(self._batch).items()
        }
        self.model.seed_generator.state.assign(state)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / f"epoch_{self._number + 1:03d}.png", draw_montage(rows))


def draw_montage(rows: Mapping[str, np.ndarray], columns: int = COLUMNS) -> bytes:
    """Draws the middle axial slice of the first images, a row for each title and channel, all rows of a channel alike.

    Args:
        rows: title -> images (batch, x, y, z, channels).
        columns: images at most.

    Returns:
        The bytes of a PNG.

    Raises:
        ValueError: there is nothing to show.
    """
    from matplotlib.figure import Figure

    if not rows:
        raise ValueError("A montage shows one row of images at least, got none. Pass title -> images.")
    first = next(iter(rows.values()))
    num = min(columns, len(first))
    limits = [np.percentile(first[..., channel], (1, 99)) for channel in range(first.shape[-1])]
    figure = Figure(figsize=(1.1 * num + 0.4, 1.1 * len(rows) * len(limits)), layout="constrained", facecolor="black")
    axes = figure.subplots(len(rows) * len(limits), num, squeeze=False)
    for row, (title, images) in enumerate(rows.items()):
        for channel, (low, high) in enumerate(limits):
            _draw_row(axes[row + channel * len(rows)], images[..., channel], title, (low, high))
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=90)
    return content.getvalue()


def _draw_row(axes: Sequence[Any], images: np.ndarray, title: str, limits: tuple[float, float]) -> None:
    for number, axis in enumerate(axes):
        axis.imshow(images[number, :, :, images.shape[3] // 2].T, cmap="gray", vmin=limits[0], vmax=limits[1],
                    origin="lower")  # fmt: skip
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    axes[0].set_ylabel(title, color="white", fontsize=7)
