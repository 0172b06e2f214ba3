"""The task `lacunes`: every loss by its weight, its variants, its samples and test scans, and that it trains."""

import dataclasses
import functools

import keras
import nibabel
import numpy as np
import pytest
import tensorflow as tf
from support.datasets import box_brain

from zoo import losses
from zoo.pipeline.dataset import dataset
from zoo.synth.anatomy.labels import PARTNERS
from zoo.synth.lacunes import placement
from zoo.synth.lacunes.scan import LACUNE, WHOLE, Vascular
from zoo.tasks import lacunes
from zoo.training import batches, network
from zoo.training.run import model_card


@pytest.fixture(autouse=True)
def made_up_brains(monkeypatch):
    """Two brains of blocks in place of the anatomies."""
    labels = box_brain().astype(np.uint8)[::2, ::2, ::2]
    far = np.full(labels.shape, 20, np.uint8)
    placed = {name: (each, placement.zoned(each), far) for name, each in (("a", labels), ("b", PARTNERS[labels]))}
    monkeypatch.setattr(placement, "placed", lambda name: placed["b" if name.endswith("97") else "a"])
    monkeypatch.setattr(lacunes, "names", lambda split: ["a", "b"])
    few = {
        "lacunes": (1, 1),
        "perivascular": (1, 1),
        "sulcal": (1, 1),
        "hyperintensities": (1, 1),
        "impossible": (1, 1),
    }
    monkeypatch.setattr(lacunes, "Vascular", functools.partial(Vascular, **few))
    monkeypatch.setattr(lacunes, "WHOLE_SHAPE", labels.shape)
    monkeypatch.setattr(lacunes, "WHOLE", dataclasses.replace(WHOLE, **few))
    placement.stacked.cache_clear()
    yield
    placement.stacked.cache_clear()


def small(**changes):
    task = lacunes.variant(patch=32, **changes)
    return task.replace(arguments={**task.network.arguments, "filters": (2, 4)}, batch_size=1, validation_batches=1)


def test_every_term_of_the_page_is_there_and_gives_its_own_loss():
    logits = tf.random.stateless_normal((1, 8, 8, 8, 1), (1, 2))
    y = tf.cast(tf.random.stateless_uniform((1, 8, 8, 8, 1), (3, 4)) < 0.1, "int32")
    place = tf.cast(tf.random.stateless_uniform((1, 8, 8, 8, 1), (5, 6)) < 0.5, "int32")
    for name, (function, options) in lacunes.TERMS.items():
        extra = {"bounds_voxels": (1.0, 5.0)} if name == "size" else {}
        extra |= {"weight": place} if name == "location" else {}
        weighted = lacunes.loss(bounds_voxels=(1.0, 5.0), **{name: 2.0})
        target = tf.concat([y, place], -1) if name == "location" else y
        direct = function(y, logits, **{**options, **extra})
        np.testing.assert_allclose(weighted(target, logits), 2.0 * np.ravel(direct)[0], rtol=1e-5)
    assert {function for function, _ in lacunes.TERMS.values()} >= {
        losses.binary_cross_entropy, losses.two_class_dice, losses.size_penalty, losses.component_penalty,
        losses.location_penalty, losses.boundary, losses.blob, losses.focal, losses.tversky,
    }  # fmt: skip


def test_terms_add_up_and_unknown_ones_are_named():
    logits, y = tf.zeros((1, 4, 4, 4, 1)), tf.zeros((1, 4, 4, 4, 1), tf.int32)
    both = lacunes.loss(cross_entropy=1.0, two_class_dice=0.5, epsilon=3.0)(y, logits)
    alone = losses.binary_cross_entropy(y, logits) + 0.5 * losses.two_class_dice(y, logits, epsilon=3.0)
    np.testing.assert_allclose(both, alone[0], rtol=1e-6)
    with pytest.raises(ValueError, match="Did you mean 'dice'"):
        lacunes.loss(dise=1.0)


def test_size_bounds_are_those_of_one_small_and_of_three_large_lacunes():
    low, high = lacunes.size_bounds((64, 64, 64))
    assert low == pytest.approx(np.pi / 6 * 27) and high == pytest.approx(3 * np.pi / 6 * 15**3)
    assert lacunes.size_bounds((32, 32, 32))[1] == pytest.approx(high / 8)
    assert lacunes.size_bounds((64, 64, 64), (0.5, 0.5, 0.5)) == pytest.approx((8 * low, high))


@pytest.mark.parametrize("wrong", [{"activation": "relu"}, {"optimizer": "sgd"}, {"patch": 48}])
def test_other_settings_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        lacunes.variant(**wrong)


