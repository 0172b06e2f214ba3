"""A trained model as a SavedModel that takes a raw volume: everything from orientation to labels runs inside the graph.

It needs TensorFlow and nothing else. One trace serves volumes of all sizes. Signatures:

- `serving_default`: volume (x, y, z, channels) float32, spacing_mm (3,), affine (4, 4), and tabular (n,) where the card
  has such values; gives `labels` (x, y, z) and `probabilities` (x, y, z, num_classes) on the volume's own grid.
- `int16`: the same from int16 voxels.
- `labels`: gives labels alone, made in slabs, in a fraction of the memory and of the bytes to send.
- `patch`: the bare network, windows (batch, x, y, z, channels) to `logits`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from zoo.errors import unknown_choice
from zoo.exporters.saved_model import graph_grids, graph_intensity, graph_postprocessing, graph_windows
from zoo.exporters.weights_on_disk import Network
from zoo.hub.card import Card, Step
from zoo.inference.left_right import partners
from zoo.inference.postprocessing import WITHIN_INPUT
from zoo.inference.preprocessing import split

SLAB = 16  # planes of the image whose probabilities are held at once where labels alone are asked for
VOLUMES = ("segmentation", "regression", "reconstruction")


@dataclass(frozen=True)
class Plan:
    """A card and the choices of an export, checked and taken apart."""

    card: Card
    patch: tuple[int, ...]
    overlap: float
    axes: tuple[int, ...]
    partners: tuple[int, ...] | None
    grid: tuple[tuple[str, dict], ...]
    steps: tuple[dict[str, Any], ...]

    @property
    def segments(self) -> bool:
        """Whether classes come out."""
        return self.card.output.kind == "segmentation"

    @property
    def within(self) -> bool:
        """Whether nothing is found where every channel is 0."""
        return any(step.name == WITHIN_INPUT for step in self.card.postprocessing)


@dataclass(frozen=True)
class Work:
    """A volume on its way: what the network said of it, and how to come back to its own grid."""

    values: tf.Tensor
    shape: tf.Tensor
    scale: tf.Tensor
    spacing_mm: tf.Tensor


class VolumeModel(tf.Module):
    """A trained model as a TensorFlow module; its methods are the signatures.

    Args:
        model: the network.
        card: what it takes and gives.
        patch: window in voxels; None for the card's.
        overlap: least shared fraction of neighbouring windows, in [0, 1).
        mirror_axes: axes to average mirror images over; each doubles the work.
        weights: "float32", "float16" or "int8".

    Raises:
        ValueError: a card that a graph cannot hold; what it is is named.
    """

    def __init__(
        self,
        model: keras.Model,
        card: Card,
        *,
        patch: Sequence[int] | None = None,
        overlap: float = 0.5,
        mirror_axes: Sequence[int] = (),
        weights: str = "float32",
    ) -> None:
        super().__init__(name="volume_model")
        self.network = Network(model, weights)
        self._plan = plan = _plan(card, patch or card.input.patch, overlap, tuple(mirror_axes))
        self.predict = self._signature(self._predict, tf.float32)
        self.predict_int16 = self._signature(self._predict_int16, tf.int16)
        self.patch = tf.function(self._logits, input_signature=self._patch_specs(), autograph=False)
        if plan.segments:
            self.predict_labels = self._signature(self._predict_labels, tf.float32)

    def signatures(self) -> dict[str, Any]:
        """The functions that a server calls, by name."""
        found = {"serving_default": self.predict, "int16": self.predict_int16, "patch": self.patch}
        return found | ({"labels": self.predict_labels} if self._plan.segments else {})

    def _signature(self, body: Callable[..., dict[str, tf.Tensor]], dtype: tf.DType) -> Any:
        """A traced function; what may be left out has a default, which a server fills in, too."""
        given = self._plan.card.input
        specs = [tf.TensorSpec((None, None, None, len(given.channels)), dtype, name="volume")]
        specs += [tf.TensorSpec((3,), tf.float32, name="spacing_mm"), tf.TensorSpec((4, 4), tf.float32, name="affine")]
        no_affine, unknown_values = tf.zeros((4, 4)), tf.fill([len(given.tabular)], np.float32(np.nan))
        if not given.tabular:

            def plain(volume, spacing_mm, affine=no_affine):
                return body(volume, spacing_mm, affine, None)

            return tf.function(plain, input_signature=specs, autograph=False)

        def conditioned(volume, spacing_mm, affine=no_affine, tabular=unknown_values):
            return body(volume, spacing_mm, affine, tabular)

        beside = tf.TensorSpec((len(given.tabular),), tf.float32, name="tabular")
        return tf.function(conditioned, input_signature=[*specs, beside], autograph=False)

    def _patch_specs(self) -> list[tf.TensorSpec]:
        given = self._plan.card.input
        windows = tf.TensorSpec((None, None, None, None, len(given.channels)), tf.float32, name="windows")
        beside = tf.TensorSpec((None, 2 * len(given.tabular)), tf.float32, name="conditioning")
        return [windows, beside] if given.tabular else [windows]

    def _logits(self, windows: tf.Tensor, conditioning: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        return {"logits": self.network(windows, conditioning)}

    def _predict(
        self, volume: tf.Tensor, spacing_mm: tf.Tensor, affine: tf.Tensor, tabular: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        work = self._work(volume, spacing_mm, affine, tabular)
        values = graph_grids.to_image_grid(work.values, work.shape, work.scale)
        if not self._plan.segments:
            return {"values": values}
        return {"labels": self._cleaned(self._named(values), work), "probabilities": values}

    def _predict_int16(
        self, volume: tf.Tensor, spacing_mm: tf.Tensor, affine: tf.Tensor, tabular: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        beside = [] if tabular is None else [tabular]
        return self.predict(tf.cast(volume, tf.float32), spacing_mm, affine, *beside)

    def _predict_labels(
        self, volume: tf.Tensor, spacing_mm: tf.Tensor, affine: tf.Tensor, tabular: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        work = self._work(volume, spacing_mm, affine, tabular)
        ratio = graph_grids.ratio_back(work.values, work.shape, work.scale)
        num = -(-work.shape[0] // SLAB)

        def slab(index: tf.Tensor) -> tf.Tensor:
            return self._named(graph_grids.planes_back(work.values, work.shape, ratio, index * SLAB, SLAB))

        spec = tf.TensorSpec((SLAB, None, None), self._table().dtype)
        slabs = tf.map_fn(slab, tf.range(num), fn_output_signature=spec, parallel_iterations=1)
        labels = tf.reshape(slabs, tf.concat([[num * SLAB], work.shape[1:]], 0))[: work.shape[0]]
        return {"labels": self._cleaned(labels, work)}

    def _work(self, volume: tf.Tensor, spacing_mm: tf.Tensor, affine: tf.Tensor, tabular: tf.Tensor | None) -> Work:
        """From a raw volume to activated values on the network's grid, their axes turned as the volume's."""
        with tf.control_dependencies([_finite(volume)]):
            spacing, affine = graph_grids.spacing_of(spacing_mm, affine)
        shape = tf.shape(volume)[:3]
        world, reverse = graph_grids.orientation(affine)
        turned = graph_grids.to_ras(volume, world, reverse)
        ras_spacing = tf.gather(spacing, tf.math.invert_permutation(world))
        work, work_spacing = graph_grids.to_work_grid(turned, ras_spacing, self._plan.grid)
        inside = tf.reduce_any(work != 0, -1) if self._plan.segments or self._plan.within else None
        logits, reached = graph_windows.sliding_window(
            graph_windows.mirrored(self._conditioned(tabular), self._plan.axes, self._plan.partners),
            self._normalised(work),
            patch=self._plan.patch,
            overlap=self._plan.overlap,
            num_classes=self.network.num_classes,
            inside=inside,
        )
        there = reached & inside if self._plan.within else reached
        values = graph_windows.activate(logits, there, self._plan.card.output.activation)
        scale = tf.gather(work_spacing / ras_spacing, world)
        return Work(graph_grids.from_ras(values, world, reverse), shape, scale, spacing)

    def _normalised(self, work: tf.Tensor) -> tf.Tensor:
        scored = [step for step in self._plan.steps if step["name"] == "z_score"]
        if not scored:
            return graph_intensity.normalise(self._plan.card, work, self._plan.steps)
        masked = any(step.get("mask") for step in scored)
        found = tf.debugging.Assert(
            graph_intensity.varies(work, masked), ["There is no brain in the volume: no channel has two values."]
        )
        with tf.control_dependencies([found]):
            return graph_intensity.normalise(self._plan.card, tf.identity(work), self._plan.steps)

    def _conditioned(self, tabular: tf.Tensor | None) -> graph_windows.Network:
        """The network with its tabular values: each in standard deviations from its mean, and whether it is missing."""
        fields = self._plan.card.input.tabular
        if not fields:
            return self.network
        low, high, mean, sd = np.array([(one.low, one.high, one.mean, one.sd) for one in fields], np.float32).T
        missing = tf.math.is_nan(tabular)
        names = ", ".join(f"{one.name} {one.low:g} to {one.high:g}" for one in fields)
        fits = tf.debugging.Assert(
            tf.reduce_all(missing | ((tabular >= low) & (tabular <= high))),
            [f"tabular must be {names}, or NaN where it is not known; got", tabular],
            summarize=len(fields),
        )
        with tf.control_dependencies([fits]):
            scored = tf.where(missing, tf.zeros_like(tabular), (tabular - mean) / sd)
        vector = tf.reshape(tf.stack([scored, tf.cast(missing, tf.float32)], 1), [1, -1])
        return lambda windows: self.network(windows, vector)

    def _table(self) -> np.ndarray:
        """Source value of each class, and last a 0 for voxels of none."""
        values = [self._plan.card.output.labels[index].value for index in sorted(self._plan.card.output.labels)]
        low, high = min(0, *values), max(0, *values)
        fits = next(d for d in ("uint8", "int16", "int32") if np.iinfo(d).min <= low and high <= np.iinfo(d).max)
        return np.asarray([*values, 0], fits)

    def _named(self, values: tf.Tensor) -> tf.Tensor:
        """The source value of each voxel's class."""
        best = tf.argmax(values, -1, output_type=tf.int32)
        if self._plan.card.output.activation == "sigmoid":
            best = tf.where(tf.reduce_max(values, -1) < 0.5, values.shape[-1], best)
        return tf.gather(tf.constant(self._table()), best)

    def _cleaned(self, labels: tf.Tensor, work: Work) -> tf.Tensor:
        card = self._plan.card
        return graph_postprocessing.postprocess(labels, card.postprocessing, card.output.labels, work.spacing_mm)


