"""Three planes: that left is left, that millimetres are true, and that storage order does not show."""

import itertools

import matplotlib.image
import nibabel
import numpy as np
import pytest

from zoo.reporting import planes
from zoo.volumes.nifti import spacing_mm

SHAPE, SPACING = (16, 24, 32), (3.0, 2.0, 1.0)


def head(spacing=SPACING):
    """An ellipsoid, brighter towards right, anterior and superior; a label in its left half."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    inside = (grid**2).sum(0) < 0.8
    volume = np.where(inside, 100 + 30 * grid[0] + 20 * grid[1] + 10 * grid[2], 0).astype(np.float32)
    labels = (((grid / [[[[0.4]]], [[[0.5]]], [[[0.5]]]] + [[[[1]]], [[[0]]], [[[0]]]]) ** 2).sum(0) < 1).astype(
        np.uint8
    )
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -(np.array(SHAPE) - 1) / 2 * spacing
    return nibabel.Nifti1Image(volume, affine), nibabel.Nifti1Image(labels, affine)


def stored(image, order, signs):
    """The same image with its axes in another order and direction."""
    turn = nibabel.orientations.axcodes2ornt(("R", "A", "S"))
    orientation = np.stack([np.array(order, float), np.array(signs, float)], 1)
    return image.as_reoriented(nibabel.orientations.ornt_transform(turn, orientation))


def panels(figure):
    return [axes.images[0].get_array() for axes in figure.axes]


def test_planes_show_left_on_the_left_and_up_is_up():
    sagittal, coronal, axial = panels(planes.draw_planes(*head(), at_mm=(0, 0, 0)))
    for plane in (sagittal, coronal, axial):
        rows, columns = plane.mean(1), plane.mean(0)  # the first row is the lowest
        half_rows, half_columns = len(rows) // 2, len(columns) // 2
        assert rows[half_rows:].mean() > rows[:half_rows].mean()  # superior or anterior on top
        assert columns[half_columns:].mean() > columns[:half_columns].mean()  # anterior or right to the right
    letters = [[text.get_text() for text in axes.texts[:4]] for axes in planes.draw_planes(*head()).axes]
    assert letters == [["P", "A", "I", "S"], ["L", "R", "I", "S"], ["L", "R", "P", "A"]]


def test_the_storage_order_of_an_image_does_not_show():
    image, labels = head()
    expected = panels(planes.draw_planes(image, labels))
    for order in itertools.permutations(range(3)):
        for signs in ((1, 1, 1), (-1, 1, -1), (-1, -1, -1)):
            turned = [stored(volume, order, signs) for volume in (image, labels)]
            for panel, plane in zip(panels(planes.draw_planes(*turned)), expected, strict=True):
                np.testing.assert_array_equal(panel, plane)


def test_millimetres_are_equally_long_in_every_panel():
    figure = planes.draw_planes(*head())
    inches = np.array(figure.get_size_inches())
    for axes in figure.axes:
        width, height = axes.get_position().size * inches
        right, up = np.diff(axes.get_xlim())[0], np.diff(axes.get_ylim())[0]
        assert width / right == pytest.approx(1 / planes.MM_PER_INCH)
        assert height / up == pytest.approx(1 / planes.MM_PER_INCH)
    image, _ = head()
    assert max(np.diff(figure.axes[0].get_xlim())) <= SHAPE[1] * spacing_mm(image.affine)[1]


def test_the_planes_cross_in_the_labels_and_the_outline_lies_around_them():
    figure = planes.draw_planes(*head(), names={1: "lesion"})
    assert [axes.texts[4].get_text().split(",")[0] for axes in figure.axes] == ["sagittal", "coronal", "axial"]
    at = [float(axes.texts[4].get_text().split()[-2]) for axes in figure.axes]
    assert at == pytest.approx([-9, 0, 0], abs=2)  # the ellipsoid's middle, within a voxel and rounding
    outline = figure.axes[2].collections[0].get_paths()[0].vertices
    middle = np.mean(figure.axes[2].get_xlim())
    assert outline[:, 0].max() <= middle + SPACING[0]  # the label is in the left half
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["lesion"]


def test_a_reference_adds_one_outline_a_label_and_a_legend_entry():
    image, labels = head()
    plain = planes.draw_planes(image, labels)
    both = planes.draw_planes(image, labels, reference=labels)
    assert [len(axes.collections) for axes in plain.axes] == [1, 1, 1]
    assert [len(axes.collections) for axes in both.axes] == [2, 2, 2]
    assert not plain.legends
    assert [text.get_text() for text in both.legends[0].get_texts()] == ["reference"]


def test_nothing_to_outline_is_no_fault():
    image, labels = head()
    empty = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), labels.affine)
    figure = planes.draw_planes(image, empty)
    assert all(not axes.collections for axes in figure.axes)
    flat = nibabel.Nifti1Image(np.ones(SHAPE, np.float32), labels.affine)
    assert len(planes.draw_planes(flat, empty).axes) == 3


def test_what_is_written_is_a_png_that_shows_something(tmp_path):
    path = planes.write_planes(tmp_path / "planes.png", *head(), title="Phantom")
    decoded = matplotlib.image.imread(path)
    assert decoded.shape[2] in (3, 4) and decoded.shape[1] > decoded.shape[0] > 100
    assert decoded[..., :3].std() > 0.1
    assert path.read_bytes() == planes.write_planes(tmp_path / "again.png", *head(), title="Phantom").read_bytes()


def test_bad_arguments_are_named(tmp_path):
    image, labels = head()
    with pytest.raises(ValueError, match=r"written to \.png, got .*planes.jpg'. Change the suffix"):
        planes.write_planes(tmp_path / "planes.jpg", image, labels)
    with pytest.raises(ValueError, match=r"at_mm must lie between .* got \(500, 0, 0\)"):
        planes.draw_planes(image, labels, at_mm=(500, 0, 0))
    with pytest.raises(ValueError, match="'labels' and 'image' lie on different grids"):
        planes.draw_planes(image, head(spacing=(1.0, 1.0, 1.0))[1])
    assert list(tmp_path.iterdir()) == []


def test_matplotlib_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'zoo3d\[report\]'"):
        planes.draw_planes(*head())