def test_variants_train_one_step_each():
    for changes in ({"activation": "elu", "optimizer": "adadelta"}, {"loss": {"dice": 1.0, "location": 1.0}},
                    {"location_channels": True}):  # fmt: skip
        task = small(**changes)
        image = np.zeros((1, 32, 32, 32, len(task.data.channels)), np.float32)
        labels = np.zeros((1, 32, 32, 32, 1 + len(task.synthesis.maps)), np.int32)
        labels[0, 8:12, 8:12, 8:12] = 1
        logs = network.build(task, 10).train_on_batch(image, labels, return_dict=True)
        assert np.isfinite(logs["loss"])
    assert isinstance(network.build(small(optimizer="adadelta"), 10).optimizer, keras.optimizers.Adadelta)


def test_samples_hold_what_the_task_asks_for():
    image, labels = lacunes.synthesis(small(positive_fraction=1.0), "train")(tf.constant([0, 1]))
    assert image.shape == (32, 32, 32, 3) and labels.shape == (32, 32, 32, 1) and np.asarray(labels).any()
    task = small(positive_fraction=0.0, loss={"location": 1.0, "dice": 1.0}, location_channels=True)
    image, labels = lacunes.synthesis(task, "train")(tf.constant([0, 1]))
    assert image.shape == (32, 32, 32, 7) and labels.shape == (32, 32, 32, 2)
    assert not np.asarray(labels[..., 0]).any() and np.asarray(labels[..., 1]).any()
    batch = [(image[None], labels[None])]
    assert batches.prior(task, batch)[0] == 1.0  # the map of places is no class


def test_two_scales_are_trained_on_and_told_on_the_card():
    task = small(context=2).replace(positive_fraction=1.0)
    image, labels = lacunes.synthesis(task, "train")(tf.constant([0, 1]))
    assert image.shape == (32, 32, 32, 6) and labels.shape == (32, 32, 32, 1) and np.asarray(labels).any()
    image = np.asarray(image)
    blocks = image[..., :3].reshape(16, 2, 16, 2, 16, 2, 3).mean((1, 3, 5))
    np.testing.assert_allclose(image[8:24, 8:24, 8:24, 3:], blocks, atol=1e-5)
    around = image[..., 3:].copy()
    around[8:24, 8:24, 8:24] = 0
    assert around.any()  # something lies around the patch, too
    logs = network.build(task, 10).train_on_batch(image[None], np.asarray(labels)[None], return_dict=True)
    assert np.isfinite(logs["loss"])
    assert (
        model_card.describe(task, {"source": "synthetic", "seed": 0, "steps": 1}, {"seconds": 1.0}).input.context == 2
    )


def test_margins_are_painted_around_a_patch():
    image, kinds, _ = lacunes.painter(small(), ["a"], margin=4)(tf.constant([0, 1]))
    assert image.shape == (40, 40, 40, 3) and kinds.shape == (40, 40, 40)


def test_a_location_term_without_its_map_is_refused():
    task = small().replace(loss_arguments={"dice": 1.0, "location": 1.0})
    with pytest.raises(ValueError, match="needs .'weight',"):
        lacunes.synthesis(task, "train")


def test_real_data_cannot_train_with_maps_that_only_synthesis_draws(tmp_path):
    with pytest.raises(ValueError, match="only its synthesis draws"):
        batches.open_data(small(loss={"dice": 1.0, "location": 1.0}), tmp_path, seed=0, out=tmp_path)


def test_test_scans_are_whole_and_serve_as_a_data_set(tmp_path):
    tf.config.run_functions_eagerly(True)
    cases = lacunes.scans(tmp_path, ("donor_15497",), scanners=("second",), draws=(0,))
    tf.config.run_functions_eagerly(False)
    (case,) = cases
    assert case.id == "second_15497_0" and case.tabular == {"scanner": "second"} and set(case.channels) == {
        "T1", "T2", "FLAIR"
    }  # fmt: skip
    kinds, regions, lesion = (
        np.asanyarray(nibabel.load(case.labels.with_name(f"{name}.nii.gz")).dataobj)
        for name in ("kinds", "regions", "lacunes")
    )
    np.testing.assert_array_equal(kinds == LACUNE, lesion > 0)
    assert kinds.shape == regions.shape == (36, 36, 36) and {5} <= set(np.unique(kinds))
    written = case.labels.stat().st_mtime_ns
    assert lacunes.scans(tmp_path, ("donor_15497",), scanners=("second",), draws=(0,)) == cases
    assert case.labels.stat().st_mtime_ns == written
    image, labels = next(iter(dataset(cases, patch=(32, 32, 32), reading=batches.reading(lacunes.TASK))))
    assert image.shape == (1, 32, 32, 32, 3) and set(np.unique(labels)) <= {0, 1}
    head = np.asarray(image)[np.asarray(image) != 0]
    assert abs(head.mean()) < 2


def test_the_card_says_one_logit_and_where_location_comes_from():
    settings = {"source": "synthetic", "seed": 0, "steps": 1}
    card = model_card.describe(small(location_channels=True), settings, {"seconds": 1.0})
    assert card.arguments["num_classes"] == 1 and card.output.labels[0].name == "lacune"
    assert [channel.name for channel in card.input.channels][3:] == list(lacunes.LOCATION)
    assert "30 mm" in card.input.channels[-1].intensity
