"""Simulates the people of the task `epilepsy_lesions`, once, and caches them: who trains, who is a control, who tests.

No person is in two of training, practice and test. Practice people choose detector and intensities; test people are
scanned for the result alone. The controls that are shipped with 1.0.0, and the patients that it was tested on, are of
two donors who are nobody else.
"""

import concurrent.futures as futures
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf

from zoo import files
from zoo.errors import unknown_choice
from zoo.normative import laid_people
from zoo.normative.intensities import LOCAL, NORMALISATIONS
from zoo.normative.laid_people import LaidPerson
from zoo.synth import epilepsy
from zoo.synth.anatomy import common_space, people
from zoo.synth.anatomy.sources import cache_folder

VERSION = 3  # part of the cache's file names: raise it when the simulation changes
HELD_OUT = ("donor_15496", "donor_15697")
PRACTICE = ("synthseg_11", "synthseg_12", "synthseg_13", "synthsr_4")
TEST = ("synthseg_14", "synthseg_15", "synthseg_16", "synthsr_5")
TRAINING = (
    *("synthseg_01", "synthseg_02", "synthseg_03", "synthsr_1", "synthseg_04", "synthseg_05", "synthseg_06"),
    *("synthseg_07", "synthsr_2", "synthseg_08", "synthseg_09", "synthseg_10", "synthsr_3"),
)
CONTROLS, PATIENTS = 40, 20
AT_ONCE = 2  # subjects simulated at the same time; each takes about 2 GB
# A scanner that no control was scanned by: other tissue contrasts, more noise, more bias.
_STRANGE_CONTRAST: dict[str, Any] = {"sds": (2, 10), "spread": 0.12}
_STRANGE_RECEIVER: dict[str, Any] = {"bias_sd": 0.3, "gamma_sd": 0.2, "noise": 0.05}
STRANGE = dataclasses.replace(
    epilepsy.DEFAULT,
    contrasts=(
        dataclasses.replace(epilepsy.CONTRASTS[0], **_STRANGE_CONTRAST),
        dataclasses.replace(epilepsy.CONTRASTS[1], **_STRANGE_CONTRAST),
    ),
    acquisitions=(
        dataclasses.replace(epilepsy.ACQUISITIONS[0], **_STRANGE_RECEIVER),
        dataclasses.replace(epilepsy.ACQUISITIONS[1], **_STRANGE_RECEIVER),
    ),
)


@dataclasses.dataclass(frozen=True)
class Cohort:
    """People and their scans.

    Attributes:
        people: names of anatomies.
        seed: first number of the scans' seeds; no two cohorts share a scan.
        patients: whether each has a lesion.
        strange: whether the scanner is one that no control was scanned by.
        crossed: whether the first people have the first kind of lesion, the next the second; else each the next kind.
    """

    people: tuple[str, ...]
    seed: int
    patients: bool = False
    strange: bool = False
    crossed: bool = True


