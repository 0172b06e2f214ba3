"""Simulates EEG topographies of a few sources in many heads, with the network's targets.

Each batch has one head, one conductivity and one montage, a member of a bank; the samples differ in the number, places,
extents, moments and strengths of their sources and in their noise. Everything is a function of a seed: `draw` draws
the parameters, `apply` computes the topographies by two matrix products.

Moments are uniform on the sphere, so that a topography and its negative are equally likely, and a sign flip would add
nothing.
"""

import dataclasses
from typing import Any

from keras import ops

from zoo.errors import unknown_choice
from zoo.synth import seeds

Tensor = Any
TARGETS = ("gaussian", "dilated", "points")
MAX_SOURCES = 5
_CANDIDATES = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Ranges of the synthesis.

    Attributes:
        empty: share of samples that are noise alone.
        patches: share of sources that are patches, Gaussian in space; the others are dipoles anywhere between places.
        patch_sd_mm: bounds of a patch's standard deviation, mm.
        strength: bounds of the norm of a source's topography, as a fraction of the strongest.
        snr_db: bounds of the power of the signal over that of the noise, dB.
        coloured: share of samples with noise of background dipoles, a uniform share of the noise's power.
        apart_mm: least distance between sources, if eight tries find such places.
        target: "gaussian" bumps; "dilated" cubes of 5 x 5 x 5 voxels; "points", one voxel a source.
        target_sd_mm: standard deviation of the bumps, mm.
    """

    empty: float = 0.05
    patches: float = 0.4
    patch_sd_mm: tuple[float, float] = (5.0, 12.0)
    strength: tuple[float, float] = (0.5, 1.0)
    snr_db: tuple[float, float] = (0.0, 22.0)
    coloured: float = 0.4
    apart_mm: float = 25.0
    target: str = "gaussian"
    target_sd_mm: float = 7.0

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise unknown_choice("target", self.target, TARGETS)


@dataclasses.dataclass(frozen=True)
class Space:
    """Where sources can be: tensors that all heads share.

    Attributes:
        positions_mm: (places, 3) float32, of the template.
        slots: (voxels,) int32, for each voxel of the box the number of its place, or `places` where there is none.
        shape: of the box in voxels.
        spacing_mm: edge of a voxel.
    """

    positions_mm: Tensor
    slots: Tensor
    shape: tuple[int, int, int]
    spacing_mm: float

    def box(self, values: Tensor) -> Tensor:
        """Puts values (batch, places, channels) into volumes (batch, x, y, z, channels), 0 elsewhere."""
        padded = ops.pad(values, ((0, 0), (0, 1), (0, 0)))
        volume = ops.take(padded, self.slots, axis=1)
        return ops.reshape(volume, (values.shape[0], *self.shape, values.shape[-1]))


def draw(seed: Tensor, batch_size: int, space: Space, recipe: Recipe, *, channels: int) -> dict[str, Tensor]:
    """Draws the random parameters of one batch.

    Args:
        seed: an int or an integer tensor.
        batch_size: samples.
        space: where sources can be.
        recipe: ranges.
        channels: electrodes, missing ones counted.

    Returns:
        `count` (batch,) int32, 0 to 5; `centres_mm` (batch, 5, 3); `moments` (batch, 5, 3) unit vectors; `strengths`
        (batch, 5), 0 beyond the count; `sd_mm` (batch, 5), 0 for dipoles; `snr_db` (batch,); `coloured` (batch,) share
        of the noise's power; `white` and `background` (batch, channels) standard normal.
    """
    shape = (batch_size, MAX_SOURCES)
    count = _draw_counts(seed, batch_size, recipe)
    present = ops.cast(ops.arange(MAX_SOURCES)[None] < count[:, None], "float32")
    strengths = seeds.uniform(seed, shape, 3, low=recipe.strength[0], high=recipe.strength[1])
    strengths = ops.where(ops.arange(MAX_SOURCES)[None] == 0, recipe.strength[1], strengths)
    is_patch = seeds.uniform(seed, shape, 4) < recipe.patches
    sd = seeds.uniform(seed, shape, 5, low=recipe.patch_sd_mm[0], high=recipe.patch_sd_mm[1])
    moments = seeds.normal(seed, (*shape, 3), 6)
    share = seeds.uniform(seed, (batch_size,), 8)
    return {
        "count": count,
        "centres_mm": _draw_centres(seed, batch_size, space, recipe),
        "moments": moments / ops.maximum(ops.sqrt(ops.sum(moments**2, axis=-1, keepdims=True)), 1e-6),
        "strengths": strengths * present,
        "sd_mm": ops.where(is_patch, sd, 0.0),
        "snr_db": seeds.uniform(seed, (batch_size,), 7, low=recipe.snr_db[0], high=recipe.snr_db[1]),
        "coloured": ops.where(share < recipe.coloured, share / max(recipe.coloured, 1e-6), 0.0),
        "white": seeds.normal(seed, (batch_size, channels), 9),
        "background": seeds.normal(seed, (batch_size, channels), 10),
    }


def _draw_counts(seed: Tensor, batch_size: int, recipe: Recipe) -> Tensor:
    """Draws 0 with the recipe's share, else 1 to 5 with probabilities as 1/n."""
    weights = [1 / n for n in range(1, MAX_SOURCES + 1)]
    limits, total = [recipe.empty], sum(weights)
    for weight in weights[:-1]:
        limits.append(limits[-1] + (1 - recipe.empty) * weight / total)
    chance = seeds.uniform(seed, (batch_size, 1), 1)
    return ops.sum(ops.cast(chance > ops.convert_to_tensor([limits], "float32"), "int32"), axis=1)


