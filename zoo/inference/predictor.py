"""A trained model made ready once, for as many images as there are."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from zoo import devices
from zoo.hub import trained_models
from zoo.hub.card import Card
from zoo.hub.tabular import Value, encode
from zoo.inference import exported_network, inputs, native_grid, preprocessing, window_memory
from zoo.inference.compiled_network import check_conditioning, prepare
from zoo.inference.inputs import Images
from zoo.inference.left_right import partners
from zoo.inference.postprocessing import WITHIN_INPUT, postprocess
from zoo.inference.sliding_window import sliding_window
from zoo.volumes import image
from zoo.volumes.image import Image

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to predict; `zoo.predict` says what each means.

    `network` is an exported network (`zoo.exporters.export.runtime_file`) that runs in place of the Keras one, by
    the runtime named.
    """

    probabilities: bool = False
    patch: Sequence[int] | None = None
    overlap: float = 0.5
    mirror: bool | Sequence[int] = False
    batch_size: int | None = None
    precision: str = "float32"
    jit: bool | str = "auto"
    conditioning: Sequence[float] | None = None
    skip: bool | None = None
    memory_budget_mb: float = 2048
    runtime: str = "keras"
    network: os.PathLike | None = None


@dataclass(frozen=True)
class Ready:
    """A case that is read and normalised, for as many predictions as one wants of it.

    Attributes:
        volume: (x, y, z, channels) float32 on the network's grid.
        inside: (x, y, z) bool, where there is something to find; None for everywhere.
        like: the first channel, whose grid results come back to.
        shape: voxels of the images along x, y, z in RAS+.
        scale: image voxels that a voxel of the network's grid spans, along x, y, z.
    """

    volume: np.ndarray
    inside: np.ndarray | None
    like: Image
    shape: tuple[int, ...]
    scale: np.ndarray


