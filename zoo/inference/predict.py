"""`zoo.predict`: from a NIfTI file to a result on the same grid."""

import os
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from zoo.hub.card import Card
from zoo.hub.tabular import Value
from zoo.inference.inputs import Images
from zoo.inference.predictor import Predictor, Settings
from zoo.progress import progress_bar
from zoo.volumes import image
from zoo.volumes.image import Image


def predict(  # noqa: PLR0913 - the choices of a command, each an option
    model: str | os.PathLike | keras.Model,
    images: Images,
    *,
    card: Card | None = None,
    out: str | os.PathLike | None = None,
    probabilities: bool = False,
    patch: Sequence[int] | None = None,
    overlap: float = 0.5,
    mirror: bool | Sequence[int] = False,
    batch_size: int | None = None,
    precision: str = "float32",
    jit: bool | str = "auto",
    tabular: Mapping[str, Value] | None = None,
    conditioning: Sequence[float] | None = None,
    skip: bool | None = None,
    memory_budget_mb: float = 2048,
    progress: bool | None = None,
) -> Image:
    """Predicts one case on its own grid.

    The images are turned to RAS+, resampled to the card's spacing, normalised whole, run through the network
    in overlapping windows, blended, and brought back: probabilities are interpolated, and the arg-max is taken
    on the grid of the input. For many cases use `zoo.inference.cohort.predict_many`, which builds and
    compiles the network once.

    Args:
        model: name ("unet3d.brain_mask") or folder of a trained model, or a Keras model with a card.
        images: a path or nibabel image; for several channels a list in the card's order, or a dict from channel
            name to path or image.
        card: of a Keras model; a trained model has its own.
        out: also write the result there (.nii or .nii.gz), whole or not at all.
        probabilities: return (x, y, z, num_classes) float32 after the activation, not labels.
        patch: window in voxels; None for the card's. Larger is quicker while it fits memory.
        overlap: least shared fraction of neighbouring windows, in [0, 1).
        mirror: average over mirror images: True along the left/right axis, or axes such as (0, 1, 2). Left
            and right labels are swapped back. Each axis doubles the work.
        batch_size: windows at once; None chooses from free memory.
        precision: "float32", "bfloat16", or "auto": bfloat16 where the hardware has it.
        jit: "auto" (XLA on GPU and TPU, a plain graph on a CPU), True or False.
        tabular: values beside the images by the names on the card, as {"time_to_reperfusion_h": 4, "tici": "2b"}. A
            value that is left out or None is not known, and the network falls back on what it learned for that.
        conditioning: the raw vector of a network whose card does not name its values; in place of `tabular`.
        skip: do not run windows in which every channel is exactly 0 (outside a head that was stripped or
            masked); what no window reached is background. None does so for segmentations.
        memory_budget_mb: what probabilities on the input's grid may take at once; above it they are made and
            reduced to labels in slabs.
        progress: show a bar on stderr; None when that is a terminal.

    Returns:
        An image of the class, affine, qform, sform, codes and zooms of the first channel. For a segmentation
        the card's source values, in the smallest of uint8, int16 and int32; else float32.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: no such model; images that cannot be used (not NIfTI, truncated or corrupt, 4D, NaN or
            infinite voxels, all zero, a singular affine); a wrong number of channels or channels on different
            grids; no brain in any of them; tabular values that the card does not know or accept; or too little memory,
            said before the work starts.
    """
    settings = Settings(
        probabilities=probabilities,
        patch=patch,
        overlap=overlap,
        mirror=mirror,
        batch_size=batch_size,
        precision=precision,
        jit=jit,
        conditioning=conditioning,
        skip=skip,
        memory_budget_mb=memory_budget_mb,
    )
    predictor = Predictor(model, card=card, settings=settings)
    with progress_bar(predictor.card.name, shown=progress) as report:
        result = predictor(images, tabular=tabular, progress=report)
    if out is not None:
        image.write(out, np.asanyarray(result.dataobj), result)
    return result
