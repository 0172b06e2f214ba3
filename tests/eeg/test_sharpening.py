"""Steps of sparse Bayesian learning against a slow float64 loop, in NumPy and in a graph."""

import dataclasses

import keras
import numpy as np
import pytest

from zoo.eeg import sharpening as own

CHANNELS, PLACES = 12, 30


@pytest.fixture(scope="module")
def whitened():
    """A random lead field of 12 channels against their average, (11, 90), and the basis of its space."""
    random = np.random.default_rng(3)
    columns = random.standard_normal((CHANNELS, 3 * PLACES))
    columns -= columns.mean(0)
    basis = np.linalg.svd(columns, full_matrices=False)[0][:, : CHANNELS - 1].T
    return basis @ columns, basis


def topographies(whitened, num=5, noise=0.3, seed=0):
    columns, basis = whitened
    random = np.random.default_rng(seed)
    places = random.choice(PLACES, num, replace=False)
    clean = np.stack([columns[:, 3 * p : 3 * p + 3] @ random.standard_normal(3) for p in places])
    data = (clean / np.linalg.norm(clean, axis=1, keepdims=True) + noise * random.standard_normal(clean.shape)) @ basis
    return (data / np.linalg.norm(data, axis=1, keepdims=True)).astype(np.float32), places


def by_hand(whitened, data, steps):
    """The definition, place by place, in the whole space; noise of `NOISE` times the topography's power."""
    columns, basis = whitened
    rank = len(basis)
    blocks = columns.reshape(rank, PLACES, 3).transpose(1, 0, 2)
    y = basis @ data.astype(float) * np.sqrt(rank)
    power = np.array([np.trace(block.T @ block) for block in blocks])
    variance = y @ y / (power * PLACES)
    for step in range(steps):
        covariance = sum(v * block @ block.T for v, block in zip(variance, blocks, strict=True))
        inverse = np.linalg.inv(covariance + own.NOISE * np.eye(rank))
        current = np.stack([v * block.T @ inverse @ y for v, block in zip(variance, blocks, strict=True)])
        if step < steps - 1:
            traces = np.array([np.trace(block.T @ inverse @ block) for block in blocks])
            variance = np.square(current).sum(1) / (variance * traces)
    length = np.linalg.norm(current, axis=1)
    return 1 + np.log10(np.maximum(length / length.max(), 1e-4)) / 4


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_steps_are_those_of_the_definition(whitened, steps):
    data, _ = topographies(whitened)
    (found,) = own.sharpened(own.sharpening(*whitened), data, (steps,))
    wanted = np.stack([by_hand(whitened, one, steps) for one in data])
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    np.testing.assert_allclose(found.max(1), 1, atol=1e-6)


def test_maps_of_several_numbers_of_steps_are_those_of_each(whitened):
    data, _ = topographies(whitened)
    known = own.sharpening(*whitened)
    both = own.sharpened(known, data, (2, 5), pairs=own.products(known.columns))
    for steps, found in zip((2, 5), both, strict=True):
        np.testing.assert_array_equal(found, own.sharpened(known, data, (steps,))[0])


def test_a_graph_computes_the_same(whitened):
    data, _ = topographies(whitened)
    known = own.sharpening(*whitened)
    tensors = own.Sharpening(*map(keras.ops.convert_to_tensor, (known.projector, known.columns)))
    found = own.sharpened(tensors, keras.ops.convert_to_tensor(data), (2, 6), ops=keras.ops)
    for one, wanted in zip(found, own.sharpened(known, data, (2, 6)), strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(one), wanted, atol=1e-4)


def test_a_source_is_found_and_its_map_gets_sharper(whitened):
    data, places = topographies(whitened, noise=0.05)
    few, many = own.sharpened(own.sharpening(*whitened), data, (1, 12))
    np.testing.assert_array_equal(many.argmax(1), places)
    few, many = own.lengths(few), own.lengths(many)
    np.testing.assert_allclose(many.max(1), 1, atol=1e-6)
    assert (np.square(many).sum(1) < 0.5 * np.square(few).sum(1)).all()


def test_the_unit_and_the_sign_do_not_matter(whitened):
    data, _ = topographies(whitened)
    known = own.sharpening(*whitened)
    other = dataclasses.replace(known, columns=0.01 * known.columns)
    (one,), (two,) = own.sharpened(known, data, (4,)), own.sharpened(other, -data, (4,))
    np.testing.assert_allclose(one, two, atol=1e-4)


def test_all_but_the_strongest_patterns_are_left_out(whitened):
    random = np.random.default_rng(0)
    wide = random.standard_normal((60, 3 * PLACES)) * np.geomspace(1, 1e-3, 60)[:, None]
    known = own.sharpening(wide, np.eye(60))
    assert known.projector.shape == (own.RANK, 60) and known.columns.shape == (own.RANK, 3 * PLACES)
    np.testing.assert_allclose(known.projector @ known.projector.T, 60 * np.eye(own.RANK), atol=1e-3)
    few = own.sharpening(*whitened)
    assert not few.projector[CHANNELS - 1 :].any() and not few.columns[CHANNELS - 1 :].any()


@pytest.mark.parametrize("steps", [(0, 3), (4, 4), (5, 2), (-1,)])
def test_steps_that_do_not_ascend_are_named(steps):
    with pytest.raises(ValueError, match=r"sbl_steps ascend from 1, as in \(4, 12\)"):
        own.checked_steps(steps)
