"""Simulates acute perfusion and diffusion maps of a stroke, and its final lesion.

An artery is blocked somewhere in its territory. Blood arrives there late, and latest in the middle; the middle
itself, the core, has already lost its diffusion. Delay and treatment decide which of the rest is lost: tissue survives
delays up to a threshold that falls with the time to reperfusion and rises with its grade. So the maps alone do not
determine the outcome; the maps and the treatment do.

What is cut off is a ragged ball within the territory, or, where there are some, the outline of a real infarct
(`zoo.synth.stroke_infarcts`): that is lost without treatment, and treatment saves the part of it next to its surface.

Source: delays and diffusion of penumbra and core as in Olivot et al., Stroke 2009, doi:10.1161/STROKEAHA.108.526822
and Purushotham et al., JCBFM 2015, doi:10.1038/jcbfm.2014.251; tissue values as in Leenders et al., Brain 1990,
doi:10.1093/brain/113.1.27 (flow, blood volume) and Helenius et al., AJNR 2002 (diffusion). The survival law is ours.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from zoo.synth import fields, geometry, seeds
from zoo.synth.anatomy.territories import CODE, NUM_PLACES, OCCLUSIONS, TISSUES, members
from zoo.synth.stroke_infarcts.outlines_in_graph import Outlines

Tensor = Any
Params = dict[str, Tensor]
Grid = tuple[tuple[int, int, int], tuple[float, float, float]]

CHANNELS = ("ADC", "CBV", "CBF", "MTT", "TTP", "Tmax")
# Voxels and their size in mm: the four grids of ISLES 2017, whose voxel sizes differ a little from case to case.
GRIDS: tuple[Grid, ...] = (
    ((192, 192, 19), (1.2, 1.2, 6.5)),
    ((256, 256, 24), (0.9, 0.9, 6.0)),
    ((128, 128, 25), (1.8, 1.8, 5.0)),
    ((192, 192, 30), (1.2, 1.2, 5.0)),
)
# Of each tissue: ADC in 1e-6 mm2/s, CBV in ml/100 g, CBF in ml/100 g/min, Tmax in s.
_NORMAL = np.array(
    [[0, 0, 0, 0], [2700, 0.5, 5, 2.2], [850, 4.6, 55, 1.2], [750, 2.3, 22, 1.8], [770, 4.0, 48, 1.0]], np.float32
)
LATE_S = 4.0  # Tmax at the border of what is cut off
SAVED_S = 8.0  # added to the delay that tissue survives, after full and immediate reperfusion
DECAY_H = 10.0  # time in which that falls to 1/e
LONGEST_S = 20.0  # MTT and Tmax are not measured beyond it
LATTICE_MM = 12.0  # between control points of what makes an outline ragged
STATISTICS_MM = 6  # between the voxels that a brain's mean and SD are taken over
# What smoothing leaves of each map's SD over the brain, from whole scans of the training anatomies.
_LEFT = np.array([0.73, 0.68, 0.7, 0.95, 1.0, 0.95], np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perfusion:
    """Ranges of the synthesis.

    Attributes:
        grids: (voxels, mm) of the scans; each is drawn as often.
        radius_mm: of what is cut off, before the territory bounds it.
        core: radius of the core as a share of that.
        peak_s: Tmax in the middle.
        raggedness: SD of the outline, as a share of the radius.
        time_h: from onset to reperfusion.
        age: in years.
        centred: share of patches that are centred near the lesion; the others lie anywhere in the brain.
        rotation_deg: largest turn of the head about each axis.
        scaling: least and largest size of the head.
        smoothing_mm: SD of the smoothing that deconvolution and its filters leave.
        noise: SD of each map, as a share of its value, before smoothing.
    """

    grids: tuple[Grid, ...] = GRIDS
    radius_mm: tuple[float, float] = (22.0, 50.0)
    core: tuple[float, float] = (0.25, 0.5)
    peak_s: tuple[float, float] = (10.0, 16.0)
    raggedness: float = 0.25
    time_h: tuple[float, float] = (0.5, 24.0)
    age: tuple[float, float] = (30.0, 95.0)
    centred: float = 0.75
    rotation_deg: float = 12.0
    scaling: tuple[float, float] = (0.9, 1.1)
    smoothing_mm: tuple[float, float] = (1.0, 2.5)
    noise: float = 0.2


def survival_s(time_h: Tensor, recanalised: Tensor) -> Tensor:
    """Returns the Tmax up to which tissue outside the core survives, in s.

    `4 + 8 r exp(-t / 10 h)`: without reperfusion (r = 0) all late tissue is lost, whatever the time.

    Args:
        time_h: t, from onset to reperfusion.
        recanalised: r, 0 to 1, the share of the territory that blood reaches again.
    """
    return LATE_S + SAVED_S * recanalised * ops.exp(-time_h / DECAY_H)


def draw(seed: Tensor, perfusion: Perfusion = Perfusion(), *, grades: Sequence[float] = (0.0, 1.0)) -> Params:
    """Draws one patient, scan and treatment.

    Args:
        seed: an int or an integer tensor.
        perfusion: the ranges.
        grades: shares recanalised, each as likely.

    Returns:
        Scalars and small tensors; `time_h`, `recanalised`, `age` and `nihss` are the tabular inputs.
    """
    pick = lambda count, stream: ops.cast(seeds.uniform(seed, (), stream) * count, "int32")  # noqa: E731
    between = lambda limits, stream: seeds.uniform(seed, (), stream, low=limits[0], high=limits[1])  # noqa: E731
    shares = np.cumsum([often for often, _ in OCCLUSIONS.values()], dtype=np.float32)
    u = seeds.uniform(seed, (), 1) * float(shares[-1])
    occlusion = ops.sum(ops.cast(u >= ops.convert_to_tensor(shares[:-1]), "int32"))
    radius = between(perfusion.radius_mm, 5)
    low, high = perfusion.radius_mm
    severity = (radius - low) / max(high - low, 1e-6)
    nihss = ops.clip(3.0 + 18.0 * severity + 4.0 * seeds.normal(seed, (), 6), 0.0, 42.0)
    return {
        "grid": pick(len(perfusion.grids), 2),
        "occlusion": occlusion,
        "side": pick(2, 3),
        "place": pick(NUM_PLACES, 4),
        "radius_mm": radius,
        "core": between(perfusion.core, 7),
        "peak_s": between(perfusion.peak_s, 8),
        "time_h": between(perfusion.time_h, 9),
        "recanalised": ops.take(ops.convert_to_tensor(np.asarray(grades, np.float32)), pick(len(grades), 10)),
        "age": between(perfusion.age, 11),
        "nihss": nihss,
        "raggedness": perfusion.raggedness * between((0.3, 1.0), 12),
        "lag_s": between((0.0, 1.5), 13),
        "arrival_s": between((18.0, 28.0), 14),
        "old_mm": between((-15.0, 9.0), 15),
        "tissue": 1.0 + 0.08 * seeds.normal(seed, (len(TISSUES), 4), 16),
        "gain": ops.exp(0.4 * seeds.normal(seed, (2,), 17)),
        "smoothing_mm": between(perfusion.smoothing_mm, 18),
        "noise": perfusion.noise * between((0.3, 1.0), 19),
        "rotation_deg": perfusion.rotation_deg * seeds.uniform(seed, (3,), 20, low=-1.0),
        "scaling": seeds.uniform(seed, (3,), 21, low=perfusion.scaling[0], high=perfusion.scaling[1]),
        "shear": ops.zeros((6,)),
        "flip": ops.cast(seeds.uniform(seed, (), 22) < 0.5, "float32"),
        "centred": ops.cast(seeds.uniform(seed, (), 23) < perfusion.centred, "float32"),
        "crop": seeds.uniform(seed, (3,), 24, low=-1.0),
        "elsewhere": pick(len(OCCLUSIONS) * 2 * NUM_PLACES, 25),
        "seed": seeds.fold(seed, 26),
    }


@dataclasses.dataclass(frozen=True)
class Brain:
    """One anatomy in a graph.

    Attributes:
        codes: (x, y, z) uint8, tissue + 8 x territory, 1 mm: `zoo.synth.anatomy.territories.coded`.
        places: (occlusions, sides, places, 3) float32 voxels.
        outlines: real infarcts, one of which is cut off; None for balls.
    """

    codes: Tensor
    places: Tensor
    outlines: Outlines | None = None

    def place(self, params: Mapping[str, Tensor]) -> Tensor:
        """Returns the middle of what is cut off, (3,) voxel."""
        if self.outlines is not None:
            return self.outlines.place(params)
        number = (params["occlusion"] * 2 + params["side"]) * NUM_PLACES + params["place"]
        # Not by brackets: XLA would take the indices for constants and compile anew for each.
        return ops.take(ops.reshape(self.places, (-1, 3)), number, axis=0)

    def other(self, params: Mapping[str, Tensor]) -> Tensor:
        """Returns a voxel somewhere in the brain, (3,)."""
        return ops.take(ops.reshape(self.places, (-1, 3)), params["elsewhere"], axis=0)


def apply(
    brain: Brain, params: Mapping[str, Tensor], shape: Sequence[int], perfusion: Perfusion = Perfusion()
) -> tuple[Tensor, Tensor, Tensor]:
    """Paints a patch of one patient's scan, or the whole of it; compile it with XLA.

    Args:
        brain: the anatomy.
        params: what `draw` returned, and what `outlines_in_graph.draw` did where the brain has outlines.
        shape: voxels of the patch; where the scan has fewer, the scan lies in its middle.
        perfusion: the ranges it was drawn from.

    Returns:
        Maps (x, y, z, 6) float32 in the order of `CHANNELS` (1e-6 mm2/s, relative, relative, s, s, s), exactly 0
        outside the brain; the final lesion (x, y, z, 1) int32; and where the scan is (x, y, z, 1) int32.
    """
    start, size, spacing = _place_window(brain, params, shape, perfusion)
    sizes, spacings = ops.unstack(size, 3), ops.unstack(spacing, 3)
    voxel = [ops.arange(n, dtype="float32") + first for n, first in zip(shape, ops.unstack(start, 3), strict=True)]
    inside = [ops.cast((axis >= 0) & (axis < of), "float32") for axis, of in zip(voxel, sizes, strict=True)]
    scanned = inside[0][:, None, None] * inside[1][None, :, None] * inside[2][None, None, :]
    local = [(axis - (of - 1) / 2) * mm for axis, of, mm in zip(voxel, sizes, spacings, strict=True)]
    where = _place_voxels(brain, params, local, shape)
    codes = geometry.nearest(brain.codes, where)
    clean, lesion = at(brain, codes, where, params)
    head = ops.cast(codes % CODE > 0, "float32") * scanned
    maps = _measure(clean, head, params, spacing)
    keep = ops.cast(head, "int32")
    return maps, (ops.cast(lesion, "int32") * keep)[..., None], ops.cast(scanned, "int32")[..., None]


def moments(brain: Brain, params: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Returns mean and SD of each map over the whole brain, as a z-score of the whole scan uses them.

    Uses every sixth voxel along each axis of the whole brain, since a patch does not see the whole scan. Computes them
    before noise and smoothing, and scales the SD to what smoothing leaves of it.

    Args:
        brain: the anatomy.
        params: what `draw` returned.

    Returns:
        (6,) and (6,) float32.
    """
    axes = [np.arange(STATISTICS_MM // 2, size, STATISTICS_MM, dtype=np.float32) for size in brain.codes.shape]
    where = [ops.convert_to_tensor(axis) for axis in np.meshgrid(*axes, indexing="ij")]
    codes = geometry.nearest(brain.codes, where)
    maps, _ = at(brain, codes, where, params)
    head = ops.cast(codes % CODE > 0, "float32")
    count = ops.maximum(ops.sum(head), 1.0)
    mean = ops.sum(maps * head, axis=(1, 2, 3)) / count
    squared = ops.square(maps - mean[:, None, None, None])
    return mean, ops.sqrt(ops.sum(squared * head, axis=(1, 2, 3)) / count) * _LEFT + 1e-6


def at(brain: Brain, codes: Tensor, where: Sequence[Tensor], params: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Computes the maps before noise and smoothing, and the final lesion, at given places.

    Args:
        brain: the anatomy.
        codes: (...) its codes at these places.
        where: three of (...) float32, voxels of the anatomy.
        params: what `draw` returned.

    Returns:
        (6, ...) float32 and (...) bool.
    """
    tissue, territory = ops.cast(codes % CODE, "int32"), ops.cast(codes // CODE, "int32")
    deficit = _compute_deficit(brain, territory, where, params)
    late, core = ops.cast(deficit > 0, "float32"), ops.cast(deficit > 1.0 - params["core"], "float32")
    table = ops.convert_to_tensor(_NORMAL) * params["tissue"]
    adc, volume, flow, tmax = (ops.take(table[:, column], tissue, axis=0) for column in range(4))
    # Flow falls with the delay; vessels widen and keep the blood volume up until the core's collapse.
    flow = flow * (1.0 - late * (0.35 + 0.4 * deficit)) * (1.0 - 0.6 * core)
    volume = volume * (1.0 + late * 0.15) * (1.0 - 0.55 * core)
    adc = adc * (1.0 - 0.03 * late) * (1.0 - 0.4 * core)
    old = ops.cast(_measure_distance(where, brain.other(params)) < params["old_mm"], "float32") * (1.0 - late)
    adc, flow, volume = adc * (1.0 + old), flow * (1.0 - 0.6 * old), volume * (1.0 - 0.5 * old)
    same_side = ops.cast(ops.equal(ops.maximum(territory - 1, 0) % 2, params["side"]) & (territory > 0), "float32")
    tmax = tmax + same_side * params["lag_s"] * (1.0 - late)
    tmax = ops.where(deficit > 0, LATE_S + (params["peak_s"] - LATE_S) * deficit, tmax)
    lost = (core > 0) | ((deficit > 0) & (tmax > survival_s(params["time_h"], params["recanalised"])))
    mtt = ops.minimum(60.0 * volume / ops.maximum(flow, 0.5), LONGEST_S)
    ttp = params["arrival_s"] + tmax + 0.5 * mtt
    maps = [adc, volume * params["gain"][0], flow * params["gain"][1], mtt, ttp, ops.minimum(tmax, LONGEST_S)]
    return ops.stack(maps), lost & (tissue > 1)


def _compute_deficit(brain: Brain, territory: Tensor, where: Sequence[Tensor], params: Mapping[str, Tensor]) -> Tensor:
    """Returns 0 where blood arrives in time, up to 1 in the middle of what is cut off, (...) float32."""
    grid = [math.ceil(size / LATTICE_MM) + 1 for size in brain.codes.shape]
    lattice = seeds.normal(params["seed"], grid, 1)
    rough = geometry.linear(lattice, [axis / LATTICE_MM for axis in where])
    if brain.outlines is not None:  # the delay is ragged, its outline stays
        return brain.outlines.depth(where, params) * ops.exp(params["raggedness"] * rough)
    tables = np.concatenate([members(name) for name in OCCLUSIONS]).astype(np.float32)
    member = ops.take(ops.convert_to_tensor(tables), params["occlusion"] * 2 + params["side"], axis=0)
    # The atlas ends before the largest code; what lies beyond belongs to nothing.
    cut_off = ops.take(member, ops.minimum(territory, member.shape[0] - 1), axis=0)
    distance = _measure_distance(where, brain.place(params))
    return cut_off * ops.maximum(1.0 - distance / params["radius_mm"] + params["raggedness"] * rough, 0.0)


def _measure_distance(where: Sequence[Tensor], centre: Tensor) -> Tensor:
    return ops.sqrt(sum(ops.square(axis - centre[number]) for number, axis in enumerate(where)) + 1e-6)


def _place_window(
    brain: Brain, params: Mapping[str, Tensor], shape: Sequence[int], perfusion: Perfusion
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns first voxel of the patch, voxels of the scan, and their size in mm, (3,) float32 each."""
    tables = [np.array([grid[part] for grid in perfusion.grids], np.float32) for part in (0, 1)]
    size, spacing = (ops.take(ops.convert_to_tensor(table), params["grid"], axis=0) for table in tables)
    target = ops.where(params["centred"] > 0.5, brain.place(params), brain.other(params))
    local = ops.sum(_invert(geometry.affine(params)) * (target - _find_middle(brain))[None, :], axis=1)
    patch_size = ops.convert_to_tensor(np.asarray(shape, np.float32))
    start = ops.floor(local / spacing + (size - 1) / 2 - patch_size / 2 + params["crop"] * patch_size / 4)
    room = size - patch_size
    return ops.where(room >= 0, ops.clip(start, 0.0, ops.maximum(room, 0.0)), ops.floor(room / 2)), size, spacing


def _find_middle(brain: Brain) -> Tensor:
    return ops.convert_to_tensor(np.array([(size - 1) / 2 for size in brain.codes.shape], np.float32))


def _invert(matrix: Tensor) -> Tensor:
    """Inverts a (3, 3) matrix by cross products of its rows."""
    a, b, c = ops.unstack(matrix, 3)
    columns = [ops.cross(b, c), ops.cross(c, a), ops.cross(a, b)]
    return ops.stack(columns, axis=1) / ops.sum(a * columns[0])


def _place_voxels(
    brain: Brain, params: Mapping[str, Tensor], local: Sequence[Tensor], shape: Sequence[int]
) -> list[Tensor]:
    """Returns the place in the anatomy of each voxel of the patch: three of (x, y, z) float32."""
    matrix, middle = geometry.affine(params), _find_middle(brain)
    coarse = seeds.normal(params["seed"], (3, *fields.coarse_shape(shape, 0.06)), 2)
    moved = fields.upsample(1.5 * coarse, shape)
    x, y, z = local[0][:, None, None], local[1][None, :, None], local[2][None, None, :]
    return [
        matrix[axis, 0] * x + matrix[axis, 1] * y + matrix[axis, 2] * z + middle[axis] + moved[axis]
        for axis in range(3)
    ]


def _measure(clean: Tensor, head: Tensor, params: Mapping[str, Tensor], spacing: Tensor) -> Tensor:
    """Adds noise, then smooths within the brain; returns (x, y, z, 6), 0 outside."""
    noise = params["noise"] * seeds.normal(params["seed"], clean.shape, 3)
    # The time to peak is as certain late as early: its noise is that of the delay.
    level = np.array([0, 0, 0, 0, 1, 0], np.float32)[:, None, None, None] * params["arrival_s"]
    maps = ops.concatenate([(clean + noise * (clean - level)) * head, head[None]])
    matrices = [_make_gaussian(size, params["smoothing_mm"] / spacing[axis]) for axis, size in enumerate(head.shape)]
    smooth = fields.separable(maps, matrices)
    maps = smooth[:-1] / ops.maximum(smooth[-1:], 1e-3) * head
    return ops.transpose(maps, (1, 2, 3, 0))


def _make_gaussian(size: int, sd: Tensor) -> Tensor:
    """Returns the matrix (size, size) that smooths an axis; `sd` in voxels."""
    difference = np.arange(size, dtype=np.float32)[:, None] - np.arange(size, dtype=np.float32)
    return ops.exp(-0.5 * ops.square(difference / ops.maximum(sd, 1e-2)))
