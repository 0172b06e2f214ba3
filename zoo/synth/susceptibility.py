"""Paints susceptibility maps over an anatomy: values from the literature, dipole physics, noise and an inversion.

A map differs from the truth as after a scan and a reconstruction: blurred by slices, streaked by the inversion,
referred to fluid or to the whole brain, and cut by a mask. All susceptibilities are in ppm.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from zoo.synth import acquisition, dipole, fields, seeds
from zoo.synth.anatomy import labels
from zoo.synth.contrast import partial_volume

Tensor = Any
Params = dict[str, Tensor]
Shape = Sequence[int]

# Least and largest mean of a structure over subjects, in ppm, relative to water. Centres: the phantom of the 2019 QSM
# challenge (Marques et al., MRM 2021, doi:10.1002/mrm.28716); spans over age: Li et al., Human Brain Mapping 2014,
# doi:10.1002/hbm.22360; brainstem, cerebellum and ventral diencephalon as white matter with some iron.
RANGES_PPM = {
    "background": (0.0, 0.0),
    "csf": (-0.01, 0.03),
    "ventricle": (-0.01, 0.03),
    "cortex": (0.0, 0.04),
    "white": (-0.05, -0.01),
    "cerebellum_cortex": (0.0, 0.03),
    "cerebellum_white": (-0.04, 0.0),
    "brainstem": (-0.03, 0.01),
    "thalamus": (-0.01, 0.04),
    "caudate": (0.02, 0.09),
    "putamen": (0.02, 0.12),
    "pallidum": (0.08, 0.20),
    "hippocampus": (-0.01, 0.03),
    "amygdala": (-0.01, 0.03),
    "accumbens": (0.01, 0.06),
    "ventral_diencephalon": (-0.02, 0.03),
    "substantia_nigra": (0.07, 0.20),
    "red_nucleus": (0.06, 0.16),
    "dentate": (0.06, 0.19),
    "skull": (0.0, 0.0),
    "scalp": (0.0, 0.0),
    "soft_tissue": (0.0, 0.0),
    "eye": (0.0, 0.0),
    "third_ventricle": (-0.01, 0.03),
    "fourth_ventricle": (-0.01, 0.03),
    "inferior_ventricle": (-0.01, 0.03),
    "choroid": (-0.02, 0.04),
    "inferior_choroid": (-0.02, 0.04),
    "optic_chiasm": (-0.05, -0.01),
    "vessel": (-0.01, 0.03),
    "lesion": (-0.03, 0.02),
    "vein": (0.15, 0.35),
    "spinal_cord": (-0.03, 0.01),
    **dict.fromkeys(("cortical_bone", "marrow", "mucosa", "eye_muscle", "optic_nerve", "air", "skin"), (0.0, 0.0)),
}
FLUIDS = ("ventricle", "third_ventricle", "fourth_ventricle", "inferior_ventricle")
IRON_RICH = ("caudate", "putamen", "pallidum", "accumbens", "substantia_nigra", "red_nucleus", "dentate")
_NAMES = [label.name.removeprefix("left_").removeprefix("right_") for label in labels.LABELS]
_TABLE = np.array([RANGES_PPM[name] for name in _NAMES], np.float32)
_AGES = np.array([name in IRON_RICH for name in _NAMES])
_TISSUE = np.isin(np.arange(labels.NUM_LABELS), (*labels.BRAIN, labels.INDEX["csf"])).astype(np.float32)
_FLUID = np.array([name in FLUIDS for name in _NAMES], np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Susceptibility:
    """Ranges of a susceptibility map.

    Attributes:
        asymmetry: largest relative difference of a hemisphere from the mean of both.
        age_share: share of an iron-rich nucleus' place in its range that is common to all such nuclei.
        texture_ppm: least and largest SD within a structure.
        veins: number of veins.
        vein_ppm: least and largest susceptibility of venous blood.
        vein_radius_mm: least and largest radius.
        tilt_deg: largest angle between the main field and z.
        field_t: main fields, drawn evenly.
        echo_s: least and largest echo time.
        snr: least and largest signal over noise of the magnitude.
        threshold: of thresholded k-space division, least and largest.
        smoothness_mm2: weight of the closed-form inversion, drawn in its logarithm.
        direct_noise_ppm: largest SD of white noise where the truth replaces the reconstruction.
        rim_ppm: largest residual of the background field at the rim, decaying inwards over 5 mm.
        erosion: least and largest threshold of the smoothed brain for the mask; 0.5 is the brain's border.
        in_plane_mm: least and largest voxel in the plane of the slices.
        slices_mm: least and largest distance between slices.
        spacing_mm: voxel size of the sample.
        padding: size of the transform over that of the sample.
    """

    asymmetry: float = 0.1
    age_share: float = 0.7
    texture_ppm: tuple[float, float] = (0.003, 0.010)
    veins: int = 12
    vein_ppm: tuple[float, float] = (0.15, 0.35)
    vein_radius_mm: tuple[float, float] = (0.5, 1.5)
    tilt_deg: float = 20.0
    field_t: tuple[float, ...] = (1.5, 3.0, 7.0)
    echo_s: tuple[float, float] = (0.012, 0.025)
    snr: tuple[float, float] = (20.0, 150.0)
    threshold: tuple[float, float] = (0.1, 0.25)
    smoothness_mm2: tuple[float, float] = (0.003, 0.1)
    direct_noise_ppm: float = 0.015
    rim_ppm: float = 0.05
    erosion: tuple[float, float] = (0.5, 0.7)
    in_plane_mm: tuple[float, float] = (0.6, 1.5)
    slices_mm: tuple[float, float] = (0.6, 3.0)
    spacing_mm: float = 1.0
    padding: float = 2.0


def draw(seed: Tensor, shape: Shape, ranges: Susceptibility = Susceptibility()) -> Params:
    """Draws one subject, one scan and one reconstruction.

    Args:
        seed: an int or an integer tensor.
        shape: voxels (x, y, z) of the sample.
        ranges: the ranges.

    Returns:
        `means_ppm` and `sds_ppm` (labels,), `partial_volume` (), veins as `vein_from` and `vein_along` (veins, 3) in
        -1 to 1 and unit vectors, `vein_radius_mm` and `vein_ppm` (veins,), `direction` (3,), `noise_ppm` () of the
        field, `inversion` () 0 to 2, `threshold`, `smoothness_mm2`, `direct_noise_ppm` (), `rim` (grid) ppm,
        `erosion` (), `to_fluid` () 0 or 1, `resolution_mm` and `blur` (3,), `seed` () of the noise.
    """
    u = lambda stream, size=(): seeds.uniform(seed, size, stream)  # noqa: E731
    between = lambda bounds, part: bounds[0] + (bounds[1] - bounds[0]) * part  # noqa: E731
    radians = dipole.radians_per_ppm(
        ops.take(
            ops.convert_to_tensor(ranges.field_t, "float32"), ops.cast(u(61) * len(ranges.field_t), "int32"), axis=0
        ),
        between(ranges.echo_s, u(62)),
    )
    along = seeds.normal(seed, (max(ranges.veins, 1), 3), 63)
    low, high = (np.log(value) for value in ranges.smoothness_mm2)
    return {
        "means_ppm": _draw_means(seed, ranges),
        "sds_ppm": between(ranges.texture_ppm, u(64, (labels.NUM_LABELS,))),
        "partial_volume": 0.05 + 0.15 * u(65),
        "vein_from": 2 * u(66, along.shape) - 1,
        "vein_along": along / ops.sqrt(ops.sum(ops.square(along), axis=1, keepdims=True)),
        "vein_radius_mm": between(ranges.vein_radius_mm, u(67, along.shape[:1])),
        "vein_ppm": between(ranges.vein_ppm, u(68, along.shape[:1])) * float(ranges.veins > 0),
        "direction": dipole.direction(ranges.tilt_deg * u(69), 360.0 * u(70)),
        "noise_ppm": 1.0 / (between(ranges.snr, u(71)) * radians),
        "inversion": ops.cast(3 * u(72), "int32"),
        "threshold": between(ranges.threshold, u(73)),
        "smoothness_mm2": ops.exp(between((low, high), u(74))),
        "direct_noise_ppm": ranges.direct_noise_ppm * u(75),
        "rim": ranges.rim_ppm * u(76) * seeds.normal(seed, fields.coarse_shape(shape, 0.05), 77),
        "erosion": between(ranges.erosion, u(78)),
        "to_fluid": ops.cast(u(79) < 0.5, "float32"),
        "seed": seeds.fold(seed, 80),
        **_draw_sampling(seed, ranges),
    }


def _draw_means(seed: Tensor, ranges: Susceptibility) -> Tensor:
    """Draws the ppm of each label in its range, correlated where iron grows with age; sides differ a little."""
    first = np.minimum(labels.PARTNERS, np.arange(labels.NUM_LABELS))
    own = ops.take(seeds.uniform(seed, (labels.NUM_LABELS,), 81), ops.convert_to_tensor(first), axis=0)
    age = seeds.uniform(seed, (), 82)
    place = ops.where(ops.convert_to_tensor(_AGES), ranges.age_share * age + (1 - ranges.age_share) * own, own)
    middle = _TABLE[:, 0] + (_TABLE[:, 1] - _TABLE[:, 0]) * place
    uneven = ranges.asymmetry / 2 * seeds.uniform(seed, (labels.NUM_LABELS,), 83, low=-1.0)
    side = np.sign(labels.PARTNERS - np.arange(labels.NUM_LABELS)).astype(np.float32)
    return middle * (1.0 + side * ops.take(uneven, ops.convert_to_tensor(first), axis=0))


def _draw_sampling(seed: Tensor, ranges: Susceptibility) -> Params:
    """Draws the scan's voxels: square in the plane, slices at least as far apart, none finer than the grid."""
    plane = seeds.uniform(seed, (), 84, low=ranges.in_plane_mm[0], high=ranges.in_plane_mm[1])
    slices = ops.maximum(plane, seeds.uniform(seed, (), 85, low=ranges.slices_mm[0], high=ranges.slices_mm[1]))
    axis = ops.cast(3 * seeds.uniform(seed, (), 86), "int32")
    # Two scans in three are axial, as nearly all are.
    axis = ops.where(seeds.uniform(seed, (), 87) < 0.5, 2, axis)
    resolution = ops.maximum(ops.where(ops.arange(3) == axis, slices, plane), ranges.spacing_mm)
    return {
        "resolution_mm": resolution,
        "blur": 0.4 * resolution / ranges.spacing_mm,
        "ghost": ops.zeros((3,)),
        "ghost_shift": ops.zeros(()),
    }


