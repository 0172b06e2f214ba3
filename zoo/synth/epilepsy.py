"""Simulates T1 and FLAIR of controls, and of patients with one epileptogenic lesion, in the common space.

`atlas` of `zoo.synth.anatomy.common_space` returns the anatomies, `draw` the random parameters; `apply` paints:

    labels = ops.convert_to_tensor(common_space.atlas(names("train")))          # (anatomies, x, y, z) uint8, once
    params = epilepsy.draw(seed, common_space.SHAPE, kind="heterotopia")        # or "control", any of KINDS
    images, lesion = epilepsy.apply(labels[0], params)                          # (x, y, z, 2) and (x, y, z, 1)

`apply` is the same graph for every kind: compile it with XLA and use it for a whole cohort. Images are 0 outside the
brain and 0 to 1 inside; networks read them flat (`zoo.volumes.local_normalisation`).

Source of the lesions: Alaverdyan et al. 2020, doi 10.1016/j.media.2019.101618, and Blümcke et al. 2011, doi
10.1111/j.1528-1167.2010.02777.x (focal cortical dysplasia); the ranges are those of the task, the rest is our choice.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from zoo.errors import unknown_choice
from zoo.synth import acquisition, contrast, fields, geometry, lesion_shapes, seeds
from zoo.synth.anatomy.labels import INDEX, NUM_LABELS, sides

Tensor = Any
Params = dict[str, Tensor]
CHANNELS = ("T1w", "FLAIR")
# In the order of `Params["kind"]`; the first has no lesion.
KINDS = ("control", "blurred_junction", "heterotopia", "flair", "texture", "thickening", "context")
# The context lesion transplants one of these: grey bodies that lie in white matter.
BODIES = ("putamen", "caudate", "amygdala", "hippocampus")
_CORTEX_OF = np.arange(NUM_LABELS, dtype=np.int32)  # the cortex of the same side, of white matter
_CORTEX_OF[list(sides("white"))] = sides("cortex")


# Differences that remain after a diffeomorphism: no turns or sizes, and places within a millimetre or two.
PEOPLE = geometry.Geometry(
    rotation_deg=0.5,
    scaling=(0.99, 1.01),
    shear=0,
    translation_mm=0.5,
    velocity_scale=0.06,
    velocity_sd=1.5,
    crop="centre",
)
CONTRASTS = (
    contrast.Contrast(kind="t1", sds=(2, 6), spread=0.04, dark_background=1.0),
    contrast.Contrast(kind="flair", sds=(2, 6), spread=0.04, dark_background=1.0),
)
RECEIVER = acquisition.Acquisition(
    bias_sd=0.15, isotropic_mm=(1.0, 1.15), anisotropic=0, ghost=0.03, gamma_sd=0.1, noise=0.03
)
# FLAIR is often thicker along one axis.
ACQUISITIONS = (RECEIVER, dataclasses.replace(RECEIVER, anisotropic_mm=(1.0, 2.0), anisotropic=0.3))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Epilepsy:
    """Ranges of the subjects and of their lesions; lengths in mm, which are voxels here.

    Attributes:
        people: remaining difference between people after normalisation, with the mirror image.
        contrasts: of T1 and FLAIR.
        acquisitions: of T1 and FLAIR.
        blur_mm: SD of the blur of the grey-white junction.
        blur_radius_mm: of the ball that it fills.
        nodule_mm: diameter of a heterotopic nodule.
        flair: relative rise of the FLAIR signal.
        texture: SD of the added texture over the image's own mean.
        radius_mm: of lesions without a range of their own.
        thickening_mm: growth of the cortex into the white matter.
        body_mm: diameter of the transplant of the context lesion.
    """

    people: geometry.Geometry = PEOPLE
    contrasts: tuple[contrast.Contrast, contrast.Contrast] = CONTRASTS
    acquisitions: tuple[acquisition.Acquisition, acquisition.Acquisition] = ACQUISITIONS
    blur_mm: tuple[float, float] = (1.0, 2.5)
    blur_radius_mm: tuple[float, float] = (5.0, 15.0)
    nodule_mm: tuple[float, float] = (4.0, 10.0)
    flair: tuple[float, float] = (0.05, 0.20)
    texture: tuple[float, float] = (0.06, 0.12)
    radius_mm: tuple[float, float] = (5.0, 12.0)
    thickening_mm: tuple[float, float] = (1.0, 2.0)
    body_mm: tuple[float, float] = (8.0, 14.0)


DEFAULT = Epilepsy()


def draw(seed: Tensor, shape: Sequence[int], *, kind: Tensor | str = "control", ranges: Epilepsy = DEFAULT) -> Params:
    """Draws one subject.

    Args:
        seed: an int or an integer tensor; subjects with the same seed differ only by their lesion.
        shape: voxels (x, y, z) of the common space.
        kind: one of `KINDS`, or its number, which may be a tensor.
        ranges: of the subject and the lesion.

    Returns:
        `kind` () int32; `geometry`, and a tuple of `contrasts` and `acquisitions`, T1 and FLAIR, as their modules draw
        them; `radius_mm`, `blur_mm`, `gain`, `texture`, `layers` () float32; `seed` () uint32 of place and texture.

    Raises:
        ValueError: there is no such kind.
    """
    if isinstance(kind, str):
        if kind not in KINDS:
            raise unknown_choice("lesion", kind, KINDS)
        kind = KINDS.index(kind)
    number = ops.cast(kind, "int32")
    half = lambda bounds: (bounds[0] / 2, bounds[1] / 2)  # noqa: E731
    radii = [ranges.radius_mm] * len(KINDS)
    radii[KINDS.index("blurred_junction")] = ranges.blur_radius_mm
    radii[KINDS.index("heterotopia")] = half(ranges.nodule_mm)
    radii[KINDS.index("context")] = half(ranges.body_mm)
    low, high = ops.unstack(ops.take(ops.convert_to_tensor(np.array(radii, np.float32)), number, axis=0), 2)
    between = lambda stream, bounds: seeds.uniform(seed, (), stream, low=bounds[0], high=bounds[1])  # noqa: E731
    return {
        "kind": number,
        "geometry": geometry.draw(seeds.fold(seed, 301), shape, ranges.people),
        "contrasts": tuple(contrast.draw(seeds.fold(seed, 302 + i), c) for i, c in enumerate(ranges.contrasts)),
        "acquisitions": tuple(
            acquisition.draw(seeds.fold(seed, 304 + i), shape, a) for i, a in enumerate(ranges.acquisitions)
        ),
        "radius_mm": between(306, (low, high)),
        "blur_mm": between(307, ranges.blur_mm),
        "gain": between(308, ranges.flair),
        "texture": between(309, ranges.texture),
        "layers": ops.floor(between(310, (ranges.thickening_mm[0], ranges.thickening_mm[1] + 1))),
        "seed": seeds.fold(seed, 311),
    }


def apply(labels: Tensor, params: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Paints one subject.

    Args:
        labels: (x, y, z) integers of the scheme, an anatomy in the common space.
        params: what `draw` returned.

    Returns:
        (x, y, z, 2) float32, T1 and FLAIR, 0 outside the brain and 0 to 1 inside; (x, y, z, 1) int32, 1 in the lesion.
    """
    anatomy = move(labels, params)
    ball = _place_ball(anatomy, params)
    changed = _change_tissue(anatomy, ball, params)
    images = [contrast.apply(changed, drawn) for drawn in params["contrasts"]]
    images = _change_signal(images, changed, ball, params)
    brain = ops.cast(anatomy > 0, "float32")
    acquired = [
        acquisition.apply(image * brain, drawn) * brain
        for image, drawn in zip(images, params["acquisitions"], strict=True)
    ]
    lesion = _mark_lesion(anatomy, changed, ball, params)
    return ops.stack(acquired, axis=-1), ops.cast(lesion, "int32")[..., None]


