"""What cannot be is refused, what is unlikely is warned of, what is usual passes in silence."""

import dataclasses
import warnings

import nibabel
import numpy as np
import pytest
from support.cards import tiny_card

from zoo.hub.card import Label, Output, Plausible, Step
from zoo.inference import plausibility
from zoo.inference.plausibility import PlausibilityWarning

SIDES = Output(
    "segmentation",
    "softmax",
    {0: Label("background", 0), 1: Label("left_caudate", 11), 2: Label("right_caudate", 50)},
)
RANGES = {"left_caudate": (1.0, 8.0), "right_caudate": (1.0, 8.0)}


def card(plausible, **changes):
    return dataclasses.replace(tiny_card(), plausible=plausible, **changes)


def head(background=0.0):
    """A bright ball of 4.2 litres in a field of view of 14 litres, at 4 mm."""
    x, y, z = np.ogrid[:60, :60, :60]
    ball = (x - 30) ** 2 + (y - 30) ** 2 + (z - 30) ** 2 < 25**2
    inside = np.random.default_rng(0).uniform(100, 200, ball.shape)
    return np.where(ball, inside, background).astype(np.float32)[..., None]


def small_brain():
    """The same, with 1.1 litres: a brain without its head."""
    x, y, z = np.ogrid[:60, :60, :60]
    return np.where((x - 30) ** 2 + (y - 30) ** 2 + (z - 30) ** 2 < 16**2, head()[..., 0], 0)[..., None]


def warned(function, *arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*arguments)
    assert all(issubclass(warning.category, PlausibilityWarning) for warning in caught)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("spacing_mm", "advice"),
    [(0.001, "Times 1000 it would fit"), (1000.0, "Times 0.001 it would fit"), (0.1, "Times 10 it would fit")],
)
def test_a_field_of_view_that_is_no_head_is_refused_with_the_likely_factor(spacing_mm, advice):
    with pytest.raises(ValueError, match=f"a.nii.gz is .* mm large by its header.*60 to 700 mm. {advice}"):
        plausibility.check_extent(card(Plausible(extent_mm=(60, 700))), (182, 218, 182), [spacing_mm] * 3, "a.nii.gz")


def test_a_field_of_view_that_no_factor_explains_is_refused():
    with pytest.raises(ValueError, match="60 to 700 mm. Correct the voxel sizes or their unit"):
        plausibility.check_extent(card(Plausible(extent_mm=(60, 700))), (9, 9, 9), (1e-5, 1e-5, 1e-5), "a.nii.gz")


@pytest.mark.parametrize("shape", [(182, 218, 182), (256, 256, 20), (64, 80, 64)])
def test_heads_slabs_and_cut_fields_of_view_pass(shape):
    plausibility.check_extent(card(Plausible(extent_mm=(60, 700))), shape, (1, 1, 1), "a.nii.gz")
    plausibility.check_extent(card(None), (2, 2, 2), (1e-6, 1, 1), "a.nii.gz")


def test_an_image_of_one_value_has_no_brain():
    with pytest.raises(ValueError, match=r"There is no brain in a\.nii\.gz: every voxel is 7\. Leave the case out"):
        plausibility.check_images(card(Plausible()), np.full((16, 24, 32, 1), 7.0), (1, 1, 1), ["a.nii.gz"])


def test_a_model_of_heads_warns_of_a_brain_alone_and_not_of_a_head():
    model = card(Plausible(shows="head"))
    assert warned(plausibility.check_images, model, head(), (4, 4, 4), ["a.nii.gz"]) == []
    (message,) = warned(plausibility.check_images, model, small_brain(), (4, 4, 4), ["a.nii.gz"])
    assert message.startswith("a.nii.gz shows 1.1 litres before an even background: the brain is cut out already; ")
    (message,) = warned(plausibility.check_images, model, head()[:30], (4, 4, 4), ["a.nii.gz"])
    assert "the brain ends at the right of the image, as if half a head were missing; " in message


def test_a_model_of_brains_warns_of_a_head_and_of_a_background_that_is_not_0():
    model = card(Plausible(shows="brain"))
    assert warned(plausibility.check_images, model, small_brain(), (4, 4, 4), ["a.nii.gz"]) == []
    (message,) = warned(plausibility.check_images, model, head(), (4, 4, 4), ["a.nii.gz"])
    assert "shows a whole head, and" in message and "takes the brain alone, with exactly 0 around it" in message
    (message,) = warned(plausibility.check_images, model, small_brain() - 1000, (4, 4, 4), ["a.nii.gz"])
    assert "is -1000 outside" in message


