"""A trial of codes: controls and patients of one cohort judged by one detector, whichever network made the codes."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from zoo.evaluation import clusters
from zoo.evaluation.clusters import MapScore
from zoo.normative import model as normative
from zoo.normative.detectors import Detector
from zoo.normative.model import Encode, Normative
from zoo.normative.synthetic_cohort import Subject
from zoo.synth.anatomy import common_space


@dataclasses.dataclass(frozen=True)
class Cohort:
    """Codes of controls and patients at the same places.

    Attributes:
        controls: (controls, voxels, d) float16.
        patients: (patients, voxels, d) float16.
        people: the patients, with their lesions.
        places: (voxels, 3), entries of the grid of codes.
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
class Trial:
    """How a detector fared: each patient, and each control judged by the others."""

    model: Normative
    patients: tuple[MapScore, ...]
    controls: tuple[MapScore, ...]

    def summary(self) -> dict[str, float]:
        """As `zoo.evaluation.clusters.summarise_scores`."""
        return clusters.summarise_scores(self.patients, self.controls)


def cohort(
    encode: Encode, controls: Sequence[Subject], patients: Sequence[Subject], *, step: int, template: np.ndarray
) -> Cohort:
    """Encodes a cohort.

    Args:
        encode: from (x, y, z, channels) to codes on a grid of every `step`-th voxel.
        controls: people without a lesion.
        patients: people with one.
        step: voxels from code to code.
        template: label map of the common space; its tissue is where codes are compared.
    """
    from zoo.synth.epilepsy import brain

    where = normative.places(np.asarray(brain(template)), step=step)
    codes = [normative.stack(encode, [one.images for one in some], where) for some in (controls, patients)]
    return Cohort(codes[0], codes[1], patients, where, step, template)


def run(given: Cohort, chosen: Detector) -> Trial:
    """Fits a detector to the controls and judges everybody."""
    model = normative.fit(given.controls, given.places, chosen, step=given.step, template=given.template)
    z = model.calibration.z(model.fitted.score(given.patients))
    return Trial(
        model,
        tuple(judged(model, one, person) for one, person in zip(z, given.people, strict=True)),
        tuple(judged(model, one) for one in model.calibration.z(model.fitted.null)),
    )


def judged(model: Normative, z: np.ndarray, person: Subject | None = None) -> MapScore:
    """One person's z at the places of a model against the lesion that is there; without a person, clusters alone."""
    inside = model.on_grid(np.ones(len(model.places), np.float32)) > 0
    affine = common_space.AFFINE @ np.diag([model.step] * 3 + [1.0])
    lesion = np.zeros(inside.shape, bool) if person is None else clusters.coarsen_mask(person.lesion, model.step)
    return clusters.score_map(model.on_grid(z), affine, lesion & inside, inside, kind=person.kind if person else "")
