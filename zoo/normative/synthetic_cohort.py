"""Synthetic controls and patients of the task `epilepsy_lesions`, painted once and kept in the cache."""

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

VERSION = 2  # part of the cache's file names: raise it when the painting changes
HELD_OUT = ("donor_15496", "donor_15697")
PRACTICE = ("donor_10021", "donor_14380")  # of those that trained
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
AT_ONCE = 2  # subjects painted at the same time; each takes about 2 GB


@dataclasses.dataclass(frozen=True)
class Subject:
    """One synthetic person in the common space.

    Attributes:
        name: of the cohort and the number in it.
        kind: one of `zoo.synth.epilepsy.KINDS`.
        images: (x, y, z, 2) float16, T1 and FLAIR made flat (`zoo.volumes.local_normalisation`), 0 outside the brain.
        lesion: (x, y, z) bool; all False in a control.
    """

    name: str
    kind: str
    images: np.ndarray
    lesion: np.ndarray


def cohort(which: str, count: int, *, first: int = 0) -> list[Subject]:
    """Some subjects of a cohort, from the cache or painted; those in it are memory-mapped.

    Args:
        which: "train" or "validation" of the training anatomies, controls all; "control" or "patient" of two held-out
            ones; "practice_control" or "practice_patient" of two that trained, to choose a detector by.
        count: how many.
        first: number of the first one.

    Returns:
        The subjects; patients of both kinds have the lesions of `zoo.synth.epilepsy.kinds_of`, one each.
    """
    numbers = list(range(first, first + count))
    begun = [_kept(which, number) for number in numbers[:1]]  # compiles and reads the anatomies for the others
    with futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return begun + list(pool.map(lambda number: _kept(which, number), numbers[1:]))


def controls(count: int = CONTROLS) -> list[Subject]:
    """Controls of the held-out anatomies."""
    return cohort("control", count)


def patients(count: int = PATIENTS) -> list[Subject]:
    """Patients of the held-out anatomies, with a lesion each."""
    return cohort("patient", count)


def scans(subject: Subject) -> np.ndarray:
    """A subject's images as a scanner gives them, painted anew: (x, y, z, 2) float32, 0 to 1, bias and all."""
    which, number = subject.name.rsplit("_", 1)
    return _painted(which, int(number), subject.kind)[0]


@functools.cache
def brain() -> np.ndarray:
    """Where codes are compared: tissue of the template, (x, y, z) bool."""
    return np.asarray(epilepsy.brain(common_space.atlas([common_space.TEMPLATE])[0]))


def _kept(which: str, number: int) -> Subject:
    kind = epilepsy.kinds_of(number + 1)[number] if which.endswith("patient") else epilepsy.KINDS[0]
    name = f"{which}_{number:03d}"
    home = cache_folder() / "epilepsy"
    paths = [home / f"{name}-{part}-v{VERSION}.npy" for part in ("images", "lesion")]
    arrays = [files.mapped_array(path) for path in paths]
    if any(array is None for array in arrays):
        images, lesion = _painted(which, number, kind)
        images = flatten(images, np.any(images != 0, axis=-1))
        for path, array in zip(paths, (images.astype(np.float16), lesion), strict=True):
            files.write_array(path, array)
    images, lesion = (np.load(path, mmap_mode="r") for path in paths)
    return Subject(name, kind, images, lesion)


def _painted(which: str, number: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    maps = _anatomies(which)
    labels = maps[number % len(maps)]
    seed = tf.constant([SEEDS[which] + number, number], tf.int32)
    images, lesion = _painter()(tf.constant(labels), seed, tf.constant(epilepsy.KINDS.index(kind)))
    return images.numpy(), lesion.numpy()[..., 0] > 0


def _anatomies(which: str) -> np.ndarray:
    if which.startswith("practice"):
        return _atlas(PRACTICE)
    return _atlas(tuple(names("train")) if which in ("train", "validation") else HELD_OUT)


@functools.cache
def _atlas(chosen: tuple[str, ...]) -> np.ndarray:
    return common_space.atlas(chosen, allow_test=chosen == HELD_OUT)


@functools.cache
def _painter() -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """Labels, seed and kind to images and lesion, compiled once for every subject."""

    @tf.function(jit_compile=True)
    def paint(labels: Any, seed: Any, kind: Any) -> tuple[Any, Any]:
        params = epilepsy.draw(seed, common_space.SHAPE, kind=kind)
        return epilepsy.apply(labels, params)

    return paint


def stacked(subjects: Iterable[Subject]) -> np.ndarray:
    """Images of some subjects, (subjects, x, y, z, 2) float16, for a graph that cuts patches from them."""
    return np.stack([subject.images for subject in subjects])
