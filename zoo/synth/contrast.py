"""Draws the intensity of each structure: a Gaussian per label, with random or physical (relaxation) means."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from keras import ops

from zoo.errors import unknown_choice
from zoo.synth import fields, seeds
from zoo.synth.anatomy import labels

Tensor = Any
Params = dict[str, Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrast:
    """Ranges of the contrast; the defaults are those of the released SynthSeg.

    Attributes:
        kind: "random", or "t1", "t2", "flair", "pd" for means from a signal equation; "mixed" draws one of them.
        mixture: of "mixed", each kind with its probability.
        physical_sds: least and largest SD of a class with means from a signal equation, in a mixture: measured images
            are smoother than random ones.
        means: least and largest mean of a class.
        sds: least and largest SD of a class.
        dark_background: probability that the background is dark (mean up to 15, SD up to 5).
        texture: largest SD of a smooth texture, over the SD of its class.
        partial_volume: largest weight of a voxel's neighbours along each axis (1/4 is a triangle).
        spread: relative SD of every relaxation time and density about its published value.

    Source: Billot et al., SynthSeg, Medical Image Analysis 2023, doi:10.1016/j.media.2023.102789.
    """

    kind: str = "random"
    means: tuple[float, float] = (0.0, 250.0)
    sds: tuple[float, float] = (0.0, 30.0)
    dark_background: float = 0.7
    texture: float = 0.5
    partial_volume: float = 0.25
    spread: float = 0.08
    mixture: tuple[tuple[str, float], ...] = (("random", 0.5), ("t1", 0.3), ("t2", 0.07), ("flair", 0.07), ("pd", 0.06))
    physical_sds: tuple[float, float] = (2.0, 15.0)


# T1 ms, T2 ms, proton density relative to water, at 3 T. White and grey matter, deep nuclei: Wansapura et al. 1999
# (doi:10.1002/(SICI)1522-2586(199904)9:4<531::AID-JMRI4>3.0.CO;2-L), Stanisz et al. 2005 (doi:10.1002/mrm.20605),
# and the review of Bojorquez et al. 2017 (doi:10.1016/j.mri.2016.08.021); fat, muscle, marrow: de Bazelaire et al.
# 2004 (doi:10.1148/radiol.2303021331). Densities: Tofts, Quantitative MRI of the Brain, 2003.
_TISSUES = {
    "background": (1000, 1, 0.0),
    "csf": (4000, 1500, 1.0),
    "ventricle": (4000, 1500, 1.0),
    "cortex": (1400, 100, 0.82),
    "white": (850, 72, 0.70),
    "cerebellum_cortex": (1350, 96, 0.82),
    "cerebellum_white": (870, 75, 0.70),
    "brainstem": (1000, 78, 0.72),
    "thalamus": (1200, 85, 0.77),
    "caudate": (1300, 85, 0.81),
    "putamen": (1250, 78, 0.80),
    "pallidum": (1000, 62, 0.74),
    "hippocampus": (1380, 102, 0.83),
    "amygdala": (1400, 102, 0.83),
    "accumbens": (1330, 92, 0.82),
    "ventral_diencephalon": (1080, 76, 0.75),
    "substantia_nigra": (1050, 60, 0.74),
    "red_nucleus": (1000, 58, 0.72),
    "dentate": (1000, 62, 0.72),
    "skull": (600, 25, 0.12),
    "scalp": (380, 68, 0.90),
    "soft_tissue": (1350, 38, 0.78),
    "eye": (3500, 700, 0.98),
    "third_ventricle": (4000, 1500, 1.0),
    "fourth_ventricle": (4000, 1500, 1.0),
    "inferior_ventricle": (4000, 1500, 1.0),
    "choroid": (2200, 180, 0.90),
    "inferior_choroid": (2200, 180, 0.90),
    "optic_chiasm": (1100, 80, 0.75),
    "vessel": (3000, 600, 0.95),
    "lesion": (1350, 130, 0.82),
    "vein": (1800, 40, 0.80),
    "spinal_cord": (980, 76, 0.72),
    "cortical_bone": (250, 2, 0.10),
    "marrow": (450, 60, 0.55),
    "mucosa": (1500, 80, 0.85),
    "eye_muscle": (1400, 40, 0.78),
    "optic_nerve": (1100, 78, 0.72),
    "air": (1000, 1, 0.0),
    "skin": (700, 40, 0.75),
}
_CLASS_NAMES = [label.name.removeprefix("left_") for label in labels.LABELS if label.partner >= label.index]
TISSUES = np.array([_TISSUES[name] for name in _CLASS_NAMES], np.float32)
# Least and largest repetition, echo and inversion time in ms and flip angle in degrees of usual protocols at 3 T.
PROTOCOLS = {
    "t1": ((1800, 2500), (2, 4), (850, 1100)),
    "t2": ((3000, 6000), (80, 120), (0, 0)),
    "flair": ((8000, 10000), (90, 140), (2300, 2600)),
    "pd": ((2500, 5000), (8, 25), (0, 0)),
}
KINDS = ("random", *PROTOCOLS)
MIXED = "mixed"


def draw(seed: Tensor, contrast: Contrast = Contrast(), classes: np.ndarray = labels.CLASSES) -> Params:
    """Draws one contrast.

    Args:
        seed: an int or an integer tensor.
        contrast: the ranges.
        classes: which class each label belongs to, 0 the background; labels of one class look alike.

    Returns:
        `means` and `sds` (classes,), `texture` (), `partial_volume` (), `seed` () of the noise, float32.

    Raises:
        ValueError: there is no contrast of that kind, or it knows no relaxation times for these classes.
    """
    means, sds = _draw_means_and_sds(seed, contrast, int(classes.max()) + 1)
    num = means.shape[0]
    dark = (seeds.uniform(seed, (), 23) < contrast.dark_background) & (ops.arange(num) == 0)
    return {
        "means": ops.where(dark, 15.0 * seeds.uniform(seed, (), 24), means),
        "sds": ops.where(dark, 5.0 * seeds.uniform(seed, (), 25), sds),
        "texture": contrast.texture * seeds.uniform(seed, (), 26),
        "partial_volume": contrast.partial_volume * seeds.uniform(seed, (), 27),
        "seed": seeds.fold(seed, 28),
    }


def _draw_means_and_sds(seed: Tensor, contrast: Contrast, num: int) -> tuple[Tensor, Tensor]:
    """Draws mean and SD of each class, (classes,) each, of the kind or of a kind drawn from the mixture."""
    mixed = contrast.kind == MIXED
    kinds = [kind for kind, _ in contrast.mixture] if mixed else [contrast.kind]
    for kind in kinds:
        if kind not in KINDS:
            raise unknown_choice("contrast", kind, (*KINDS, MIXED))
        if kind != "random" and num != len(TISSUES):
            raise ValueError(f"Contrast {kind!r} knows {len(TISSUES)} classes, got {num}. Use 'random'.")
    uniform = seeds.uniform(seed, (num,), 22)
    spreads = [contrast.physical_sds if mixed and kind != "random" else contrast.sds for kind in kinds]
    sds = [low + (high - low) * uniform for low, high in spreads]
    random = seeds.uniform(seed, (num,), 21, low=contrast.means[0], high=contrast.means[1])
    means = [random if kind == "random" else _physical_means(seed, contrast, kind) for kind in kinds]
    if not mixed:
        return means[0], sds[0]
    limits = np.cumsum([share for _, share in contrast.mixture]) / sum(share for _, share in contrast.mixture)
    kind_index = ops.sum(ops.cast(seeds.uniform(seed, (), 31) >= limits[:-1].astype(np.float32), "int32"))
    return ops.take(ops.stack(means), kind_index, axis=0), ops.take(ops.stack(sds), kind_index, axis=0)


def _physical_means(seed: Tensor, contrast: Contrast, kind: str) -> Tensor:
    ranges = np.array(PROTOCOLS[kind], np.float32)
    tr, te, ti = ops.unstack(seeds.uniform(seed, (3,), 29, low=ranges[:, 0], high=ranges[:, 1]), 3)
    t1, t2, density = ops.unstack(TISSUES * ops.exp(contrast.spread * seeds.normal(seed, TISSUES.shape, 30)), 3, axis=1)
    signal = signal_of(kind, t1, t2, density, (tr, te, ti))
    return contrast.means[1] * signal / ops.maximum(ops.max(signal), 1e-6)


def signal_of(kind: str, t1: Tensor, t2: Tensor, density: Tensor, times: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Returns the signal of a tissue in a sequence.

    Spin echo, `density (1 - exp(-TR/T1)) exp(-TE/T2)`, for "t2" and "pd"; with an inversion before it,
    `density |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2)`, for "flair" and "t1" (as MPRAGE inverts).

    Args:
        kind: "t1", "t2", "flair" or "pd".
        t1: longitudinal relaxation time in ms.
        t2: transverse relaxation time in ms.
        density: proton density relative to water.
        times: repetition, echo and inversion time in ms.

    Returns:
        Signal relative to fully relaxed water, of the arguments' shape.

    Source: Bernstein, King, Zhou, Handbook of MRI Pulse Sequences, 2004, sections 14.2 and 16.4.
    """
    tr, te, ti = times
    inversion = 2.0 * ops.exp(-ti / t1) if kind in ("t1", "flair") else 2.0 * ops.exp(-tr / t1)
    return density * ops.abs(1.0 - inversion + ops.exp(-tr / t1)) * ops.exp(-te / t2)


