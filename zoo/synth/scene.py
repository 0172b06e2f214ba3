"""Paints a synthetic sample from an anatomy and a seed, and augments real images by the same steps."""

import dataclasses
from typing import Any

import numpy as np
from keras import ops

from zoo.synth import acquisition as acquisitions
from zoo.synth import contrast as contrasts
from zoo.synth import geometry as geometries
from zoo.synth import lesion_shapes as lesion_shapes
from zoo.synth import seeds
from zoo.synth.anatomy import labels as scheme
from zoo.synth.lesion_shapes import Lesions

Tensor = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """All ranges of a synthesis.

    Attributes:
        shape: voxels (x, y, z) of a sample.
        geometry: ranges of shape and place.
        contrast: ranges of the intensities of structures.
        acquisition: ranges of the scanner.
    """

    shape: tuple[int, int, int] = (96, 96, 96)
    geometry: geometries.Geometry = dataclasses.field(default_factory=geometries.Geometry)
    contrast: contrasts.Contrast = dataclasses.field(default_factory=contrasts.Contrast)
    acquisition: acquisitions.Acquisition = dataclasses.field(default_factory=acquisitions.Acquisition)


DEFAULT = Recipe()
IDENTITY = Recipe(geometry=geometries.IDENTITY, acquisition=acquisitions.IDENTITY)
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
    moved, _ = _move(labels, seed, recipe)
    image = _acquire(contrasts.apply(moved, _draw_contrast(seed, recipe)), moved, seed, recipe)
    inside = _draw_field_of_view(seed, recipe)
    return (
        (image, moved[..., None])
        if inside is None
        else (ops.where(inside, image, 0.0), _clear_unscanned(moved, inside))
    )


def synthesise_lesions(
    labels: Tensor,
    allowed: Tensor,
    seed: Tensor,
    lesions: Lesions,
    recipe: Recipe = DEFAULT,
    *,
    territory: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Paints one sample of an anatomy with lesions; compile it with XLA.

    Args:
        labels: (x, y, z) integers of the scheme, 1 mm, static shape.
        allowed: (x, y, z) bool, where centres of lesions may lie: `zoo.synth.lesion_shapes.placement`.
        seed: an int or an integer tensor of any shape.
        lesions: ranges of the lesions.
        recipe: ranges of everything else.
        territory: (x, y, z) integers, territories that lesions of that shape stay within; None for no bounds.

    Returns:
        Image (x, y, z, 1) float32 in 0 to 1, labels (x, y, z, 1) int32, and the union of the lesions
        (x, y, z, 1) float32 in 0 to 1.
    """
    moved, where = _move(labels, seed, recipe)
    params = lesion_shapes.draw(seeds.fold(seed, 104), lesions)
    zones = None if territory is None else geometries.nearest(territory, where)
    masks = lesion_shapes.apply(geometries.nearest(allowed, where), params, lesions, zones)
    image = lesion_shapes.paint(contrasts.apply(moved, _draw_contrast(seed, recipe)), masks, params["intensity"])
    return _acquire(image, moved, seed, recipe), moved[..., None], ops.max(masks, axis=0)[..., None]


def follow(volume: Tensor, seed: Tensor, recipe: Recipe = DEFAULT) -> Tensor:
    """Moves another volume of an anatomy, such as a mask, to where `synthesise` moves its labels.

    What lies beyond the field of view is not cleared.

    Args:
        volume: (x, y, z) integers on the grid of the label map, static shape.
        seed: that of the sample.
        recipe: that of the sample.

    Returns:
        (x, y, z, 1) of the volume's type, of `recipe.shape`; 0 beyond the volume.
    """
    geometry = geometries.draw(seeds.fold(seed, 101), recipe.shape, recipe.geometry)
    where = geometries.coordinates(geometry, recipe.shape, volume.shape, recipe.geometry.spacing_mm)
    return geometries.nearest(volume, where)[..., None]


def _move(labels: Tensor, seed: Tensor, recipe: Recipe) -> tuple[Tensor, geometries.Where]:
    if len(labels.shape) != 3:
        raise ValueError(f"A label map is 3D (x, y, z), got shape {tuple(labels.shape)}. Map over the batch.")
    geometry = geometries.draw(seeds.fold(seed, 101), recipe.shape, recipe.geometry)
    where = geometries.coordinates(geometry, recipe.shape, labels.shape, recipe.geometry.spacing_mm)
    return geometries.swap_sides(geometries.nearest(labels, where), geometry["flip"]), where


def _draw_contrast(seed: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    return contrasts.draw(seeds.fold(seed, 102), recipe.contrast)


def _acquire(image: Tensor, moved: Tensor, seed: Tensor, recipe: Recipe) -> Tensor:
    """Acquires the image, (x, y, z, 1) float32."""
    brain = ops.take(ops.convert_to_tensor(_BRAIN), moved, axis=0) if recipe.acquisition.skull_strip > 0 else None
    params = acquisitions.draw(seeds.fold(seed, 103), recipe.shape, recipe.acquisition)
    return acquisitions.apply(image, params, brain=brain, spacing_mm=recipe.acquisition.spacing_mm)[..., None]


def _draw_field_of_view(seed: Tensor, recipe: Recipe) -> Tensor | None:
    """Draws the voxels that were scanned, (x, y, z, 1) bool, or None where nothing is ever cut off."""
    if not recipe.acquisition.cut:
        return None
    params = acquisitions.draw(seeds.fold(seed, 103), recipe.shape, recipe.acquisition)
    return acquisitions.field_of_view(params["cut"], recipe.shape)[..., None]


def _clear_unscanned(moved: Tensor, inside: Tensor) -> Tensor:
    """Sets what was not scanned to background, (x, y, z, 1) int32."""
    return ops.where(inside, moved[..., None], scheme.INDEX["background"])


def augment(
    image: Tensor,
    labels: Tensor,
    seed: Tensor,
    recipe: Recipe = DEFAULT,
    *,
    partners: np.ndarray = scheme.PARTNERS,
) -> tuple[Tensor, Tensor]:
    """Moves and degrades a real image with its labels by the steps of the synthesis.

    Args:
        image: (x, y, z, channels) float32; channels move together and are acquired separately.
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
    channels = []
    for channel in range(image.shape[-1]):
        acquired = acquisitions.draw(seeds.fold(seed, 103 + channel), recipe.shape, recipe.acquisition)
        channels.append(acquisitions.apply(geometries.linear(image[..., channel], where), acquired))
    return ops.stack(channels, axis=-1), moved[..., None]
