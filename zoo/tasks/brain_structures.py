"""Defines the task of brain tissue and structures from any contrast, trained on label maps painted at every step.

The network sees the whole brain at 2 mm, so that it can tell left from right and knows where each structure lies. No
real image is used: every sample is a deformed label map of SynthSeg or SynthSR (`zoo.synth.anatomy.people`) whose
structures get random intensities or those of a sequence, after SynthSeg (Billot et al., Medical Image Analysis 2023,
doi 10.1016/j.media.2023.102789).
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from zoo.datasets.cases import Case
from zoo.hub.card import Plausible
from zoo.losses import Combined, dice_cross_entropy
from zoo.metrics import MeanDice
from zoo.synth import phantoms, seeds
from zoo.synth.acquisition import Acquisition
from zoo.synth.anatomy import labels as scheme
from zoo.synth.anatomy import people
from zoo.synth.anatomy.sources import anatomy
from zoo.synth.contrast import MIXED, Contrast
from zoo.synth.geometry import Geometry
from zoo.synth.scene import Recipe, synthesise
from zoo.training.optimizers import EMA_ADAM
from zoo.training.task import CardText, Data, Fit, Network, Synthesis, Task

SPACING_MM = 2.0
PATCH = (80, 96, 80)  # the brain and little more: the network learns nothing from air
GRID_MM = (192, 240, 224)  # holds every brain at 1 mm, with its head as far as a moved patch sees it
HEAD = 1  # seed of the head around a brain that has none of its own
TEST_HEAD = 11
SCANS = (*(phantoms.Scan(kind=kind) for kind in phantoms.KINDS), phantoms.Scan(kind="t1", slices_mm=5))
PERCENTILES = (0.5, 99.5)
DEEP = (
    *("thalamus", "caudate", "putamen", "pallidum", "hippocampus", "amygdala", "accumbens"),
    "ventral_diencephalon",
)
SIDED = (
    *("white", "cortex", "ventricle", "inferior_ventricle", "cerebellum_white", "cerebellum_cortex"),
    *DEEP,
)
MIDDLE = ("csf", "third_ventricle", "fourth_ventricle", "brainstem")
# Volumes in ml: half of the smallest and twice the largest of the 17 training people, side by side; ventricles grow
# with age and disease, and may reach eight times the largest.
VOLUMES_ML = {
    "csf": (110, 1100),
    "third_ventricle": (0.2, 25),
    "fourth_ventricle": (0.4, 20),
    "brainstem": (8, 51),
    "white": (77, 550),
    "cortex": (76, 610),
    "ventricle": (1, 270),
    "cerebellum_white": (5.3, 40),
    "cerebellum_cortex": (21, 154),
    "thalamus": (2.8, 21),
    "caudate": (1.2, 9.6),
    "putamen": (1.6, 14),
    "pallidum": (0.5, 4.8),
    "hippocampus": (0.7, 11),
    "amygdala": (0.4, 4.9),
    "accumbens": (0.17, 1.6),
    "ventral_diencephalon": (1.4, 10),
}
# Structures of the scheme that this network does not separate -> what they count as. The optic chiasm lies in the fluid
# below the brain; vessels (30, 62: wide perivascular spaces) and lesions (25, 57) are in white matter.
JOINED = {
    "choroid": "ventricle",
    "inferior_choroid": "inferior_ventricle",
    "dentate": "cerebellum_white",
    "substantia_nigra": "ventral_diencephalon",
    "red_nucleus": "ventral_diencephalon",
    "optic_chiasm": "csf",
    "vessel": "white",
    "lesion": "white",
}


def _list_classes() -> tuple[str, ...]:
    return ("background", *MIDDLE, *(f"{side}_{name}" for name in SIDED for side in ("left", "right")))


CLASSES = _list_classes()


def plausible() -> Plausible:
    """Returns what a scan and its label map look like; inferior horns may vanish, and lateral ventricles differ."""
    ranges = {
        name: VOLUMES_ML[bare]
        for name in CLASSES
        if (bare := name.removeprefix("left_").removeprefix("right_")) in VOLUMES_ML
    }
    return Plausible(extent_mm=(60, 700), volumes_ml=ranges, asymmetry_percent=120, edge_cm2=10)


def class_table() -> np.ndarray:
    """Returns the class of each label of the scheme; all but brain and fluid counts as background."""
    table = np.zeros(scheme.NUM_LABELS, np.int32)
    for label in scheme.LABELS:
        side, _, bare = label.name.partition("_") if label.partner != label.index else ("", "", label.name)
        joined = JOINED.get(bare, bare)
        name = joined if joined in CLASSES else f"{side}_{joined}"
        table[label.index] = CLASSES.index(name) if name in CLASSES else 0
    return table


def recipe(task: Task, contrast: Contrast) -> Recipe:
    """Returns the ranges of the synthesis at the task's patch and spacing, with slices from that spacing to 6 mm."""
    spacing_mm = task.data.spacing_mm[0]
    return Recipe(
        shape=task.data.patch,
        geometry=Geometry(
            spacing_mm=spacing_mm,
            rotation_deg=15.0,
            scaling=(0.85, 1.15),
            translation_mm=20.0,  # windows of a head are not centred on its brain
            velocity_scale=0.05,
            velocity_sd=4.0,
            crop="centre",
        ),
        contrast=contrast,
        acquisition=Acquisition(
            spacing_mm=spacing_mm,
            isotropic_mm=(spacing_mm, max(3.0, spacing_mm)),
            anisotropic_mm=(spacing_mm, 6.0),
            anisotropic=0.4,
            skull_strip=0.3,
            gamma_sd=0.4,
            cut=0.15,
            cut_part=0.25,
        ),
    )


