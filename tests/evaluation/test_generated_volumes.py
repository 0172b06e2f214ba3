"""Measures of generated volumes, against independent code and hand arithmetic."""

import json

import numpy as np
import pytest
from scipy import ndimage, stats
from support.paths import FIXTURES

from zoo.evaluation import generated_volumes


def volumes(count=2, shape=(16, 24, 32), channels=1, seed=0):
    noise = np.random.default_rng(seed).normal(size=(count, *shape, channels))
    return ndimage.gaussian_filter(noise, (0, 1, 1, 1, 0)).astype(np.float32)


def slow_ms_ssim(a, b, span, window, weights):
    """One pair of 3D volumes, with SciPy's filters."""
    place = np.arange(window) - window // 2
    line = np.exp(-0.5 * (place / 1.5) ** 2)
    line /= line.sum()

    def blur(volume):
        for axis in range(3):
            volume = ndimage.correlate1d(volume, line, axis)
        edge = window // 2
        return volume[edge:-edge, edge:-edge, edge:-edge]

    product = 1.0
    for scale, weight in enumerate(weights):
        ma, mb = blur(a), blur(b)
        va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
        part = (2 * cov + (0.03 * span) ** 2) / (va + vb + (0.03 * span) ** 2)
        if scale == len(weights) - 1:
            part = part * (2 * ma * mb + (0.01 * span) ** 2) / (ma**2 + mb**2 + (0.01 * span) ** 2)
        product *= max(part.mean(), 0) ** weight
        a, b = (each.reshape(*(n for size in each.shape for n in (size // 2, 2))).mean((1, 3, 5)) for each in (a, b))
    return product


def test_ms_ssim_by_independent_code():
    a = volumes(2, channels=2)
    b = a + 0.3 * volumes(2, channels=2, seed=1)
    result = np.asarray(generated_volumes.ms_ssim(a, b, span=2.0, weights=(0.4, 0.6)))
    pairs = [[slow_ms_ssim(a[n, ..., c], b[n, ..., c], 2.0, 7, (0.4, 0.6)) for c in range(2)] for n in range(2)]
    np.testing.assert_allclose(result, np.mean(pairs, axis=1), rtol=1e-4)
    assert (result < 0.99).all()


def test_ms_ssim_is_monais():
    """Numbers of MONAI 1.6.1, `monai.metrics.MultiScaleSSIMMetric`; made by tests/fixtures/make_metrics.py."""
    stored = json.loads((FIXTURES / "metrics" / "ms_ssim.json").read_text())
    for case in stored["cases"]:
        a = volumes(1, tuple(case["shape"]), seed=case["seed"])
        b = a + case["noise"] * volumes(1, tuple(case["shape"]), seed=case["seed"] + 1)
        result = generated_volumes.ms_ssim(a, b, span=case["span"], window=case["window"], weights=case["weights"])
        assert float(result[0]) == pytest.approx(case["ms_ssim"], abs=2e-5)


def test_equal_volumes_are_1_and_room_decides_the_scales():
    a = volumes()
    np.testing.assert_allclose(generated_volumes.ms_ssim(a, a, span=1.0), 1.0, atol=1e-5)
    two = np.array(generated_volumes.SCALES[:2]) / sum(generated_volumes.SCALES[:2])
    b = volumes(seed=3)
    assert float(generated_volumes.ms_ssim(a, b, span=1.0)[0]) == float(
        generated_volumes.ms_ssim(a, b, span=1.0, weights=two)[0]
    )
    with pytest.raises(ValueError, match=r"7 voxels at 1 scale\(s\) needs 7 voxels a side, got \(6, 24, 32\)"):
        generated_volumes.ms_ssim(a[:, :6], b[:, :6], span=1.0)
    with pytest.raises(ValueError, match="Pairs of volumes share a shape"):
        generated_volumes.ms_ssim(a, b[:, :8], span=1.0)


def test_pairs_among_images_are_never_an_image_with_itself():
    a = volumes(2, (8, 9, 10))
    single = float(generated_volumes.ms_ssim(a[:1], a[1:], span=1.0)[0])
    assert generated_volumes.pair_similarity(a, span=1.0, pairs=10) == pytest.approx(single, abs=1e-6)
    assert generated_volumes.pair_similarity(a[:1], a[:1], span=1.0, pairs=2) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="need two of them at least, got 1"):
        generated_volumes.pair_similarity(a[:1], span=1.0)


def test_mmd_by_a_double_loop_and_by_scikit_learn():
    from sklearn.metrics.pairwise import rbf_kernel

    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(5, 2, 3)), draw.normal(1, 1, size=(7, 2, 3))
    flat = [each.reshape(len(each), -1) for each in (x, y)]
    gamma = 1 / (2 * 1.7**2)
    within = [sum(rbf_kernel(f, f, gamma)[i, j] for i in range(len(f)) for j in range(len(f)) if i != j) for f in flat]
    expected = within[0] / 20 + within[1] / 42 - 2 * rbf_kernel(*flat, gamma).mean()
    assert generated_volumes.mmd(x, y, bandwidth=1.7) == pytest.approx(expected, abs=1e-12)


def test_mmd_tells_distributions_apart_and_has_no_bias():
    draw = np.random.default_rng(1)
    same = [generated_volumes.mmd(*draw.normal(size=(2, 30, 4))) for _ in range(40)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(40) + 1e-3
    assert generated_volumes.mmd(draw.normal(size=(30, 4)), draw.normal(1, 1, (30, 4))) > 5 * np.std(same)
    with pytest.raises(ValueError, match=r"two sets of at least two samples of one size, got \(1, 4\) and \(30, 4\)"):
        generated_volumes.mmd(np.zeros((1, 4)), np.zeros((30, 4)))


def test_wasserstein_is_scipys():
    draw = np.random.default_rng(2)
    a, b = draw.normal(size=(9, 3)), draw.normal(1, 2, (14, 3))
    expected = [stats.wasserstein_distance(*pair) for pair in zip(a.T, b.T, strict=True)]
    np.testing.assert_allclose(generated_volumes.volume_wasserstein(a, b), expected, rtol=1e-9)
    with pytest.raises(ValueError, match=r"tissue by tissue, .* got \(9, 3\) and \(14, 2\)"):
        generated_volumes.volume_wasserstein(a, b[:, :2])


def test_tissue_by_hand():
    image = np.zeros((2, 4, 4, 4))
    image[:, 0] = np.random.default_rng(0).normal(1, 0.01, (2, 4, 4))
    image[:, 1] = 2 + np.random.default_rng(1).normal(0, 0.01, (2, 4, 4))
    image[1, 1] = 3
    limits = generated_volumes.tissue_limits(image)
    np.testing.assert_allclose(limits, [1.5, 2.5], atol=0.02)
    result = generated_volumes.tissue_volumes_ml(image, limits, (1, 2, 5))
    np.testing.assert_allclose(result, [[0.16, 0.16, 0], [0.16, 0, 0.16]])
    with pytest.raises(ValueError, match="got 3 tissues in 0 voxels"):
        generated_volumes.tissue_limits(np.zeros((2, 2)))


def test_compare_ranks_a_copy_over_a_collapsed_cohort():
    real, other = volumes(6, (8, 9, 10)), volumes(6, (8, 9, 10), seed=4)
    good, bad = (
        generated_volumes.compare(each, real, spacing_mm=(1, 1, 1), pairs=30)
        for each in (other, other[:1].repeat(6, 0))
    )
    assert bad["ms_ssim_fakes"] > bad["ms_ssim_reals"] + 0.05 > good["ms_ssim_fakes"]
    assert bad["mmd"] > good["mmd"]
    assert set(good) == {"ms_ssim", "ms_ssim_fakes", "ms_ssim_reals", "mmd", *(f"wasserstein_ml_{n}" for n in range(3))}
