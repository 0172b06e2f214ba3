"""Task `epilepsy_lesions`: pairs of one place, the loss of all outputs, training by the runner, and its resuming."""

import dataclasses

import keras
import numpy as np
import pytest

from zoo.hub import trained_models
from zoo.losses.agreement import Agreement, cosine, measure_spread
from zoo.tasks import epilepsy_lesions as lesions
from zoo.tasks import task
from zoo.training import fit


def people(count=3, shape=(24, 20, 22)):
    """Images whose value tells person, place and channel."""
    place = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 1e4
    return np.stack([np.stack([place + person, -place - person], -1) for person in range(count)])


def test_pairs_are_two_people_at_one_place():
    images, corners = people(), np.array([[0, 0, 0], [9, 5, 7], [3, 1, 2]], np.int32)
    (first, second), wanted = lesions.pairs(images, corners, size=16, patch=(15, 15, 15))(5)
    first, second = np.array(first), np.array(second)
    assert first.shape == (16, 15, 15, 15, 2)
    np.testing.assert_array_equal(np.array(wanted[0]), first)
    apart = np.round(second - first, 3)[..., 0]
    assert set(np.unique(apart)) <= {-2, -1, 1, 2}  # the same place, never the same person
    assert all(len(np.unique(one)) == 1 for one in apart)
    known = {float(np.float32(images[0][tuple(corner)][0])) for corner in corners}
    assert {round(float(value) % 1, 4) for value in first[:, 0, 0, 0, 0]} == {round(value, 4) for value in known}


def test_loss_by_hand():
    code_a, code_b = np.array([[3.0, 4.0], [0.0, 2.0]]), np.array([[4.0, 3.0], [0.0, -1.0]])
    shaped = [one.reshape(2, 1, 1, 1, 2).astype("float32") for one in (code_a, code_b)]
    patches = [np.full((2, 2, 2, 2, 1), value, "float32") for value in (1.0, 2.0)]
    copies = [np.zeros((2, 2, 2, 2, 1), "float32"), np.full((2, 2, 2, 2, 1), 1.5, "float32")]
    total, terms = Agreement(0.5, hinge=2.0, least_sd=1.6)(patches, [*shaped, *copies])
    sds = np.array([1.5, 1.0, 2.0, 2.0])
    agreed = (24 / 25 - 1) / 2
    expected = (1 + 0.25) - 0.5 * agreed + 2.0 * np.mean(np.maximum(0, 1.6 - sds))
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert float(terms["cosine"]) == pytest.approx(agreed, abs=1e-6)
    assert float(terms["least_sd"]) == pytest.approx(1.0, rel=1e-4)
    convex, _ = Agreement(0.5, convex=True, hinge=0.0)(patches, [*shaped, *copies])
    assert float(convex) == pytest.approx(0.5 * 1.25 - 0.5 * agreed, rel=1e-5)


def test_codes_that_are_zero_have_no_direction():
    zero = np.zeros((1, 3), "float32")
    assert float(cosine(zero, zero)[0]) == 0
    assert np.all(np.array(measure_spread(np.ones((4, 3), "float32"))) < 1e-3)


def test_bad_weights_are_told():
    with pytest.raises(ValueError, match="alpha at most 1 in the convex form; got alpha=1.5"):
        Agreement(1.5, convex=True)


def toy(seed=0):
    """The task on smooth noise, and with a narrow network."""
    draw = np.random.default_rng(seed)
    images = draw.standard_normal((3, 24, 24, 24, 2)).astype("float32")
    for axis in (1, 2, 3):
        images = images + np.roll(images, 1, axis) + np.roll(images, 2, axis)
    corners = np.argwhere(np.ones((9, 9, 9))).astype(np.int32)
    return lesions.TASK.replace(
        arguments={"filters": (4, 6, 8)},
        code_size=8,
        batch_size=4,
        steps=50,
        validation_batches=2,
        samples=lambda chosen, _: lesions.pairs(
            images / images.std(), corners, size=chosen.fit.batch_size, patch=chosen.data.patch
        ),
    )


@pytest.mark.slow
def test_runner_trains_saves_and_does_not_collapse(tmp_path):
    chosen = toy()
    run = fit.train(chosen, "synthetic", tmp_path / "run", options=fit.TrainOptions(precision="float32"))
    log = np.genfromtxt(run / "log.csv", delimiter=",", names=True)
    assert log["reconstruction"][-1] < log["reconstruction"][0]
    assert np.all(log["val_least_sd"] > 0)
    model = trained_models.load(run / "siamese.epilepsy_lesions")
    patch = np.ones((1, 15, 15, 15, 2), "float32")
    codes = [np.array(one) for one in model([patch, patch])]
    assert codes[0].shape == (1, 1, 1, 1, 8)
    np.testing.assert_array_equal(codes[0], codes[1])


def test_task_is_found_by_name_and_by_model():
    assert task("epilepsy_lesions") is lesions.TASK
    assert task("siamese.epilepsy_lesions") is lesions.TASK
    assert dataclasses.replace(lesions.TASK).builder_arguments["code_size"] == 64
    assert isinstance(lesions.loss(), Agreement)
    keras.utils.clear_session()