def _draw_centres(seed: Tensor, batch_size: int, space: Space, recipe: Recipe) -> Tensor:
    """Draws places anywhere in a voxel; each source takes the first of eight tries far enough from earlier sources."""
    num_places = space.positions_mm.shape[0]
    shape = (batch_size, MAX_SOURCES, _CANDIDATES)
    number = ops.cast(ops.floor(seeds.uniform(seed, shape, 2) * num_places), "int32")
    shift = seeds.uniform(seed, (*shape, 3), 11, low=-0.5, high=0.5) * space.spacing_mm
    tries = ops.take(space.positions_mm, ops.minimum(number, num_places - 1), axis=0) + shift
    centres = [tries[:, 0, 0]]
    rank = ops.arange(_CANDIDATES, 0, -1, dtype="float32")
    for source in range(1, MAX_SOURCES):
        before = ops.stack(centres, axis=1)[:, None]
        gap = ops.sqrt(ops.min(ops.sum((tries[:, source][:, :, None] - before) ** 2, axis=-1), axis=2))
        # Takes the first try that is far enough, else the farthest.
        score = ops.where(gap >= recipe.apart_mm, 1e4 + rank, gap)
        best = ops.one_hot(ops.argmax(score, axis=1), _CANDIDATES, dtype="float32")
        centres.append(ops.sum(tries[:, source] * best[..., None], axis=1))
    return ops.stack(centres, axis=1)


def spread(params: dict[str, Tensor], space: Space) -> Tensor:
    """Spreads each source over the places, (batch, 5, places), summing to 1.

    A dipole is shared linearly among the eight places around it; a patch is Gaussian, cut at three standard deviations.
    """
    away = ops.abs(params["centres_mm"][:, :, None] - space.positions_mm)
    sd = params["sd_mm"][..., None]
    squared = ops.sum(away**2, axis=-1)
    hat = ops.prod(ops.relu(1.0 - away / space.spacing_mm), axis=-1)
    bump = ops.exp(-0.5 * squared / ops.maximum(sd, 1.0) ** 2) * ops.cast(squared < 9 * sd**2, "float32")
    # At the edge of the brain all eight neighbours may be missing: then the nearest place takes the source.
    nearest = ops.cast(squared <= ops.min(squared, axis=-1, keepdims=True), "float32")
    weights = ops.where(sd > 0, bump, hat) + 1e-3 * nearest
    return weights / ops.sum(weights, axis=-1, keepdims=True)


