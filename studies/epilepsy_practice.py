"""Chooses intensities and detector of `epilepsy_lesions` on practice people, whom no control and no network knows.

`tools/study epilepsy_practice` runs it; the test people take no part. Codes of the shipped network and of networks
trained anew are compared by one detector, and so are the images themselves, smoothed, which need no training and serve
either normalisation alike.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from zoo.evaluation import clusters
from zoo.training.experiments.study import Criterion, StudyResult, load_or_measure

STEP = 6  # voxels from code to code, as shipped
SCANS = {"training_control": 3, "practice_control": 2, "practice_stranger": 1, "practice_patient": 6}  # of each person
WIDTHS_MM = (3, 7)  # of the cubes that images are averaged over
NETWORK = "siamese.epilepsy_lesions"
RETRAINED = pathlib.Path("runs")  # a network of each way to normalise: tools/train_epilepsy_lesions --train-only
MOST_KS, MOST_OUT, MOST_CLUSTERS = 0.1, 0.02, 5.0
KEPT = "siamese, local, by person"
HEALTHY = ("practice_control", "practice_stranger")
SHOWN = ("ks", "ks_person", "out", "most_out", "clusters")
Encode = Callable[[np.ndarray], np.ndarray]


def smoothed(images: np.ndarray) -> np.ndarray:
    """Codes without a network: means of both channels in cubes of two widths, on the grid of codes."""
    from scipy import ndimage

    volume = np.asarray(images, np.float32)
    widths = [ndimage.uniform_filter(volume, (width, width, width, 1)) for width in WIDTHS_MM]
    return np.concatenate([one[::STEP, ::STEP, ::STEP] for one in widths], axis=-1)


@functools.cache
def network(folder: str) -> Encode:
    """Codes of a trained network."""
    from zoo.hub import trained_models
    from zoo.normative.encoding import make_encoder

    return make_encoder(trained_models.load(folder), step=STEP, precision="auto")


def retrained(intensities: str) -> pathlib.Path:
    """The folder of a network that was trained on images normalised in one way."""
    return RETRAINED / f"epilepsy_siamese_{intensities}" / NETWORK


# Codes, by encoder and intensities; the shipped network knows local ones alone.
CODES: Mapping[tuple[str, str], Callable[[], Encode]] = {
    ("images", "local"): lambda: smoothed,
    ("images", "tissue"): lambda: smoothed,
    ("siamese", "local"): lambda: network(NETWORK),
    ("retrained", "local"): lambda: network(str(retrained("local"))),
    ("retrained", "tissue"): lambda: network(str(retrained("tissue"))),
}


def count(which: str) -> int:
    """The number of scans of a cohort."""
    from zoo.normative.synthetic_cohort import COHORTS

    return SCANS[which] * len(COHORTS[which].people)


def encode(work: pathlib.Path, encoder: str, intensities: str, which: str) -> np.ndarray:
    """Codes (people, voxels, d) of a cohort; each scan's are kept as they are made."""
    from zoo import files
    from zoo.normative import model as normative
    from zoo.normative import synthetic_cohort as cohorts

    where, codes = normative.find_places(cohorts.brain(), step=STEP), []
    for number in range(count(which)):
        path = work / "codes" / f"{encoder}-{intensities}-{which}-{number:03d}.npy"
        stored = files.mapped_array(path)
        if stored is None:
            (subject,) = cohorts.load_cohort(which, 1, first=number, intensities=intensities)
            stored = normative.gather(CODES[encoder, intensities]()(subject.images), where).astype(np.float16)
            files.write_array(path, stored)
        codes.append(np.asarray(stored))
    return np.stack(codes)


def load(work: pathlib.Path, encoder: str, intensities: str, healthy: str) -> Any:
    """The cohort of controls, practice patients, and healthy people of one of the practice cohorts."""
    from zoo.normative import cohort_study
    from zoo.normative import model as normative
    from zoo.normative import synthetic_cohort as cohorts
    from zoo.synth.anatomy import common_space

    codes = [encode(work, encoder, intensities, which) for which in ("training_control", "practice_patient", healthy)]
    owners = [cohorts.person_of("training_control", number) for number in range(count("training_control"))]
    patients = cohorts.load_cohort("practice_patient", count("practice_patient"), intensities=intensities)
    where = normative.find_places(cohorts.brain(), step=STEP)
    template = common_space.atlas([common_space.TEMPLATE])[0]
    return cohort_study.EncodedCohort(*codes, owners, patients, where, STEP, template, intensities)


