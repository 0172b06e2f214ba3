import nibabel as nib
import numpy as np
import pytest

from zoo.reporting import surface_views


def label_map(shape=(24, 32, 40), spacing_mm=(2.0, 1.5, 1.0)):
    """A ball of 10 mm in the middle; a box in front of it (anterior), one to the left, one above."""
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = [-(size - 1) / 2 * mm for size, mm in zip(shape, spacing_mm, strict=True)]
    voxels = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), -1)
    x, y, z = np.moveaxis(voxels * spacing_mm + affine[:3, 3], -1, 0)
    volume = np.zeros(shape, np.uint8)
    volume[x**2 + y**2 + z**2 < 10**2] = 1
    volume[(np.abs(x) < 4) & (np.abs(y - 16) < 4) & (np.abs(z) < 4)] = 2
    volume[(np.abs(x + 16) < 4) & (np.abs(y) < 4) & (np.abs(z) < 4)] = 3
    volume[(np.abs(x) < 4) & (np.abs(y) < 4) & (np.abs(z - 15) < 4)] = 4
    return nib.nifti1.Nifti1Image(volume, affine)


def centre(seen, value):
    """Rightwards and upwards from the middle of the ball, in pixels."""
    rows, columns = np.nonzero(seen.label == value)
    ball = np.argwhere(seen.label == 1).mean(0)
    return columns.mean() - ball[1], rows.mean() - ball[0]


@pytest.mark.parametrize(
    ("view", "value", "right", "up"),
    [
        ("left", 2, -1, 0),  # looking from the left, the front is on the left
        ("right", 2, 1, 0),
        ("front", 3, 1, 0),  # face to face: left is on the right
        ("back", 3, -1, 0),
        ("above", 3, -1, 0),
        ("above", 2, 0, 1),
        ("left", 4, 0, 1),
        ("below", 2, 0, 1),
        ("below", 3, 1, 0),
    ],
)
def test_what_lies_where_in_a_view(view, value, right, up):
    middle = centre(surface_views.look(label_map(), view), value)
    np.testing.assert_array_equal(np.rint(np.array(middle) / 16), (right, up))


@pytest.mark.parametrize(("view", "front", "behind"), [("front", 2, None), ("left", 3, None), ("back", 1, 2)])
def test_what_is_nearer_hides_what_is_behind(view, front, behind):
    seen = surface_views.look(label_map(), view)
    middle = np.argwhere(seen.label == 1).mean(0).round().astype(int)
    assert seen.label[tuple(middle)] == front
    assert behind is None or not (seen.label == behind).any()


def test_a_ball_has_its_size_and_is_lit_from_the_upper_left():
    ball = label_map()
    ball = nib.nifti1.Nifti1Image((np.asarray(ball.dataobj) == 1).astype(np.uint8), ball.affine)
    seen = surface_views.look(ball, "front", pixel_mm=0.5)
    area_mm2 = 0.25 * (seen.label == 1).sum()
    assert area_mm2 == pytest.approx(np.pi * 10**2, rel=0.1)
    rows, columns = np.nonzero(seen.label)
    weights = seen.light[rows, columns]
    assert np.average(columns, weights=weights) < columns.mean() and np.average(rows, weights=weights) > rows.mean()
    assert seen.slope[len(seen.slope) // 2, seen.slope.shape[1] // 2] < 0.1


def test_a_picture_has_the_extent_of_what_is_around():
    small, whole = label_map(), label_map()
    small = nib.nifti1.Nifti1Image((np.asarray(small.dataobj) == 4).astype(np.uint8), small.affine)
    seen, all_of_it = surface_views.look(small, "left", around=whole), surface_views.look(whole, "left")
    assert seen.label.shape == all_of_it.label.shape
    inside = (seen.label > 0) & (all_of_it.label != 4)
    assert inside.sum() <= 0.3 * (seen.label > 0).sum()  # alone, a box is smoothed on all its sides


def test_both_sides_share_a_colour_and_a_place_in_the_legend():
    names = {1: "thalamus", 2: "nose", 3: "left_ear", 4: "right_ear"}
    figure = surface_views.draw_surfaces(label_map(), shell=label_map(), names=names, views=["left", "left front"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["thalamus", "nose", "ear"]
    assert [panel.texts[0].get_text() for panel in figure.axes] == ["left", "left front"]


def test_a_wrong_view_and_an_empty_map_are_refused():
    with pytest.raises(ValueError, match="There is no view 'lft'. Did you mean 'left'"):
        surface_views.look(label_map(), "lft")
    empty = nib.nifti1.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4))
    with pytest.raises(ValueError, match="0 everywhere. Choose labels that it holds"):
        surface_views.look(empty, "left")


def test_what_the_volume_cuts_is_closed_there():
    cut = nib.nifti1.Nifti1Image(np.asarray(label_map().dataobj)[:, :, :20], label_map().affine)
    seen, whole = surface_views.look(cut, "left"), surface_views.look(label_map(), "left", around=cut)
    rows = np.flatnonzero(seen.label.any(1))
    assert len(rows) <= 21 and not seen.label[-3:].any()
    assert whole.label.shape == seen.label.shape
