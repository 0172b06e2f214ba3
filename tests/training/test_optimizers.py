"""Optimisers, schedules, final bias, precision: against hand arithmetic."""

import keras
import numpy as np
import pytest

from zoo.models.unet3d import unet3d
from zoo.training import optimizers


def test_polynomial_schedule_follows_nnunets_formula():
    schedule = optimizers.schedule("polynomial", 0.01, steps=1000)
    for at in (0, 1, 500, 999):
        assert float(schedule(at)) == pytest.approx(0.01 * (1 - at / 1000) ** 0.9, rel=1e-4)


def test_warmup_rises_linearly():
    schedule = optimizers.schedule("polynomial", 1.0, steps=10_000, warmup=100)
    assert float(schedule(0)) == pytest.approx(0.01, rel=1e-3)
    assert float(schedule(49)) == pytest.approx(0.5, rel=1e-2)


def test_nnunet_is_nesterov_sgd():
    sgd = optimizers.optimizer({"name": "nnunet"}, steps=100)
    assert isinstance(sgd, keras.optimizers.SGD)
    assert sgd.nesterov and sgd.momentum == 0.99 and sgd.global_clipnorm == 12.0


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adadelta", "RMSprop", "SGD"])
def test_every_optimizer_by_name(name):
    built = optimizers.optimizer({"name": name.lower(), "learning_rate": 0.1}, steps=1)
    assert type(built) is getattr(keras.optimizers, name)
    assert float(built.learning_rate) == pytest.approx(0.1)


def test_unknown_choices_name_the_nearest():
    with pytest.raises(ValueError, match="no optimiser 'adamm'. Did you mean 'adam"):
        optimizers.optimizer({"name": "adamm"}, steps=1)
    with pytest.raises(ValueError, match="setting of adam 'global_clipnrm'. Did you mean 'global_clipnorm'"):
        optimizers.optimizer({"name": "adam", "global_clipnrm": 1.0}, steps=1)
    with pytest.raises(ValueError, match="no schedule 'cosin'. Did you mean 'cosine'"):
        optimizers.optimizer({"name": "adam", "schedule": "cosin"}, steps=1)


def head(units):
    x = inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(units, name="logits", kernel_initializer="zeros")(x))


def test_final_bias_starts_at_the_prior():
    model = head(3)
    optimizers.set_final_bias(model, [0.9, 0.09, 0.01])
    logits = keras.ops.convert_to_numpy(model(np.ones((1, 4), "float32")))
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), [[0.9, 0.09, 0.01]], rtol=1e-5)


def test_final_bias_of_a_folded_head_is_the_prior_at_every_voxel():
    model = unet3d((None, None, None, 1), 3, filters=(2, 2), fold=2)
    optimizers.set_final_bias(model, [0.9, 0.09, 0.01])
    logits = keras.ops.convert_to_numpy(model(np.zeros((1, 4, 4, 4, 1), "float32")))
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(shares, np.broadcast_to([0.9, 0.09, 0.01], shares.shape), rtol=1e-4)


def test_final_bias_of_one_logit():
    model = head(1)
    optimizers.set_final_bias(model, [0.999, 0.001])
    logit = float(model(np.ones((1, 4), "float32"))[0, 0])
    assert 1 / (1 + np.exp(-logit)) == pytest.approx(0.001, rel=1e-4)


def test_final_bias_refuses_a_prior_that_does_not_fit():
    with pytest.raises(ValueError, match="'logits' has 3 logits and the prior"):
        optimizers.set_final_bias(head(3), [0.5, 0.5])
    with pytest.raises(ValueError, match="one positive fraction a class"):
        optimizers.set_final_bias(head(2), [1.0, 0.0])
