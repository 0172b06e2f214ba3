"""Location channels of a scan, counted by hand on a block, in any orientation."""

import nibabel as nib
import numpy as np
import pytest

from zoo.datasets.location_channels import NAMES, location_images
from zoo.tasks.lacunes import LOCATION


def written(folder, labels, affine):
    nib.save(nib.nifti1.Nifti1Image(labels, affine), folder / "structures.nii.gz")
    return folder / "structures.nii.gz"


def block():
    labels = np.zeros((12, 14, 10), np.uint8)
    labels[1:11, 2:12, 1:9] = 2
    labels[4:6, 6:8, 4:6] = 4
    return labels


def test_places_and_distance(tmp_path):
    files = location_images(written(tmp_path, block(), np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path)
    assert tuple(files) == NAMES == LOCATION
    x, y, z, far = (np.asanyarray(nib.load(path).dataobj) for path in files.values())
    assert x[10, 5, 5] == pytest.approx((10 - 4.5) / 10) and y[5, 2, 5] == pytest.approx((2 - 6.5) / 10)
    assert z[5, 5, 8] == pytest.approx((8 - 4.5) / 8)
    assert far[4, 6, 4] == 0 and far[8, 6, 4] == pytest.approx(3 * 2 / 30)
    for channel in (x, y, z, far):
        assert not channel[0].any() and channel.dtype == np.float32


def test_right_is_right_in_every_orientation(tmp_path):
    labels, affine = block()[::-1], np.diag([-1.0, 1.0, 1.0, 1.0])
    x = np.asanyarray(nib.load(location_images(written(tmp_path, labels, affine), tmp_path)["x"]).dataobj)
    assert x[1, 5, 5] == pytest.approx((10 - 4.5) / 10) and x[10, 5, 5] == pytest.approx((1 - 4.5) / 10)


def test_a_map_without_ventricles_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no voxel of the ventricles' values \(4, 43\)"):
        location_images(written(tmp_path, (block() > 0).astype(np.uint8), np.eye(4)), tmp_path)