def apply(label_map: Tensor, params: Mapping[str, Tensor], ranges: Susceptibility = Susceptibility()) -> Tensor:
    """Simulates scan and reconstruction of an anatomy's susceptibility map; compile it with XLA.

    Args:
        label_map: (x, y, z) integers of the scheme, static shape.
        params: what `draw` returned for that shape.
        ranges: only spacing and padding are used.

    Returns:
        (x, y, z) float32 in ppm, exactly 0 outside the mask.
    """
    index = ops.cast(label_map, "int32")
    tissue = ops.take(ops.convert_to_tensor(_TISSUE), index, axis=0)
    chi = susceptibility(index, params, ranges) * tissue
    measured = reconstructed(chi, tissue, params, ranges)
    depth = _smooth(tissue, 2.0 / ranges.spacing_mm)
    rim = fields.upsample(params["rim"], chi.shape) * ops.square(2.0 * (1.0 - depth))
    mask = ops.cast(depth > params["erosion"], "float32")
    measured = acquisition.blurred(measured + rim, params, ranges.spacing_mm)
    fluid = ops.take(ops.convert_to_tensor(_FLUID), index, axis=0) * mask
    whole = _average_inside(measured, mask)
    reference = ops.where(ops.sum(fluid) > 0, _average_inside(measured, fluid), whole)
    return (measured - ops.where(params["to_fluid"] > 0.5, reference, whole)) * mask


