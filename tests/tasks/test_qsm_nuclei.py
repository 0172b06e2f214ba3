"""The task `qsm_nuclei`: its variants, labels, samples and test cases on a made-up anatomy."""

import numpy as np
import pytest

import zoo
from zoo import registry
from zoo.synth.anatomy import labels as scheme
from zoo.tasks import qsm_nuclei as task


def blocks(shape):
    """White matter with two putamina and a red nucleus."""
    brain = np.zeros(shape, np.uint8)
    brain[3:-3, 3:-3, 3:-3] = scheme.INDEX["left_white"]
    brain[6:10, 8:16, 8:16] = scheme.INDEX["left_putamen"]
    brain[-10:-6, 8:16, 8:16] = scheme.INDEX["right_putamen"]
    brain[12:14, 6:9, 6:9] = scheme.INDEX["left_red_nucleus"]
    return brain


def test_labels_are_sided_freesurfers_and_every_tissue_is_brain():
    labels = task.TASK.data.labels
    assert labels[0] == ("background", 0) and labels[1] == ("brain", 1)
    assert ("left_hippocampus", 17) in labels.values() and ("right_substantia_nigra", 59) in labels.values()
    assert len({value for _, value in labels.values()}) == len(labels) == 2 + 2 * len(task.STRUCTURES)
    for left in (index for index, (name, _) in labels.items() if name.startswith("left_")):
        assert labels[left][0].replace("left", "right") == labels[left + 1][0]
    table = task.class_table(dict(labels))
    named = {label.name: labels[table[label.index]][0] for label in scheme.LABELS}
    assert named["csf"] == named["left_cortex"] == named["brainstem"] == named["left_ventricle"] == "brain"
    assert named["skull"] == named["background"] == "background"
    assert named["right_amygdala"] == "right_amygdala"


def test_one_network_a_structure_and_two_channels():
    single = task.variant("resunet", labels=["hippocampus"])
    assert single.model_name == "resunet.qsm_nuclei_hippocampus"
    assert dict(single.data.labels) == {0: ("background", 0), 1: ("left_hippocampus", 17), 2: ("right_hippocampus", 53)}
    assert task.class_table(dict(single.data.labels))[scheme.INDEX["left_cortex"]] == 0
    two = task.variant(second=True)
    assert two.data.channels == ("Chimap", "T1w") and two.model_name == "unet3d.qsm_nuclei_t1w"
    only_mask = task.variant(labels=["brain"])
    assert list(only_mask.data.labels.values()) == [("background", 0), ("brain", 1)]
    with pytest.raises(ValueError, match="amygdala"):
        task.variant(labels=["amigdala"])
    with pytest.raises(ValueError, match="at least one structure"):
        task.variant(labels=[])
    with pytest.raises(ValueError, match="resunet"):
        task.variant("resnet")


def test_variants_are_found_by_the_name_of_their_model():
    assert zoo.task("qsm_nuclei") is zoo.task("unet3d.qsm_nuclei") is task.TASK
    assert zoo.task("resunet.qsm_nuclei").network.builder == "resunet"
    assert zoo.task("unet3d.qsm_nuclei_t1w").data.channels == ("Chimap", "T1w")
    for name in ("vnet.qsm_nuclei", "unet3d.qsm_nuclei_t2w", "unet3d.qsm"):
        with pytest.raises(ValueError, match="qsm_nuclei"):
            zoo.task(name)


def test_networks_have_as_many_parameters():
    counts = [
        registry.builder(name)((None, None, None, 1), 20, **arguments).count_params()
        for name, arguments in task.NETWORKS.items()
    ]
    assert abs(counts[0] - counts[1]) / counts[0] < 0.01
    assert all(arguments["norm"] in ("instance", "group") for arguments in task.NETWORKS.values())


@pytest.mark.parametrize("second", [False, True])
def test_samples_are_functions_of_their_seed(monkeypatch, second):
    brain = blocks((24, 26, 28))
    monkeypatch.setattr(task, "brains", lambda: (brain[None], np.zeros((1, 3), np.float32)))
    monkeypatch.setattr(task, "ANYWHERE_MM", (2.0, 2.0, 2.0))
    monkeypatch.setattr(task, "JITTER_MM", (2.0, 2.0, 2.0))
    small = task.variant(second=second).replace(patch=(16, 16, 16))
    sample = task.synthesis(small, "train")
    seeds = [np.array(seed) for seed in ([0, 1], [0, 1], [0, 2])]
    (image, classes), (again, _), (other, _) = (sample(seed) for seed in seeds)
    image = np.asarray(image)
    assert image.shape == (16, 16, 16, 1 + second) and classes.shape == (16, 16, 16, 1)
    np.testing.assert_array_equal(image, again)
    assert np.abs(image - np.asarray(other)).max() > 0.01
    assert np.abs(image[..., 0]).max() <= 1
    names = {small.data.labels[value][0] for value in np.unique(classes)}
    assert names <= {"background", "brain", "left_putamen", "right_putamen", "left_red_nucleus", "right_red_nucleus"}
    if second:
        assert image[..., 1].min() == 0 and 0.1 < image[..., 1].max() <= 1
        assert not image[..., 1][image[..., 0] == 0].any()


def test_whole_brains_are_maps_in_ppm_with_air():
    brain = blocks((24, 28, 20)).astype(np.int32)
    chi, t1 = task.scanned(brain, 1.0, 3)
    other, _ = task.scanned(brain, 1.0, 4)
    assert chi.shape == t1.shape == brain.shape and chi.dtype == np.float32
    assert not chi[0].any() and not t1[0].any()
    assert 0.01 < chi[chi != 0].std() < 0.2 and np.abs(chi - other).max() > 0.01
