"""A brain is cut out along a mask, or along the outline of its structures."""

import nibabel
import numpy as np
from support.cards import unet3d_card

from zoo.hub.card import Label
from zoo.workflows.brain_images import BrainWriter, finds_brain

NAMES = ("background", "csf", "left_white", "right_white", "left_cortex", "right_cortex")
PARTS = {value: Label(name, value) for value, name in enumerate(NAMES)}


def test_structures_with_the_fluid_around_them_are_a_brain_and_parts_of_it_are_not():
    assert finds_brain(unet3d_card("unet3d.parts", ("image",), PARTS))
    assert not finds_brain(unet3d_card("unet3d.few", ("image",), {i: PARTS[i] for i in range(5)}))


def test_the_outline_of_structures_has_no_holes_and_no_pieces_apart(tmp_path):
    labels = np.zeros((10, 12, 14), np.uint8)
    labels[2:8, 2:9, 2:11] = 4
    labels[2:8, 2:9, 2:5] = 1
    labels[4, 5, 6] = 0
    labels[9, 11, 13] = 3
    scan = nibabel.Nifti1Image(np.full(labels.shape, 7, np.int16), np.diag([1.5, 1, 2, 1]))
    writer = BrainWriter(unet3d_card("unet3d.parts", ("image",), PARTS))
    writer.write((nibabel.Nifti1Image(labels, scan.affine), scan), tmp_path / "a_parts.nii.gz")
    brain = nibabel.load(tmp_path / "a_brain.nii.gz")
    expected = np.zeros(labels.shape, np.int16)
    expected[2:8, 2:9, 2:11] = 7
    np.testing.assert_array_equal(brain.dataobj, expected)
    assert brain.get_data_dtype() == np.int16
