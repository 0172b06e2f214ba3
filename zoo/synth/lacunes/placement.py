"""Finds where in an anatomy lacunes and their mimics may lie, and where no lacune can be."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import edt
import numpy as np
from keras import ops
from scipy import ndimage

from zoo import files
from zoo.synth.anatomy import labels as scheme
from zoo.synth.anatomy.labels import sides
from zoo.synth.anatomy.sources import anatomy, cache_folder

Tensor = Any
KINDS = ("lacune", "perivascular", "sulcal", "hyperintensity", "impossible")
# Bits of a voxel's zone: bit k where a centre of kind k may lie; then tissue that may hold lacunes, and that cannot.
TISSUE, IMPOSSIBLE = 32, 64
REGIONS = ("background", "basal_ganglia", "white_matter", "thalamus", "pons", "elsewhere")
NUM_PLACES = 512
CLEAR_MM = 4.0  # between the centre of a lacune and cortex or fluid
WALL_MM = 2.0  # no lacune lies this near to cortex or fluid
PONS = (0.35, 0.75)  # of the height of the brainstem
VERSION = 1  # part of the cache's file names: raise it when the zones change
MARGIN = 4  # voxels of air around a brain


@dataclasses.dataclass(frozen=True)
class Brain:
    """One anatomy in a graph.

    Attributes:
        codes: (x, y, z) uint8, class of the tissue as `zoo.synth.contrast` numbers them, 0 outside the brain; 1 mm.
        zones: (x, y, z) uint8, bits as above.
        ventricle_mm: (x, y, z) uint8, distance to the ventricles.
        places: (2 x places, 3) float32 voxels: anywhere in the brain, then where lacunes may lie.
        shares: (classes,) float32, share of the brain's voxels.
        middle: (3,) float32 voxel, the centre of mass of the ventricles.
        extent: (3,) float32, size of the brain in mm.
    """

    codes: Tensor
    zones: Tensor
    ventricle_mm: Tensor
    places: Tensor
    shares: Tensor
    middle: Tensor
    extent: Tensor


@functools.cache
def stacked(names: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    """Stacks the fields of `Brain` of several anatomies along a first axis.

    Args:
        names: of the anatomies, held-out ones too: the caller decides which of them train.

    Raises:
        ValueError: no such anatomy.
        FileNotFoundError: a package with data is not installed, with the command that installs it.
    """
    shape = np.max([placed(name)[0].shape for name in names], axis=0)
    return tuple(np.stack(field) for field in zip(*(on_grid(name, shape) for name in names), strict=True))


def on_grid(name: str, shape: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Returns the fields of `Brain` of one anatomy, centred in a grid.

    Args:
        name: of the anatomy, held-out ones too.
        shape: voxels; axes along which the brain is larger take its size.
    """
    return _make_fields(*(_pad_to(each, shape) for each in placed(name)))


def labels_on_grid(name: str, shape: Sequence[int]) -> np.ndarray:
    """Returns the label map of one brain, centred in a grid as by `on_grid`."""
    return _pad_to(placed(name)[0], shape)


def tensors(names: Sequence[str]) -> tuple[Tensor, ...]:
    """Returns `stacked` as tensors."""
    return tuple(ops.convert_to_tensor(field) for field in stacked(tuple(names)))


def pick(brains: Sequence[Tensor], number: Tensor) -> Brain:
    """Picks one of several stacked anatomies."""
    return Brain(*(ops.take(field, number, axis=0) for field in brains))


