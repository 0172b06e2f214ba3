"""The task `brain_mask`: what counts as brain, and samples of a made-up anatomy."""

import dataclasses

import nibabel
import numpy as np
import pytest

from zoo.synth.anatomy import labels as scheme
from zoo.synth.anatomy.sources import Anatomy
from zoo.tasks import brain_mask as task
from zoo.tasks import brain_structures as structures

FLUID, WHITE, BONE = (scheme.INDEX[name] for name in ("csf", "left_white", "cortical_bone"))


def two_halves(between, around):
    """Two blocks of white matter, 4 voxels apart, in a block of something else."""
    labels = np.full((40, 36, 32), around, np.uint8)
    labels[12:28, 10:26, 10:22] = between
    labels[12:28, 10:16, 10:22] = labels[12:28, 20:26, 10:22] = WHITE
    return labels


def test_a_fissure_lies_inside_with_its_fluid_and_veins_but_not_with_bone():
    inside = (20, 18, 16)
    assert task.brain_of(two_halves(FLUID, 0))[inside]
    assert task.brain_of(two_halves(scheme.INDEX["vein"], 0))[inside]
    assert not task.brain_of(two_halves(BONE, 0))[inside]


def test_fluid_counts_as_far_as_3_mm_and_nothing_else_does():
    wet, dry = task.brain_of(two_halves(FLUID, FLUID)), task.brain_of(two_halves(FLUID, BONE))
    line = wet[20, 12]
    assert np.flatnonzero(line).tolist() == list(range(7, 25))  # 10 to 21 is white matter
    assert np.flatnonzero(dry[20, 12]).tolist() == list(range(10, 22))


def test_ventricles_count_and_cord_nerves_eyes_and_chiasm_are_told_apart():
    labels = np.zeros((30, 26, 22), np.uint8)
    labels[10:20, 8:18, 6:16] = WHITE
    labels[13:17, 11:15, 9:13] = scheme.INDEX["right_ventricle"]
    for start, name in ((0, "spinal_cord"), (24, "optic_nerve"), (27, "eye")):
        labels[start : start + 2, 10:14, 9:13] = scheme.INDEX[name]
    labels[20:22, 12:14, 8:10] = scheme.INDEX["optic_chiasm"]
    found = task.brain_of(labels)
    brain = {WHITE, scheme.INDEX["right_ventricle"], scheme.INDEX["optic_chiasm"]}
    assert set(np.unique(labels[found])) - {0} == brain  # 0: the corner between the chiasm and the block
    assert not task.brain_of(np.zeros((4, 5, 6), np.uint8)).any()


def test_the_grid_is_that_of_the_structures_whose_weights_are_the_first():
    ours, theirs = task.TASK, structures.TASK
    assert ours.model_name == "unet3d.brain_mask" and ours.num_logits == 2
    assert ours.network == theirs.network
    assert (ours.data.spacing_mm, ours.data.preprocessing) == (theirs.data.spacing_mm, theirs.data.preprocessing)


@pytest.fixture
def blocks(monkeypatch):
    """One person: white matter in fluid in bone, with the cut that `brain_of` makes."""
    labels = np.zeros((1, 48, 48, 48), np.uint8)
    labels[0, 4:44, 4:44, 4:44] = BONE
    labels[0, 10:38, 10:38, 10:38] = FLUID
    labels[0, 16:32, 16:32, 16:32] = WHITE
    monkeypatch.setattr(task, "masked_maps", lambda: (labels, np.stack([task.brain_of(labels[0])]).astype(np.uint8)))
    return labels[0]


def stay_near(task_of_patch):
    """Returns the ranges of the task, but for windows that stay near the blocks, which are smaller than a brain."""
    ranges = task.recipe(task_of_patch, task.Contrast(kind="random"))
    return dataclasses.replace(ranges, geometry=dataclasses.replace(ranges.geometry, translation_mm=5.0))


def test_samples_are_functions_of_their_seed_and_masks_move_with_their_image(blocks, monkeypatch):
    ranges = stay_near(task.TASK.replace(patch=(16, 24, 32)))
    monkeypatch.setattr(task, "recipe", lambda task, contrast: ranges)
    sample = task.synthesis(task.TASK.replace(patch=(16, 24, 32)), "train")
    (image, mask), (again, _), (other, _) = (sample(np.array(seed)) for seed in ([0, 1], [0, 1], [0, 2]))
    assert image.shape == mask.shape == (16, 24, 32, 1)
    np.testing.assert_array_equal(image, again)
    assert np.abs(np.asarray(image) - np.asarray(other)).max() > 0.01
    assert set(np.unique(mask)) == {0, 1}
    moved = np.asarray(task.scene.synthesise(blocks, np.array([0, 1]), ranges)[1])
    assert np.asarray(mask)[moved == WHITE].all() and not np.asarray(mask)[moved == BONE].any()


def test_what_was_not_scanned_is_no_brain(blocks):
    whole, seed = task.TASK.replace(patch=(24, 24, 24)), np.array([3, 1])
    ranges = stay_near(whole)
    always = dataclasses.replace(ranges, acquisition=dataclasses.replace(ranges.acquisition, cut=1.0))
    uncut = np.asarray(task.scene.follow(task.brain_of(blocks).astype(np.uint8), seed, always)) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "recipe", lambda task, contrast: always)
        mask = np.asarray(task.synthesis(whole, "train")(seed)[1])
    assert set(np.unique(mask)) == {0, 1} and not mask[~uncut].any()
    assert uncut.sum() > mask.sum() > 0.1 * uncut.sum()


def test_test_cases_are_the_test_people_with_their_masks(monkeypatch, tmp_path):
    brain = np.zeros((20, 24, 20), np.int16)
    brain[2:18, 2:22, 2:18] = FLUID
    brain[6:14, 6:18, 6:14] = scheme.INDEX["left_cerebellum_cortex"]
    asked = []

    def person(name, **options):
        asked.append((name, options["allow_test"]))
        return Anatomy(name, brain, np.eye(4), "test", (), ())

    monkeypatch.setattr(task, "anatomy", person)
    monkeypatch.setattr(task.people, "names", lambda split: [f"{split}_1"])
    cases = task.TASK.synthesis.test_cases(tmp_path / "cases")
    assert set(asked) == {("test_1", True)}
    assert [case.id for case in cases] == [f"test_1_{n}" for n in ("t1", "t2", "flair", "pd", "inverted", "t1_5mm")]
    truth = np.asanyarray(nibabel.load(cases[0].labels).dataobj)
    np.testing.assert_array_equal(truth, task.brain_of(brain))
    thick = nibabel.load(cases[5].labels)
    np.testing.assert_array_equal(np.asanyarray(thick.dataobj), task.brain_of(brain)[..., 2::5])
    np.testing.assert_allclose(thick.affine, nibabel.load(cases[5].channels["image"]).affine)


def test_brains_are_made_once_and_again_for_other_maps(monkeypatch, tmp_path):
    maps, made = two_halves(FLUID, FLUID)[None], []

    def brain_of(labels):
        made.append(labels)
        return labels == WHITE

    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    monkeypatch.setattr(task, "brain_of", brain_of)
    for labels in (maps, maps, np.roll(maps, 1, axis=3)):
        monkeypatch.setattr(task.structures, "label_maps", lambda labels=labels: labels)
        task.masked_maps.cache_clear()
        np.testing.assert_array_equal(task.masked_maps()[1], labels == WHITE)
    task.masked_maps.cache_clear()
    assert len(made) == 2
