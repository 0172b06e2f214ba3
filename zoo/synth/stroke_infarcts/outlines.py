"""Packs outlines of real infarcts with the depth of each voxel under their surface, for a graph that picks one.

The depth of a voxel is the share of the infarct that lies nearer to the surface, stretched so that it falls from the
middle to the surface as in a ball: whatever the outline, the part of the infarct deeper than d is (1 - d)^3 of it.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import edt
import nibabel as nib
import numpy as np
from scipy import ndimage, stats

from zoo import files
from zoo.progress import progress_bar
from zoo.synth.anatomy import completion, territories
from zoo.synth.anatomy.sources import anatomy, cache_folder
from zoo.synth.stroke_infarcts import mask_folder

VERSION = 1  # part of the cache's file names: raise it when the derivation changes
MOST_DEPTH = 255  # of the deepest voxel; the surface has 1 and what is outside 0
VOLUMES_ML = (0.1, 400.0)  # of infarcts that are kept: smaller ones are a few voxels, larger ones errors of warping
LATTICE_MM = 6  # between the points at which the way to MNI space is known


@dataclasses.dataclass(frozen=True)
class Infarcts:
    """Outlines of infarcts in MNI space, and what is known of the people.

    Attributes:
        numbers: (infarcts,) int32, of their names.
        depth: (voxels,) uint8, the boxes around all infarcts one after the other; 0 outside, `MOST_DEPTH` deepest.
        offsets: (infarcts,) int32, first voxel of each box in `depth`.
        shapes: (infarcts, 3) int32, voxels of each box; 1 mm.
        starts: (infarcts, 3) float32 mm, place of the first voxel of each box.
        peaks: (infarcts, 3) float32 mm, place of the deepest voxel.
        territories: (infarcts,) int32, the arterial territory that holds most of it, as the atlas beside the masks
            numbers them; 0 where there is none.
        volumes_ml: (infarcts,) float32.
        people: (infarcts, 2) float32, age in years and NIHSS, NaN where they are not known.
    """

    numbers: np.ndarray
    depth: np.ndarray
    offsets: np.ndarray
    shapes: np.ndarray
    starts: np.ndarray
    peaks: np.ndarray
    territories: np.ndarray
    volumes_ml: np.ndarray
    people: np.ndarray

    @property
    def names(self) -> list[str]:
        """Names of the infarcts, as `mask_folder` has them."""
        return [f"soop_{number}" for number in self.numbers.tolist()]

    def box(self, index: int) -> np.ndarray:
        """Returns the depths in the box around one infarct, (x, y, z) uint8."""
        first, shape = int(self.offsets[index]), self.shapes[index]
        return self.depth[first : first + int(np.prod(shape))].reshape(shape)

    def select(
        self, *, volume_ml: tuple[float, float] = (0.0, np.inf), territories: Sequence[int] | None = None
    ) -> "Infarcts":
        """Returns the infarcts of some sizes and places.

        Args:
            volume_ml: least and largest volume.
            territories: of the atlas beside the masks; None for all.

        Raises:
            ValueError: there is no such infarct.
        """
        keep = (self.volumes_ml >= volume_ml[0]) & (self.volumes_ml <= volume_ml[1])
        keep = keep if territories is None else keep & np.isin(self.territories, territories)
        if not keep.any():
            raise ValueError(
                f"None of {len(keep)} infarcts has {volume_ml[0]:g} to {volume_ml[1]:g} ml in territories "
                f"{territories or 'of any kind'}. Ask for a wider range."
            )
        return self._take(np.flatnonzero(keep))

    def _take(self, indices: np.ndarray) -> "Infarcts":
        boxes = [self.box(index).reshape(-1) for index in indices]
        rest = {
            field.name: getattr(self, field.name)[indices]
            for field in dataclasses.fields(self)
            if field.name not in ("depth", "offsets")
        }
        return Infarcts(depth=np.concatenate(boxes), offsets=_count_offsets(boxes), **rest)


def load(split: str = "train", *, allow_test: bool = False) -> Infarcts:
    """Returns the infarcts of a split, from the cache; reads all masks of the folders the first time.

    Args:
        split: "train" or "test".
        allow_test: lets held-out infarcts through.

    Raises:
        ValueError: no such split, or the held-out one without `allow_test`.
        FileNotFoundError: `ZOO_INFARCTS` names no folder with masks.
    """
    wanted = mask_folder.required(split)
    mask_folder.check_leave(wanted, allow_test=allow_test)
    packed = _load_all(tuple(mask_folder.found().items()))
    numbers = [int(name.removeprefix("soop_")) for name in wanted]
    return packed._take(np.flatnonzero(np.isin(packed.numbers, numbers)))


@functools.lru_cache(maxsize=1)
def _load_all(found: tuple[tuple[str, Path], ...]) -> Infarcts:
    known = "".join(f"{name} {path} {path.stat().st_size}\n" for name, path in found)
    key = hashlib.sha256(known.encode()).hexdigest()[:12]
    path = cache_folder().parent / "infarcts" / f"{key}-v{VERSION}.npz"
    arrays = files.cached_arrays(path, lambda: dataclasses.asdict(_pack(dict(found))))
    people = np.array([mask_folder.age_and_nihss(name) for name, _ in found], np.float32).reshape(-1, 2)
    names = [name for name, _ in found]
    rows = [names.index(f"soop_{number}") for number in arrays["numbers"].tolist()]
    return Infarcts(**(arrays | {"people": people[rows]}))


def _pack(found: dict[str, Path]) -> Infarcts:
    atlases: dict[Path, np.ndarray | None] = {}
    rows, boxes = [], []
    with progress_bar("reading infarcts") as show:
        for done, (name, path) in enumerate(found.items()):
            show(done, len(found))
            mask, affine = mask_folder.read(name, allow_test=True)
            volume_ml = float(mask.sum()) / 1000
            if not VOLUMES_ML[0] <= volume_ml <= VOLUMES_ML[1]:
                continue
            box = find_box(mask)
            if path.parent not in atlases:
                atlases[path.parent] = _read_atlas(path.parent / mask_folder.ATLAS, mask.shape)
            depth, start = measure_depth(mask[box]), affine[:3, 3] + [axis.start for axis in box]
            peak = start + np.unravel_index(int(depth.argmax()), depth.shape)
            territory = _find_territory(mask[box], atlases[path.parent], box)
            boxes.append(depth)
            rows.append((int(name.removeprefix("soop_")), depth.shape, start, peak, territory, volume_ml))
    numbers, shapes, starts, peaks, places, volumes = zip(*rows, strict=True)
    return Infarcts(
        np.array(numbers, np.int32),
        np.concatenate([depth.reshape(-1) for depth in boxes]),
        _count_offsets(boxes),
        np.array(shapes, np.int32),
        np.array(starts, np.float32),
        np.array(peaks, np.float32),
        np.array(places, np.int32),
        np.array(volumes, np.float32),
        np.full((len(rows), 2), np.nan, np.float32),
    )


def find_box(mask: np.ndarray) -> tuple[slice, slice, slice]:
    """Returns the smallest box around a mask that is not empty."""
    x, y, z = (np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3))
    return slice(x[0], x[-1] + 1), slice(y[0], y[-1] + 1), slice(z[0], z[-1] + 1)


def _count_offsets(boxes: Sequence[np.ndarray]) -> np.ndarray:
    return np.cumsum([0, *(box.size for box in boxes[:-1])]).astype(np.int32)


def _read_atlas(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    if not path.is_file():
        return None
    values, _ = mask_folder.read_upright(path)
    return values if values.shape == shape else None


def _find_territory(mask: np.ndarray, atlas: np.ndarray | None, box: tuple[slice, slice, slice]) -> int:
    counts = np.bincount([] if atlas is None else atlas[box][mask].astype(int), minlength=2)
    return int(counts[1:].argmax()) + 1 if counts[1:].any() else 0


def measure_depth(mask: np.ndarray) -> np.ndarray:
    """Measures how deep each voxel lies in a mask.

    Args:
        mask: (x, y, z) bool, not empty.

    Returns:
        (x, y, z) uint8, 0 outside, up to `MOST_DEPTH`; the share of the mask above `MOST_DEPTH * d` is (1 - d)^3.
    """
    distance = edt.edt(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]
    # Blurred, since many voxels share a distance to the surface; it keeps the order of layers.
    smooth = distance + 0.5 * ndimage.gaussian_filter(distance, 2.0)
    shares = (stats.rankdata(smooth[mask]) - 0.5) / mask.sum()
    depth = np.zeros(mask.shape, np.uint8)
    depth[mask] = np.clip(np.ceil(MOST_DEPTH * (1 - (1 - shares) ** (1 / 3))), 1, MOST_DEPTH)
    return depth


def ways_to_mni(name: str, box: tuple[slice, slice, slice], shape: Sequence[int]) -> np.ndarray:
    """Returns the place in MNI space of points of an anatomy, as its territories were carried there.

    Args:
        name: of the anatomy, held-out ones too.
        box: what a graph holds of the anatomy's own grid.
        shape: of the grid in whose middle that box lies.

    Returns:
        (3, x, y, z) float32 mm, at points `LATTICE_MM` voxels apart of the grid, the first at its first voxel.
    """
    here, there = (
        territories.landmarks(anatomy(each, allow_test=True).labels) for each in (name, territories.TEMPLATE)
    )
    common = sorted(set(here) & set(there))
    affine = anatomy(territories.TEMPLATE).affine
    target = np.array([here[key] for key in common])
    carry = completion.fit_bend(target, nib.affines.apply_affine(affine, np.array([there[key] for key in common])))
    nodes = [np.arange(0, size + LATTICE_MM, LATTICE_MM) for size in shape]
    grid = np.stack(np.meshgrid(*nodes, indexing="ij"), -1)
    room = [(size - (axis.stop - axis.start)) // 2 for size, axis in zip(shape, box, strict=True)]
    places = grid.reshape(-1, 3) - np.array(room) + np.array([axis.start for axis in box])
    return np.moveaxis(carry(places.astype(float)).reshape(grid.shape), -1, 0).astype(np.float32)


@functools.cache
def stacked_ways(names: tuple[str, ...], shape: tuple[int, int, int]) -> np.ndarray:
    """Stacks `ways_to_mni` of the anatomies that `territories.coded` stacks: (anatomies, 3, x, y, z) float32.

    Args:
        names: of the anatomies.
        shape: of the grid of `territories.coded`.
    """
    key = "x".join(str(size) for size in shape)
    ways = []
    for name in names:
        path = cache_folder() / f"way-{name}-{key}-v{VERSION}.npz"
        ways.append(files.cached_arrays(path, functools.partial(_derive_way, name, shape))["way"])
    return np.stack(ways)


def _derive_way(name: str, shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    labels = anatomy(name, allow_test=True).labels
    return {"way": ways_to_mni(name, find_box(territories.tissues(labels) > 0), shape)}
