"""Builds and compiles a trained model once, then predicts any number of images with it."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from zoo.hub import trained_models
from zoo.hub.card import Card
from zoo.hub.tabular import Value, encode
from zoo.inference import exported_network, inputs, native_grid, plausibility, preprocessing, window_memory
from zoo.inference.compiled_network import Forward, check_conditioning, first_bad_layer, prepare
from zoo.inference.inputs import Images
from zoo.inference.left_right import mirror_axes, partners
from zoo.inference.native_grid import NativeGrid
from zoo.inference.postprocessing import WITHIN_INPUT
from zoo.inference.settings import Settings
from zoo.inference.sliding_window import NotFiniteError, background_values, centred_window, sliding_window
from zoo.volumes import image as volumes
from zoo.volumes.image import Image

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PreparedCase:
    """A case that is read and normalised, for any number of predictions.

    Attributes:
        volume: (x, y, z, channels) float32 on the network's grid.
        inside: (x, y, z) bool, where there is something to find; None for everywhere.
        grid: of the images, which results come back to.
        name: what errors call it: its files.
    """

    volume: np.ndarray
    inside: np.ndarray | None
    grid: NativeGrid
    name: str = "The case"


class Predictor:
    """Predicts image after image with one compiled network.

    Args:
        model: name or folder of a trained model, or a Keras model.
        card: of a Keras model; a trained model has its own.
        settings: how to predict.

    Raises:
        ValueError: no such model, a Keras model without a card, or a setting that does not fit the model.

    Example:
        >>> predictor = Predictor("unet3d.brain_mask")  # doctest: +SKIP
        >>> masks = [predictor(path) for path in ("a.nii.gz", "b.nii.gz")]  # doctest: +SKIP
    """

    def __init__(
        self, model: str | os.PathLike | keras.Model, *, card: Card | None = None, settings: Settings | None = None
    ) -> None:
        self.settings = settings or Settings()
        self.model, self.card = load_with_card(model, card)
        self.patch = choose_patch(self.card, self.settings.patch)
        output, self._mirror_axes = self.card.output, mirror_axes(self.card, self.settings.mirror_axes)
        self._segments = output.kind == "segmentation"
        self._within_input = any(step.name == WITHIN_INPUT for step in self.card.postprocessing)
        self._flips = partners(output.labels) if 0 in self._mirror_axes and output.labels else None
        preprocessing.split(self.card.preprocessing)
        if self.settings.conditioning is not None or not self.card.input.tabular:
            check_conditioning(self.model, self.settings.conditioning)
        self._forward = _make_forward(self.model, self.settings)
        self._batch_size = self.settings.batch_size or window_memory.choose_batch_size(self.model, self.patch)

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
            ValueError: images or values that do not fit the model, or that hold no brain; or a network that gives NaN.
        """
        conditioning = self.encode_tabular(tabular)  # first, so that a fault in it is found at once
        return self.predict(self.prepare(images), conditioning=conditioning, progress=progress)

    def encode_tabular(self, tabular: Mapping[str, Value] | None = None) -> Sequence[float] | None:
        """Returns the conditioning vector of a case: its tabular values by the card, or the settings' raw vector.

        Raises:
            ValueError: values that the card does not know or accept (`zoo.hub.tabular.encode`), or both kinds.
        """
        fields, raw = self.card.input.tabular, self.settings.conditioning
        if tabular and (raw is not None or not fields):
            why = "conditioning is given, too" if fields else "the model takes none"
            raise ValueError(f"{self.card.name} got tabular values {dict(tabular)}, and {why}. Leave one out.")
        return raw if raw is not None or not fields else encode(fields, tabular or {}).tolist()

    def prepare(self, images: Images) -> PreparedCase:
        """Reads, checks, resamples and normalises one case.

        Raises:
            ValueError: as calling the predictor does.
        """
        channels = inputs.read_channels(images, self.card)
        like = channels[0]
        volume, affine = inputs.stack(channels)
        del channels
        shape, spacing = volume.shape[:3], volumes.spacing_mm(affine)
        plausibility.check_extent(self.card, shape, spacing, inputs.name_case(images))
        plausibility.check_images(self.card, volume, spacing, inputs.name_channels(images, self.card))
        work, work_spacing = preprocessing.to_work_grid(self.card, volume, spacing)
        del volume
        window_memory.check_volume_fits(self.model, work.shape, self.patch, context=bool(self.card.input.context))
        skips = self._segments if self.settings.skip is None else self.settings.skip
        inside = (work != 0).any(-1) if skips or self._within_input else None
        grid = NativeGrid(like, shape, work_spacing / spacing)
        name = inputs.name_case(images)
        normalised = inputs.check_normalised(preprocessing.normalise(self.card, work, name), self.card, name)
        return PreparedCase(normalised, inside, grid, name)

    def predict(
        self, case: PreparedCase, *, conditioning: Sequence[float] | None = None, progress: Progress | None = None
    ) -> Image:
        """Predicts a prepared case; one may be predicted under many conditions.

        Args:
            case: what `prepare` returned.
            conditioning: what `encode_tabular` returned.
            progress: called with (windows done, windows in all).

        Returns:
            An image on the grid of the first channel.
        """
        values, budget = self._run(case, conditioning, progress), self.settings.budget_bytes
        if self._segments and not self.settings.probabilities:
            return self._bring_labels(values, case)
        return native_grid.native_values(values, case.grid, budget_bytes=budget)

    def predict_with_confidence(
        self, case: PreparedCase, *, conditioning: Sequence[float] | None = None, progress: Progress | None = None
    ) -> tuple[Image, Image]:
        """Predicts labels and the network's confidence in them, in one run.

        Args:
            case: what `prepare` returned.
            conditioning: what `encode_tabular` returned.
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
        grid, confidence = case.grid, np.empty(tuple(case.grid.shape), np.float32)
        labels = self._bring_labels(self._run(case, conditioning, progress), case, confidence)
        return labels, volumes.on_grid_of(grid.like, volumes.from_ras(confidence, grid.like))

    def _bring_labels(self, values: np.ndarray, case: PreparedCase, confidence: np.ndarray | None = None) -> Image:
        """Brings labels to the grid of the images, and warns where they are unlikely."""
        budget = self.settings.budget_bytes
        labels = native_grid.native_labels(values, case.grid, self.card, budget_bytes=budget, confidence=confidence)
        plausibility.check_labels(self.card, labels, case.name)
        return labels

    def _run(self, case: PreparedCase, conditioning: Sequence[float] | None, progress: Progress | None) -> np.ndarray:
        """Runs the network over a case; returns values on its own grid, after the activation."""
        forward, run = self._forward, centred_window if self.card.input.centred else sliding_window
        try:
            values = run(
                forward if conditioning is None else functools.partial(forward, conditioning=conditioning),
                case.volume,
                patch=self.patch,
                overlap=self.settings.overlap,
                batch_size=self._batch_size,
                mirror_axes=self._mirror_axes,
                flip_labels=self._flips,
                activation=self.card.output.activation,
                skip=case.inside,
                context=self.card.input.context,
                progress=progress,
            )
        except NotFiniteError as error:
            raise self._explain(error, case, conditioning) from error
        if self._within_input and case.inside is not None:
            values[~case.inside] = background_values(values.shape[-1], self.card.output.activation)
        return values

    def _explain(self, error: NotFiniteError, case: PreparedCase, conditioning: Sequence[float] | None) -> ValueError:
        """Words a network's NaN: the case, the channel, and the first layer that gives it."""
        layer = first_bad_layer(self.model, error.windows, conditioning)
        if layer is not None:
            why = f"its layer {layer!r} is the first whose output is not finite. Check the weights and the scan"
        elif self.settings.network is not None:
            why = f"run by Keras it is finite. Export the network anew, or leave {self.settings.network} out"
        else:
            why = 'layer by layer in float32 it is finite. Set precision="float32"'
        return ValueError(f"{case.name}: {self.card.name} gives {error.fault}; {why}.")


