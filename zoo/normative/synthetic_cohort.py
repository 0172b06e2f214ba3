"""Simulates the controls and patients of the task `epilepsy_lesions`, once, and caches them."""

import concurrent.futures as futures
import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from zoo import files
from zoo.synth import epilepsy
from zoo.synth.anatomy import common_space
from zoo.synth.anatomy.sources import cache_folder, names
from zoo.volumes.local_normalisation import flatten

VERSION = 2  # part of the cache's file names: raise it when the simulation changes
HELD_OUT = ("donor_15496", "donor_15697")
PRACTICE = ("donor_10021", "donor_14380")  # training anatomies, to choose a detector by
# First number of the seeds of each cohort; no two share a subject.
SEEDS = {
    "train": 910_000,
    "validation": 920_000,
    "control": 930_000,
    "patient": 940_000,
    "practice_control": 950_000,
    "practice_patient": 960_000,
}
CONTROLS, PATIENTS = 40, 20
AT_ONCE = 2  # subjects simulated at the same time; each takes about 2 GB


@dataclasses.dataclass(frozen=True)
class Subject:
    """One synthetic person in the common space.

    Attributes:
        name: the cohort and the number in it, as "control_003".
        kind: one of `zoo.synth.epilepsy.KINDS`.
        images: (x, y, z, 2) float16, T1 and FLAIR after `zoo.volumes.local_normalisation`, 0 outside the brain.
        lesion: (x, y, z) bool; all False in a control.
    """

    name: str
    kind: str
    images: np.ndarray
    lesion: np.ndarray


def load_cohort(which: str, count: int, *, first: int = 0) -> list[Subject]:
    """Returns subjects of a cohort, memory-mapped from the cache; simulates those that it lacks.

    Args:
        which: "train" or "validation", controls of the training anatomies; "control" or "patient" of two held-out
            ones; "practice_control" or "practice_patient" of two training ones, to choose a detector by.
        count: number of subjects.
        first: number of the first one.

    Returns:
        The subjects; patients of both kinds have the lesions of `zoo.synth.epilepsy.kinds_of`, one each.
    """
    numbers = list(range(first, first + count))
    subjects = [
        _load_subject(which, number) for number in numbers[:1]
    ]  # compiles and reads the anatomies for the others
    with futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return subjects + list(pool.map(lambda number: _load_subject(which, number), numbers[1:]))


def controls(count: int = CONTROLS) -> list[Subject]:
    """Returns controls of the held-out anatomies."""
    return load_cohort("control", count)


def patients(count: int = PATIENTS) -> list[Subject]:
    """Returns patients of the held-out anatomies, with one lesion each."""
    return load_cohort("patient", count)


def simulate_scans(subject: Subject) -> np.ndarray:
    """Simulates a subject's images before normalisation: (x, y, z, 2) float32, 0 to 1, with the bias field."""
    which, number = subject.name.rsplit("_", 1)
    return _simulate(which, int(number), subject.kind)[0]


@functools.cache
def brain() -> np.ndarray:
    """Returns the tissue of the template, where codes are compared, (x, y, z) bool."""
    return np.asarray(epilepsy.brain(common_space.atlas([common_space.TEMPLATE])[0]))


def _load_subject(which: str, number: int) -> Subject:
    kind = epilepsy.kinds_of(number + 1)[number] if which.endswith("patient") else epilepsy.KINDS[0]
    name = f"{which}_{number:03d}"
    home = cache_folder() / "epilepsy"
    paths = [home / f"{name}-{part}-v{VERSION}.npy" for part in ("images", "lesion")]
    arrays = [files.mapped_array(path) for path in paths]
    if any(array is None for array in arrays):
        images, lesion = _simulate(which, number, kind)
        images = flatten(images, np.any(images != 0, axis=-1))
        for path, array in zip(paths, (images.astype(np.float16), lesion), strict=True):
            files.write_array(path, array)
    images, lesion = (np.load(path, mmap_mode="r") for path in paths)
    return Subject(name, kind, images, lesion)


def _simulate(which: str, number: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    maps = _select_anatomies(which)
    labels = maps[number % len(maps)]
    seed = tf.constant([SEEDS[which] + number, number], tf.int32)
    images, lesion = _compiled_simulation()(tf.constant(labels), seed, tf.constant(epilepsy.KINDS.index(kind)))
    return images.numpy(), lesion.numpy()[..., 0] > 0


def _select_anatomies(which: str) -> np.ndarray:
    if which.startswith("practice"):
        return _load_atlas(PRACTICE)
    return _load_atlas(tuple(names("train")) if which in ("train", "validation") else HELD_OUT)


@functools.cache
def _load_atlas(anatomies: tuple[str, ...]) -> np.ndarray:
    return common_space.atlas(anatomies, allow_test=anatomies == HELD_OUT)


@functools.cache
def _compiled_simulation() -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """Returns the simulation, from labels, seed and kind to images and lesion, compiled once for all subjects."""

    @tf.function(jit_compile=True)
    def simulate(labels: Any, seed: Any, kind: Any) -> tuple[Any, Any]:
        params = epilepsy.draw(seed, common_space.SHAPE, kind=kind)
        return epilepsy.apply(labels, params)

    return simulate


def stack_images(subjects: Iterable[Subject]) -> np.ndarray:
    """Stacks the images of subjects, (subjects, x, y, z, 2) float16, for a graph that cuts patches from them."""
    return np.stack([subject.images for subject in subjects])
