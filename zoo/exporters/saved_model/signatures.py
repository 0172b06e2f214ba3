"""Makes a SavedModel that takes a raw volume: everything from orientation to labels runs inside the graph.

It needs TensorFlow and nothing else. One trace serves volumes of all sizes. Signatures:

- `serving_default`: volume (x, y, z, channels) float32, spacing_mm (3,), affine (4, 4), and tabular (n,) where the card
  has such values; gives `labels` (x, y, z) and `probabilities` (x, y, z, num_classes) on the volume's own grid.
- `int16`: the same from int16 voxels.
- `labels`: gives labels alone, made in slabs, in a fraction of the memory and of the bytes to send.
- `patch`: the bare network, windows (batch, x, y, z, channels) to `logits`.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from zoo.errors import unknown_choice
from zoo.exporters.saved_model import graph_grids, graph_intensity, graph_postprocessing, graph_windows
from zoo.exporters.weights_on_disk import Network
from zoo.hub.card import Card
from zoo.inference.left_right import mirror_axes as axes_to_mirror
from zoo.inference.left_right import partners
from zoo.inference.native_grid import source_values
from zoo.inference.postprocessing import WITHIN_INPUT
from zoo.inference.preprocessing import grid_steps, split

SLAB = 16  # planes of the image whose probabilities are held at once where labels alone are returned
VOLUMES = ("segmentation", "regression", "reconstruction")


@dataclass(frozen=True)
class VolumePlan:
    """A card and the settings of a SavedModel, checked; the preprocessing split into grid and intensity steps."""

    card: Card
    patch: tuple[int, ...]
    overlap: float
    axes: tuple[int, ...]
    partners: tuple[int, ...] | None
    grid: tuple[tuple[str, dict], ...]
    steps: tuple[dict[str, Any], ...]

    @property
    def segments(self) -> bool:
        """Whether the output is classes."""
        return self.card.output.kind == "segmentation"

    @property
    def within(self) -> bool:
        """Whether voxels where every channel is 0 become background."""
        return any(step.name == WITHIN_INPUT for step in self.card.postprocessing)


@dataclass(frozen=True)
class NetworkOutput:
    """Activated values on the network's grid, and the shape, scale and voxel size that lead back to the image's."""

    values: tf.Tensor
    shape: tf.Tensor
    scale: tf.Tensor
    spacing_mm: tf.Tensor


class VolumeModel(tf.Module):
    """Wraps a trained model as a TensorFlow module whose methods are the signatures.

    Args:
        model: the network.
        card: its input, output and steps.
        patch: window in voxels; None for the card's.
        overlap: least shared fraction of neighbouring windows, in [0, 1).
        mirror_axes: axes to average mirror images over; each doubles the work.
        weights: "float32", "float16" or "int8".

    Raises:
        ValueError: a card that a graph cannot hold; the part is named.
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
        self._plan = plan = _make_plan(card, patch or card.input.patch, overlap, axes_to_mirror(card, mirror_axes))
        self._source_values = source_values(card.output.labels) if plan.segments else np.zeros(1, np.uint8)
        self.predict = self._signature(self._predict, tf.float32)
        self.predict_int16 = self._signature(self._predict_int16, tf.int16)
        self.patch = tf.function(self._logits, input_signature=self._patch_specs(), autograph=False)
        if plan.segments:
            self.predict_labels = self._signature(self._predict_labels, tf.float32)

    def signatures(self) -> dict[str, Any]:
        """Returns the functions that a server calls, by name."""
        functions = {"serving_default": self.predict, "int16": self.predict_int16, "patch": self.patch}
        return functions | ({"labels": self.predict_labels} if self._plan.segments else {})

    def _signature(self, body: Callable[..., dict[str, tf.Tensor]], dtype: tf.DType) -> Any:
        """Traces a function; optional inputs have a default, which a server fills in, too."""
        card_input = self._plan.card.input
        specs = [tf.TensorSpec((None, None, None, len(card_input.channels)), dtype, name="volume")]
        specs += [tf.TensorSpec((3,), tf.float32, name="spacing_mm"), tf.TensorSpec((4, 4), tf.float32, name="affine")]
        no_affine, unknown_values = tf.zeros((4, 4)), tf.fill([len(card_input.tabular)], np.float32(np.nan))
        if not card_input.tabular:

            def plain(volume, spacing_mm, affine=no_affine):
                return body(volume, spacing_mm, affine, None)

            return tf.function(plain, input_signature=specs, autograph=False)

        def conditioned(volume, spacing_mm, affine=no_affine, tabular=unknown_values):
            return body(volume, spacing_mm, affine, tabular)

        specs.append(tf.TensorSpec((len(card_input.tabular),), tf.float32, name="tabular"))
        return tf.function(conditioned, input_signature=specs, autograph=False)

    def _patch_specs(self) -> list[tf.TensorSpec]:
        card_input = self._plan.card.input
        windows = tf.TensorSpec((None, None, None, None, len(card_input.channels)), tf.float32, name="windows")
        conditioning = tf.TensorSpec((None, 2 * len(card_input.tabular)), tf.float32, name="conditioning")
        return [windows, conditioning] if card_input.tabular else [windows]

    def _logits(self, windows: tf.Tensor, conditioning: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        return {"logits": self.network(windows, conditioning)}

    def _predict(
        self, volume: tf.Tensor, spacing_mm: tf.Tensor, affine: tf.Tensor, tabular: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        output = self._run_network(volume, spacing_mm, affine, tabular)
        values = graph_grids.to_image_grid(output.values, output.shape, output.scale)
        if not self._plan.segments:
            return {"values": values}
        return {"labels": self._postprocess(self._label(values), output), "probabilities": values}

    def _predict_int16(
        self, volume: tf.Tensor, spacing_mm: tf.Tensor, affine: tf.Tensor, tabular: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        optional = [] if tabular is None else [tabular]
        return self.predict(tf.cast(volume, tf.float32), spacing_mm, affine, *optional)

    def _predict_labels(
        self, volume: tf.Tensor, spacing_mm: tf.Tensor, affine: tf.Tensor, tabular: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        output = self._run_network(volume, spacing_mm, affine, tabular)
        ratio = graph_grids.ratio_back(output.values, output.shape, output.scale)
        num_slabs = -(-output.shape[0] // SLAB)

        def label_slab(index: tf.Tensor) -> tf.Tensor:
            return self._label(graph_grids.planes_back(output.values, output.shape, ratio, index * SLAB, SLAB))

        spec = tf.TensorSpec((SLAB, None, None), self._source_values.dtype)
        slabs = tf.map_fn(label_slab, tf.range(num_slabs), fn_output_signature=spec, parallel_iterations=1)
        labels = tf.reshape(slabs, tf.concat([[num_slabs * SLAB], output.shape[1:]], 0))[: output.shape[0]]
        return {"labels": self._postprocess(labels, output)}

    def _run_network(
        self, volume: tf.Tensor, spacing_mm: tf.Tensor, affine: tf.Tensor, tabular: tf.Tensor | None
    ) -> NetworkOutput:
        """Returns activated values on the network's grid, with the axes of the raw volume."""
        with tf.control_dependencies([_assert_finite(volume)]):
            spacing, affine = graph_grids.spacing_of(spacing_mm, affine)
        shape = tf.shape(volume)[:3]
        world, reverse = graph_grids.orientation(affine)
        turned = graph_grids.to_ras(volume, world, reverse)
        ras_spacing = tf.gather(spacing, tf.math.invert_permutation(world))
        resampled, work_spacing = graph_grids.to_work_grid(turned, ras_spacing, self._plan.grid)
        inside = tf.reduce_any(resampled != 0, -1) if self._plan.segments or self._plan.within else None
        logits, reached = self._run_windows(self._bind_tabular(tabular), self._normalise(resampled), inside)
        foreground = reached & inside if self._plan.within else reached
        values = graph_windows.activate(logits, foreground, self._plan.card.output.activation)
        scale = tf.gather(work_spacing / ras_spacing, world)
        return NetworkOutput(graph_grids.from_ras(values, world, reverse), shape, scale, spacing)

    def _run_windows(
        self, network: graph_windows.Network, volume: tf.Tensor, inside: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns blended logits, and which voxels a window reached."""
        plan = self._plan
        settings: dict[str, Any] = {
            "patch": plan.patch,
            "overlap": plan.overlap,
            "num_classes": self.network.num_classes,
        }
        average = functools.partial(graph_windows.average_mirrored, axes=plan.axes, partners=plan.partners)
        if not plan.card.input.centred:
            return graph_windows.sliding_window(average(network), volume, inside=inside, **settings)
        activation = plan.card.output.activation
        return graph_windows.centred_window(
            network, volume, activation=activation, inside=inside, average=average, **settings
        )

    def _normalise(self, volume: tf.Tensor) -> tf.Tensor:
        z_scores = [step for step in self._plan.steps if step["name"] == "z_score"]
        if not z_scores:
            return graph_intensity.normalise(self._plan.card, volume, self._plan.steps)
        masked = any(step.get("mask") for step in z_scores)
        check = tf.debugging.Assert(
            graph_intensity.varies(volume, masked), ["There is no brain in the volume: no channel has two values."]
        )
        with tf.control_dependencies([check]):
            return graph_intensity.normalise(self._plan.card, tf.identity(volume), self._plan.steps)

    def _bind_tabular(self, tabular: tf.Tensor | None) -> graph_windows.Network:
        """Binds tabular values to the network: each in standard deviations from its mean, and whether it is missing."""
        fields = self._plan.card.input.tabular
        if not fields:
            return self.network
        low, high, mean, sd = np.array(
            [(field.low, field.high, field.mean, field.sd) for field in fields], np.float32
        ).T
        missing = tf.math.is_nan(tabular)
        names = ", ".join(f"{field.name} {field.low:g} to {field.high:g}" for field in fields)
        check = tf.debugging.Assert(
            tf.reduce_all(missing | ((tabular >= low) & (tabular <= high))),
            [f"tabular must be {names}, or NaN where it is not known; got", tabular],
            summarize=len(fields),
        )
        with tf.control_dependencies([check]):
            scored = tf.where(missing, tf.zeros_like(tabular), (tabular - mean) / sd)
        vector = tf.reshape(tf.stack([scored, tf.cast(missing, tf.float32)], 1), [1, -1])
        return lambda windows: self.network(windows, vector)

    def _label(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the source value of each voxel's most probable class."""
        best = tf.argmax(values, -1, output_type=tf.int32)
        if self._plan.card.output.activation == "sigmoid":
            best = tf.where(tf.reduce_max(values, -1) < 0.5, values.shape[-1], best)
        return tf.gather(tf.constant(self._source_values), best)

    def _postprocess(self, labels: tf.Tensor, output: NetworkOutput) -> tf.Tensor:
        card = self._plan.card
        return graph_postprocessing.postprocess(labels, card.postprocessing, card.output.labels, output.spacing_mm)


def check(card: Card) -> None:
    """Raises where a graph cannot hold a card.

    Raises:
        ValueError: the output is no volume, or no graph carries out a step; it is named.
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
    """Saves a module and its signatures into a folder."""
    tf.saved_model.save(module, str(folder), signatures=module.signatures())


def _make_plan(card: Card, patch: Sequence[int], overlap: float, axes: tuple[int, ...]) -> VolumePlan:
    """Checks a card and the settings of a SavedModel."""
    check(card)
    size = tuple(int(n) for n in np.broadcast_to(patch, 3))
    if any(n < 1 or n % by for n, by in zip(size, card.input.divisor, strict=True)):
        raise ValueError(f"patch must be positive multiples of {card.input.divisor} for {card.name}, got {size}.")
    if len(set(axes)) < len(axes) or not set(axes) <= {0, 1, 2}:
        raise ValueError(f"mirror_axes must be some of 0, 1, 2, each once; got {axes}. 0 is left/right in RAS.")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be in [0, 1), the fraction that neighbours share; got {overlap}.")
    grid, (_, rest) = grid_steps(card), split(card.preprocessing)
    return VolumePlan(
        card,
        size,
        overlap,
        axes,
        partners=partners(card.output.labels) if 0 in axes and card.output.labels else None,
        grid=tuple((step.name, step.parameters) for step in grid),
        steps=tuple({"name": step.name, **step.parameters} for step in rest),
    )


def read_signatures(folder: Path) -> dict[str, Any]:
    """Reads from a SavedModel what a server reads of it.

    Args:
        folder: the SavedModel.

    Returns:
        Signature -> inputs and outputs as name -> (dtype, shape), -1 where a size is open; its method; and the inputs
        that have a default.

    Example:
        >>> read_signatures(Path("served/1"))["int16"]["inputs"]["volume"]  # doctest: +SKIP
        ('int16', (-1, -1, -1, 1))
    """
    content = saved_model_pb2.SavedModel()
    content.ParseFromString((folder / "saved_model.pb").read_bytes())
    return {
        key: {
            "inputs": {name: _read_spec(info) for name, info in sorted(definition.inputs.items())},
            "outputs": {name: _read_spec(info) for name, info in sorted(definition.outputs.items())},
            "method": definition.method_name,
            "defaults": sorted(definition.defaults),
        }
        for key, definition in content.meta_graphs[0].signature_def.items()
        if not key.startswith("__")
    }


def _read_spec(info: Any) -> tuple[str, tuple[int, ...]]:
    shape = () if info.tensor_shape.unknown_rank else tuple(axis.size for axis in info.tensor_shape.dim)
    return types_pb2.DataType.Name(info.dtype).removeprefix("DT_").lower(), shape


def _assert_finite(volume: tf.Tensor) -> tf.Operation:
    good = tf.reduce_all(tf.math.is_finite(volume)) & tf.reduce_any(volume != 0)
    return tf.debugging.Assert(good, ["The volume must be finite and not all zero. Shape:", tf.shape(volume)])
