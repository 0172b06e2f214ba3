"""How real the infarcts are that the task `stroke_outcome` draws; `tools/study stroke_realism` runs it.

Draws training infarcts in training brains as the task does, and compares what an untreated stroke leaves with the masks
that were drawn from and with held-out ones: volumes, where they lie, and the artery that feeds most of them. Needs
`ZOO_INFARCTS`. No network is trained, and seeds only add draws.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from zoo.training.experiments.study import Criterion, StudyResult, load_or_measure

DRAWS, STEP_MM, CELL_MM = 400, 2, 4
LEAST_CORRELATION, MOST_KS = 0.9, 0.1
LOW_MM, HIGH_MM = np.array([-84.0, -120.0, -80.0]), np.array([84.0, 84.0, 96.0])
SHAPE = tuple(int(size) for size in np.ceil((HIGH_MM - LOW_MM) / CELL_MM))
LEAST_SAMPLES = 0.5  # of a cell's voxels that are tissue, mean over draws: less is the border of the brain


def count_cells(places: np.ndarray) -> np.ndarray:
    """Counts places (3, n) in mm by cell of MNI space, `SHAPE`."""
    cells = np.floor((places - LOW_MM[:, None]) / CELL_MM).astype(int)
    inside = ((cells >= 0) & (cells < np.array(SHAPE)[:, None])).all(axis=0)
    flat = np.ravel_multi_index(tuple(cells[:, inside]), SHAPE)
    return np.bincount(flat, minlength=int(np.prod(SHAPE))).reshape(SHAPE)


def mean_mask(infarcts: Any) -> np.ndarray:
    """Returns the share of infarcts that hold a voxel, mean over each cell, `SHAPE` float64."""
    total = np.zeros(SHAPE)
    for number in range(len(infarcts.numbers)):
        voxels = np.argwhere(infarcts.box(number) > 0).T
        total += count_cells(voxels + infarcts.starts[number][:, None])
    return total / CELL_MM**3 / len(infarcts.numbers)


@dataclasses.dataclass(frozen=True)
class Lattice:
    """Every second voxel of one anatomy: the anatomy, their codes, their voxels and their places in MNI space."""

    brain: Any
    codes: Any
    where: Sequence[Any]
    places: np.ndarray


@functools.cache
def training_infarcts() -> Any:
    """Loads the infarcts that are drawn from, their depths as a tensor that all anatomies share."""
    from keras import ops

    from zoo.synth.stroke_infarcts import outlines

    infarcts = outlines.load("train")
    return dataclasses.replace(infarcts, depth=ops.convert_to_tensor(infarcts.depth))


@functools.cache
def lattice(name: str) -> Lattice:
    """Lays the lattice over an anatomy with all training infarcts."""
    from keras import ops

    from zoo.synth import geometry
    from zoo.synth.anatomy import territories
    from zoo.synth.stroke import Brain
    from zoo.synth.stroke_infarcts import outlines, outlines_in_graph

    codes, places = territories.coded((name,))
    way = ops.convert_to_tensor(outlines.stacked_ways((name,), codes.shape[1:])[0])
    of_brain = outlines_in_graph.Outlines(training_infarcts(), way)
    brain = Brain(ops.convert_to_tensor(codes[0]), ops.convert_to_tensor(places[0]), of_brain)
    thin = codes[0][::STEP_MM, ::STEP_MM, ::STEP_MM]
    voxels = np.stack(np.nonzero(thin % territories.CODE > 1)).astype(np.float32) * STEP_MM
    where = [ops.convert_to_tensor(axis) for axis in voxels]
    nodes = [axis / outlines.LATTICE_MM for axis in where]
    mm = np.stack([np.asarray(geometry.linear(way[axis], nodes)) for axis in range(3)])
    return Lattice(brain, geometry.nearest(brain.codes, where), where, mm)


def draw_one(seed: int, anatomies: Sequence[str]) -> tuple[Lattice, Mapping[str, Any], np.ndarray, np.ndarray]:
    """Draws a patient: the anatomy, the drawn values, and what is lost without and with the treatment, (n,) bool."""
    from zoo.synth import stroke
    from zoo.synth.stroke_infarcts import outlines_in_graph
    from zoo.tasks.stroke_outcome import DEFAULT, TICI

    of_brain = lattice(anatomies[seed % len(anatomies)])
    params = stroke.draw(seed, DEFAULT, grades=tuple(TICI.values()))
    params |= outlines_in_graph.draw(seed, training_infarcts(), DEFAULT.peak_s)
    treated = stroke.at(of_brain.brain, of_brain.codes, of_brain.where, params)[1]
    untreated = of_brain.brain.outlines.depth(of_brain.where, params) > 0
    return of_brain, params, np.asarray(untreated), np.asarray(treated)


def measure(draws: int) -> dict[str, Any]:
    """Draws patients and compares their lesions with real ones."""
    from zoo.synth.anatomy.sources import names
    from zoo.synth.anatomy.territories import CODE
    from zoo.synth.stroke_infarcts import outlines

    real = {"train": outlines.load("train"), "held-out": outlines.load("test", allow_test=True)}
    lost, tissue = np.zeros(SHAPE), np.zeros(SHAPE)
    volumes, territories = [], []
    for seed in range(draws):
        of_brain, params, untreated, treated = draw_one(seed, names("train"))
        tissue += count_cells(of_brain.places)
        lost += count_cells(of_brain.places[:, untreated])
        voxel_ml = STEP_MM**3 / 1000 / float(np.prod(np.asarray(params["scaling"])))
        volumes.append([voxel_ml * untreated.sum(), voxel_ml * treated.sum()])
        fed = np.bincount(np.asarray(of_brain.codes)[untreated] // CODE, minlength=2)[1:]
        territories.append(int(fed.argmax()) + 1 if fed.any() else 0)
    brain = tissue / draws > LEAST_SAMPLES * (CELL_MM / STEP_MM) ** 3
    maps = {name: mean_mask(infarcts)[brain] for name, infarcts in real.items()}
    drawn = (lost / np.maximum(tissue, 1))[brain]
    return {
        "correlation": {name: float(np.corrcoef(drawn, mask)[0, 1]) for name, mask in maps.items()},
        "ceiling": float(np.corrcoef(maps["train"], maps["held-out"])[0, 1]),
        "ks": {name: _compare(np.array(volumes)[:, 0], infarcts.volumes_ml) for name, infarcts in real.items()},
        "volumes_ml": {
            "drawn, untreated": _quartiles(np.array(volumes)[:, 0]),
            "drawn, treated": _quartiles(np.array(volumes)[:, 1]),
        }
        | {f"real, {name}": _quartiles(infarcts.volumes_ml) for name, infarcts in real.items()},
        "territories": {"drawn": _shares(territories)}
        | {f"real, {name}": _shares(infarcts.territories) for name, infarcts in real.items()},
        "counts": {"drawn": draws} | {name: len(infarcts.numbers) for name, infarcts in real.items()},
    }


def _compare(drawn: np.ndarray, real: np.ndarray) -> list[float]:
    result = stats.ks_2samp(drawn, real)
    return [float(result.statistic), float(result.pvalue)]


def _quartiles(volumes: np.ndarray) -> list[float]:
    return [float(value) for value in np.percentile(volumes, (25, 50, 75, 95))]


def _shares(numbers: Sequence[int]) -> dict[str, float]:
    """Share of infarcts by territory, sides together; "none" where most lies outside of all."""
    from zoo.synth.anatomy.territories import TERRITORIES

    of = {value + side: name for name, value in TERRITORIES.items() for side in (0, 1)}
    found = [of.get(int(number), "none") for number in numbers]
    return {name: found.count(name) / len(found) for name in (*TERRITORIES, "none")}


def run(seeds: int, work: pathlib.Path) -> StudyResult:
    """Measures all criteria on `DRAWS` draws a seed."""
    draws = seeds * DRAWS
    result = load_or_measure(work / f"realism_{draws}.json", lambda: measure(draws))
    return StudyResult(_criteria(result), _tables(result), _describe_settings(result))


def _criteria(result: Mapping[str, Any]) -> list[Criterion]:
    correlation, ks = result["correlation"]["held-out"], result["ks"]
    return [
        Criterion(
            "incidence of drawn infarcts against the mean of held-out masks",
            f"correlation >= {LEAST_CORRELATION}",
            f"{correlation:.3f}",
            correlation >= LEAST_CORRELATION,
            f"The masks that were drawn from reach {result['ceiling']:.3f} against the held-out ones themselves.",
        ),
        Criterion(
            "volumes of drawn untreated infarcts against those of held-out masks",
            f"Kolmogorov-Smirnov distance <= {MOST_KS}",
            f"{ks['held-out'][0]:.3f} (p = {ks['held-out'][1]:.2g})",
            ks["held-out"][0] <= MOST_KS,
            f"Against the masks that were drawn from: {ks['train'][0]:.3f} (p = {ks['train'][1]:.2g}).",
        ),
    ]


def _tables(result: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    quartiles = ("25 %", "50 %", "75 %", "95 %")
    volumes = [
        {"infarcts": name} | {f"{key}, ml": f"{value:.1f}" for key, value in zip(quartiles, values, strict=True)}
        for name, values in result["volumes_ml"].items()
    ]
    places = [
        {"territory": name.replace("_", " ")}
        | {kind: f"{100 * shares[name]:.1f} %" for kind, shares in result["territories"].items()}
        for name in result["territories"]["drawn"]
    ]
    return {"Volumes": volumes, "Share of infarcts by the territory that holds most of them": places}


def _describe_settings(result: Mapping[str, Any]) -> dict[str, Any]:
    counts = result["counts"]
    return {
        "drawn": counts["drawn"],
        "real": f"{counts['train']} masks that were drawn from, {counts['held-out']} held out",
        "lattice": f"every {STEP_MM} mm of the anatomy; incidence in cells of {CELL_MM} mm in MNI space",
    }
