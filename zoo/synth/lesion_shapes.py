"""Draws lesions by shape and place: ellipsoids, tubes and regions of a territory, with soft edges."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import edt
import numpy as np
from keras import ops

from zoo.errors import unknown_choice
from zoo.synth import fields, seeds

Tensor = Any
Params = dict[str, Tensor]
SHAPES = ("ellipsoid", "tube", "territory")
BEND_POINTS = 9  # of a tube's axis


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lesions:
    """Ranges of the lesions of one sample.

    Attributes:
        shape: "ellipsoid"; "tube" for a lesion along a vessel; "territory" for a ragged ball inside a territory.
        count: least and most lesions.
        radius_mm: least and largest radius; of a tube, of its cross-section.
        elongation: largest ratio of an ellipsoid's axes.
        length_mm: least and largest length of a tube.
        raggedness: SD of the smooth noise on the border of a territory's lesion, over its radius.
        softness_mm: least and largest width of the edge.
        intensity: least and largest mean of the lesion, in the unit of the image that it is painted on.
        spacing_mm: voxel size.
    """

    shape: str = "ellipsoid"
    count: tuple[int, int] = (1, 4)
    radius_mm: tuple[float, float] = (1.5, 8.0)
    elongation: float = 2.0
    length_mm: tuple[float, float] = (5.0, 30.0)
    raggedness: float = 0.3
    softness_mm: tuple[float, float] = (0.3, 1.5)
    intensity: tuple[float, float] = (0.0, 250.0)
    spacing_mm: float = 1.0


def placement(
    labels: np.ndarray,
    inside: Collection[int],
    *,
    near: Collection[int] = (),
    distance_mm: tuple[float, float] = (0.0, math.inf),
    spacing_mm: float = 1.0,
) -> np.ndarray:
    """Finds where a lesion's centre may lie, once per anatomy.

    Args:
        labels: (x, y, z) integers.
        inside: labels that may hold the centre.
        near: labels that the distance is measured to; empty for any distance.
        distance_mm: least and largest distance to the nearest voxel of `near`.
        spacing_mm: voxel size.

    Returns:
        (x, y, z) bool.

    Raises:
        ValueError: no voxel satisfies the rule.
    """
    allowed = np.isin(labels, list(inside))
    if near:
        distance = edt.edt(~np.isin(labels, list(near))) * spacing_mm
        allowed &= (distance >= distance_mm[0]) & (distance <= distance_mm[1])
    if not allowed.any():
        raise ValueError(
            f"No voxel has a label of {sorted(inside)} and lies {distance_mm[0]} to {distance_mm[1]} mm from "
            f"{sorted(near)}. Widen the distance or choose labels that occur: {np.unique(labels).tolist()}."
        )
    return allowed


def draw(seed: Tensor, lesions: Lesions) -> Params:
    """Draws the lesions of one sample.

    Args:
        seed: an int or an integer tensor.
        lesions: the ranges.

    Returns:
        For the largest number of lesions: `present` 0 or 1, `radius_mm`, `axes` (n, 3) factors on the radius,
        `direction` (n, 3) unit, `bend` (n, 3) in mm, `length_mm`, `softness_mm`, `intensity`, `seeds` (n,) uint32.

    Raises:
        ValueError: there is no such shape.
    """
    if lesions.shape not in SHAPES:
        raise unknown_choice("lesion shape", lesions.shape, SHAPES)
    least, most = lesions.count
    count = least + ops.floor((most - least + 1) * seeds.uniform(seed, (), 61))
    each = lambda stream, bounds: seeds.uniform(seed, (most,), stream, low=bounds[0], high=bounds[1])  # noqa: E731
    stretch = math.log(lesions.elongation) * seeds.uniform(seed, (most, 3), 63, low=-0.5, high=0.5)
    direction = seeds.normal(seed, (most, 3), 64)
    length = each(65, lesions.length_mm)
    return {
        "present": ops.cast(ops.arange(most, dtype="float32") < count, "float32"),
        "radius_mm": each(62, lesions.radius_mm),
        "axes": ops.exp(stretch),
        "direction": direction / ops.sqrt(ops.sum(ops.square(direction), axis=-1, keepdims=True)),
        "length_mm": length,
        "bend": 0.15 * length[:, None] * seeds.normal(seed, (most, 3), 66),
        "softness_mm": each(67, lesions.softness_mm),
        "intensity": each(68, lesions.intensity),
        "seeds": seeds.bits(seed, (most,), 69),
    }


def apply(allowed: Tensor, params: Mapping[str, Tensor], lesions: Lesions, territory: Tensor | None = None) -> Tensor:
    """Paints each lesion as a soft mask.

    Args:
        allowed: (x, y, z) bool, where centres may lie; a sample without any such voxel gets no lesion.
        params: what `draw` returned.
        lesions: the ranges that `params` were drawn from.
        territory: (x, y, z) integers; a "territory" lesion stays within the value at its centre.

    Returns:
        (lesions, x, y, z) float32 in 0 to 1.
    """
    shape = tuple(allowed.shape)
    masks = []
    for number in range(params["present"].shape[0]):
        lesion = {name: value[number] for name, value in params.items()}
        middle, anywhere = centre(allowed, lesion["seeds"])
        distance = _distance_mm(shape, middle, lesion, lesions)
        mask = ops.sigmoid(-4.0 * distance / ops.maximum(lesion["softness_mm"], 1e-3)) * lesion["present"] * anywhere
        if territory is not None and lesions.shape == "territory":
            mask = mask * ops.cast(ops.equal(territory, _take_voxel(territory, middle)), "float32")
        masks.append(mask)
    return ops.stack(masks)


def centre(allowed: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
    """Draws one voxel of a mask uniformly.

    Args:
        allowed: (x, y, z) bool.
        seed: an int or an integer tensor.

    Returns:
        (3,) int32 voxel, and () float32, 0 where the mask is empty.
    """
    _, y, z = allowed.shape
    lots = ops.reshape(seeds.uniform(seed, allowed.shape, 1) * ops.cast(allowed, "float32"), (-1,))
    flat = ops.cast(ops.argmax(lots), "int32")
    return ops.stack([flat // (y * z), flat // z % y, flat % z]), ops.cast(ops.max(lots) > 0, "float32")


def paint(image: Tensor, masks: Tensor, intensity: Tensor) -> Tensor:
    """Blends each lesion's mean into an image, by the softness of its mask.

    Args:
        image: (x, y, z) float32.
        masks: (lesions, x, y, z) float32 in 0 to 1.
        intensity: (lesions,) float32.

    Returns:
        (x, y, z) float32.
    """
    for number in range(masks.shape[0]):
        image = image + masks[number] * (intensity[number] - image)
    return image


def _take_voxel(volume: Tensor, voxel: Tensor) -> Tensor:
    _, y, z = volume.shape
    return ops.take(ops.reshape(volume, (-1,)), (voxel[0] * y + voxel[1]) * z + voxel[2], axis=0)


def _distance_mm(shape: Sequence[int], middle: Tensor, lesion: Mapping[str, Tensor], lesions: Lesions) -> Tensor:
    """Returns the signed distance from the lesion's surface in mm, (x, y, z), negative inside."""
    axes = ops.meshgrid(*[ops.arange(size, dtype="float32") for size in shape], indexing="ij")
    offset = ops.stack(axes, axis=-1) - ops.cast(middle, "float32")
    offset = offset * lesions.spacing_mm
    radius = lesion["radius_mm"]
    if lesions.shape == "tube":
        return _tube_distance(offset, lesion) - radius
    if lesions.shape == "ellipsoid":
        turned = ops.matmul(offset, _make_frame(lesion["direction"])) / lesion["axes"]
        return ops.sqrt(ops.sum(ops.square(turned), axis=-1)) - radius
    coarse = seeds.normal(lesion["seeds"], fields.coarse_shape(shape, 0.15), 2)
    ragged = lesions.raggedness * radius * fields.upsample(coarse, shape)
    return ops.sqrt(ops.sum(ops.square(offset), axis=-1)) + ragged - radius


