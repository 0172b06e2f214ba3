"""One synthetic sample from an anatomy and a seed; the same pieces augment real images."""

import dataclasses
from typing import Any

import numpy as np
from keras import ops

from zoo.synth import acquisition as acquisitions
from zoo.synth import contrast as contrasts
from zoo.synth import geometry as geometries
from zoo.synth import labels as scheme
from zoo.synth import seeds

Tensor = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """All ranges of a synthesis.

    Attributes:
        shape: voxels (x, y, z) of a sample.
        geometry: where voxels come from.
        contrast: what structures look like.
        acquisition: what the scanner does.
    """

    shape: tuple[int, int, int] = (96, 96, 96)
    geometry: geometries.Geometry = geometries.Geometry()
    contrast: contrasts.Contrast = contrasts.Contrast()
    acquisition: acquisitions.Acquisition = acquisitions.Acquisition()


DEFAULT = Recipe()
IDENTITY_AUGMENTATION = Recipe(geometry=geometries.IDENTITY, acquisition=acquisitions.IDENTITY)
_BRAIN = np.isin(np.arange(scheme.NUM_LABELS), (*scheme.BRAIN, scheme.INDEX["csf"])).astype(np.float32)


def synthesise(labels: Tensor, seed: Tensor, recipe: Recipe = DEFAULT) -> tuple[Tensor, Tensor]:
    """Paints one sample of an anatomy; compile it with XLA.

    Args:
        labels: (x, y, z) integers of the scheme, 1 mm, static shape.
        seed: an int or an integer tensor of any shape.
        recipe: the ranges.

    Returns:
        Image (x, y, z, 1) float32 in 0 to 1 and labels (x, y, z, 1) int32, of `recipe.shape`.

    Raises:
        ValueError: the label map is not 3D.
    """
    if len(labels.shape) != 3:
        raise ValueError(f"A label map is 3D (x, y, z), got shape {tuple(labels.shape)}. Map over the batch.")
    spacing = recipe.geometry.spacing_mm
    geometry = geometries.draw(seeds.fold(seed, 101), recipe.shape, recipe.geometry)
    where = geometries.coordinates(geometry, recipe.shape, labels.shape, spacing)
    moved = geometries.swap_sides(geometries.nearest(labels, where), geometry["flip"])
    contrast = contrasts.draw(seeds.fold(seed, 102), recipe.contrast)
    image = contrasts.apply(moved, contrast)
    brain = (
        ops.take(ops.convert_to_tensor(_BRAIN), moved, axis=0) if recipe.acquisition.skull_strip > 0 else None
    )
    acquired = acquisitions.draw(seeds.fold(seed, 103), recipe.shape, recipe.acquisition)
    image = acquisitions.apply(image, acquired, brain=brain, spacing_mm=spacing)
    return image[..., None], moved[..., None]


def augment(
    image: Tensor,
    labels: Tensor,
    seed: Tensor,
    recipe: Recipe = DEFAULT,
    *,
    partners: np.ndarray = scheme.PARTNERS,
) -> tuple[Tensor, Tensor]:
    """Moves and degrades a real image with its labels by the same pieces.

    Args:
        image: (x, y, z, channels) float32; channels move together and are acquired apart.
        labels: (x, y, z, 1) integers.
        seed: an int or an integer tensor of any shape.
        recipe: the ranges; its contrast is not used, its shape is that of the result.
        partners: value of the mirrored structure at each label.

    Returns:
        Image (x, y, z, channels) float32, each channel in 0 to 1, and labels (x, y, z, 1) int32.

    Raises:
        ValueError: image and labels are on different grids.
    """
    if image.shape[:3] != labels.shape[:3]:
        raise ValueError(
            f"Image and labels share a grid, got {tuple(image.shape[:3])} and {tuple(labels.shape[:3])}. "
            "Resample the labels to the image first."
        )
    geometry = geometries.draw(seeds.fold(seed, 101), recipe.shape, recipe.geometry)
    where = geometries.coordinates(geometry, recipe.shape, labels.shape[:3])
    moved = geometries.swap_sides(geometries.nearest(labels[..., 0], where), geometry["flip"], partners)
    image = geometries.linear(image, where)
    channels = []
    for channel in range(image.shape[-1]):
        acquired = acquisitions.draw(seeds.fold(seed, 103 + channel), recipe.shape, recipe.acquisition)
        channels.append(acquisitions.apply(image[..., channel], acquired))
    return ops.stack(channels, axis=-1), moved[..., None]