def placed(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the brain of an anatomy with its zones, from the cache; derives it the first time.

    Args:
        name: of the anatomy, held-out ones too.

    Returns:
        Three of (x, y, z) uint8, 1 mm, with a little air around: labels of the scheme, 0 outside the brain; zones; and
        the distance to the ventricles in mm, at most 255.
    """
    path = cache_folder() / f"vascular-{name}-v{VERSION}.npz"
    arrays = files.cached_arrays(path, lambda: _derive(name))
    return arrays["labels"], arrays["zones"], arrays["ventricle_mm"]


def _derive(name: str) -> dict[str, np.ndarray]:
    labels = np.pad(_crop_to_brain(anatomy(name, allow_test=True).labels), MARGIN).astype(np.uint8)
    ventricle = edt.edt(~np.isin(labels, sides("ventricle")))
    return {"labels": labels, "zones": zoned(labels), "ventricle_mm": np.minimum(ventricle, 255).astype(np.uint8)}


def _crop_to_brain(labels: np.ndarray) -> np.ndarray:
    mask = np.isin(labels, (*scheme.BRAIN, scheme.INDEX["csf"]))
    # Fluid wraps the brain loosely; what is far from tissue would not survive a brain extraction.
    mask &= edt.edt(~np.isin(labels, scheme.BRAIN)) <= WALL_MM
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    return np.where(mask, labels, 0)[box]


def _pad_to(volume: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    room = [max(int(target) - size, 0) for target, size in zip(shape, volume.shape, strict=True)]
    return np.pad(volume, [(extra // 2, extra - extra // 2) for extra in room])


def _make_fields(labels: np.ndarray, zones: np.ndarray, ventricle_mm: np.ndarray) -> tuple[np.ndarray, ...]:
    codes = scheme.CLASSES[labels].astype(np.uint8)
    random = np.random.default_rng(0)
    drawn = [
        np.stack(np.unravel_index(random.choice(np.flatnonzero(mask), NUM_PLACES), labels.shape), -1)
        for mask in (codes > 0, zones & 1 > 0)
    ]
    shares = np.bincount(codes[codes > 0], minlength=int(scheme.CLASSES.max()) + 1) / (codes > 0).sum()
    middle = [np.mean(axis) for axis in np.nonzero(np.isin(labels, sides("ventricle")))]
    extent = [np.ptp(axis) + 1 for axis in np.nonzero(codes)]
    as_float = (np.concatenate(drawn), shares, middle, extent)
    return codes, zones, ventricle_mm, *(np.asarray(each, np.float32) for each in as_float)


def zoned(labels: np.ndarray) -> np.ndarray:
    """Returns the zone of each voxel.

    Args:
        labels: (x, y, z) of the scheme, 1 mm.

    Returns:
        (x, y, z) uint8: bit k where the centre of kind k of `KINDS` may lie, `TISSUE` where a lacune may reach,
        `IMPOSSIBLE` in cortex and fluid and within 2 mm of them.
    """
    region, brain = regions(labels), labels > 0
    fluid = np.isin(labels, (*sides("ventricle"), scheme.INDEX["csf"]))
    cortex = np.isin(labels, (*sides("cortex"), *sides("cerebellum_cortex")))
    to_shell, to_fluid = edt.edt(~(fluid | cortex)), edt.edt(~fluid)
    wall = edt.edt(~np.isin(labels, sides("ventricle")))
    near_wall = (wall > 0) & (wall <= WALL_MM) & ~cortex
    white = np.isin(labels, sides("white"))
    candidates = np.isin(region, [REGIONS.index(name) for name in REGIONS[1:5]])
    bits = (
        candidates & (to_shell >= CLEAR_MM),
        (white | (region == REGIONS.index("basal_ganglia"))) & (to_shell >= WALL_MM),
        cortex & (to_fluid <= WALL_MM),
        white & (to_shell >= WALL_MM),
        cortex | near_wall,
    )
    zones = sum(bit.astype(np.uint8) << number for number, bit in enumerate(bits))
    zones = zones + TISSUE * (brain & ~fluid & ~cortex) + IMPOSSIBLE * (brain & (to_shell <= WALL_MM))
    return zones.astype(np.uint8)


def regions(labels: np.ndarray) -> np.ndarray:
    """Returns the region of each voxel, for tables: (x, y, z) uint8, indices into `REGIONS`.

    The label scheme has one brainstem; the middle of its height counts as pons.
    """
    table = np.full(scheme.NUM_LABELS, REGIONS.index("elsewhere"), np.uint8)
    table[0] = 0
    groups = {"basal_ganglia": ("caudate", "putamen", "pallidum", "accumbens"), "thalamus": ("thalamus",)}
    for region, structures in (groups | {"white_matter": ("white",)}).items():
        table[[index for name in structures for index in sides(name)]] = REGIONS.index(region)
    region_map = table[labels]
    stem = labels == scheme.INDEX["brainstem"]
    heights = np.flatnonzero(stem.any((0, 1)))
    if len(heights):
        low, high = (heights[0] + round(part * (len(heights) - 1)) for part in PONS)
        region_map[:, :, low : high + 1][stem[:, :, low : high + 1]] = REGIONS.index("pons")
    return region_map
