"""People laid on the template by what a network sees: labels and parcels move alike, and once."""

import nibabel as nib
import numpy as np
import pytest

from zoo.normative import laid_people
from zoo.synth.anatomy import common_space
from zoo.synth.anatomy.labels import INDEX
from zoo.synth.anatomy.sources import Anatomy

SHAPE = (32, 36, 40)


def head():
    """A small brain with a lesion and a vessel, in a scalp."""
    labels = np.zeros(SHAPE, np.int16)
    labels[4:28, 5:31, 6:34] = INDEX["scalp"]
    labels[8:24, 10:26, 10:30] = INDEX["left_white"]
    labels[12:14, 14:16, 14:16], labels[16:18, 14:16, 14:16] = INDEX["left_lesion"], INDEX["left_vessel"]
    labels[10:12, 20:24, 20:24] = INDEX["third_ventricle"]
    return labels


@pytest.fixture
def world(monkeypatch, tmp_path):
    """A small common space, one person, and a parcellation that sees white matter wherever T1 is bright."""
    scans = []

    def parcellate(scan):
        scans.append(np.asarray(scan.dataobj))
        return nib.nifti1.Nifti1Image(np.where(scans[-1] > 0, 2, 0).astype(np.int16), scan.affine)

    def by_affine(labels, template):
        return common_space.by_affine(affines[0])

    affines, versions = [np.eye(4)], ["2.0.0"]
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    monkeypatch.setattr(common_space, "SHAPE", SHAPE)
    monkeypatch.setattr(common_space, "AFFINE", np.eye(4))
    monkeypatch.setattr(common_space, "normalise", by_affine)
    monkeypatch.setattr(common_space, "atlas", lambda names: np.zeros((1, *SHAPE), np.uint8))
    monkeypatch.setattr(laid_people, "_parcellation", lambda: parcellate)
    monkeypatch.setattr(laid_people, "parcellation_version", lambda: versions[-1])
    person = Anatomy("synthseg_01", head(), np.eye(4), "train", (), ())
    monkeypatch.setattr(laid_people, "anatomy", lambda name, allow_test: person)
    framed = laid_people.people.framed

    def remember(labels, affine, margin):
        cut, affines[0] = framed(labels, affine, margin)
        return cut, affines[0]

    monkeypatch.setattr(laid_people.people, "framed", remember)
    return scans, versions


def test_labels_and_parcels_lie_alike_without_the_head(world):
    person = laid_people.load_person("synthseg_01")
    expected = np.where(np.isin(head(), [INDEX["scalp"], 0]), 0, INDEX["left_white"])
    expected[head() == INDEX["third_ventricle"]] = INDEX["csf"]
    np.testing.assert_array_equal(person.labels, expected)
    bright = person.parcels == INDEX["left_white"]
    assert np.mean(bright[expected == INDEX["left_white"]]) > 0.98 and not bright[expected == 0].any()


def test_a_person_is_scanned_once_by_each_parcellation(world):
    scans, versions = world
    first, second = (laid_people.load_person("synthseg_01") for _ in range(2))
    assert len(scans) == 1
    np.testing.assert_array_equal(first.parcels, second.parcels)
    versions.append("2.1.0")
    laid_people.load_person("synthseg_01")
    assert len(scans) == 2
