"""Images standardised by tissues: fixed values whatever scanner and bias, and lesions that stay."""

import numpy as np
import pytest

from zoo.normative.tissue_scale import FLUID, WHITE, standardise
from zoo.synth.anatomy.labels import INDEX

SHAPE = (48, 56, 64)


def parcels():
    x, y, z = np.indices(SHAPE)
    radius = np.sqrt((x - 24) ** 2 + (y - 28) ** 2 + (z - 32) ** 2)
    labels = np.zeros(SHAPE, np.uint8)
    for bound, name in ((22, "csf"), (19, "left_cortex"), (15, "left_white"), (6, "left_ventricle")):
        labels[radius < bound] = INDEX[name]
    return labels


def scan(fluid, grey, white, *, noise=0.0, bias=False):
    labels, draw = parcels(), np.random.default_rng(0)
    values = np.zeros(SHAPE)
    for level, names in ((fluid, ("csf", "left_ventricle")), (grey, ("left_cortex",)), (white, ("left_white",))):
        values[np.isin(labels, [INDEX[name] for name in names])] = level
    values = np.maximum(values + noise * draw.standard_normal(SHAPE), 0) * (labels > 0)
    if bias:
        values = values * np.exp(0.3 * (np.arange(SHAPE[0])[:, None, None] / SHAPE[0] - 0.5))
    return values[..., None].astype(np.float32)


def medians(images):
    labels = parcels()
    return [float(np.median(images[..., 0][labels == INDEX[name]])) for name in ("csf", "left_cortex", "left_white")]


@pytest.mark.parametrize(("levels", "grey"), [((1.0, 3.0, 4.0), -1.0), ((100.0, 700.0, 500.0), 1.0)])
def test_tissues_have_fixed_values_in_every_scan(levels, grey):
    for bias in (False, True):
        found = medians(standardise(scan(*levels, noise=0.02 * levels[1], bias=bias), parcels()))
        np.testing.assert_allclose(found, [FLUID, grey, WHITE], atol=0.15)


def test_scale_of_the_scanner_is_nothing():
    plain = standardise(scan(1, 3, 4, noise=0.1), parcels())
    np.testing.assert_allclose(standardise(1000 * scan(1, 3, 4, noise=0.1), parcels()), plain, atol=1e-3)


def test_bias_goes_and_a_lesion_stays():
    lesion = (slice(30, 35), slice(34, 39), slice(32, 37))
    image = scan(100, 700, 500, bias=True)
    image[lesion] *= 1.2
    found = standardise(image, parcels())
    white = parcels() == INDEX["left_white"]
    inside = np.zeros(SHAPE, bool)
    inside[lesion] = True
    assert found[..., 0][inside & white].min() > 0.4
    assert found[..., 0][white & ~inside].std() < 0.25 < scan(100, 700, 500, bias=True)[..., 0][white].std() / 100 * 3


def test_alike_grey_and_white_matter_are_not_torn_apart():
    found = medians(standardise(scan(100, 505, 500), parcels()))
    assert abs(found[1]) < 0.1


def test_outside_and_empty_channels_are_zero():
    images = np.concatenate([scan(1, 3, 4), np.zeros((*SHAPE, 1), np.float32)], axis=-1)
    found = standardise(images, parcels())
    assert found.dtype == np.float32 and not found[..., 1].any() and not found[parcels() == 0].any()


def test_a_missing_tissue_is_named():
    labels = np.where(parcels() == INDEX["left_cortex"], INDEX["left_white"], parcels())
    with pytest.raises(ValueError, match="of grey there are fewer than 1000 voxels"):
        standardise(scan(1, 3, 4), labels)