def settings() -> dict[str, tuple[str, str, Any, dict[str, Any]]]:
    """Encoder, intensities, detector and how it is fitted, by the name of the row."""
    from zoo.normative.detectors import Moments

    plain = Moments(axes=None)
    rows: dict[str, tuple[str, str, Any, dict[str, Any]]] = {
        f"images, {way}, by person": ("images", way, plain, {}) for way in ("local", "tissue")
    }
    rows["siamese, local, by scan"] = ("siamese", "local", Moments(), {"by_person": False})
    rows[KEPT] = ("siamese", "local", Moments(), {})
    for radius in (1, 2):
        rows[f"siamese, local, by person, radius {radius}"] = ("siamese", "local", Moments(), {"radius": radius})
    for shrinkage in (0.1, 0.3):
        rows[f"{KEPT}, shrinkage {shrinkage}"] = ("siamese", "local", Moments(shrinkage), {})
        name = f"siamese, local, by person, radius 1, shrinkage {shrinkage}"
        rows[name] = ("siamese", "local", Moments(shrinkage), {"radius": 1})
    rows[f"{KEPT}, 12 axes"] = ("siamese", "local", Moments(axes=12), {})
    for way in ("local", "tissue"):
        if retrained(way).is_dir():
            rows[f"siamese trained anew, {way}, by person"] = ("retrained", way, Moments(), {})
    return rows


def measure(work: pathlib.Path, encoder: str, intensities: str, detector: Any, fitted: Mapping[str, Any]) -> Any:
    """Scores practice patients and healthy practice people by one setting."""
    from zoo.normative import cohort_study

    row: dict[str, float] = {}
    for which in HEALTHY:
        study = cohort_study.run_study(load(work, encoder, intensities, which), detector, **fitted)
        row |= {f"{which}_{key}": value for key, value in study.fit.items()}
    return row | study.summary() | clusters.bootstrap_intervals(study.patients)


def run(seeds: int, work: pathlib.Path) -> StudyResult:
    """One row a setting; nothing is trained, so that one seed is all there is."""
    rows = {
        name: load_or_measure(
            work / f"{name.replace(', ', '_').replace(' ', '-')}.json", functools.partial(measure, work, *setting)
        )
        for name, setting in settings().items()
    }
    tables = {
        "practice patients": [lesion_row(name, row) for name, row in rows.items()],
        "healthy practice people": [healthy_row(name, row, "practice_control") for name, row in rows.items()],
        "healthy practice people, a scanner that no control knows": [
            healthy_row(name, row, "practice_stranger") for name, row in rows.items()
        ],
        "practice patients, sensitivity within 5 by lesion": [kind_row(name, row) for name, row in rows.items()],
    }
    return StudyResult(
        find_criteria(rows[KEPT]),
        tables,
        {f"{which} scans": count(which) for which in SCANS} | {"voxels from code to code": STEP},
    )


def lesion_row(name: str, row: Mapping[str, float]) -> dict[str, str]:
    """AUPRC with its interval over patients, and sensitivities."""
    low, high = row["auprc_low"], row["auprc_high"]
    shares = {f"within {most}": f"{row[f'sensitivity_within_{most}']:.2f}" for most in clusters.WITHIN}
    return {"setting": name, "AUPRC": f"{row['auprc']:.3f} ({low:.2f} to {high:.2f})", **shares}


def healthy_row(name: str, row: Mapping[str, float], which: str) -> dict[str, str]:
    """How normal the z of healthy people are."""
    return {"setting": name} | {key.replace("_", " "): f"{row[f'{which}_{key}']:.3f}" for key in SHOWN}


def kind_row(name: str, row: Mapping[str, float]) -> dict[str, str]:
    """Sensitivity within five clusters by kind of lesion."""
    start = "sensitivity_within_5_"
    kinds = [key for key in row if key.startswith(start) and not key.endswith(("_low", "_high"))]
    return {"setting": name} | {key.removeprefix(start).replace("_", " "): f"{row[key]:.2f}" for key in kinds}


def find_criteria(row: Mapping[str, float]) -> Sequence[Criterion]:
    """What the shipped setting promises, measured on practice people."""
    healthy = "practice_control_"
    ks, out, found = (row[healthy + key] for key in ("ks", "out", "clusters"))
    within = row["sensitivity_within_5"]
    return [
        Criterion("practice lesions found within 5 clusters", ">= 0.6", f"{within:.2f}", within >= 0.6),
        Criterion("distance of an unseen person's z from normal (KS)", f"<= {MOST_KS}", f"{ks:.3f}", ks <= MOST_KS),
        Criterion("brain out in an unseen person", f"<= {MOST_OUT:.0%}", f"{out:.1%}", out <= MOST_OUT),
        Criterion("clusters in an unseen person", f"<= {MOST_CLUSTERS:g}", f"{found:.1f}", found <= MOST_CLUSTERS),
    ]