COHORTS: Mapping[str, Cohort] = MappingProxyType(
    {
        "train": Cohort(TRAINING, 910_000),
        "validation": Cohort(TRAINING, 920_000),
        "control": Cohort(HELD_OUT, 930_000),
        "patient": Cohort(HELD_OUT, 940_000, patients=True, crossed=False),
        "practice_control": Cohort(PRACTICE, 950_000),
        "practice_patient": Cohort(PRACTICE, 960_000, patients=True),
        "practice_stranger": Cohort(PRACTICE, 965_000, strange=True),
        "training_control": Cohort(TRAINING, 975_000),
        "test_control": Cohort(TEST, 980_000),
        "test_patient": Cohort(TEST, 985_000, patients=True),
    }
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """One synthetic scan in the common space.

    Attributes:
        name: the cohort and the number in it, as "control_003".
        person: whose scan it is.
        kind: one of `zoo.synth.epilepsy.KINDS`.
        images: (x, y, z, 2) float16, T1 and FLAIR after normalisation, 0 outside the brain.
        lesion: (x, y, z) bool; all False in a control.
    """

    name: str
    person: str
    kind: str
    images: np.ndarray
    lesion: np.ndarray


def load_cohort(which: str, count: int, *, first: int = 0, intensities: str = LOCAL) -> list[Subject]:
    """Returns subjects of a cohort, memory-mapped from the cache; simulates those that it lacks.

    Args:
        which: one of `COHORTS`.
        count: number of subjects; people take turns, and so do kinds of lesions.
        first: number of the first one.
        intensities: "local", `zoo.volumes.local_normalisation`, or "tissue", `zoo.normative.tissue_scale`.

    Returns:
        The subjects; a patient has one lesion.

    Raises:
        ValueError: no such cohort or normalisation.
        FileNotFoundError: the label map of a person is in no folder of `ZOO_ANATOMIES`.
    """
    for kind, name, choices in (("cohort", which, COHORTS), ("normalisation", intensities, NORMALISATIONS)):
        if name not in choices:
            raise unknown_choice(kind, name, choices)
    numbers = list(range(first, first + count))
    subjects = [
        _load_subject(which, number, intensities) for number in numbers[:1]
    ]  # compiles and reads the anatomies for the others
    with futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return subjects + list(pool.map(lambda number: _load_subject(which, number, intensities), numbers[1:]))


def controls(count: int = CONTROLS) -> list[Subject]:
    """Returns controls of the two donors: those that 1.0.0 knows."""
    return load_cohort("control", count)


def patients(count: int = PATIENTS) -> list[Subject]:
    """Returns patients of the two donors, with one lesion each: those that 1.0.0 was tested on."""
    return load_cohort("patient", count)


def simulate_scans(subject: Subject) -> np.ndarray:
    """Simulates a subject's images before normalisation: (x, y, z, 2) float32, 0 to 1, with the bias field."""
    which, number = subject.name.rsplit("_", 1)
    return _simulate(which, int(number))[0]


def person_of(which: str, number: int) -> str:
    """Returns the name of the person whose scan has a number in a cohort."""
    members = COHORTS[which].people
    return members[number % len(members)]


def kind_of(which: str, number: int) -> str:
    """Returns the kind of lesion of a scan by its number, "control" in a cohort without lesions."""
    cohort = COHORTS[which]
    if not cohort.patients:
        return epilepsy.KINDS[0]
    kinds = epilepsy.KINDS[1:]
    return kinds[(number // len(cohort.people) if cohort.crossed else number) % len(kinds)]


@functools.cache
def brain() -> np.ndarray:
    """Returns the tissue of the template, where codes are compared, (x, y, z) bool."""
    return np.asarray(epilepsy.brain(common_space.atlas([common_space.TEMPLATE])[0]))


def _load_subject(which: str, number: int, intensities: str) -> Subject:
    name = f"{which}_{number:03d}"
    kept = {
        part: cache_folder() / "epilepsy" / f"{name}-{part}-v{VERSION}-{laid_people.parcellation_version()}.npy"
        for part in (*NORMALISATIONS, "lesion")
    }
    paths = [kept[intensities], kept["lesion"]]
    if any(files.mapped_array(path) is None for path in paths):
        images, parcels, lesion = _simulate(which, number)
        files.write_array(paths[1], lesion)
        # The scan is what takes long: all ways to normalise it are kept.
        for way, normalise in NORMALISATIONS.items():
            files.write_array(kept[way], normalise(images, parcels).astype(np.float16))
    images, lesion = (np.load(path, mmap_mode="r") for path in paths)
    return Subject(name, person_of(which, number), kind_of(which, number), images, lesion)


def _simulate(which: str, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns images (x, y, z, 2), 0 outside the brain as the parcellation sees it, the parcels, and the lesion."""
    cohort, person = COHORTS[which], _load_person(person_of(which, number))
    seed = tf.constant([cohort.seed + number, number], tf.int32)
    ranges = STRANGE if cohort.strange else epilepsy.DEFAULT
    params = epilepsy.draw(seed, common_space.SHAPE, kind=kind_of(which, number), ranges=ranges)
    images, parcels, lesion = (
        part.numpy() for part in _compiled_simulation()(tf.constant(person.labels), tf.constant(person.parcels), params)
    )
    return images * (parcels > 0)[..., None], parcels, lesion[..., 0] > 0


@functools.cache
def _load_person(name: str) -> LaidPerson:
    if name in people.PEOPLE:
        return laid_people.load_person(name, allow_test=name in TEST)
    (labels,) = common_space.atlas([name], allow_test=name in HELD_OUT)
    return LaidPerson(labels, labels)


@functools.cache
def _compiled_simulation() -> Callable[..., tuple[Any, Any, Any]]:
    """Returns the simulation, from labels, parcels and what was drawn, compiled once for all subjects."""

    @tf.function(jit_compile=True)
    def simulate(labels: Any, parcels: Any, params: Any) -> tuple[Any, Any, Any]:
        images, lesion = epilepsy.apply(labels, params)
        return images, epilepsy.move(parcels, params), lesion

    return simulate


def stack_images(subjects: Iterable[Subject]) -> np.ndarray:
    """Stacks the images of subjects, (subjects, x, y, z, 2) float16, for a graph that cuts patches from them."""
    return np.stack([subject.images for subject in subjects])