def apply(params: dict[str, Tensor], space: Space, field: Tensor, present: Tensor, colour: Tensor) -> Tensor:
    """Computes topographies of drawn sources in one head, against the average of the electrodes present.

    Args:
        params: as `draw` returns them.
        space: where sources can be.
        field: the head's lead field (channels, 3 * places), direction fastest; 0 for missing channels.
        present: (channels,) 1 for electrodes that are present, else 0.
        colour: (channels, channels), a root of the covariance of background dipoles, with a mean variance of 1.

    Returns:
        (batch, channels) float32 of norm 1, 0 for missing channels.
    """
    batch_size, channels = params["white"].shape
    weights = spread(params, space)
    maps = weights[..., None] * params["moments"][:, :, None]
    each = ops.matmul(ops.reshape(maps, (batch_size * MAX_SOURCES, -1)), ops.transpose(field))
    each = ops.reshape(each, (batch_size, MAX_SOURCES, channels))
    length = ops.sqrt(ops.sum(each**2, axis=-1, keepdims=True))
    signal = ops.sum(each / ops.maximum(length, 1e-20) * params["strengths"][..., None], axis=1)
    power = ops.sum(signal**2, axis=-1, keepdims=True) / ops.sum(present)
    share = params["coloured"][:, None]
    background = ops.matmul(params["background"], ops.transpose(colour))
    noise = (ops.sqrt(1.0 - share) * params["white"] + ops.sqrt(share) * background) * present
    noise = (noise - ops.sum(noise, axis=-1, keepdims=True) / ops.sum(present)) * present
    scale = ops.sqrt(power * 10.0 ** (-params["snr_db"][:, None] / 10.0))
    measured = signal + ops.where(power > 0, scale, 1.0) * noise
    return measured / ops.maximum(ops.sqrt(ops.sum(measured**2, axis=-1, keepdims=True)), 1e-20)


def electrode_volume(topographies: Tensor, weights: Tensor, constant: Tensor, space: Space) -> Tensor:
    """Spreads potentials into the volume, as an input without physics: the network has to learn them.

    Args:
        topographies: (batch, channels).
        weights: (places, channels), summing to 1 over channels.
        constant: (x, y, z, 4), mask and coordinates.
        space: the places.

    Returns:
        (batch, x, y, z, 5): the potential over its largest value, mask, coordinates.
    """
    values = ops.matmul(topographies, ops.transpose(weights))[..., None]
    scaled = space.box(values / ops.maximum(ops.max(ops.abs(values), axis=1, keepdims=True), 1e-20))
    return ops.concatenate([scaled, ops.zeros_like(scaled) + constant[None]], axis=-1)


def target(params: dict[str, Tensor], space: Space, recipe: Recipe) -> Tensor:
    """Returns the targets of a network, as `zoo.losses.source_posterior` takes them.

    Returns:
        (batch, x, y, z, 6): the density, summing to 1 over the volume (0 where there is no source) with equal shares of
        all sources; the direction of the moment along x, y, z times the density; 1 where there is a place; and
        the number of sources.
    """
    away = ops.abs(params["centres_mm"][:, :, None] - space.positions_mm)
    if recipe.target == "gaussian":
        shape = ops.exp(-0.5 * ops.sum(away**2, axis=-1) / recipe.target_sd_mm**2)
    else:
        reach = (2.5 if recipe.target == "dilated" else 0.5) * space.spacing_mm
        shape = ops.cast(ops.max(away, axis=-1) <= reach, "float32")
    there = ops.cast(params["strengths"] > 0, "float32")
    each = shape / ops.maximum(ops.sum(shape, axis=-1, keepdims=True), 1e-6) * there[..., None]
    each = each / ops.maximum(ops.sum(there, axis=1), 1.0)[:, None, None]
    density = ops.sum(each, axis=1)[..., None]
    moment = ops.sum(each[..., None] * params["moments"][:, :, None], axis=1)
    inside = space.box(ops.concatenate([density, moment, ops.ones_like(density)], axis=-1))
    count = ops.cast(params["count"], "float32")[:, None, None, None, None]
    return ops.concatenate([inside, ops.zeros_like(inside[..., :1]) + count], axis=-1)
