"""Scores the controls and patients of a cohort with one detector, whichever network made the codes."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from zoo.evaluation import clusters
from zoo.evaluation.clusters import MapScore
from zoo.normative import model as normative
from zoo.normative.detectors import Detector
from zoo.normative.intensities import LOCAL
from zoo.normative.model import Encode, NormativeModel
from zoo.normative.synthetic_cohort import Subject
from zoo.synth.anatomy import common_space


@dataclasses.dataclass(frozen=True)
class EncodedCohort:
    """Codes of controls and patients at the same places.

    Attributes:
        controls: (controls, voxels, d) float16.
        patients: (patients, voxels, d) float16.
        healthy: (people, voxels, d) float16, healthy people who are no controls.
        owners: whose scan each control is.
        people: the patients, with their lesions.
        places: (voxels, 3), indices into the grid of codes.
        step: voxels from code to code.
        template: label map of the common space.
        intensities: how the images were normalised.
    """

    controls: np.ndarray
    patients: np.ndarray
    healthy: np.ndarray
    owners: Sequence[str]
    people: Sequence[Subject]
    places: np.ndarray
    step: int
    template: np.ndarray
    intensities: str = LOCAL


@dataclasses.dataclass(frozen=True)
class CohortStudy:
    """The scores of a detector: of each patient, and of each control by those of other people.

    Attributes:
        model: the fitted detector.
        patients: scores of the patients.
        controls: scores of the controls.
        fit: what `measure_fit` says of healthy people who are no controls; empty where there are none.
    """

    model: NormativeModel
    patients: tuple[MapScore, ...]
    controls: tuple[MapScore, ...]
    fit: Mapping[str, float]

    def summary(self) -> dict[str, float]:
        """Returns the numbers of `zoo.evaluation.clusters.summarise_scores`."""
        return clusters.summarise_scores(self.patients, self.controls)


def encode_cohort(
    encode: Encode,
    controls: Sequence[Subject],
    patients: Sequence[Subject],
    healthy: Sequence[Subject] = (),
    *,
    step: int,
    template: np.ndarray,
) -> EncodedCohort:
    """Encodes a cohort.

    Args:
        encode: maps (x, y, z, channels) to codes on a grid of every `step`-th voxel.
        controls: people without a lesion.
        patients: people with a lesion.
        healthy: people without a lesion who are no controls.
        step: voxels from code to code.
        template: label map of the common space; codes are compared in its tissue.
    """
    from zoo.synth.epilepsy import brain

    where = normative.find_places(np.asarray(brain(template)), step=step)
    codes = [
        normative.encode_people(encode, [person.images for person in group], where)
        for group in (controls, patients, healthy)
    ]
    owners = [person.person for person in controls]
    return EncodedCohort(codes[0], codes[1], codes[2], owners, patients, where, step, template)


def run_study(cohort: EncodedCohort, detector: Detector, *, radius: int = 0, by_person: bool = True) -> CohortStudy:
    """Fits a detector to the controls and scores everybody.

    Args:
        cohort: the codes of controls and patients.
        detector: the detector.
        radius: of the neighbourhood in the controls that a place is compared with, in places of the grid.
        by_person: leave out all scans of a person; False leaves out one scan at a time, which is too sure of itself
            where a person has several.
    """
    model = normative.fit(
        cohort.controls,
        cohort.places,
        detector,
        step=cohort.step,
        template=cohort.template,
        people=cohort.owners if by_person else None,
        radius=radius,
        intensities=cohort.intensities,
    )
    fit = measure_fit(model, model.calibration.z(model.fitted.score(cohort.healthy))) if len(cohort.healthy) else {}
    patients_z = model.calibration.z(model.fitted.score(cohort.patients))
    return CohortStudy(
        model,
        tuple(score_person(model, z, person) for z, person in zip(patients_z, cohort.people, strict=True)),
        tuple(score_person(model, z) for z in model.calibration.z(model.fitted.null)),
        fit,
    )


def measure_fit(model: NormativeModel, z: np.ndarray) -> dict[str, float]:
    """Measures how normal the z of healthy people are whom a model never saw.

    Args:
        model: the normative model.
        z: (people, places) normal deviates.

    Returns:
        `n`; `ks`, the Kolmogorov-Smirnov distance of all z from the normal distribution, and `ks_person`, its mean over
        people; `out` and `most_out`, the mean and largest share of a brain above the threshold; `clusters`, a person.

    Example:
        >>> latents, region = np.random.default_rng(0).normal(size=(9, 64, 3)), np.ones((4, 4, 4), np.uint8)
        >>> model = normative.fit(latents, normative.find_places(region > 0, step=1), normative.make_detector("centre"),
        ...                       step=1, template=region)
        >>> 0 < measure_fit(model, model.calibration.z(model.fitted.null))["ks"] < 0.2
        True
    """
    out = np.mean(z > stats.norm.isf(clusters.P), axis=1)
    return {
        "n": len(z),
        "ks": float(stats.ks_1samp(z.ravel(), stats.norm.cdf).statistic),
        "ks_person": float(np.mean([stats.ks_1samp(own, stats.norm.cdf).statistic for own in z])),
        "out": float(out.mean()),
        "most_out": float(out.max()),
        "clusters": float(np.mean([score_person(model, own).clusters for own in z])),
    }


def score_person(model: NormativeModel, z: np.ndarray, person: Subject | None = None) -> MapScore:
    """Compares one person's z with the person's lesion; without a person, finds clusters alone."""
    inside = model.on_grid(np.ones(len(model.places), np.float32)) > 0
    affine = common_space.AFFINE @ np.diag([model.step] * 3 + [1.0])
    lesion = np.zeros(inside.shape, bool) if person is None else clusters.coarsen_mask(person.lesion, model.step)
    return clusters.score_map(model.on_grid(z), affine, lesion & inside, inside, kind=person.kind if person else "")
