"""Defines the task of the brain mask of an MR image of any contrast, resolution and field of view, stripped or not.

As SynthStrip (Hoopes et al., NeuroImage 2022, doi 10.1016/j.neuroimage.2022.119474), it learns from painted label maps
alone. The people, the grid of 2 mm and the network are those of `zoo.tasks.brain_structures`, whose weights are the
first ones of this network but for its head (`tools/train_brain_mask`).
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edt
import nibabel as nib
import numpy as np
from keras import ops

from zoo import files
from zoo.datasets.cases import Case
from zoo.hub.card import Plausible
from zoo.losses import Combined, dice_cross_entropy
from zoo.metrics import MeanDice
from zoo.synth import phantoms, scene, seeds
from zoo.synth.anatomy import completion, people, sources
from zoo.synth.anatomy import labels as scheme
from zoo.synth.anatomy.sources import anatomy
from zoo.synth.contrast import MIXED, Contrast
from zoo.tasks import brain_structures as structures
from zoo.training.task import CardText, Data, Fit, Network, Output, Synthesis, Task
from zoo.volumes import image as images

CLASSES = ("background", "brain")
CLOSING_MM = 5.0  # sulci and the fissures between lobes, hemispheres and cerebellum lie inside
FLUID_MM = 3.0  # fluid that is as near to the closed brain counts as brain
# What the closed surface may enclose: a sinus between the hemispheres, but no bone.
ENCLOSED = ("background", "csf", "vein")


def brain_of(labels: np.ndarray, *, fluid_mm: float = FLUID_MM) -> np.ndarray:
    """Marks the brain in a label map: its tissue and ventricles, and the fluid in and directly about it.

    Brain labels are closed by a ball of 5 mm, so that sulci and fissures lie inside with the fluid and veins in them;
    fluid within 3 mm of that belongs to the brain, too, as in the masks of SynthStrip and of FreeSurfer's watershed.
    The spinal cord, the optic nerves, and fluid farther away do not.

    Args:
        labels: (x, y, z) of the scheme, 1 mm.
        fluid_mm: how far from the closed brain fluid counts; other masks draw that line elsewhere.

    Returns:
        (x, y, z) bool, without holes.

    Example:
        >>> labels = np.zeros((24, 24, 24), np.uint8)
        >>> labels[4:20, 4:20, 4:20] = scheme.INDEX["csf"]
        >>> labels[8:16, 8:16, 8:11] = labels[8:16, 8:16, 13:16] = scheme.INDEX["left_white"]
        >>> brain_of(labels)[12, 12].astype(int).tolist()
        [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    """
    tissue = np.isin(labels, scheme.BRAIN)
    result = np.zeros(labels.shape, bool)
    if not tissue.any():
        return result
    reach = int(CLOSING_MM + fluid_mm) + 1
    near = [np.flatnonzero(tissue.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box = tuple(slice(max(int(along[0]) - reach, 0), int(along[-1]) + reach + 1) for along in near)
    enclosed = np.isin(labels[box], [scheme.INDEX[name] for name in ENCLOSED])
    closed = tissue[box] | (completion.closed(tissue[box], CLOSING_MM) & enclosed)
    fluid = (labels[box] == scheme.INDEX["csf"]) & (edt.edt(~closed) <= fluid_mm)
    result[box] = completion.fill_holes(closed | fluid)
    return result


@functools.cache
def masked_maps() -> tuple[np.ndarray, np.ndarray]:
    """Returns the label maps of the training people and their brains on one grid, (people, x, y, z) uint8 each.

    The brains are kept in the user's cache folder: they take a minute to make.

    Raises:
        FileNotFoundError: `ZOO_ANATOMIES` names no folder with label maps.
    """
    maps = structures.label_maps()
    key = f"{CLOSING_MM:g}-{FLUID_MM:g}-{zlib.crc32(maps.tobytes()):08x}"
    make = lambda: {"brains": np.stack([brain_of(labels) for labels in maps]).astype(np.uint8)}  # noqa: E731
    return maps, files.cached_arrays(sources.cache_folder() / f"brains-{key}.npz", make)["brains"]


def recipe(task: Task, contrast: Contrast) -> scene.Recipe:
    """Returns the ranges of `brain_structures`, with windows on part of a brain, thicker slices and more cuts."""
    base = structures.recipe(task, contrast)
    return dataclasses.replace(
        base,
        geometry=dataclasses.replace(base.geometry, translation_mm=60.0),
        acquisition=dataclasses.replace(
            base.acquisition,
            isotropic_mm=(base.acquisition.spacing_mm, 4.0),
            anisotropic_mm=(base.acquisition.spacing_mm, 8.0),
            skull_strip=0.3,
            cut=0.2,
            cut_part=0.35,
        ),
    )


def synthesis(task: Task, split: str, *, contrast: Contrast | None = None) -> Callable[[Any], tuple[Any, Any]]:
    """Draws samples of the training people; validation differs only in its seeds, test people are never used."""
    maps, brains = map(ops.convert_to_tensor, masked_maps())
    ranges = recipe(task, contrast or Contrast(kind=MIXED))

    def sample(seed: Any) -> tuple[Any, Any]:
        index = ops.cast(seeds.bits(seed, (1,), stream=7)[0] % maps.shape[0], "int32")
        image, moved = scene.synthesise(ops.take(maps, index, axis=0), seed, ranges)
        brain = scene.follow(ops.take(brains, index, axis=0), seed, ranges)
        scanned = moved > scheme.INDEX["background"]
        return structures.as_prepared(image), ops.where(scanned, ops.cast(brain, "int32"), 0)

    return sample


def test_cases(folder: Path) -> list[Case]:
    """Writes the test people with their heads at 1 mm in every fixed contrast, and as T1 in slices of 5 mm."""
    return [
        Case(f"{name}_{scan.name}", name, {"image": image}, mask)
        for name in people.required("test")
        for scan in structures.SCANS
        for image, mask in [write_case(folder, name, scan)]
    ]


def write_case(folder: Path, name: str, scan: phantoms.Scan) -> tuple[Path, Path]:
    """Writes a test person's scan, and the mask of the brain on its grid, unless the files exist."""
    person = anatomy(name, head=structures.TEST_HEAD, allow_test=True)
    values = structures.source_values()[structures.class_table()]
    image, _ = phantoms.write(folder, name, person.labels, person.affine, scan=scan, values=values)
    mask = folder / f"{name}_{scan.name}_brain.nii.gz"
    if not mask.exists():
        like = nib.nifti1.load(image)
        images.write(mask, phantoms.sliced(brain_of(person.labels), scan).astype(np.uint8), like)
    return image, mask


def metrics() -> list[Any]:
    """Returns Dice of the brain, of every eighth voxel."""
    return [MeanDice(len(CLASSES), every=2)]


def loss() -> Any:
    """Returns soft Dice and cross-entropy in equal parts."""
    return Combined([(1.0, dice_cross_entropy)])


TASK = Task(
    name="brain_mask",
    data=Data(
        channels=("image",),
        labels={0: ("background", 0), 1: ("brain", 1)},
        spacing_mm=structures.TASK.data.spacing_mm,
        patch=structures.PATCH,
        preprocessing=structures.TASK.data.preprocessing,
    ),
    network=Network(
        builder="unet3d", arguments=structures.TASK.network.arguments, divisor=structures.TASK.network.divisor
    ),
    fit=Fit(
        loss=loss,
        metrics=metrics,
        monitor="dice",
        optimizer=structures.TASK.fit.optimizer,
        batch_size=1,
        steps=2000,
        validation_batches=8,
    ),
    output=Output(postprocessing=({"name": "largest_component"}, {"name": "fill_holes"})),
    synthesis=Synthesis(samples=synthesis, test_cases=test_cases),
    card=CardText(
        description="Brain mask (skull stripping) of an MR image of any contrast, resolution and field of view.",
        intensities={"image": "any MR contrast, scaled to 0..1 by its 0.5th and 99.5th percentile"},
        training_data=structures.TASK.card.training_data,
        references=("10.1016/j.neuroimage.2022.119474", "10.1016/j.media.2023.102789"),
        plausible=Plausible(
            extent_mm=(60, 700),
            volumes_ml={"brain": (800, 2300)},  # with the fluid about it; adults
            edge_cm2=10,
        ),
        limits=(
            "Trained on synthetic images over 17 adult brains; children, tumours, resections and large strokes are "
            "unknown to it.",
            "The mask holds the ventricles, the fluid in sulci and fissures, and fluid within 3 mm of the brain: it is "
            "larger than masks that follow the cortex.",
            "Works at 2 mm: the border is smoother than the brain's.",
            "Where the field of view cuts the brain, the mask ends with the image, and the volume is too small.",
        ),
    ),
)
