"""Scores the controls and patients of a cohort with one detector, whichever network made the codes."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from zoo.evaluation import clusters
from zoo.evaluation.clusters import MapScore
from zoo.normative import model as normative
from zoo.normative.detectors import Detector
from zoo.normative.model import Encode, NormativeModel
from zoo.normative.synthetic_cohort import Subject
from zoo.synth.anatomy import common_space


@dataclasses.dataclass(frozen=True)
class EncodedCohort:
    """Codes of controls and patients at the same places.

    Attributes:
        controls: (controls, voxels, d) float16.
        patients: (patients, voxels, d) float16.
        people: the patients, with their lesions.
        places: (voxels, 3), indices into the grid of codes.
        step: voxels from code to code.
        template: label map of the common space.
    """

    controls: np.ndarray
    patients: np.ndarray
    people: Sequence[Subject]
    places: np.ndarray
    step: int
    template: np.ndarray


@dataclasses.dataclass(frozen=True)
class CohortStudy:
    """The scores of a detector: of each patient, and of each control by the others."""

    model: NormativeModel
    patients: tuple[MapScore, ...]
    controls: tuple[MapScore, ...]

    def summary(self) -> dict[str, float]:
        """Returns the numbers of `zoo.evaluation.clusters.summarise_scores`."""
        return clusters.summarise_scores(self.patients, self.controls)


def encode_cohort(
    encode: Encode, controls: Sequence[Subject], patients: Sequence[Subject], *, step: int, template: np.ndarray
) -> EncodedCohort:
    """Encodes a cohort.

    Args:
        encode: maps (x, y, z, channels) to codes on a grid of every `step`-th voxel.
        controls: people without a lesion.
        patients: people with a lesion.
        step: voxels from code to code.
        template: label map of the common space; codes are compared in its tissue.
    """
    from zoo.synth.epilepsy import brain

    where = normative.find_places(np.asarray(brain(template)), step=step)
    codes = [
        normative.encode_people(encode, [person.images for person in group], where) for group in (controls, patients)
    ]
    return EncodedCohort(codes[0], codes[1], patients, where, step, template)


def run_study(cohort: EncodedCohort, detector: Detector) -> CohortStudy:
    """Fits a detector to the controls and scores everybody."""
    model = normative.fit(cohort.controls, cohort.places, detector, step=cohort.step, template=cohort.template)
    patients_z = model.calibration.z(model.fitted.score(cohort.patients))
    return CohortStudy(
        model,
        tuple(score_person(model, z, person) for z, person in zip(patients_z, cohort.people, strict=True)),
        tuple(score_person(model, z) for z in model.calibration.z(model.fitted.null)),
    )


def score_person(model: NormativeModel, z: np.ndarray, person: Subject | None = None) -> MapScore:
    """Compares one person's z with the person's lesion; without a person, finds clusters alone."""
    inside = model.on_grid(np.ones(len(model.places), np.float32)) > 0
    affine = common_space.AFFINE @ np.diag([model.step] * 3 + [1.0])
    lesion = np.zeros(inside.shape, bool) if person is None else clusters.coarsen_mask(person.lesion, model.step)
    return clusters.score_map(model.on_grid(z), affine, lesion & inside, inside, kind=person.kind if person else "")