@functools.cache
def label_maps() -> np.ndarray:
    """Returns the label maps of the training people with their heads on one grid, (people, x, y, z) uint8.

    Raises:
        FileNotFoundError: `ZOO_ANATOMIES` names no folder with label maps.
    """
    return np.stack([brain_centred(anatomy(name, head=HEAD).labels) for name in people.required()])


def brain_centred(labels: np.ndarray, shape: tuple[int, int, int] = GRID_MM) -> np.ndarray:
    """Cuts or pads a label map with background to `shape`, with its brain in the middle; uint8."""
    brain = np.isin(labels, scheme.BRAIN)
    result = np.zeros(shape, np.uint8)
    target, source = [], []
    for axis, target_size in enumerate(shape):
        along = np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis})))
        start = (int(along[0]) + int(along[-1]) + 1 - target_size) // 2  # of the grid, in the label map
        first, last = max(start, 0), min(start + target_size, labels.shape[axis])
        source.append(slice(first, last))
        target.append(slice(first - start, last - start))
    result[tuple(target)] = labels[tuple(source)]
    return result


def centred(labels: np.ndarray, shape: tuple[int, int, int] = GRID_MM) -> np.ndarray:
    """Cuts or pads a label map with background to `shape` about its centre."""
    for axis, target_size in enumerate(shape):
        size = labels.shape[axis]
        if size > target_size:
            first = (size - target_size) // 2
            labels = labels.take(range(first, first + target_size), axis)
        room = target_size - labels.shape[axis]
        widths = [(room // 2, room - room // 2) if a == axis else (0, 0) for a in range(3)]
        labels = np.pad(labels, widths)
    return labels


def synthesis(task: Task, split: str, *, contrast: Contrast | None = None) -> Callable[[Any], tuple[Any, Any]]:
    """Draws samples of the training people; validation differs only in its seeds, test people are never used."""
    maps, classes = ops.convert_to_tensor(label_maps()), ops.convert_to_tensor(class_table())
    ranges = recipe(task, contrast or Contrast(kind=MIXED))

    def sample(seed: Any) -> tuple[Any, Any]:
        index = ops.cast(seeds.bits(seed, (1,), stream=7)[0] % maps.shape[0], "int32")
        image, moved = synthesise(ops.take(maps, index, axis=0), seed, ranges)
        return as_prepared(image), ops.take(classes, moved, axis=0)

    return sample


def as_prepared(image: Any) -> Any:
    """Prepares an image as at prediction: clips it to its percentiles (of every eighth voxel) and scales it to 0..1."""
    values = ops.sort(ops.reshape(image[::2, ::2, ::2], (-1,)))
    low, high = (values[round((values.shape[0] - 1) * percent / 100)] for percent in PERCENTILES)
    return ops.clip((image - low) / ops.maximum(high - low, 1e-6), 0.0, 1.0)


def test_cases(folder: Path) -> list[Case]:
    """Writes the test people with their heads at 1 mm in every fixed contrast, and as T1 in slices of 5 mm."""
    values = source_values()[class_table()]
    cases = []
    for name in people.required("test"):
        brain = anatomy(name, head=TEST_HEAD, allow_test=True)
        for scan in SCANS:
            image, labels = phantoms.write(folder, name, brain.labels, brain.affine, scan=scan, values=values)
            cases.append(Case(f"{name}_{scan.name}", name, {"image": image}, labels))
    return cases


def source_values() -> np.ndarray:
    """Returns the FreeSurfer code of each class, its value in a label map."""
    return np.array([value for _, value in TASK.data.labels.values()])


def metrics() -> list[Any]:
    """Returns mean Dice over the structures, of every eighth voxel: all voxels would cost a fifth of a step."""
    return [MeanDice(len(CLASSES), every=2)]


def loss(balance: float = 0.0) -> Any:
    """Returns soft Dice and cross-entropy in equal parts; where the latter is balanced, nuclei are learned early."""
    return Combined([(1.0, dice_cross_entropy, {"balance": balance})])


def _find_source_value(name: str) -> int:
    return next(label.code for label in scheme.LABELS if label.name == name)


TASK = Task(
    name="brain_structures",
    data=Data(
        channels=("image",),
        labels={index: (name, _find_source_value(name)) for index, name in enumerate(CLASSES)},
        spacing_mm=(SPACING_MM,) * 3,
        patch=PATCH,
        centred=True,
        mirrored=True,
        preprocessing=(
            {"name": "resample", "spacing_mm": [SPACING_MM] * 3},
            {"name": "clip_percentiles", "low": PERCENTILES[0], "high": PERCENTILES[1]},
            {"name": "range"},
        ),
    ),
    network=Network(
        builder="unet3d",
        # Folded: cubes of 2 mm voxels are the channels of one of 4 mm, so that the first level can be wide. The last
        # convolution is wider still: the head makes the logits of eight voxels out of its channels.
        arguments={
            "filters": (32, 64, 128, 160),
            "decoder_filters": ((32, 96), 64, 128),
            "fold": 2,
            "activation": "leaky_relu",
            "norm": "instance",
        },
        divisor=(16, 16, 16),
    ),
    fit=Fit(
        loss=loss,
        metrics=metrics,
        monitor="dice",
        optimizer=EMA_ADAM | {"learning_rate": 1e-3, "ema_momentum": 0.99},
        prior_power=0.5,
        batch_size=1,
        steps=10000,
        validation_batches=2,
    ),
    synthesis=Synthesis(
        samples=synthesis,
        test_cases=test_cases,
    ),
    card=CardText(
        description="Brain tissue and structures, left and right apart, from an MR image of any contrast.",
        intensities={"image": "any MR contrast, scaled to 0..1 by its 0.5th and 99.5th percentile"},
        training_data={
            "data": "synthetic images painted over 17 real label maps: 13 whole heads of SynthSeg (training_seg_01 "
            "to 13) and 4 brains of SynthSR (brain1 to 4) with generated heads; no real image",
            "licence": "Apache-2.0 (BBillot/SynthSeg and BBillot/SynthSR), read at training time, not contained",
        },
        references=("10.1016/j.media.2023.102789", "10.1126/sciadv.add3607"),
        plausible=plausible(),
        limits=(
            "Trained on synthetic images over 17 adult brains.",
            "Volumes are off: on painted test people cortex by a third, white matter and thalamus by a twentieth, the "
            "hippocampus by an eighth, accumbens and inferior ventricles by more (docs/brain_structures.md).",
            "Works at 2 mm: thin structures are coarse, and sulci close to each other run together.",
            "Fluid is all that surrounds the brain, the optic chiasm included; lesions and wide perivascular spaces "
            "count as white matter. Tumours, resections and large strokes are unknown to it.",
        ),
    ),
)
# What starts from nothing learns at twice the rate, and rare classes count for more until they are found.
EARLY = {"optimizer": EMA_ADAM | {"ema_momentum": 0.99}, "loss_arguments": {"balance": 0.5}}
# Coarse voxels teach the layout five times as quickly; `start_from` then passes the weights on.
COARSE = TASK.replace(
    spacing_mm=(4.0,) * 3,
    patch=(48, 48, 48),
    steps=2400,
    preprocessing=({"name": "resample", "spacing_mm": [4.0] * 3}, *TASK.data.preprocessing[1:]),
    **EARLY,
)
