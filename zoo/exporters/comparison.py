"""What narrower weights cost: labels of an export against those of `zoo.predict`."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from zoo.hub import trained_models
from zoo.hub.tabular import Value, number
from zoo.inference import inputs
from zoo.inference.inputs import Images
from zoo.inference.predictor import Predictor, Settings
from zoo.volumes import image


def dice_with(
    folder: str | os.PathLike,
    name: str | os.PathLike,
    images: Images,
    *,
    tabular: Mapping[str, Value] | None = None,
    settings: Settings | None = None,
) -> dict[str, float]:
    """Dice of the labels that an exported SavedModel gives with those of `zoo.predict`, one a label.

    Args:
        folder: of the SavedModel.
        name: the trained model that it was made of, or its folder.
        images: one case, as `zoo.predict` takes it.
        tabular: values beside the images.
        settings: how `zoo.predict` is to run; as the export was made.

    Returns:
        Name of the label -> Dice, for labels that either found; 1 means nothing was lost.
    """
    wanted = np.asanyarray(Predictor(name, settings=settings)(images, tabular=tabular).dataobj)
    card = trained_models.card(name)
    read = inputs.read_channels(images, card)
    given = {
        "volume": np.stack([image.array(one) for one in read], -1),
        "spacing_mm": np.zeros(3, np.float32),
        "affine": np.asarray(read[0].affine, np.float32),
    }
    if card.input.tabular:
        numbers = [number(one, (tabular or {}).get(one.name)) for one in card.input.tabular]
        given["tabular"] = np.array([np.nan if value is None else value for value in numbers], np.float32)
    served = tf.saved_model.load(str(Path(folder))).signatures["labels"]
    found = served(**{key: tf.constant(value) for key, value in given.items()})["labels"].numpy()
    result: dict[str, float] = {}
    for label in card.output.labels.values():
        both = np.count_nonzero(found == label.value) + np.count_nonzero(wanted == label.value)
        if label.value and both:
            shared = np.count_nonzero((found == label.value) & (wanted == label.value))
            result[label.name] = float(2 * shared / both)
    return result
