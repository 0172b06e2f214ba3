"""Simulates T1, T2 and FLAIR of a brain with lacunes and their mimics, over real anatomy, by two scanners.

Tissue gets its signal from its relaxation times. Lacunes are small ovoids of fluid with a bright rim on FLAIR, deep in
the brain. Four mimics lie among them: perivascular spaces (thin tubes of fluid, radial, no rim), fluid in sulci,
white-matter hyperintensities, and balls that look exactly like lacunes but lie where no lacune can be.

Source: sizes, places and looks after Wardlaw et al., Lancet Neurology 2013, doi:10.1016/S1474-4422(13)70124-8; signals
as `zoo.synth.contrast` computes them. How often each kind occurs is our choice.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from zoo.synth import acquisition, contrast, fields, geometry, seeds
from zoo.synth.acquisition import Acquisition
from zoo.synth.lacunes import objects as objects
from zoo.synth.lacunes.placement import IMPOSSIBLE, KINDS, TISSUE, Brain
from zoo.synth.lesion_shapes import centre

Tensor = Any
Params = dict[str, Any]
CHANNELS = ("T1", "T2", "FLAIR")
LACUNE = 1 + KINDS.index("lacune")  # its value in a map of kinds; the other kinds follow in their order
# T1 ms, T2 ms and density of a white-matter hyperintensity at 3 T: between white matter and fluid, nearer the former.
HYPERINTENSITY = (1350.0, 145.0, 0.82)
_RELAXATION = np.concatenate([contrast.TISSUES, [HYPERINTENSITY]]).astype(np.float32)
_FLUID = int(np.argmax(contrast.TISSUES[:, 0]))
_LEFT = 0.93  # what blur and partial volume leave of the SD over the brain, from whole scans of training anatomies


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scanner:
    """How T1, T2 and FLAIR are acquired.

    Attributes:
        times_ms: least and largest repetition, echo and inversion time of each channel.
        relaxation: factor on T1 and on T2, as another field strength has it.
        channels: resolution, blur, bias and noise of each channel.
    """

    times_ms: tuple[tuple[tuple[float, float], ...], ...] = tuple(contrast.PROTOCOLS[k] for k in ("t1", "t2", "flair"))
    relaxation: tuple[float, float] = (1.0, 1.0)
    channels: tuple[Acquisition, Acquisition, Acquisition] = (
        Acquisition(bias_sd=0.25, isotropic_mm=(1.0, 1.2), anisotropic=0.0, noise=0.03, blur=0.5, ghost=0.0),
        Acquisition(
            bias_sd=0.25, isotropic_mm=(1.0, 1.3), anisotropic=0.3, anisotropic_mm=(1.0, 2.0), noise=0.03, blur=0.5,
            ghost=0.0,
        ),
        Acquisition(
            bias_sd=0.25, isotropic_mm=(1.0, 1.5), anisotropic=0.3, anisotropic_mm=(1.0, 2.0), noise=0.03, blur=0.5,
            ghost=0.0,
        ),
    )  # fmt: skip


FIRST = Scanner()
_THICK = Acquisition(bias_sd=0.4, anisotropic=1.0, anisotropic_mm=(1.0, 3.0), noise=0.05, blur=0.6, ghost=0.0)
# 1.5 T: shorter T1, longer T2, other timing, slices of up to 3 mm on T2 and FLAIR, more bias and noise. Never trains.
SECOND = Scanner(
    times_ms=(
        ((1900, 2200), (3, 5), (1000, 1200)),
        ((4000, 7000), (95, 130), (0, 0)),
        ((7500, 9000), (110, 150), (2050, 2250)),
    ),
    relaxation=(0.78, 1.1),
    channels=(
        Acquisition(bias_sd=0.4, isotropic_mm=(1.0, 1.3), anisotropic=0.0, noise=0.05, blur=0.6, ghost=0.0),
        _THICK,
        _THICK,
    ),
)
SCANNERS = {"first": FIRST, "second": SECOND}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vascular:
    """Ranges of what is drawn into one sample; lengths in mm.

    Attributes:
        lacunes: least and largest number, in a sample that has any.
        positive: share of samples that have lacunes.
        perivascular: least and largest number of perivascular spaces; the next three are such pairs too.
        sulcal: pockets of fluid in the cortex.
        hyperintensities: of white matter.
        impossible: lacune-like balls in cortex and at the walls of the ventricles.
        diameter_mm: of a lacune and of a lacune-like ball, drawn evenly in its logarithm.
        elongation: largest axis ratio of both; no axis exceeds the largest diameter.
        rim_mm: width of the rim on FLAIR.
        rim: relative brightening of the rim.
        tube_radius_mm: of perivascular spaces.
        tube_mm: length of perivascular spaces.
        sulcal_mm: diameter of the pockets.
        hyperintensity_mm: diameter of the hyperintensities.
        rotation_deg: largest turn of the head about each axis.
        scaling: least and largest size of the head.
        deep: share of patches around a place that may have a lacune; the others lie anywhere in the brain.
        jitter_mm: how far that place may be from the middle of the patch, along each axis.
    """

    lacunes: tuple[int, int] = (1, 3)
    positive: float = 1 / 3
    perivascular: tuple[int, int] = (0, 6)
    sulcal: tuple[int, int] = (0, 3)
    hyperintensities: tuple[int, int] = (0, 3)
    impossible: tuple[int, int] = (0, 3)
    diameter_mm: tuple[float, float] = (3.0, 15.0)
    elongation: float = 2.0
    rim_mm: tuple[float, float] = (1.0, 2.0)
    rim: tuple[float, float] = (0.2, 0.6)
    tube_radius_mm: tuple[float, float] = (0.5, 1.5)
    tube_mm: tuple[float, float] = (5.0, 20.0)
    sulcal_mm: tuple[float, float] = (3.0, 8.0)
    hyperintensity_mm: tuple[float, float] = (4.0, 16.0)
    rotation_deg: float = 12.0
    scaling: tuple[float, float] = (0.9, 1.1)
    deep: float = 0.7
    jitter_mm: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.positive <= 1:
            raise ValueError(f"positive is a share of samples, 0 to 1, got {self.positive}.")
        for name in ("lacunes", "perivascular", "sulcal", "hyperintensities", "impossible"):
            least, most = getattr(self, name)
            if not 0 <= least <= most:
                raise ValueError(f"{name} is (least, most) with 0 <= least <= most, got {(least, most)}.")

    @property
    def counts(self) -> tuple[tuple[int, int], ...]:
        """Returns the least and largest number of each kind, in the order of `KINDS`."""
        return self.lacunes, self.perivascular, self.sulcal, self.hyperintensities, self.impossible


WHOLE = Vascular(
    lacunes=(0, 6), positive=1.0, perivascular=(10, 25), sulcal=(3, 8), hyperintensities=(4, 12), impossible=(3, 6),
    rotation_deg=0.0, scaling=(1.0, 1.0),
)  # fmt: skip


def draw(
    seed: Tensor, vascular: Vascular = Vascular(), scanner: Scanner = FIRST, *, around: Vascular | None = None
) -> Params:
    """Draws one head, its objects, and one acquisition.

    Args:
        seed: an int or an integer tensor.
        vascular: ranges of the head and of the objects in the patch.
        scanner: ranges of the acquisition.
        around: ranges of the objects around the patch, where `apply` paints more than the patch.

    Returns:
        Of n objects, the largest number of all kinds: `present` (n,) 0 or 1, `half_mm` (n,) half the length of a
        tube's axis, `axes_mm` (n, 3) radii, `direction` (n, 3), `rim_mm` (n,), `rim` (n,), `edge_mm` (n,), `seeds`
        (n,), `kind` (n,) int32, `around` (n,) bool. Of the head: `rotation_deg`, `scaling`, `shear`, `flip`, `place`
        (), `jitter_mm` (3,), `deep` (). Of the scanner: `means` and `sds` (3, classes), `hyperintensity` (3,). And
        `seed` ().
    """
    object_params = _draw_all_objects(seed, vascular, around=False)
    if around is not None:
        others = _draw_all_objects(seeds.fold(seed, 320), around, around=True)
        object_params = {name: ops.concatenate([object_params[name], others[name]]) for name in object_params}
    low, high = vascular.scaling
    means, sds, bright = _draw_signals(seeds.fold(seed, 310), scanner)
    return object_params | {
        "rotation_deg": vascular.rotation_deg * seeds.uniform(seed, (3,), 1, low=-1.0),
        "scaling": seeds.uniform(seed, (3,), 2, low=low, high=high),
        "shear": ops.zeros((6,)),
        "flip": ops.cast(seeds.uniform(seed, (), 3) < 0.5, "float32"),
        "place": seeds.uniform(seed, (), 4),
        "deep": ops.cast(seeds.uniform(seed, (), 5) < vascular.deep, "int32"),
        "jitter_mm": vascular.jitter_mm * seeds.uniform(seed, (3,), 6, low=-1.0),
        "means": means,
        "sds": sds,
        "hyperintensity": bright,
        "seed": seeds.fold(seed, 311),
    }


def _draw_all_objects(seed: Tensor, vascular: Vascular, *, around: bool) -> Params:
    """Draws the objects of all kinds, one kind after another."""
    parts = [_draw_objects(seeds.fold(seed, 300 + k), kind, vascular) for k, kind in enumerate(KINDS)]
    params = {name: ops.concatenate([part[name] for part in parts]) for name in parts[0]}
    kinds = np.repeat(np.arange(len(KINDS), dtype=np.int32), [most for _, most in vascular.counts])
    tags = {"kind": kinds, "around": np.full(kinds.shape, around)}
    return params | {name: ops.convert_to_tensor(each) for name, each in tags.items()}


def _draw_objects(seed: Tensor, kind: str, vascular: Vascular) -> Params:
    """Draws the objects of one kind; marks those beyond the drawn number as not present."""
    least, most = vascular.counts[KINDS.index(kind)]
    each = lambda stream, limits: seeds.uniform(seed, (most,), stream, low=limits[0], high=limits[1])  # noqa: E731
    count = least + ops.floor((most - least + 1) * seeds.uniform(seed, (), 1))
    present = ops.cast(ops.arange(most, dtype="float32") < count, "float32")
    if kind == "lacune":
        present = present * ops.cast(seeds.uniform(seed, (), 2) < vascular.positive, "float32")
    direction = seeds.normal(seed, (most, 3), 3)
    half, axes = _draw_shapes(kind, vascular, each, seeds.uniform(seed, (most, 3), 4, low=-0.5, high=0.5))
    rimmed = float(kind in ("lacune", "impossible"))
    return {
        "present": present,
        "half_mm": half,
        "axes_mm": axes,
        "direction": direction / ops.sqrt(ops.sum(ops.square(direction), axis=-1, keepdims=True) + 1e-6),
        "rim_mm": each(5, vascular.rim_mm),
        "rim": rimmed * each(6, vascular.rim),
        "edge_mm": each(7, (1.5, 4.0)) if kind == "hyperintensity" else ops.ones((most,)),
        "seeds": seeds.bits(seed, (most,), 8),
    }


def _draw_shapes(kind: str, vascular: Vascular, each: Any, u: Tensor) -> tuple[Tensor, Tensor]:
    """Draws half the length of the axis (n,) and radii (n, 3) of one kind, in mm."""
    if kind == "perivascular":
        radius = each(10, vascular.tube_radius_mm)
        half = ops.maximum(each(11, vascular.tube_mm) / 2 - radius, 0.0)
        return half, ops.repeat(radius[:, None], 3, axis=1)
    limits = {"sulcal": vascular.sulcal_mm, "hyperintensity": vascular.hyperintensity_mm}.get(
        kind, vascular.diameter_mm
    )
    radius = ops.exp(each(10, [math.log(limit / 2) for limit in limits]))
    ratio = {"sulcal": 3.5, "hyperintensity": 3.0}.get(kind, vascular.elongation)
    stretch = ops.exp(math.log(ratio) * (u - ops.mean(u, axis=1, keepdims=True)))
    return ops.zeros_like(radius), ops.minimum(radius[:, None] * stretch, limits[1] / 2)


def _draw_signals(seed: Tensor, scanner: Scanner) -> tuple[Tensor, Tensor, Tensor]:
    """Draws mean and SD of each class in each channel (3, classes), and the signal of a hyperintensity (3,)."""
    factor = np.array([*scanner.relaxation, 1.0], np.float32)
    # Tissue is the same in all three channels: one draw of its relaxation.
    table = _RELAXATION * factor * ops.exp(0.05 * seeds.normal(seed, _RELAXATION.shape, 1))
    t1, t2, density = ops.unstack(table, 3, axis=1)
    rows = []
    for number, kind in enumerate(("t1", "t2", "flair")):
        limits = np.array(scanner.times_ms[number], np.float32)
        times = ops.unstack(seeds.uniform(seed, (3,), 2 + number, low=limits[:, 0], high=limits[:, 1]), 3)
        signal = contrast.signal_of(kind, t1, t2, density, times)
        rows.append(signal / ops.max(signal))
    means = ops.stack(rows)
    sds = 0.02 * seeds.uniform(seed, means.shape, 6, low=0.3, high=1.5)
    return means[:, :-1], sds[:, :-1], means[:, -1]


def apply(
    brain: Brain,
    params: Mapping[str, Any],
    shape: Sequence[int],
    scanner: Scanner = FIRST,
    *,
    whole: bool = False,
    location: bool = False,
    inner: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Paints a patch of one scan, or the whole of it; compile it with XLA.

    Args:
        brain: the anatomy.
        params: what `draw` returned.
        shape: voxels of 1 mm.
        scanner: the ranges that the acquisition was drawn from.
        whole: centres the patch in the anatomy instead of at a drawn place, and bends nothing.
        location: adds four channels: where the voxel lies along x, y and z, in lengths of the brain from its middle,
            and its distance to the ventricles in units of 30 mm.
        inner: voxels in the middle that hold the objects of the patch; objects drawn `around` lie outside them.

    Returns:
        T1, T2, FLAIR (x, y, z, 3 or 7) float32, each with mean 0 and SD 1 over the brain of the whole scan and
        exactly 0 outside it; the kinds of `KINDS` by number + 1 (x, y, z) int32, 0 where there is none; and where no
        lacune can be (x, y, z) bool: cortex, fluid, and within 2 mm of them, and outside the brain.
    """
    where = _place_voxels(brain, params, shape, whole)
    codes, zones = (geometry.nearest(each, where) for each in (brain.codes, brain.zones))
    head = ops.cast(codes > 0, "float32")
    image, kinds = _paint_objects(_paint_tissue(codes, params), codes, zones, where, brain, params, inner=inner)
    image = _acquire(image * head, head, brain, params, scanner)
    image = ops.transpose(image, (1, 2, 3, 0))
    if location:
        image = ops.concatenate([image, _location_channels(brain, where, head)], axis=-1)
    impossible = (zones & IMPOSSIBLE > 0) | (codes == 0)
    return image, kinds * ops.cast(head, "int32"), impossible


