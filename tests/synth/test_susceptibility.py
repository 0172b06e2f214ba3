"""Painted susceptibility maps: values, masks, references, and the same result eager and compiled."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from zoo.synth import susceptibility
from zoo.synth.anatomy import labels as scheme

CLEAN = susceptibility.Susceptibility(
    veins=0, texture_ppm=(0.0, 0.0), snr=(1e6, 1e6), direct_noise_ppm=0, rim_ppm=0, in_plane_mm=(0.6, 0.6),
    slices_mm=(0.6, 0.6), padding=1.0,
)  # fmt: skip
INDEX = scheme.INDEX


def blocks(shape=(32, 36, 28)):
    """White matter with two putamina and a ventricle in air."""
    brain = np.zeros(shape, np.int32)
    brain[4:-4, 4:-4, 4:-4] = INDEX["left_white"]
    brain[7:13, 10:20, 10:18] = INDEX["left_putamen"]
    brain[-13:-7, 10:20, 10:18] = INDEX["right_putamen"]
    brain[13:-13, 22:-8, 8:16] = INDEX["left_ventricle"]
    return brain


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_means_are_within_their_ranges_and_sides_within_a_tenth(seed):
    means = np.array(susceptibility.draw(seed, (16, 16, 16))["means_ppm"])
    for label in scheme.LABELS:
        name = label.name.removeprefix("left_").removeprefix("right_")
        low, high = susceptibility.RANGES_PPM[name]
        margin = 0.05 * max(abs(low), abs(high)) + 1e-6
        assert low - margin <= means[label.index] <= high + margin, name
        pair = means[label.index], means[label.partner]
        assert abs(pair[0] - pair[1]) <= 0.1 * abs(np.mean(pair)) + 1e-6


def test_iron_rich_nuclei_age_together():
    draws = np.array([susceptibility.draw(seed, (8, 8, 8))["means_ppm"] for seed in range(40)])
    nuclei = [draws[:, INDEX[f"left_{name}"]] for name in ("putamen", "pallidum", "caudate")]
    assert np.corrcoef(nuclei)[np.triu_indices(3, 1)].min() > 0.6
    assert abs(np.corrcoef(nuclei[0], draws[:, INDEX["left_hippocampus"]])[0, 1]) < 0.5


@pytest.mark.parametrize(("inversion", "tolerance"), [(0, 0.35), (1, 0.45), (2, 0.02)])
def test_every_inversion_brings_the_contrast_back(inversion, tolerance):
    brain = blocks()
    params = susceptibility.draw(3, brain.shape, CLEAN)
    params = params | {
        "inversion": ops.convert_to_tensor(inversion), "partial_volume": ops.convert_to_tensor(0.0),
        "threshold": ops.convert_to_tensor(0.1), "smoothness_mm2": ops.convert_to_tensor(0.003),
        "blur": ops.zeros((3,)),
    }  # fmt: skip
    chi = np.array(susceptibility.apply(brain, params, CLEAN))
    means = np.array(params["means_ppm"])
    true = means[INDEX["left_putamen"]] - means[INDEX["left_white"]]
    assert true > 0.03
    measured = chi[brain == INDEX["left_putamen"]].mean() - chi[(brain == INDEX["left_white"]) & (chi != 0)].mean()
    assert measured == pytest.approx(true, rel=tolerance)


@pytest.mark.parametrize("to_fluid", [0.0, 1.0])
def test_reference_is_zero_and_air_is_exactly_zero(to_fluid):
    brain = blocks((28, 36, 24))
    params = susceptibility.draw(5, brain.shape, CLEAN) | {"to_fluid": ops.convert_to_tensor(to_fluid)}
    chi = np.array(susceptibility.apply(brain, params, CLEAN))
    inside = chi != 0
    assert not inside[brain == 0].any() or inside[brain == 0].mean() < 0.02  # the smoothed mask rounds corners
    assert not chi[0].any() and not chi[..., -1].any()
    part = inside & (brain == INDEX["left_ventricle"]) if to_fluid else inside
    assert abs(chi[part].mean()) < 2e-4


def test_noise_is_of_the_drawn_size_and_a_seed_is_a_sample():
    brain = np.full((16, 20, 24), INDEX["left_white"], np.int32)
    quiet = susceptibility.draw(1, brain.shape, CLEAN) | {"inversion": ops.convert_to_tensor(2)}
    loud = quiet | {"direct_noise_ppm": ops.convert_to_tensor(0.02), "blur": ops.zeros((3,))}
    first, second = (np.array(susceptibility.apply(brain, params, CLEAN)) for params in (loud, loud))
    np.testing.assert_array_equal(first, second)
    inside = first != 0
    assert first[inside].std() == pytest.approx(0.02, rel=0.08)
    assert inside.sum() > 3000


def test_veins_are_bright_tubes():
    ranges = susceptibility.Susceptibility(veins=6, spacing_mm=1.0)
    brain = np.full((24, 24, 24), INDEX["left_white"], np.int32)
    params = susceptibility.draw(2, brain.shape, ranges)
    chi = np.array(susceptibility.susceptibility(brain, params, ranges))
    bright = chi > 0.1
    assert 0.001 < bright.mean() < 0.15
    assert chi.max() <= np.array(params["vein_ppm"]).max() + 0.06


def test_compiled_and_eager_agree():
    ranges = susceptibility.Susceptibility(spacing_mm=1.5, padding=1.0, veins=2)
    brain = blocks((20, 24, 18))
    make = lambda seed: susceptibility.apply(brain, susceptibility.draw(seed, brain.shape, ranges), ranges)  # noqa: E731
    seed = tf.constant([4, 2])
    eager, compiled = np.array(make(seed)), np.array(tf.function(make, jit_compile=True)(seed))
    border = (eager != 0) != (compiled != 0)  # a voxel whose depth is the threshold to rounding
    assert border.mean() < 1e-3
    np.testing.assert_allclose(eager[~border], compiled[~border], atol=2e-4)
