"""Changes of real patches, by a seed."""

import numpy as np

from zoo.pipeline.augmentation import mirror_and_rescale


def test_augmenting_keeps_air_and_mirrors_image_and_labels_alike():
    image = np.zeros((6, 4, 2, 3), np.float32)
    image[:2] = 1.0
    labels = np.repeat(image[..., :1] > 0, 2, axis=-1).astype(np.int32)
    flips = set()
    for seed in range(10):
        changed, marked = (np.asarray(each) for each in mirror_and_rescale(image, labels, np.array([0, seed])))
        np.testing.assert_array_equal((changed != 0).any(-1), marked[..., 0] > 0)
        np.testing.assert_array_equal(marked[..., 0], marked[..., 1])
        flips.add(bool(marked[-1].any()))
    assert flips == {False, True}


def test_each_channel_has_its_own_scale_and_level():
    image = np.ones((2, 2, 3, 2), np.float32)
    image[:, :, 1] = 2.0
    changed, _ = mirror_and_rescale(image, image[..., :1].astype(np.int32), np.array([0, 3]))
    changed = np.asarray(changed)
    scale = changed[0, 0, 1] - changed[0, 0, 0]
    level = changed[0, 0, 0] - scale
    assert abs(scale[0] - scale[1]) > 1e-3 and abs(level[0] - level[1]) > 1e-3
    np.testing.assert_allclose(changed, image * scale + level, rtol=1e-5)
