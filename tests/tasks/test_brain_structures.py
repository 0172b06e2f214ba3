"""The task `brain_structures`: its classes, and samples of a made-up anatomy."""

import nibabel
import numpy as np
import pytest

from zoo.synth.anatomy import labels as scheme
from zoo.synth.anatomy.sources import Anatomy
from zoo.tasks import brain_structures as task


def test_every_label_of_the_scheme_has_a_class():
    table = task.class_table()
    named = {label.name: task.CLASSES[table[label.index]] for label in scheme.LABELS}
    assert named["left_dentate"] == "left_cerebellum_white" != named["left_cerebellum_cortex"]
    assert named["right_red_nucleus"] == "right_ventral_diencephalon"
    assert named["skull"] == named["eye"] == named["air"] == named["spinal_cord"] == named["background"] == "background"
    assert named["left_putamen"] == "left_putamen" and named["right_putamen"] == "right_putamen"
    assert named["left_choroid"] == "left_ventricle" and named["right_inferior_choroid"] == "right_inferior_ventricle"
    assert named["left_lesion"] == named["left_vessel"] == "left_white" and named["optic_chiasm"] == "csf"
    assert set(named.values()) == set(task.CLASSES)


def test_sides_are_partners_and_source_values_freesurfers():
    labels = task.TASK.data.labels
    lefts = [index for index, (name, _) in labels.items() if name.startswith("left_")]
    assert len(lefts) == 14
    for left in lefts:
        assert labels[left][0].replace("left", "right") == labels[left + 1][0]
    assert labels[task.CLASSES.index("left_hippocampus")] == ("left_hippocampus", 17)
    assert labels[task.CLASSES.index("right_cerebellum_cortex")] == ("right_cerebellum_cortex", 47)
    assert labels[task.CLASSES.index("left_inferior_ventricle")] == ("left_inferior_ventricle", 5)
    assert len({value for _, value in labels.values()}) == len(labels)


def test_heads_are_centred_on_their_brain():
    head = np.zeros((30, 40, 20), np.int16)
    head[:, :, 2:19] = scheme.INDEX["soft_tissue"]
    head[5:11, 20:30, 12:18] = scheme.INDEX["left_white"]
    found = task.brain_centred(head, (16, 16, 16))
    assert found.dtype == np.uint8
    box = [(int(places.min()), int(places.max())) for places in np.nonzero(found == scheme.INDEX["left_white"])]
    assert box == [(5, 10), (3, 12), (5, 10)]
    assert not found[:, :, 12:].any() and (found[8, 8, :12] > 0).all()


def test_an_image_is_prepared_as_the_predictor_does():
    image = np.random.default_rng(0).gamma(2, size=(24, 32, 40, 1)).astype("float32")
    low, high = np.percentile(image[::2, ::2, ::2], task.PERCENTILES)
    found = np.asarray(task.as_prepared(image))
    np.testing.assert_allclose(found, np.clip((image - low) / (high - low), 0, 1), atol=0.01)


def test_training_needs_label_maps_and_says_which(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_ANATOMIES", str(tmp_path))
    task.label_maps.cache_clear()
    with pytest.raises(FileNotFoundError, match="Clone https://github.com/BBillot/SynthSeg"):
        task.synthesis(task.TASK, "train")


@pytest.mark.parametrize("shape", [(10, 20, 30), (13, 9, 17)])
def test_centring_cuts_and_pads_about_the_middle(shape):
    labels = np.zeros(shape, np.uint8)
    labels[shape[0] // 2, shape[1] // 2, shape[2] // 2] = 5
    found = task.centred(labels, (16, 16, 16))
    assert found.shape == (16, 16, 16) and found.sum() == 5
    assert np.abs(np.argwhere(found)[0] - 8).max() <= 1


def test_samples_are_functions_of_their_seed(monkeypatch):
    blocks = np.zeros((1, 24, 24, 24), np.uint8)
    blocks[0, 4:20, 4:20, 4:20] = scheme.INDEX["left_white"]
    blocks[0, 8:16, 8:16, 8:16] = scheme.INDEX["left_putamen"]
    monkeypatch.setattr(task, "label_maps", lambda: blocks)
    sample = task.synthesis(task.TASK.replace(patch=(8, 16, 24)), "train")
    (image, classes), (again, _), (other, _) = (sample(np.array(seed)) for seed in ([0, 1], [0, 1], [0, 2]))
    assert image.shape == classes.shape == (8, 16, 24, 1)
    np.testing.assert_array_equal(image, again)
    assert np.abs(np.asarray(image) - np.asarray(other)).max() > 0.01
    allowed = {task.CLASSES.index(name) for name in ("background", "left_white", "left_putamen")}
    allowed |= {task.CLASSES.index(name) for name in ("right_white", "right_putamen")}
    assert set(np.unique(classes)) <= allowed


def test_test_cases_are_the_test_people_in_every_contrast(monkeypatch, tmp_path):
    brain = np.zeros((20, 24, 20), np.int16)
    brain[4:16, 4:20, 4:16] = scheme.INDEX["left_cerebellum_cortex"]
    asked = []

    def person(name, **options):
        asked.append((name, options["allow_test"]))
        return Anatomy(name, brain, np.eye(4), "test", (), ())

    monkeypatch.setattr(task, "anatomy", person)
    monkeypatch.setattr(task.people, "names", lambda split: [f"{split}_1", f"{split}_2"])
    cases = task.TASK.synthesis.test_cases(tmp_path / "cases")
    assert asked == [("test_1", True), ("test_2", True)]
    assert [case.id for case in cases if case.subject == "test_2"] == [
        f"test_2_{name}" for name in ("t1", "t2", "flair", "pd", "inverted", "t1_5mm")
    ]
    truth = np.asanyarray(nibabel.load(cases[0].labels).dataobj)
    assert set(np.unique(truth)) == {0, 8}  # FreeSurfer's left cerebellum cortex
    assert nibabel.load(cases[5].channels["image"]).shape == (20, 24, 4)