def _tube_distance(offset: Tensor, lesion: Mapping[str, Tensor]) -> Tensor:
    """Returns the distance to a bent axis: the least over the segments between its points."""
    part = np.linspace(-1, 1, BEND_POINTS).astype(np.float32)[:, None]
    points = part * (lesion["length_mm"] / 2) * lesion["direction"] + (1 - part**2) * lesion["bend"] - lesion["bend"]
    best = None
    for number in range(BEND_POINTS - 1):
        start, step = points[number], points[number + 1] - points[number]
        along = ops.sum((offset - start) * step, axis=-1) / ops.maximum(ops.sum(ops.square(step)), 1e-6)
        nearest = start + ops.clip(along, 0.0, 1.0)[..., None] * step
        square = ops.sum(ops.square(offset - nearest), axis=-1)
        best = square if best is None else ops.minimum(best, square)
    return ops.sqrt(best)


def _make_frame(direction: Tensor) -> Tensor:
    """Returns the rotation (3, 3) whose first column is the direction."""
    # Householder's mirror of the first axis onto the direction, one column turned round to make it a rotation.
    first = ops.convert_to_tensor(np.array([1, 0, 0], np.float32))
    normal = direction - first
    mirror = ops.eye(3) - 2 * normal[:, None] * normal[None] / ops.maximum(ops.sum(ops.square(normal)), 1e-6)
    return mirror * ops.convert_to_tensor(np.array([1, 1, -1], np.float32))