def load_with_card(model: str | os.PathLike | keras.Model, card: Card | None) -> tuple[keras.Model, Card]:
    """Loads a trained model by name or folder; passes a Keras model on.

    Returns:
        The network, and its card.

    Raises:
        ValueError: no such model, a Keras model without a card, or a model that takes EEG.
    """
    if isinstance(model, keras.Model):
        if card is None:
            raise ValueError(
                f"A card must say what {model.name!r} takes and gives, got None. Pass card=, or the name of a "
                "trained model (zoo.list_models())."
            )
        return model, card
    card = trained_models.card(model) if card is None else card
    if card.output.kind == "sources":
        raise ValueError(f"{card.name} takes EEG, not images. Use zoo.locate_sources(recording).")
    return trained_models.load(model), card


def choose_patch(card: Card, patch: Sequence[int] | int | None) -> tuple[int, int, int]:
    """Returns the window in voxels: the one requested, else the card's.

    Raises:
        ValueError: a size that is no positive multiple of the card's divisor.
    """
    x, y, z = (int(size) for size in np.broadcast_to(patch or card.input.patch, 3))
    if any(size < 1 or size % by for size, by in zip((x, y, z), card.input.divisor, strict=True)):
        raise ValueError(
            f"patch must be positive multiples of {card.input.divisor} for {card.name}, got {(x, y, z)}. "
            f"The card's own is {card.input.patch}."
        )
    return x, y, z


def _make_forward(model: keras.Model, settings: Settings) -> Forward:
    """Compiles the Keras network, or opens the exported one that the settings name."""
    if settings.network is None:
        return prepare(model, precision=settings.precision, jit=settings.jit)
    return exported_network.prepare(settings.runtime, Path(settings.network))