def _place_voxels(brain: Brain, params: Mapping[str, Any], shape: Sequence[int], whole: bool) -> list[Tensor]:
    """Returns the place in the anatomy of each voxel of the patch: three of (x, y, z) float32."""
    middle = ops.convert_to_tensor(np.array([(size - 1) / 2 for size in brain.codes.shape], np.float32))
    if not whole:
        row = params["deep"] * brain.places.shape[0] // 2
        row = row + ops.cast(params["place"] * (brain.places.shape[0] // 2), "int32")
        middle = ops.take(brain.places, row, axis=0) + params["jitter_mm"]
    matrix = geometry.affine(params)
    bend = 0.0 if whole else 1.5
    moved = fields.upsample(bend * seeds.normal(params["seed"], (3, *fields.coarse_shape(shape, 0.06)), 1), shape)
    x, y, z = (ops.arange(size, dtype="float32") - (size - 1) / 2 for size in shape)
    x, y, z = x[:, None, None], y[None, :, None], z[None, None, :]
    return [
        matrix[axis, 0] * x + matrix[axis, 1] * y + matrix[axis, 2] * z + middle[axis] + moved[axis]
        for axis in range(3)
    ]


def _paint_tissue(codes: Tensor, params: Mapping[str, Any]) -> Tensor:
    """Paints the signal of each class with its own texture, mixed at borders; returns (3, x, y, z)."""
    index = ops.cast(codes, "int32")
    coarse = [size // 4 + 2 for size in codes.shape]
    channels = []
    for number in range(len(CHANNELS)):
        mean, sd = (ops.take(params[name][number], index, axis=0) for name in ("means", "sds"))
        rough = fields.upsample(seeds.normal(params["seed"], coarse, 10 + number), codes.shape)
        channels.append(contrast.partial_volume(mean, ops.ones(()) * 0.12) + sd * rough)
    return ops.stack(channels)


def _paint_objects(
    image: Tensor,
    codes: Tensor,
    zones: Tensor,
    where: Sequence[Tensor],
    brain: Brain,
    params: Mapping[str, Any],
    *,
    inner: Sequence[int] | None,
) -> tuple[Tensor, Tensor]:
    """Paints the objects, lacunes last; returns (3, x, y, z) and the map of kinds."""
    names = ("present", "half_mm", "axes_mm", "direction", "rim_mm", "rim", "edge_mm", "seeds", "kind", "around")
    total = params["present"].shape[0]
    fluid = ops.stack([params["means"][channel][_FLUID] for channel in range(3)])
    bright = ops.cast(ops.arange(3) == CHANNELS.index("FLAIR"), "float32")
    turn = geometry.affine(params)
    inside = ops.cast(codes > 0, "float32")
    axes = [ops.arange(size, dtype="float32") for size in codes.shape]
    within = objects.middle(codes.shape, codes.shape if inner is None else inner)

    def put(step: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        image, kinds = state
        # From the last row to the first: lacunes, which come first, are painted over all else.
        row = {name: ops.take(params[name], total - 1 - step, axis=0) for name in names}
        kind = row["kind"]
        allowed = ops.cast(ops.right_shift(ops.cast(zones, "int32"), kind) & 1, "bool")
        allowed = allowed & (within != row["around"])
        middle, anywhere = centre(allowed, row["seeds"])
        depth = objects.depth(axes, ops.cast(middle, "float32"), row, objects.axis_of(middle, where, brain, turn, row))
        tissue = ops.where(kind == 0, ops.cast(zones & TISSUE > 0, "float32"), inside)
        there = row["present"] * anywhere * tissue
        cover = ops.clip(0.5 + depth / row["edge_mm"], 0.0, 1.0) * there
        rim = (ops.clip(0.5 + depth + row["rim_mm"], 0.0, 1.0) * there - cover) * row["rim"]
        is_bright = kind == KINDS.index("hyperintensity")
        value = ops.where(is_bright, params["hyperintensity"], fluid)[:, None, None, None]
        image = image * (1.0 + bright[:, None, None, None] * ops.maximum(rim, 0.0))
        return image + cover * (value - image), ops.where(cover > 0.5, kind + 1, kinds)

    none = ops.zeros(codes.shape, dtype="int32")
    return ops.fori_loop(0, total, put, (image, none)) if total else (image, none)


def _acquire(image: Tensor, head: Tensor, brain: Brain, params: Mapping[str, Any], scanner: Scanner) -> Tensor:
    """Applies bias, slices, noise, and the z-score of the whole brain; returns (3, x, y, z), 0 outside."""
    residual = 0.1 * seeds.normal(params["seed"], (2, len(CHANNELS)), 20)
    channels = []
    for number, ranges in enumerate(scanner.channels):
        drawn = acquisition.draw(seeds.fold(params["seed"], 30 + number), head.shape, ranges)
        channel = image[number] * acquisition.bias_field(drawn["bias"], head.shape)
        channel = acquisition.rician(acquisition.blurred(channel, drawn), drawn["noise"], drawn["seed"])
        means = params["means"][number]
        mean = ops.sum(brain.shares * means)
        sd = _LEFT * ops.sqrt(ops.sum(brain.shares * ops.square(means - mean)) + 1e-6)
        channels.append((channel - mean - residual[0, number] * sd) / (sd * (1.0 + residual[1, number])) * head)
    return ops.stack(channels)


def _location_channels(brain: Brain, where: Sequence[Tensor], head: Tensor) -> Tensor:
    """Returns the place from the middle in lengths of the brain, and the distance to the ventricles over 30 mm."""
    place = [(axis - brain.middle[number]) / brain.extent[number] for number, axis in enumerate(where)]
    far = ops.cast(geometry.nearest(brain.ventricle_mm, where), "float32") / 30.0
    return ops.stack([*place, far], axis=-1) * head[..., None]
