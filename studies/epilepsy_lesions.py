"""The gates of `epilepsy_lesions`: every encoder with the same detector and people (`tools/study` runs them).

Networks are trained for a few hundred steps: what is compared is the recipe, not the shipped model. Codes are compared
on every third voxel. Controls are scans of training people; patients and the healthy people that false alarms are
counted in are scans of test people (`zoo.normative.synthetic_cohort`). `tools/study epilepsy_practice` chooses.
"""

import functools
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from studies import epilepsy_encoders as encoders
from studies import epilepsy_gans as gans
from zoo.evaluation import clusters
from zoo.training.experiments.study import Criterion, StudyResult, format_spread, load_or_measure

WHOLE, HALF = 1_500_000, 190_000  # voxels of a brain at 1 mm, and on every second voxel along each axis
MOST_S, MOST_SVM_S = 120.0, 600.0
MAIN = "siamese"
CONTROLS, PATIENTS = 39, 40
HEALTHY = 30  # people without a lesion who are no controls
SHOWN = ("auprc", "sensitivity_within_1", "sensitivity_within_3", "sensitivity_within_5", "sensitivity_within_10",
         "clusters_a_control", "healthy_clusters", "healthy_out", "healthy_ks")  # fmt: skip
Rows = Mapping[str, Sequence[Mapping[str, float]]]


@functools.cache
def people() -> tuple[Any, Any, Any, np.ndarray]:
    """Controls, patients, healthy people who are no controls, and the template."""
    from zoo.normative.synthetic_cohort import load_cohort
    from zoo.synth.anatomy import common_space

    controls, patients = load_cohort("training_control", CONTROLS), load_cohort("test_patient", PATIENTS)
    template = common_space.atlas([common_space.TEMPLATE])[0]
    return controls, patients, load_cohort("test_control", HEALTHY), template


@functools.lru_cache(maxsize=1)
def cohort(name: str, seed: int) -> Any:
    """Codes of everybody by one encoder."""
    from zoo.normative import cohort_study

    controls, patients, healthy, template = people()
    return cohort_study.encode_cohort(
        encoders.ENCODERS[name](seed), controls, patients, healthy, step=encoders.STEP, template=template
    )


def detectors() -> dict[str, Any]:
    """The detectors; the first is the one that encoders are compared with."""
    from zoo.normative import detectors as outliers

    machines = {f"one_class, nu {nu:g}": outliers.OneClass(nu=nu) for nu in (0.03, 0.1)}
    return {
        "moments": outliers.Moments(),
        "moments, 16 axes": outliers.Moments(axes=16),
        "mahalanobis": outliers.Mahalanobis(),
        "mahalanobis, shrinkage 0.3": outliers.Mahalanobis(0.3),
        "nearest": outliers.Nearest(),
        "centre": outliers.Centre(),
        **machines,
    }


def measured(name: str, seed: int) -> dict[str, float]:
    """One encoder with the common detector, and intervals over patients for when there is one seed."""
    from zoo.normative import cohort_study

    found = cohort_study.run_study(cohort(name, seed), detectors()["moments"])
    return describe(found) | clusters.bootstrap_intervals(found.patients)


def describe(found: Any) -> dict[str, float]:
    """What a study found in patients, and in healthy people who are no controls."""
    return found.summary() | {f"healthy_{key}": value for key, value in found.fit.items()}


def shuffled(seed: int) -> dict[str, float]:
    """The same codes, with each control's place taken for another one: what a voxel's own model is worth."""
    import dataclasses

    from zoo.normative import cohort_study

    given = cohort(MAIN, seed)
    order = np.random.default_rng(seed).permutation(given.controls.shape[1])
    return describe(
        cohort_study.run_study(dataclasses.replace(given, controls=given.controls[:, order]), detectors()["moments"])
    )


def by_scan(seed: int) -> dict[str, float]:
    """The same codes, calibrated by leaving out a scan instead of a person: what that costs."""
    from zoo.normative import cohort_study

    return describe(cohort_study.run_study(cohort(MAIN, seed), detectors()["moments"], by_person=False))


