"""`zoo.predict`: from a NIfTI file to a result on the same grid."""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from zoo.hub.card import Card
from zoo.hub.tabular import Value
from zoo.inference.inputs import Images
from zoo.inference.predictor import Predictor
from zoo.inference.settings import Settings
from zoo.progress import progress_bar
from zoo.volumes import image as images
from zoo.volumes.image import Image


def predict(
    model: str | os.PathLike | keras.Model,
    image: Images,
    *,
    out: str | os.PathLike | None = None,
    card: Card | None = None,
    mirror: bool | Sequence[int] = False,
    probabilities: bool = False,
    tabular: Mapping[str, Value] | None = None,
    settings: Settings | None = None,
) -> Image:
    """Predicts one case on its own grid.

    The images are turned to RAS+, resampled to the card's spacing, normalised whole, run through the network
    in overlapping windows, blended, and brought back: probabilities are interpolated, and the arg-max is taken
    on the grid of the input. For many cases use `zoo.inference.cohort.predict_many`, which builds and
    compiles the network once.

    Args:
        model: name ("unet3d.brain_mask") or folder of a trained model, or a Keras model with a card.
        image: a path or nibabel image; for several channels a list in the card's order, or a dict from channel
            name to path or image.
        out: also write the result there (.nii or .nii.gz), whole or not at all.
        card: of a Keras model; a trained model has its own.
        mirror: average over mirror images: True along the left/right axis, or axes such as (0, 1, 2).
        probabilities: return probabilities, not labels.
        tabular: values beside the images by the names on the card, as {"time_to_reperfusion_h": 4, "tici": "2b"}. A
            value that is left out or None is not known, and the network falls back on what it learned for that.
        settings: everything else, such as patch, overlap and precision; `mirror` and `probabilities` pass its own.

    Returns:
        An image of the class, affine, qform, sform, codes and zooms of the first channel. For a segmentation
        the card's source values, in the smallest of uint8, int16 and int32; else float32.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: no such model; images that cannot be used (not NIfTI, truncated or corrupt, 4D, NaN or
            infinite voxels or any beyond 1e15, all zero, a singular affine); a wrong number of channels or channels on
            different grids; no brain in any of them; tabular values that the card does not know or accept; too little
            memory, before the work starts; or a network that gives NaN.
        TypeError: `image` is neither a path nor an image, or `model` neither a name nor a network.

    Example:
        >>> mask = predict("unet3d.brain_mask", "t1.nii.gz", out="mask.nii.gz")  # doctest: +SKIP
        >>> mask.get_fdata().sum()  # doctest: +SKIP
    """
    settings = settings or Settings()
    settings = dataclasses.replace(
        settings, mirror=mirror or settings.mirror, probabilities=probabilities or settings.probabilities
    )
    predictor = Predictor(model, card=card, settings=settings)
    with progress_bar(predictor.card.name, shown=settings.progress) as report:
        result = predictor(image, tabular=tabular, progress=report)
    if out is not None:
        images.write(out, np.asanyarray(result.dataobj), result)
    return result