def test_air_far_from_0_is_told_where_a_step_counts_on_it():
    model = card(Plausible(shows="head"), preprocessing=(Step("maximum", {}),))
    (message,) = warned(plausibility.check_images, model, head(-1000.0), (4, 4, 4), ["a.nii.gz"])
    assert message.startswith("a.nii.gz has air at -1000, and")
    assert warned(plausibility.check_images, card(Plausible()), head(-1000.0), (4, 4, 4), ["a.nii.gz"]) == []


def test_a_single_bright_voxel_is_told_where_a_step_measures_the_spread():
    model = card(Plausible(), preprocessing=(Step("z_score", {}),))
    image = head()
    assert warned(plausibility.check_images, model, image, (4, 4, 4), ["a.nii.gz"]) == []
    image[3, 4, 5] = 50000
    (message,) = warned(plausibility.check_images, model, image, (4, 4, 4), ["a.nii.gz"])
    assert message.startswith("a.nii.gz has a voxel of 50000, where all but a thousandth lie below 199")


def label_map(left=0, right=0, edge=False):
    """Boxes of so many ml in an image of 4 mm, at the left edge or inside, RAS+."""
    voxels = np.zeros((40, 48, 56), np.uint8)
    for value, ml, start in ((11, left, 0 if edge else 4), (50, right, 24)):
        count = round(ml * 1000 / 64)
        box = np.zeros(10 * 40 * 48, np.uint8)
        box[:count] = value
        voxels[start : start + 10, 4:44, 4:52] = box.reshape(48, 40, 10).transpose(2, 1, 0)
    return nibabel.Nifti1Image(voxels, np.diag([4.0, 4, 4, 1]))


def test_usual_volumes_pass_in_silence():
    model = card(Plausible(volumes_ml=RANGES, asymmetry_percent=50, edge_cm2=10), output=SIDES)
    assert warned(plausibility.check_labels, model, label_map(4.0, 3.6), "a") == []
    assert warned(plausibility.check_labels, card(None, output=SIDES), label_map(), "a") == []


def test_an_empty_result_is_told_alone():
    model = card(Plausible(volumes_ml=RANGES, edge_cm2=10), output=SIDES)
    (message,) = warned(plausibility.check_labels, model, label_map(), "sub-1")
    assert message.startswith("sub-1: nothing was found, not one voxel")


def test_unlikely_volumes_and_sides_are_told_with_their_numbers():
    model = card(Plausible(volumes_ml=RANGES, asymmetry_percent=50, edge_cm2=10), output=SIDES)
    (message,) = warned(plausibility.check_labels, model, label_map(4.0, 0.0), "a")
    assert message == "a: unlikely volumes, look at the result: right_caudate 0 ml (1 to 8)."
    (message,) = warned(plausibility.check_labels, model, label_map(6.4, 3.2), "a")
    assert message.endswith("left_caudate 6.4 ml, right_caudate 3.2 ml (+67 %).")


def test_a_result_that_touches_a_face_is_told_by_its_side_whatever_the_order_of_axes():
    model = card(Plausible(edge_cm2=5), output=SIDES)
    image = label_map(60.0, edge=True)
    turned = nibabel.Nifti1Image(
        np.ascontiguousarray(np.asarray(image.dataobj)[::-1].transpose(1, 0, 2)),
        np.array([[0, -4.0, 0, 156], [4, 0, 0, 0], [0, 0, 4, 0], [0, 0, 0, 1]]),
    )
    for mask in (image, turned):
        (message,) = warned(plausibility.check_labels, model, mask, "a")
        assert message.startswith("a: the result touches the left of the image with")


def test_a_card_may_only_name_its_own_labels_and_ranges_that_rise():
    from zoo.hub import card_file

    with pytest.raises(ValueError, match=r"plausible.volumes_ml must name labels of output, got \['caudate'\]"):
        card_file.check(card(Plausible(volumes_ml={"caudate": (1.0, 2.0)})), complete=False)
    with pytest.raises(ValueError, match="plausible extent_mm must have 0 <= least < greatest"):
        card_file.check(card(Plausible(extent_mm=(700, 60))), complete=False)
    with pytest.raises(ValueError, match="plausible.shows must be one of"):
        card_file.check(card(Plausible(shows="skull")), complete=False)