def by_detector() -> dict[str, dict[str, float]]:
    """Every detector on the codes of the siamese network, and one machine a patient."""
    from zoo.normative import cohort_study

    rows = {name: describe(cohort_study.run_study(cohort(MAIN, 0), chosen)) for name, chosen in detectors().items()}
    return rows | {"one machine a patient": _own_machines()}


def _own_machines() -> dict[str, float]:
    """Pinon's detector: each person's codes against that person's own; calibrated by what controls look like so."""
    from zoo.normative import cohort_study
    from zoo.normative import model as normative
    from zoo.normative.calibration import Calibration
    from zoo.normative.detectors import Centre, score_within_person

    given = cohort(MAIN, 0)
    null, scores = (np.stack([score_within_person(one) for one in some]) for some in (given.controls, given.patients))
    model = normative.fit(given.controls[:, :, :1], given.places, Centre(), step=given.step, template=given.template)
    calibration = Calibration.of(null)
    patients = [
        cohort_study.score_person(model, z, one) for z, one in zip(calibration.z(scores), given.people, strict=True)
    ]
    return clusters.summarise_scores(patients, [cohort_study.score_person(model, z) for z in calibration.z(null)])


def agreement(seed: int) -> dict[str, float]:
    """Cosine of two people's codes of one place, and the least SD of a dimension over places."""
    given = cohort(MAIN, seed).controls.astype(np.float32)
    first, second = given[0::2], given[1::2]
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    cosine = np.sum(first * second, axis=-1) / np.maximum(lengths, 1e-8)
    return {"cosine": float(cosine.mean()), "least_sd": float(given.reshape(-1, given.shape[-1]).std(axis=0).min())}


def seconds() -> dict[str, float]:
    """Time to fit a whole brain of 40 controls and codes of 64, scaled up from a part of it."""
    from zoo.normative import detectors as outliers

    latents = np.random.default_rng(0).standard_normal((40, 4 * outliers.BLOCK, 64)).astype(np.float16)
    parts = {"mahalanobis": (outliers.Mahalanobis(), WHOLE), "nearest": (outliers.Nearest(), WHOLE)}
    parts |= {"moments": (outliers.Moments(), WHOLE), "one_class": (outliers.OneClass(), HALF)}
    found = {}
    for name, (chosen, voxels) in parts.items():
        start = time.perf_counter()
        chosen.fit(latents)
        found[name] = (time.perf_counter() - start) * voxels / latents.shape[1]
    return found


