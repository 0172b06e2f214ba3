"""Contrast: draws in their ranges, tissues ordered as in real scans, means and SDs that arrive in the image."""

import numpy as np
import pytest
from keras import ops
from scipy import stats

from zoo.synth import contrast
from zoo.synth.anatomy import labels

SHAPE = (16, 24, 32)


@pytest.fixture(scope="module")
def draws():
    ranges = contrast.Contrast(dark_background=0.0)
    drawn = ops.vectorized_map(lambda seed: contrast.draw(seed, ranges), ops.arange(10_000))
    return {name: np.asarray(value) for name, value in drawn.items()}


@pytest.mark.parametrize(("name", "high"), [("means", 250), ("sds", 30), ("texture", 0.5), ("partial_volume", 0.25)])
def test_draws_follow_their_range(draws, name, high):
    for values in draws[name].reshape(10_000, -1).T:
        assert stats.kstest(values, stats.uniform(0, high).cdf).pvalue > 1e-4


def test_background_is_dark_as_often_as_said():
    draw = ops.vectorized_map(lambda seed: contrast.draw(seed)["means"][0], ops.arange(10_000))
    dark = float(np.mean(np.asarray(draw) <= 15))
    assert abs(dark - (0.7 + 0.3 * 15 / 250)) < 0.02


def test_both_sides_look_alike():
    left, right = labels.sides("putamen")
    assert labels.CLASSES[left] == labels.CLASSES[right]
    assert labels.CLASSES.max() + 1 == len(contrast.TISSUES)


def means(kind):
    values = np.mean([contrast.draw(seed, contrast.Contrast(kind=kind))["means"] for seed in range(20)], axis=0)
    return {
        name: values[labels.CLASSES[labels.sides(name)[0]]] for name in ("white", "cortex", "csf", "scalp", "skull")
    }


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        ("t1", ("white", "cortex", "csf")),
        ("t2", ("csf", "cortex", "white")),
        ("flair", ("cortex", "white", "csf")),
        ("pd", ("cortex", "white", "skull")),
    ],
)
def test_tissues_are_as_bright_as_in_real_scans(kind, order):
    values = means(kind)
    brightness = [values[name] for name in order]
    assert brightness == sorted(brightness, reverse=True)


def test_signal_equation_by_hand():
    # TR = T1 ln 2 and TE = T2 ln 4 leave half and a quarter; an inversion at TI = T1 ln 2 nulls a long TR.
    ln2 = np.float32(np.log(2.0))
    assert float(
        contrast.signal_of("t2", np.float32(1000), np.float32(80), 0.8, (1000 * ln2, 160 * ln2, np.float32(0)))
    ) == pytest.approx(0.1)
    assert float(
        contrast.signal_of("flair", np.float32(1000), np.float32(80), 0.8, (np.float32(1e5), np.float32(0), 1000 * ln2))
    ) == pytest.approx(0, abs=1e-6)


def test_regions_have_their_mean_and_sd():
    label_map = np.zeros((24, 32, 40), np.int32)
    label_map[12:] = labels.INDEX["brainstem"]
    params = contrast.draw(1, contrast.Contrast(texture=0, partial_volume=0, dark_background=0))
    image = np.asarray(contrast.apply(ops.convert_to_tensor(label_map), params))
    for index, region in ((0, image[:12]), (labels.INDEX["brainstem"], image[12:])):
        mean, sd = (float(params[name][labels.CLASSES[index]]) for name in ("means", "sds"))
        assert abs(region.mean() - mean) < 5 * sd / np.sqrt(region.size)
        assert region.std() == pytest.approx(sd, rel=0.03)


def test_partial_volume_by_hand():
    volume = np.zeros(SHAPE, "f")
    volume[8:] = 4
    mixed = np.asarray(contrast.partial_volume(ops.convert_to_tensor(volume), 0.25))
    np.testing.assert_allclose(mixed[6:10, 3, 3], [0, 1, 3, 4], atol=1e-6)
    assert contrast.partial_volume(ops.ones(SHAPE), 0.2).shape == SHAPE


def test_texture_is_smooth_and_of_its_sd():
    params = contrast.draw(2, contrast.Contrast(sds=(1, 1), means=(0, 0), dark_background=0))
    label_map = ops.zeros((32, 32, 32), "int32")
    with_it = contrast.apply(label_map, params | {"texture": ops.convert_to_tensor(2.0)})
    texture = np.asarray(with_it - contrast.apply(label_map, params | {"texture": ops.convert_to_tensor(0.0)}))
    assert 0.4 < texture.std() < 2.2
    assert np.abs(np.diff(texture, axis=0)).mean() < 0.5 * texture.std()


def test_unknown_contrast_names_the_nearest():
    with pytest.raises(ValueError, match=r"no contrast 'flare'. Did you mean 'flair'"):
        contrast.draw(0, contrast.Contrast(kind="flare"))


def test_physics_needs_the_scheme():
    with pytest.raises(ValueError, match=r"knows 40 classes, got 2. Use 'random'"):
        contrast.draw(0, contrast.Contrast(kind="t1"), np.array([0, 1]))


def test_a_mixture_draws_each_kind_as_often_as_said():
    mixture = contrast.Contrast(kind="mixed", mixture=(("random", 0.5), ("t1", 0.3), ("t2", 0.2)), dark_background=0)
    drawn = ops.vectorized_map(lambda seed: contrast.draw(seed, mixture)["means"], ops.arange(2000))
    alone = {}
    for kind in ("random", "t1", "t2"):
        pure = contrast.Contrast(kind=kind, dark_background=0)
        alone[kind] = ops.vectorized_map(lambda seed, pure=pure: contrast.draw(seed, pure)["means"], ops.arange(2000))
    shares = {kind: float(np.mean(np.abs(np.asarray(drawn - means)).max(1) < 1e-3)) for kind, means in alone.items()}
    assert abs(shares["random"] - 0.5) < 0.05 and abs(shares["t1"] - 0.3) < 0.05 and abs(shares["t2"] - 0.2) < 0.05


def test_a_mixture_of_unknown_kinds_is_refused():
    with pytest.raises(ValueError, match="no contrast 't4'"):
        contrast.draw(0, contrast.Contrast(kind="mixed", mixture=(("random", 0.5), ("t4", 0.5))))
