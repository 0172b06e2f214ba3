"""Draws a real infarct in a graph as what an untreated stroke would leave, and how well collaterals fed it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from zoo.synth import geometry, seeds
from zoo.synth.stroke_infarcts.outlines import LATTICE_MM, MOST_DEPTH, Infarcts

Tensor = Any
Params = dict[str, Tensor]
CORE = (0.25, 0.8)  # radius of the core as a share, with the best and with the worst collaterals


@dataclasses.dataclass(frozen=True)
class Outlines:
    """Infarcts in a graph, and the way of one anatomy to them.

    Attributes:
        infarcts: the outlines; arrays or tensors.
        way: (3, x, y, z) float32 mm in MNI space, at points `LATTICE_MM` voxels of the anatomy apart.
    """

    infarcts: Infarcts
    way: Tensor

    def place(self, params: Mapping[str, Tensor]) -> Tensor:
        """Returns the deepest place of the infarct, (3,) float32 voxel of the anatomy, to `LATTICE_MM`."""
        peak = ops.take(ops.convert_to_tensor(self.infarcts.peaks), params["infarct"], axis=0)
        distance = ops.sum(ops.square(self.way - peak[:, None, None, None]), axis=0)
        _, y, z = distance.shape
        flat = ops.cast(ops.argmin(ops.reshape(distance, (-1,))), "int32")
        return LATTICE_MM * ops.cast(ops.stack([flat // (y * z), flat // z % y, flat % z]), "float32")

    def depth(self, where: Sequence[Tensor], params: Mapping[str, Tensor]) -> Tensor:
        """Returns how deep places lie in the infarct, 0 outside, 1 in the middle.

        Args:
            where: three of (...) float32, voxels of the anatomy.
            params: what `draw` returned.

        Returns:
            (...) float32.
        """
        record = self.infarcts
        of = lambda table: ops.take(ops.convert_to_tensor(table), params["infarct"], axis=0)  # noqa: E731
        nodes = [axis / LATTICE_MM for axis in where]
        shapes, starts = ops.unstack(of(record.shapes), 3), ops.unstack(of(record.starts), 3)
        flat, inside = 0, True
        for axis, (size, start) in enumerate(zip(shapes, starts, strict=True)):
            index = ops.cast(ops.floor(geometry.linear(self.way[axis], nodes) - start + 0.5), "int32")
            inside = (index >= 0) & (index < size) & inside
            flat = flat * size + ops.clip(index, 0, size - 1)
        values = ops.take(ops.convert_to_tensor(record.depth), of(record.offsets) + flat, axis=0)
        return ops.where(inside, ops.cast(values, "float32") / MOST_DEPTH, 0.0)


def draw(seed: Tensor, infarcts: Infarcts, peak_s: tuple[float, float]) -> Params:
    """Draws an infarct with its person, each as likely, and the state of the collaterals.

    Good collaterals leave a small core and short delays; bad ones a core of most of the infarct and long delays.

    Args:
        seed: an int or an integer tensor.
        infarcts: to draw from.
        peak_s: least and largest Tmax in the middle.

    Returns:
        `infarct` () int32; `side` () int32, 0 left; `core` and `peak_s`; `age` and `nihss` with `age_missing` and
        `nihss_missing`, 1 where they are not known.
    """
    index = ops.cast(seeds.uniform(seed, (), 27) * len(infarcts.numbers), "int32")
    poor = seeds.uniform(seed, (), 28)
    known = np.isfinite(infarcts.people)
    people, missing = np.where(known, infarcts.people, 0).astype(np.float32), (~known).astype(np.float32)
    person, gaps = (ops.take(ops.convert_to_tensor(table), index, axis=0) for table in (people, missing))
    return {
        "infarct": index,
        "side": ops.cast(ops.take(ops.convert_to_tensor(infarcts.peaks), index, axis=0)[0] >= 0, "int32"),
        "core": CORE[0] + (CORE[1] - CORE[0]) * poor,
        "peak_s": peak_s[0] + (peak_s[1] - peak_s[0]) * poor,
        "age": person[0],
        "nihss": person[1],
        "age_missing": gaps[0],
        "nihss_missing": gaps[1],
    }