def run(seeds: int, work: pathlib.Path) -> StudyResult:
    """The gates, and one row an encoder; each encoder and seed is kept as it is done."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in encoders.ENCODERS}
    shuffles, agreements = [], []
    for seed in range(seeds):
        for name in encoders.ENCODERS:
            file = f"{name.replace(' ', '_')}_{seed}.json"
            rows[name].append(load_or_measure(work / file, functools.partial(measured, name, seed)))
            if name == MAIN:
                shuffles.append(load_or_measure(work / f"shuffled_{seed}.json", functools.partial(shuffled, seed)))
                agreements.append(load_or_measure(work / f"agreement_{seed}.json", functools.partial(agreement, seed)))
        if seed == 0:
            detector_rows = load_or_measure(work / "detectors.json", by_detector)
            detector_rows["moments, calibrated by scan"] = load_or_measure(
                work / "by_scan.json", functools.partial(by_scan, seed)
            )
    times = load_or_measure(work / "seconds.json", seconds)
    tables = {
        "encoders, the same detector (moments)": [_row("encoder", name, each) for name, each in rows.items()],
        "by lesion: AUPRC": [_by_lesion(name, each) for name, each in rows.items()],
        "detectors, codes of the siamese network": [
            _row("detector", name, [row]) for name, row in detector_rows.items()
        ],
        "seconds to fit a whole brain": [{name: f"{value:.0f}" for name, value in times.items()}],
    }
    settings = {"steps": encoders.STEPS, "batch": encoders.BATCH, "code": encoders.CODE_SIZE, "seeds": seeds,
                "controls": CONTROLS, "patients": PATIENTS, "healthy": HEALTHY,
                "voxels from code to code": encoders.STEP}  # fmt: skip
    promises = [*found_gates(rows, shuffles, agreements), *gans.gates(rows, MAIN), *speed(times)]
    return StudyResult(promises, tables, settings | gans.told())


def _row(title: str, name: str, each: Sequence[Mapping[str, float]]) -> dict[str, str]:
    return {title: name} | {key.replace("sensitivity_", ""): told(each, key) for key in SHOWN}


def told(each: Sequence[Mapping[str, float]], key: str) -> str:
    """Mean and SD over seeds; of one seed the interval over patients, where there is one."""
    only = each[0]
    if key not in only:
        return "-"
    if len(each) > 1 or f"{key}_low" not in only:
        return format_spread([row[key] for row in each])
    return f"{only[key]:.3f} ({only[f'{key}_low']:.2f} to {only[f'{key}_high']:.2f})"


def _by_lesion(name: str, each: Sequence[Mapping[str, float]]) -> dict[str, str]:
    kinds = [key for key in each[0] if key.startswith("auprc_") and not key.endswith(("_low", "_high"))]
    return {"encoder": name} | {key.removeprefix("auprc_"): format_spread([row[key] for row in each]) for key in kinds}


def found_gates(rows: Rows, shuffles: Sequence[Mapping[str, float]], agreements: Any) -> list[Criterion]:
    """The promises about the siamese network; those about others go below, by the names in `ENCODERS`."""
    own = rows[MAIN]
    column = lambda key, some=own: [row[key] for row in some]  # noqa: E731
    mean = lambda key, some=own: float(np.mean(column(key, some)))  # noqa: E731
    within = "sensitivity_within_5"
    nodules = [f"{within}_heterotopia", f"{within}_flair"]
    drop = [1 - other["auprc"] / max(row["auprc"], 1e-9) for row, other in zip(own, shuffles, strict=True)]
    cosine, sd = column("cosine", agreements), column("least_sd", agreements)
    simple = rows["auto-encoder"]
    return [
        Criterion("lesions found within 5 clusters", ">= 0.6", format_spread(column(within)), mean(within) >= 0.6),
        Criterion(
            "nodules and FLAIR lesions found within 5 clusters", ">= 0.8 each",
            ", ".join(format_spread(column(key)) for key in nodules), min(map(mean, nodules)) >= 0.8,
        ),
        Criterion(
            "siamese against auto-encoder, AUPRC", ">= its", f"{format_spread(column('auprc'))} against "
            f"{format_spread(column('auprc', simple))}", mean("auprc") >= mean("auprc", simple),
        ),
        Criterion(
            f"clusters in an unseen healthy person at p < {clusters.P:g}", "<= 5",
            format_spread(column("healthy_clusters")), mean("healthy_clusters") <= 5,
        ),
        Criterion(
            "brain out in an unseen healthy person", "<= 2 %", format_spread(column("healthy_out")),
            mean("healthy_out") <= 0.02,
        ),
        Criterion(
            "codes of one place in two people agree without collapse", "cosine > 0.9, every SD > 0.1",
            f"{format_spread(cosine)}, least SD {format_spread(sd)}", min(cosine) > 0.9 and min(sd) > 0.1,
        ),
        Criterion("loss of AUPRC at shuffled places", "> 30 %", format_spread(drop), float(np.mean(drop)) > 0.3),
    ]  # fmt: skip


def speed(times: Mapping[str, float]) -> list[Criterion]:
    """How long it takes to fit a whole brain."""
    quick = ", ".join(f"{name} {times[name]:.0f} s" for name in ("mahalanobis", "nearest"))
    part = "Timed on 8,192 voxels of 40 controls and codes of 64, and scaled up."
    return [
        Criterion(
            "1.5 million voxel models", "< 120 s", quick, max(times["mahalanobis"], times["nearest"]) < MOST_S, part
        ),
        Criterion(
            "one-class machines on every second voxel", "< 600 s", f"{times['one_class']:.0f} s",
            times["one_class"] < MOST_SVM_S, part,
        ),
    ]  # fmt: skip
