"""The tools of `epilepsy_lesions`: what is measured before a release, in practice, and in real patients."""

import numpy as np
import pytest
from support.scripts import load_script

from zoo.evaluation.clusters import find_clusters
from zoo.normative import synthetic_cohort as cohorts
from zoo.normative.detectors import Moments
from zoo.normative.synthetic_cohort import Subject
from zoo.synth.anatomy import common_space
from zoo.synth.anatomy.labels import INDEX

SHAPE = (24, 30, 36)


def scans(which, count, *, first=0, intensities="local"):
    """Noise that differs between people more than between scans; a patient has a bright box."""
    subjects = []
    for number in range(first, first + count):
        person = cohorts.person_of(which, number)
        own = np.random.default_rng(sum(map(ord, person))).standard_normal((*SHAPE, 2))
        images = own + 0.1 * np.random.default_rng([number, cohorts.COHORTS[which].seed]).standard_normal((*SHAPE, 2))
        lesion = np.zeros(SHAPE, bool)
        if cohorts.COHORTS[which].patients:
            lesion[5:17, 11:23, 11:23] = True
        images = (images + 9 * lesion[..., None]).astype(np.float16)
        subjects.append(Subject(f"{which}_{number:03d}", person, cohorts.kind_of(which, number), images, lesion))
    return subjects


def codes(images):
    """Two neighbours on every third voxel."""
    return np.concatenate([images[::3, ::3, ::3], images[1::3, ::3, ::3]], axis=-1).astype(np.float32)


@pytest.fixture
def world(monkeypatch):
    """Small people, and codes that are parts of their images."""
    monkeypatch.setattr(common_space, "SHAPE", SHAPE)
    monkeypatch.setattr(common_space, "atlas", lambda names: np.full((1, *SHAPE), INDEX["left_white"], np.uint8))
    monkeypatch.setattr(cohorts, "load_cohort", scans)
    monkeypatch.setattr(cohorts, "brain", lambda: np.ones(SHAPE, bool))


def test_release_measures_lesions_and_healthy_people(world, monkeypatch):
    tool = load_script("tools/train_epilepsy_lesions")
    monkeypatch.setattr(tool, "STEP", 3)
    monkeypatch.setattr(tool, "Moments", lambda: Moments(axes=None))
    monkeypatch.setattr(tool, "make_encoder", lambda *_, **__: codes)
    monkeypatch.setattr(tool.trained_models, "load", lambda folder: None)
    fitted, rows = tool.measure(None, tool.PRACTICE, "tissue")
    assert fitted.controls == 39 and fitted.intensities == "tissue"
    lesions, healthy = rows["practice people, synthetic lesions"], rows["practice people, healthy"]
    assert lesions["n"] == 24 and lesions["sensitivity_within_1"] == 1 and lesions["auprc"] > 0.9
    assert healthy["n"] == 8 and healthy["out"] < 0.01 and healthy["ks"] < 0.3


def test_practice_compares_calibration_by_person_and_by_scan(world, monkeypatch, tmp_path):
    study = load_script("studies/epilepsy_practice.py")
    monkeypatch.setattr(study, "STEP", 3)
    monkeypatch.setattr(study, "CODES", dict.fromkeys(study.CODES, lambda: codes))
    names = {
        name: setting for name, setting in study.settings().items() if "axes" not in name and "radius 2" not in name
    }
    monkeypatch.setattr(study, "settings", lambda: names)
    result = study.run(1, tmp_path)
    healthy = {row["setting"]: row for row in result.tables["healthy practice people"]}
    by_scan, by_person = (float(healthy[f"siamese, local, by {who}"]["out"]) for who in ("scan", "person"))
    assert by_person < 0.01 < 0.02 < by_scan
    passed = {criterion.name: criterion.passed for criterion in result.criteria}
    assert passed["practice lesions found within 5 clusters"] and passed["brain out in an unseen person"]
    assert len(result.tables["practice patients"]) == len(names)


def test_real_lesions_count_where_a_small_cluster_touches_them():
    study = load_script("studies/epilepsy_real.py")
    z, white = np.full((30, 36, 42), 0.5, np.float32), np.ones((30, 36, 42), bool)
    lesions = np.zeros(z.shape, bool)
    lesions[2:10, 2:10, 2:10] = lesions[20:28, 20:28, 20:28] = lesions[15, 15, 15] = True  # 0.5 ml, 0.5 ml, 1 mm^3
    z[3:9, 3:9, 3:9] = 4
    found = study.compare(z, find_clusters(z, np.eye(4)), lesions, white, np.eye(4))
    assert (found["lesions"], found["lesions_touched"], found["clusters"]) == (2, 1, 1)
    assert found["z_rest_of_white"] == pytest.approx(0.5) and found["z_lesions"] == pytest.approx(
        0.5 + 3.5 * 216 / 1025
    )
    z[:, :, 30:] = 4  # a tenth of the brain and more points at nothing
    assert study.compare(z, find_clusters(z, np.eye(4)), lesions, white, np.eye(4))["clusters_of_a_tenth"] == 1