def susceptibility(index: Tensor, params: Mapping[str, Tensor], ranges: Susceptibility) -> Tensor:
    """Paints the true map: means with partial volume, texture, and veins.

    Args:
        index: (x, y, z) int32 labels of the scheme.
        params: what `draw` returned.
        ranges: its spacing is used.

    Returns:
        (x, y, z) float32 in ppm.
    """
    mean = partial_volume(ops.take(params["means_ppm"], index, axis=0), params["partial_volume"])
    grain = partial_volume(seeds.normal(params["seed"], index.shape, 1), 0.25 * ops.ones(()))
    # Smoothing by (1, 2, 1) / 4 along three axes leaves (3/8)^(3/2) of a white SD.
    chi = mean + ops.take(params["sds_ppm"], index, axis=0) * grain * (8 / 3) ** 1.5

    def add(number: Tensor, chi: Tensor) -> Tensor:
        outside = _distance_to_line(chi.shape, params, ranges, number) - params["vein_radius_mm"][number]
        part = ops.clip(0.5 - outside / ranges.spacing_mm, 0.0, 1.0)
        return chi + part * (params["vein_ppm"][number] - chi)

    # A loop, not a dozen copies: XLA compiles one vein.
    return ops.fori_loop(0, ranges.veins, add, chi) if ranges.veins else chi