def move(labels: Tensor, params: Mapping[str, Any]) -> Tensor:
    """Moves a label map as `apply` moves the anatomy that it paints.

    Args:
        labels: (x, y, z) integers of the scheme.
        params: what `draw` returned.
    """
    shape = tuple(labels.shape)
    where = geometry.coordinates(params["geometry"], shape, shape)
    return geometry.swap_sides(geometry.nearest(labels, where), params["geometry"]["flip"])


def _mark(anatomy: Tensor, *structures: str) -> Tensor:
    """Marks the voxels of some structures, either side, (x, y, z) bool."""
    table = np.zeros(NUM_LABELS, bool)
    table[[index for name in structures for index in sides(name)]] = True
    return ops.take(ops.convert_to_tensor(table), anatomy, axis=0)


def _grow(mask: Tensor) -> Tensor:
    """Grows a mask by the voxels that share a face with it."""
    padded = ops.pad(mask, [(1, 1)] * 3)
    middle, grown = slice(1, -1), mask
    for axis in range(3):
        for shift in (slice(0, -2), slice(2, None)):
            index = [middle] * 3
            index[axis] = shift
            grown = grown | padded[tuple(index)]
    return grown


def _smooth(volume: Tensor, sigma: Tensor) -> Tensor:
    """Smooths by a Gaussian of `sigma` voxels, renormalised at the border."""
    matrices = []
    for size in volume.shape:
        place = ops.arange(size, dtype="float32")
        weight = ops.exp(-0.5 * ops.square((place[:, None] - place) / ops.maximum(sigma, 0.05)))
        matrices.append(weight / ops.sum(weight, axis=1, keepdims=True))
    return fields.separable(volume, matrices)


