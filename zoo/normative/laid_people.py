"""Lays label maps of people on the template the way that a patient's scan is: by the structures that a network finds.

A map that is carried by its own true labels lies better than any scan will. Controls and synthetic patients are
therefore scanned once in their own space, and the transform of that scan carries their labels.
"""

import dataclasses
import functools

import nibabel
import numpy as np
import tensorflow as tf

from zoo import files
from zoo.hub import trained_models
from zoo.inference.predictor import Predictor
from zoo.inference.settings import Settings
from zoo.synth import acquisition, contrast, epilepsy, seeds
from zoo.synth.anatomy import common_space, people
from zoo.synth.anatomy.sources import anatomy, cache_folder, from_freesurfer
from zoo.volumes import image as volumes

PARCELLATION = "unet3d.brain_structures"
VERSION = 1  # part of the cache's file names: raise it when the derivation changes
SEED = 970_000


@dataclasses.dataclass(frozen=True)
class LaidPerson:
    """One person in the common space.

    Attributes:
        labels: (x, y, z) uint8, what is there.
        parcels: (x, y, z) uint8, what the parcellation takes it for.
    """

    labels: np.ndarray
    parcels: np.ndarray


def load_person(name: str, *, allow_test: bool = False) -> LaidPerson:
    """Returns a person of `zoo.synth.anatomy.people` in the common space; laid there once, and cached.

    Args:
        name: of the person.
        allow_test: lets people who are held out through.

    Raises:
        ValueError: no such person, or one held out without `allow_test`.
        FileNotFoundError: the label map is in no folder of the setting.
    """
    brain = anatomy(name, allow_test=allow_test)
    path = cache_folder() / "epilepsy" / f"{name}-laid-v{VERSION}-{parcellation_version()}.npz"

    def lay() -> dict[str, np.ndarray]:
        labels, affine = people.framed(common_space.as_template(brain.labels), brain.affine, people.MARGIN)
        scan = volumes.on_grid_of(nibabel.nifti1.Nifti1Image(labels.astype(np.uint8), affine), _scan(name, labels))
        codes, _ = volumes.to_ras(np.asanyarray(_parcellation()(scan).dataobj).astype(np.int32), affine)
        parcels = from_freesurfer(codes).astype(np.uint8)
        normalisation = common_space.normalise(parcels, common_space.atlas([common_space.TEMPLATE])[0])
        both = {"labels": labels.astype(np.uint8), "parcels": parcels}
        return {key: normalisation.carry(value, order=0) for key, value in both.items()}

    return LaidPerson(**files.cached_arrays(path, lay))


@functools.cache
def parcellation_version() -> str:
    """Returns the version of the parcellation, by which everything that follows from it is cached."""
    return trained_models.card(PARCELLATION).version


@functools.cache
def _parcellation() -> Predictor:
    return Predictor(PARCELLATION, settings=Settings(precision="auto"))


def _scan(name: str, labels: np.ndarray) -> np.ndarray:
    """Simulates a T1 of a brain on its own grid, (x, y, z) float32."""
    seed = tf.constant([SEED, list(people.PEOPLE).index(name)], tf.int32)
    brain = tf.cast(labels > 0, tf.float32)
    painted = contrast.apply(tf.constant(labels, tf.int32), contrast.draw(seed, epilepsy.CONTRASTS[0]))
    drawn = acquisition.draw(seeds.fold(seed, 1), labels.shape, epilepsy.ACQUISITIONS[0])
    return np.asarray(acquisition.apply(painted * brain, drawn) * brain)