def apply(label_map: Tensor, params: Mapping[str, Tensor], classes: np.ndarray = labels.CLASSES) -> Tensor:
    """Paints a label map.

    Args:
        label_map: (x, y, z) integers.
        params: what `draw` returned.
        classes: which class each label belongs to.

    Returns:
        (x, y, z) float32, not clipped.
    """
    index = ops.cast(label_map, "int32")
    table = ops.stack([params["means"], params["sds"]], axis=0)
    table = ops.take(table, ops.convert_to_tensor(classes, dtype="int32"), axis=1)
    mean, sd = ops.take(table[0], index, axis=0), ops.take(table[1], index, axis=0)
    coarse = seeds.normal(params["seed"], tuple(size // 4 + 2 for size in label_map.shape), 1)
    texture = params["texture"] * fields.upsample(coarse, label_map.shape)
    return partial_volume(mean, params["partial_volume"]) + sd * (
        seeds.normal(params["seed"], label_map.shape) + texture
    )


def partial_volume(volume: Tensor, weight: Tensor) -> Tensor:
    """Mixes each voxel with its neighbours by (weight, 1 - 2 weight, weight) along each axis; border voxels repeat.

    Args:
        volume: (x, y, z) float32.
        weight: () between 0 and 1/3.

    Returns:
        (x, y, z) float32.
    """
    matrices = []
    for size in volume.shape:
        near = np.eye(size, k=1, dtype=np.float32) + np.eye(size, k=-1, dtype=np.float32)
        near[0, 0] = near[-1, -1] = 1
        matrices.append((1 - 2 * weight) * np.eye(size, dtype=np.float32) + weight * near)
    return fields.separable(volume, matrices)