def _has_kind(params: Mapping[str, Any], *kinds: str) -> Tensor:
    """Returns whether the subject's lesion is of one of these kinds, () bool."""
    numbers = np.isin(np.arange(len(KINDS)), [KINDS.index(kind) for kind in kinds])
    return ops.take(ops.convert_to_tensor(numbers), params["kind"], axis=0)


def _place_ball(anatomy: Tensor, params: Mapping[str, Any]) -> Tensor:
    """Places the ball of the lesion at a voxel where its kind may lie, (x, y, z) bool; empty in a control."""
    white, cortex = _mark(anatomy, "white"), _mark(anatomy, "cortex")
    deep = _smooth(ops.cast(white, "float32"), 3.0) > 0.8
    allowed = ops.where(_has_kind(params, "heterotopia", "context", "texture"), deep, white & _grow(cortex))
    middle, anywhere = lesion_shapes.centre(allowed, params["seed"])
    inside = _square_distance(anatomy.shape, middle) <= ops.square(params["radius_mm"])
    return inside & (anywhere > 0) & ops.logical_not(_has_kind(params, "control"))


def _square_distance(shape: Sequence[int], middle: Tensor) -> Tensor:
    axes = [(-1, 1, 1), (1, -1, 1), (1, 1, -1)]
    middle = ops.cast(middle, "float32")
    parts = [
        ops.square(ops.reshape(ops.arange(size, dtype="float32"), to) - middle[axis])
        for axis, (size, to) in enumerate(zip(shape, axes, strict=True))
    ]
    return parts[0] + parts[1] + parts[2]


def _change_tissue(anatomy: Tensor, ball: Tensor, params: Mapping[str, Any]) -> Tensor:
    """Adds the lesions that are tissue in the wrong place to the anatomy."""
    white = _mark(anatomy, "white") & ball
    grey = ops.take(ops.convert_to_tensor(_CORTEX_OF), anatomy, axis=0)
    nodule = ops.where(_has_kind(params, "heterotopia") & white, grey, anatomy)
    cortex = _mark(anatomy, "cortex")
    once = _grow(cortex)
    thick = ops.where(params["layers"] > 1.5, _grow(once), once)
    nodule = ops.where(_has_kind(params, "thickening") & white & thick, grey, nodule)
    return ops.where(_has_kind(params, "context") & ball, _transplant(anatomy, ball, params), nodule)


