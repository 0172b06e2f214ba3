"""Who trains, who practises, who tests: nobody twice, and every kind of lesion in every person."""

import itertools

import pytest

from zoo.normative import synthetic_cohort as cohorts
from zoo.synth import epilepsy
from zoo.synth.anatomy.people import PEOPLE


def test_nobody_is_in_two_of_training_practice_and_test():
    groups = cohorts.TRAINING, cohorts.PRACTICE, cohorts.TEST, cohorts.HELD_OUT
    for first, second in itertools.combinations(groups, 2):
        assert not set(first) & set(second)
    assert {PEOPLE[name].split for name in (*cohorts.TRAINING, *cohorts.PRACTICE)} == {"train"}
    assert {PEOPLE[name].split for name in cohorts.TEST} == {"test"}
    trained = {name for name, person in PEOPLE.items() if person.split == "train"}
    assert set(cohorts.TRAINING) | set(cohorts.PRACTICE) == trained


def test_only_the_cohorts_of_the_test_have_test_people():
    tested = {name for name, cohort in cohorts.COHORTS.items() if set(cohort.people) & set(cohorts.TEST)}
    assert tested == {"test_patient", "test_control"}


def test_no_two_scans_share_a_seed():
    seeds = sorted(cohort.seed for cohort in cohorts.COHORTS.values())
    assert min(after - before for before, after in itertools.pairwise(seeds)) >= 5000


def test_everybody_has_every_lesion():
    kinds = epilepsy.KINDS[1:]
    for which in ("test_patient", "practice_patient"):
        count = len(kinds) * len(cohorts.COHORTS[which].people)
        pairs = {(cohorts.person_of(which, number), cohorts.kind_of(which, number)) for number in range(count)}
        assert len(pairs) == count
    assert cohorts.kind_of("control", 7) == "control"
    assert [cohorts.kind_of("patient", number) for number in range(7)] == [*kinds, kinds[0]]


def test_unknown_cohorts_and_normalisations_are_named():
    with pytest.raises(ValueError, match="There is no cohort 'patients'"):
        cohorts.load_cohort("patients", 1)
    with pytest.raises(ValueError, match="There is no normalisation 'tissues'. Did you mean 'tissue'"):
        cohorts.load_cohort("patient", 1, intensities="tissues")
