"""Compares the labels of an exported SavedModel with those of `zoo.predict`: what narrower weights cost."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from zoo.hub import trained_models
from zoo.hub.tabular import Value, parse_number
from zoo.inference import inputs
from zoo.inference.inputs import Images
from zoo.inference.predictor import Predictor
from zoo.inference.settings import Settings
from zoo.volumes import image


def dice_with(
    folder: str | os.PathLike,
    name: str | os.PathLike,
    images: Images,
    *,
    tabular: Mapping[str, Value] | None = None,
    settings: Settings | None = None,
) -> dict[str, float]:
    """Measures the Dice of an exported SavedModel's labels with those of `zoo.predict`, for each label.

    Args:
        folder: the SavedModel.
        name: the trained model that it was made from, or its folder.
        images: one case, as `zoo.predict` takes it.
        tabular: values beside the images.
        settings: settings of `zoo.predict`, equal to those of the export.

    Returns:
        Name of the label -> Dice, for labels that occur in either; 1 means nothing was lost.

    Example:
        >>> dice_with("served/1", "unet3d.brain_mask", "t1.nii.gz")  # doctest: +SKIP
        {'brain': 0.9998}
    """
    expected = np.asanyarray(Predictor(name, settings=settings)(images, tabular=tabular).dataobj)
    card = trained_models.card(name)
    channels = inputs.read_channels(images, card)
    arrays = {
        "volume": np.stack([image.array(channel) for channel in channels], -1),
        "spacing_mm": np.zeros(3, np.float32),
        "affine": np.asarray(channels[0].affine, np.float32),
    }
    if card.input.tabular:
        numbers = [parse_number(field, (tabular or {}).get(field.name)) for field in card.input.tabular]
        arrays["tabular"] = np.array([np.nan if value is None else value for value in numbers], np.float32)
    signature = tf.saved_model.load(str(Path(folder))).signatures["labels"]
    labels = signature(**{key: tf.constant(value) for key, value in arrays.items()})["labels"].numpy()
    dice: dict[str, float] = {}
    for label in card.output.labels.values():
        both = np.count_nonzero(labels == label.value) + np.count_nonzero(expected == label.value)
        if label.value and both:
            shared = np.count_nonzero((labels == label.value) & (expected == label.value))
            dice[label.name] = float(2 * shared / both)
    return dice