def _transplant(anatomy: Tensor, ball: Tensor, params: Mapping[str, Any]) -> Tensor:
    """Shifts the anatomy so that the middle of a deep grey body lies in the ball: normal tissue in the wrong place."""
    body = _smooth(ops.cast(_mark(anatomy, *BODIES), "float32"), 2.0) > 0.6
    source, _ = lesion_shapes.centre(body, seeds.fold(params["seed"], 5))
    flat = ops.cast(ops.argmax(ops.reshape(ops.cast(ball, "int32"), (-1,))), "int32")
    _, y, z = anatomy.shape
    first = ops.stack([flat // (y * z), flat // z % y, flat % z])
    # The first voxel of a ball in memory order lies its radius below the middle along x.
    middle = first + ops.cast(ops.stack([ops.floor(params["radius_mm"]), 0.0, 0.0]), "int32")
    shift = ops.cast(source - middle, "float32")
    axes = [ops.arange(size, dtype="float32") for size in anatomy.shape]
    where = ops.meshgrid(*[axis + step for axis, step in zip(axes, ops.unstack(shift, 3), strict=True)], indexing="ij")
    moved = geometry.nearest(anatomy, where)
    return ops.where(_mark(moved, *BODIES) & _mark(anatomy, "white"), moved, anatomy)


def _change_signal(images: Sequence[Tensor], anatomy: Tensor, ball: Tensor, params: Mapping[str, Any]) -> list[Tensor]:
    """Adds the lesions that are a change of the signal to the images."""
    weight = _smooth(ops.cast(ball, "float32"), 1.0)
    tissue = ops.cast(_mark(anatomy, "cortex", "white"), "float32") * weight
    blur = weight * ops.cast(_has_kind(params, "blurred_junction"), "float32")
    coarse = seeds.normal(seeds.fold(params["seed"], 6), tuple(size // 3 + 2 for size in anatomy.shape))
    # A spline through noise keeps about 0.69 of its SD along each axis.
    grain = fields.upsample(coarse, anatomy.shape) / 0.69**3 * params["texture"]
    grain = grain * tissue * ops.cast(_has_kind(params, "texture"), "float32")
    bright = params["gain"] * tissue * ops.cast(_has_kind(params, "flair"), "float32")
    painted = []
    for number, image in enumerate(images):
        changed = image + blur * (_smooth(image, params["blur_mm"]) - image)
        painted.append(changed * (1.0 + grain + (bright if number == CHANNELS.index("FLAIR") else 0.0)))
    return painted


def _mark_lesion(anatomy: Tensor, changed: Tensor, ball: Tensor, params: Mapping[str, Any]) -> Tensor:
    """Marks the lesion, (x, y, z) bool: voxels of changed tissue, or the ball's tissue where its signal changed."""
    signal = ball & _mark(anatomy, "cortex", "white")
    near = ball & _grow(_mark(anatomy, "cortex")) & _grow(_grow(_mark(anatomy, "white")))
    signal = ops.where(_has_kind(params, "blurred_junction"), near, signal)
    return ops.where(_has_kind(params, "heterotopia", "thickening", "context"), changed != anatomy, signal)


def brain(labels: Tensor) -> Tensor:
    """Marks tissue, not fluid or background, (x, y, z) bool; codes are compared there."""
    return (labels > 0) & (labels != INDEX["csf"])


def kinds_of(count: int) -> list[str]:
    """Returns the lesion kinds of `count` patients, each as often as the others, or once less."""
    return [KINDS[1 + number % (len(KINDS) - 1)] for number in range(count)]