class Predictor:
    """Predicts image after image with one compiled network.

    Args:
        model: name or folder of a trained model, or a Keras model.
        card: of a Keras model; a trained model has its own.
        settings: how to predict.

    Raises:
        ValueError: no such model, a Keras model without a card, or a setting that does not fit the model.
    """

    def __init__(
        self, model: str | os.PathLike | keras.Model, *, card: Card | None = None, settings: Settings | None = None
    ) -> None:
        self.settings = settings or Settings()
        if isinstance(model, keras.Model):
            if card is None:
                raise ValueError(
                    f"A card must say what {model.name!r} takes and gives, got None. Pass card=, or the name of a "
                    "trained model (zoo.list_models())."
                )
        else:
            card = trained_models.card(model) if card is None else card
            if card.output.kind == "sources":
                raise ValueError(f"{card.name} takes EEG, not images. Use zoo.locate_sources(recording).")
            model = trained_models.load(model)
        self.card, self.model = card, model
        self.patch = self._patch()
        self._segments = card.output.kind == "segmentation"
        self._within = any(step.name == WITHIN_INPUT for step in card.postprocessing)
        self._flips = partners(card.output.labels) if 0 in self._mirror_axes() and card.output.labels else None
        preprocessing.split(card.preprocessing)
        given = self.settings
        if given.conditioning is not None or not card.input.tabular:
            check_conditioning(model, given.conditioning)
        self._forward = (
            prepare(model, precision=given.precision, jit=given.jit)
            if given.network is None
            else exported_network.prepare(given.runtime, Path(given.network))
        )
        self._batch_size = given.batch_size or window_memory.choose_batch_size(model, self.patch)

    def __call__(
        self, images: Images, *, tabular: Mapping[str, Value] | None = None, progress: Progress | None = None
    ) -> Image:
        """Predicts one case.

        Args:
            images: as `zoo.predict` takes them.
            tabular: values beside the images, as `zoo.predict` takes them.
            progress: called with (windows done, windows in all).

        Returns:
            An image on the grid of the first channel.

        Raises:
            ValueError: images or values that do not fit the model, or that hold no brain.
        """
        conditioning = self.conditioning(tabular)  # first: what is wrong with it is found at once
        return self.predict(self.ready(images), conditioning=conditioning, progress=progress)

    def conditioning(self, tabular: Mapping[str, Value] | None = None) -> Sequence[float] | None:
        """The conditioning vector of a case: its tabular values by the card, or the raw one of the settings.

        Raises:
            ValueError: values that the card does not know or accept (`zoo.hub.tabular.encode`), or both kinds.
        """
        fields, raw = self.card.input.tabular, self.settings.conditioning
        if tabular and (raw is not None or not fields):
            why = "conditioning is given, too" if fields else "the model takes none"
            raise ValueError(f"{self.card.name} got tabular values {dict(tabular)}, and {why}. Leave one out.")
        return raw if raw is not None or not fields else encode(fields, tabular or {}).tolist()

    def ready(self, images: Images) -> Ready:
        """Reads, checks, resamples and normalises one case.

        Raises:
            ValueError: as calling the predictor does.
        """
        read = inputs.read_channels(images, self.card)
        like = read[0]
        volume, affine = inputs.stack(read)
        del read
        shape, spacing = volume.shape[:3], image.spacing_mm(affine)
        work, work_spacing = preprocessing.to_work_grid(self.card, volume, spacing)
        del volume
        self._check_room(work.shape)
        wanted = self._segments if self.settings.skip is None else self.settings.skip
        inside = (work != 0).any(-1) if wanted or self._within else None
        return Ready(preprocessing.normalise(self.card, work), inside, like, shape, work_spacing / spacing)

    def predict(
        self, ready: Ready, *, conditioning: Sequence[float] | None = None, progress: Progress | None = None
    ) -> Image:
        """Predicts a case that is ready; one may be predicted under many conditions.

        Args:
            ready: what `ready` made of the images.
            conditioning: what `conditioning` made of the tabular values.
            progress: called with (windows done, windows in all).

        Returns:
            An image on the grid of the first channel.
        """
        return self._native(self._run(ready, conditioning, progress), ready)

    def predict_with_confidence(
        self, ready: Ready, *, conditioning: Sequence[float] | None = None, progress: Progress | None = None
    ) -> tuple[Image, Image]:
        """Predicts labels, and how sure the network is of them, in one run.

        Args:
            ready: what `ready` made of the images.
            conditioning: what `conditioning` made of the tabular values.
            progress: called with (windows done, windows in all).

        Returns:
            The labels as `predict` gives them, and the probability of the likeliest label that is not background,
            float32, both on the grid of the first channel.

        Raises:
            ValueError: the model gives no labels, or the settings ask for probabilities.
        """
        if not self._segments or self.settings.probabilities:
            raise ValueError(
                f"{self.card.name} gives {'probabilities' if self._segments else self.card.output.kind} here, and "
                "labels are needed. Leave probabilities out, or take a model of kind segmentation."
            )
        confidence = np.empty(tuple(ready.shape), np.float32)
        labels = self._native_labels(self._run(ready, conditioning, progress), ready, confidence)
        return labels, image.on_grid_of(ready.like, image.from_ras(confidence, ready.like))

    def _run(self, ready: Ready, conditioning: Sequence[float] | None, progress: Progress | None) -> np.ndarray:
        """What the network gives on its own grid, after the activation."""
        forward = self._forward
        found = sliding_window(
            forward if conditioning is None else functools.partial(forward, conditioning=conditioning),
            ready.volume,
            patch=self.patch,
            overlap=self.settings.overlap,
            batch_size=self._batch_size,
            mirror_axes=self._mirror_axes(),
            flip_labels=self._flips,
            activation=self.card.output.activation,
            skip=ready.inside,
            context=self.card.input.context,
            progress=progress,
        )
        if self._within and ready.inside is not None:
            found[~ready.inside] = self._nothing(found.shape[-1])
        return found

    def _nothing(self, num_classes: int) -> np.ndarray:
        """(num_classes,): what a network gives that is sure of the background."""
        values = np.zeros(num_classes, np.float32)
        values[:1] = self.card.output.activation == "softmax"
        return values

    def _patch(self) -> tuple[int, int, int]:
        asked, divisor = self.settings.patch or self.card.input.patch, self.card.input.divisor
        x, y, z = (int(n) for n in np.broadcast_to(asked, 3))
        if any(n < 1 or n % by for n, by in zip((x, y, z), divisor, strict=True)):
            raise ValueError(
                f"patch must be positive multiples of {divisor} for {self.card.name}, got {(x, y, z)}. "
                f"The card's own is {self.card.input.patch}."
            )
        return x, y, z

    def _mirror_axes(self) -> tuple[int, ...]:
        given = self.settings.mirror
        return ((0,) if given else ()) if isinstance(given, bool) else tuple(given)

    def _check_room(self, shape: Sequence[int]) -> None:
        """Says what does not fit before it starts, rather than being killed later."""
        num_classes = keras.tree.flatten(self.model.outputs)[0].shape[-1]
        voxels = float(np.prod(np.maximum(shape[:3], self.patch)))
        wide = shape[3] if self.card.input.context else 0
        needed, free = 4 * voxels * (num_classes + shape[3] + wide + 1), devices.machine_bytes()
        if needed > free:
            raise ValueError(
                f"A volume of {tuple(shape[:3])} voxels and {num_classes} classes needs {needed / 2**20:.0f} MiB, and "
                f"{free / 2**20:.0f} MiB are free. Free memory, or crop the volume."
            )

    def _slabs(self, result: np.ndarray, ready: Ready) -> Iterator[tuple[slice, np.ndarray]]:
        budget = int(self.settings.memory_budget_mb * 2**20)
        return native_grid.native_slabs(result, ready.shape, ready.scale, budget_bytes=budget)

    def _native(self, result: np.ndarray, ready: Ready) -> Image:
        """From the network's grid to the image's own: labels by arg-max there, or the values themselves."""
        if self._segments and not self.settings.probabilities:
            return self._native_labels(result, ready)
        values = np.empty((*ready.shape, result.shape[-1]), np.float32)
        for part, slab in self._slabs(result, ready):
            values[part] = slab
        values = values[..., 0] if values.shape[-1] == 1 else values
        return image.on_grid_of(ready.like, image.from_ras(values, ready.like))

    def _native_labels(self, result: np.ndarray, ready: Ready, confidence: np.ndarray | None = None) -> Image:
        """Labels on the image's own grid; fills `confidence`, where it is given, along the way."""
        table, names = self._values(), self.card.output.labels
        foreground = [channel for channel, index in enumerate(sorted(names)) if names[index].value]
        labels = np.empty(tuple(ready.shape), table.dtype)
        for part, slab in self._slabs(result, ready):
            labels[part] = table[native_grid.classes(slab, self.card.output.activation)]
            if confidence is not None:
                confidence[part] = slab[..., foreground].max(-1)
        native = image.from_ras(labels, ready.like)
        del labels
        spacing = image.spacing_mm(ready.like.affine)  # along the image's own axes, so after turning back to them
        return image.on_grid_of(ready.like, postprocess(native, self.card.postprocessing, names, spacing_mm=spacing))

    def _values(self) -> np.ndarray:
        """Source value of each class, and last a 0 for voxels of none."""
        values = [self.card.output.labels[index].value for index in sorted(self.card.output.labels)]
        lowest, highest = min(0, *values), max(0, *values)
        fits = next(d for d in ("uint8", "int16", "int32") if np.iinfo(d).min <= lowest and highest <= np.iinfo(d).max)
        return np.asarray([*values, 0], fits)