def check(card: Card) -> None:
    """Refuses, by name, what a graph cannot hold.

    Raises:
        ValueError: a kind of output that is no volume, or a step that no graph carries out.
    """
    if card.output.kind not in VOLUMES:
        raise ValueError(
            f"{card.name} gives {card.output.kind}, and a SavedModel here gives volumes ({', '.join(VOLUMES)}). Export "
            'its bare network: format="onnx", "openvino" or "litert".'
        )
    for step in card.postprocessing:
        if step.name not in graph_postprocessing.HELD:
            raise unknown_choice(f"step that a SavedModel of {card.name} can hold after the network:", step.name,
                          graph_postprocessing.HELD)  # fmt: skip
    for step in split(card.preprocessing)[1]:
        if step.name not in graph_intensity.MEASURES:
            raise unknown_choice(f"step that a SavedModel of {card.name} can hold before the network:", step.name,
                          graph_intensity.MEASURES)  # fmt: skip


def write(module: VolumeModel, folder: Path) -> None:
    """Saves a module with its signatures into a folder."""
    tf.saved_model.save(module, str(folder), signatures=module.signatures())


def _plan(card: Card, patch: Sequence[int], overlap: float, axes: tuple[int, ...]) -> Plan:
    """Checks a card and the choices of an export."""
    check(card)
    size = tuple(int(n) for n in np.broadcast_to(patch, 3))
    if any(n < 1 or n % by for n, by in zip(size, card.input.divisor, strict=True)):
        raise ValueError(f"patch must be positive multiples of {card.input.divisor} for {card.name}, got {size}.")
    if len(set(axes)) < len(axes) or not set(axes) <= {0, 1, 2}:
        raise ValueError(f"mirror_axes must be some of 0, 1, 2, each once; got {axes}. 0 is left/right in RAS.")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be in [0, 1), the fraction that neighbours share; got {overlap}.")
    grid, rest = split(card.preprocessing)
    if card.input.spacing_mm is not None and not any(step.name == "resample" for step in grid):
        grid = [Step("resample", {"spacing_mm": card.input.spacing_mm}), *grid]
    return Plan(
        card,
        size,
        overlap,
        axes,
        partners=partners(card.output.labels) if 0 in axes and card.output.labels else None,
        grid=tuple((step.name, step.parameters) for step in grid),
        steps=tuple({"name": one.name, **one.parameters} for one in rest),
    )


def _finite(volume: tf.Tensor) -> tf.Operation:
    good = tf.reduce_all(tf.math.is_finite(volume)) & tf.reduce_any(volume != 0)
    return tf.debugging.Assert(good, ["The volume must be finite and not all zero. Shape:", tf.shape(volume)])
