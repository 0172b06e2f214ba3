"""Random numbers from a hash: their distribution, their independence, and that they are a function of the seed."""

import numpy as np
import tensorflow as tf
from keras import ops
from scipy import special, stats

from zoo.synth import seeds

SHAPE = (16, 24, 32)


def volume(make, seed, **arguments):
    return np.asarray(make(seed, SHAPE, **arguments))


def test_uniform_is_uniform():
    values = volume(seeds.uniform, 3).ravel()
    assert values.dtype == np.float32
    assert values.min() > 0 and values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-3


def test_normal_is_normal():
    values = np.asarray(seeds.normal(5, (64, 64, 64))).ravel()
    assert stats.kstest(values, "norm").pvalue > 1e-3
    assert abs(stats.kurtosis(values)) < 0.03
    # Mass beyond three SDs, where a sum of uniforms would have too little: 0.0027 +- 4 standard errors.
    assert abs((np.abs(values) > 3).mean() - 0.0027) < 4 * np.sqrt(0.0027 / values.size)


def test_inverse_error_function_agrees_with_scipy():
    x = np.linspace(-0.99999, 0.99999, 2001).astype(np.float32)
    np.testing.assert_allclose(seeds._erfinv(ops.convert_to_tensor(x)), special.erfinv(x), rtol=2e-4, atol=1e-6)


def test_voxels_seeds_and_streams_are_independent():
    first, next_seed, next_stream = (volume(seeds.normal, s, stream=t) for s, t in ((7, 0), (8, 0), (7, 1)))
    bound = 4 / np.sqrt(first.size)
    assert abs(np.corrcoef(first.ravel(), next_seed.ravel())[0, 1]) < bound
    assert abs(np.corrcoef(first.ravel(), next_stream.ravel())[0, 1]) < bound
    for axis in range(3):
        assert abs((first * np.roll(first, 1, axis)).mean()) < bound


def test_bits_are_balanced():
    bits = np.asarray(seeds.bits(11, SHAPE)).ravel()
    ones = [((bits >> bit) & 1).mean() for bit in range(32)]
    assert np.abs(np.array(ones) - 0.5).max() < 4 * 0.5 / np.sqrt(bits.size)


def test_every_word_of_a_seed_counts():
    values = {float(seeds.uniform(np.array(seed, np.int32), ())) for seed in ([0, 1], [1, 0], [0, 0], [0], [2, 1])}
    assert len(values) == 5


def test_compiled_gives_the_same():
    seed = tf.constant([3, 9])
    compiled = tf.function(lambda s: seeds.normal(s, SHAPE), jit_compile=True)(seed)
    np.testing.assert_allclose(compiled, seeds.normal(seed, SHAPE), atol=1e-5)
