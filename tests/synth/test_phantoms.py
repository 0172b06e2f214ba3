"""Scans of an anatomy in fixed contrasts: what is bright where, thick slices, files."""

import nibabel
import numpy as np
import pytest

from zoo.synth import phantoms
from zoo.synth.anatomy.labels import INDEX, NUM_LABELS
from zoo.synth.phantoms import Scan


@pytest.fixture(scope="module")
def labels():
    head = np.zeros((32, 40, 30), np.int16)
    head[4:28, 4:36, 3:27] = INDEX["scalp"]
    head[8:24, 8:32, 6:24] = INDEX["left_cortex"]
    head[11:21, 12:28, 9:21] = INDEX["left_white"]
    head[14:18, 17:23, 12:18] = INDEX["left_ventricle"]
    return head


def mean(volume, labels, name):
    return volume[labels == INDEX[name]].mean()


def test_tissues_are_ordered_as_each_contrast_has_them(labels):
    volumes = {kind: phantoms.scanned(labels, Scan(kind=kind))[0] for kind in phantoms.KINDS}
    grey, white, fluid = "left_cortex", "left_white", "left_ventricle"
    orders = {
        "t1": (fluid, grey, white),
        "t2": (white, grey, fluid),
        "flair": (fluid, white, grey),
        "inverted": (white, grey, fluid),
    }
    for kind, order in orders.items():
        means = [mean(volumes[kind], labels, name) for name in order]
        assert means == sorted(means) and means[2] - means[0] > 0.1, (kind, means)
    assert np.median(volumes["inverted"][labels == INDEX["background"]]) < 0.1


@pytest.mark.parametrize("thick", [1, 4, 5])
def test_thick_slices_are_means_with_the_labels_of_their_middle(labels, thick):
    thin, _ = phantoms.scanned(labels, Scan())
    volume, labels_of_slices = phantoms.scanned(labels, Scan(slices_mm=thick))
    assert volume.shape == labels_of_slices.shape == (32, 40, 30 // thick)
    np.testing.assert_allclose(volume[..., 2], thin[..., 2 * thick : 3 * thick].mean(-1), atol=1e-6)
    np.testing.assert_array_equal(labels_of_slices[..., 1], labels[..., thick + thick // 2])


def test_files_lie_where_the_anatomy_lies_and_are_written_once(labels, tmp_path):
    affine, values = np.diag([1.0, 1, 1, 1]), np.arange(NUM_LABELS) * 2
    affine[:3, 3] = -10, 20, 5
    paths = phantoms.write(tmp_path / "new", "a", labels, affine, scan=Scan(slices_mm=5), values=values)
    image, truth = (nibabel.load(path) for path in paths)
    assert [path.name for path in paths] == ["a_t1_5mm.nii.gz", "a_t1_5mm_labels.nii.gz"]
    np.testing.assert_allclose(image.affine @ [0, 0, 0, 1], [-10, 20, 7, 1])  # the middle of five millimetres
    assert image.header.get_zooms() == truth.header.get_zooms() == (1, 1, 5)
    assert set(np.unique(np.asanyarray(truth.dataobj))) <= set(values.tolist())
    before = paths[0].stat().st_mtime_ns
    assert phantoms.write(tmp_path / "new", "a", labels, affine, scan=Scan(slices_mm=5), values=values) == paths
    assert paths[0].stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("settings", "match"), [({"kind": "t3"}, r"no contrast 't3'.*inverted"), ({"slices_mm": 0}, "at least 1, got 0")]
)
def test_what_no_scanner_does_is_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        Scan(**settings)