def _distance_to_line(shape: Shape, params: Mapping[str, Tensor], ranges: Susceptibility, number: Tensor) -> Tensor:
    """Returns the distance from a gently bent line, (x, y, z) mm."""
    spacing = ranges.spacing_mm
    axes = [ops.reshape(ops.arange(n, dtype="float32"), [-1 if a == b else 1 for b in range(3)]) * spacing
            - 0.5 * spacing * (n - 1) * (1 + params["vein_from"][number, a]) for a, n in enumerate(shape)]  # fmt: skip
    along = params["vein_along"][number]
    reach = axes[0] * along[0] + axes[1] * along[1] + axes[2] * along[2]
    bend = [4.0 * ops.sin(reach / (12.0 + 3.0 * a)) * (1 - ops.abs(along[a])) for a in range(3)]
    gaps = [ops.square(axis - reach * along[a] - bend[a]) for a, axis in enumerate(axes)]
    return ops.sqrt(gaps[0] + gaps[1] + gaps[2])


def reconstructed(chi: Tensor, tissue: Tensor, params: Mapping[str, Tensor], ranges: Susceptibility) -> Tensor:
    """Computes the field, adds noise, and inverts it: 0 thresholded division, 1 closed form, 2 truth plus noise.

    Args:
        chi: (x, y, z) float32, ppm.
        tissue: (x, y, z) float32, 1 where there is signal.
        params: what `draw` returned.
        ranges: its spacing and padding are used.

    Returns:
        (x, y, z) float32 in ppm.
    """
    spacing = (ranges.spacing_mm,) * 3
    b = params["direction"]
    noise = seeds.normal(params["seed"], chi.shape, 2)
    shift = (dipole.field(chi, spacing, b, padding=ranges.padding) + params["noise_ppm"] * noise) * tissue
    kernel = dipole.kernel(chi.shape, spacing, b)
    divided = dipole.thresholded(kernel, params["threshold"])
    closed = dipole.smooth_inverse(kernel, params["smoothness_mm2"], spacing)
    inverted = dipole.filtered(shift, ops.where(params["inversion"] == 0, divided, closed))
    return ops.where(params["inversion"] == 2, chi + params["direct_noise_ppm"] * noise, inverted)


def _smooth(volume: Tensor, sigma: float) -> Tensor:
    """Smooths by a Gaussian, with border voxels repeated; `sigma` in voxels."""
    unit = ops.ones(())
    return fields.separable(volume, [acquisition.slices(size, unit, sigma * unit) for size in volume.shape])


def _average_inside(volume: Tensor, mask: Tensor) -> Tensor:
    return ops.sum(volume * mask) / ops.maximum(ops.sum(mask), 1.0)
