"""Tests at run time what a card says of its images and results: refuses what cannot be, warns of what is unlikely."""

import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from zoo.hub.card import Card, Label, Plausible
from zoo.inference.left_right import partners
from zoo.volumes import image
from zoo.volumes.image import Image
from zoo.volumes.intensity import air_level

FACTORS = (1000.0, 0.001, 10.0, 0.1, 25.4)  # metres, microns, centimetres, tenths and inches taken for mm
EVERY = 4  # along each axis: enough voxels to tell a background
BACKGROUND_SHARE = 0.15  # of voxels with one value, where a background was set
MOST_BRAIN_L = 2.2  # no brain with its fluid is larger
LEAST_HEAD_L = 2.5  # no image of a whole adult head shows less of it
CUT_SHARE = 0.2  # of a face that shows the head: noses and ears show less
SPIKE = 10.0  # times the 99.9th percentile: real scans reach 3
FACES = (("left", "right"), ("back", "front"), ("bottom", "top"))
LISTED = 5

Sizes = Sequence[float] | np.ndarray


class PlausibilityWarning(UserWarning):
    """Warns that an image or a result lies outside what the card of its model says."""


def check_extent(card: Card, shape: Sequence[int], spacing_mm: Sizes, name: str) -> None:
    """Checks that a field of view can hold what the model is for.

    Args:
        card: of the model; without `plausible.extent_mm` nothing is checked.
        shape: voxels along x, y, z.
        spacing_mm: voxel size along x, y, z, as the header says.
        name: what the error calls the image.

    Raises:
        ValueError: the longest side lies outside the card's range; the likely factor of the unit is named.

    Example:
        >>> from zoo.hub import trained_models
        >>> check_extent(trained_models.card("unet3d.brain_mask"), (182, 218, 182), (1, 1, 1), "T1.nii.gz")
    """
    if card.plausible is None or card.plausible.extent_mm is None:
        return
    sides = np.asarray(shape[:3], np.float64) * np.asarray(spacing_mm, np.float64)
    low, high = card.plausible.extent_mm
    if low <= sides.max() <= high:
        return
    fitting = [factor for factor in FACTORS if low <= sides.max() * factor <= high]
    advice = f"Times {fitting[0]:g} it would fit: correct" if fitting else "Correct"
    raise ValueError(
        f"{name} is {' x '.join(f'{side:.3g}' for side in sides)} mm large by its header, and {card.name} takes images "
        f"whose longest side has {low:g} to {high:g} mm. {advice} the voxel sizes or their unit (xyzt_units)."
    )


def check_images(card: Card, volume: np.ndarray, spacing_mm: Sizes, names: Sequence[str]) -> None:
    """Checks the intensities of a case.

    Args:
        card: of the model.
        volume: (x, y, z, channels), in the order of the card's channels.
        spacing_mm: voxel size along x, y, z.
        names: what errors and warnings call each channel.

    Raises:
        ValueError: every channel has the same value everywhere, and the card says what is plausible.

    Warns:
        PlausibilityWarning: air is not 0, or the brain is cut out where a head is expected, or the other way round.
    """
    channels = [volume[..., index] for index in range(volume.shape[-1])]
    if card.plausible and all(channel.min() == channel.max() for channel in channels):
        raise ValueError(
            f"There is no brain in {', '.join(names)}: every voxel is {volume.flat[0]:g}. Leave the case out, or check "
            "how the file was made."
        )
    litres = float(np.prod(volume.shape[:3])) * float(np.prod(spacing_mm)) / 1e6
    for name, channel in zip(names, channels, strict=True):
        for doubt in _doubts_about_image(card, channel, litres):
            warnings.warn(f"{name} {doubt}", PlausibilityWarning, stacklevel=2)


def _doubts_about_image(card: Card, channel: np.ndarray, litres: float) -> Iterator[str]:
    """Yields what one channel shows that the network did not learn from, to be read after the image's name."""
    shows = card.plausible.shows if card.plausible else None
    if any(step.name == "maximum" for step in card.preprocessing) and (level := air_level(channel)):
        yield f"has air at {level:g}, and {card.name} expects it at 0: the image was shifted by that."
    if any(step.name == "z_score" for step in card.preprocessing) and (spike := _find_spike(channel)):
        yield (
            f"has a voxel of {spike[0]:g}, where all but a thousandth lie below {spike[1]:g}: it sets the scale of the "
            "image. Clip such voxels first."
        )
    values, counts = np.unique(channel[::EVERY, ::EVERY, ::EVERY], return_counts=True)
    background, share = values[counts.argmax()], counts.max() / counts.sum()
    seen = litres * (1 - share)
    if shows == "head" and share > BACKGROUND_SHARE and seen < MOST_BRAIN_L and litres > LEAST_HEAD_L:
        cut = _find_cut_face(channel != background)
        what = f"ends at the {cut} of the image, as if half a head were missing" if cut else "is cut out already"
        yield (
            f"shows {seen:.1f} litres before an even background: the brain {what}; {card.name} was trained on whole "
            "heads, and loses parts of such a brain."
        )
    if shows == "brain" and (share < BACKGROUND_SHARE or background != 0 or seen > LEAST_HEAD_L):
        what = f"is {background:g} outside" if share > BACKGROUND_SHARE and background != 0 else "shows a whole head"
        yield (
            f"{what}, and {card.name} takes the brain alone, with exactly 0 around it. Multiply the images by a brain "
            "mask (zoo predict unet3d.brain_mask)."
        )


def _find_cut_face(inside: np.ndarray) -> str | None:
    """Returns the face of an image in RAS+ that shows most of the head; None where none but the neck's shows much."""
    shares = {
        side: float(inside.take(index, axis).mean())
        for axis, sides in enumerate(FACES)
        for index, side in zip((0, -1), sides, strict=True)
        if side != "bottom"
    }
    face = max(shares, key=lambda side: shares[side])
    return face if shares[face] > CUT_SHARE else None


def _find_spike(channel: np.ndarray) -> tuple[float, float] | None:
    """Returns the largest magnitude and the bound of the usual ones, where they lie far apart."""
    magnitude = np.abs(channel)
    most, bright = float(magnitude.max()), magnitude[magnitude > 0]
    usual = float(np.percentile(bright, 99.9)) if bright.size else 0.0
    return (most, usual) if usual and most > SPIKE * usual else None


def check_labels(card: Card, labels: Image, name: str) -> None:
    """Checks a label map against the card: volumes, sides, and whether it touches the edge of the image.

    Args:
        card: of the model; without `plausible` nothing is checked.
        labels: source values of the card's labels.
        name: what the warning calls the case.

    Warns:
        PlausibilityWarning: the result is empty, cut by the edge, or has structures of unlikely volume or asymmetry.
    """
    if card.plausible is None:
        return
    array, affine = image.to_ras(np.asanyarray(labels.dataobj), labels.affine)
    doubts = [*_doubts_about_edges(card.plausible, array, image.spacing_mm(affine))]
    doubts += _doubts_about_volumes(card, array, float(np.abs(np.linalg.det(affine[:3, :3]))) / 1000)
    for doubt in doubts:
        warnings.warn(f"{name}: {doubt}", PlausibilityWarning, stacklevel=2)


def _doubts_about_edges(plausible: Plausible, array: np.ndarray, spacing_mm: np.ndarray) -> Iterator[str]:
    if plausible.edge_cm2 is None:
        return
    for axis, sides in enumerate(FACES):
        pixel_cm2 = float(np.prod(np.delete(spacing_mm, axis))) / 100
        for index, side in zip((0, -1), sides, strict=True):
            area = np.count_nonzero(array.take(index, axis)) * pixel_cm2
            if area > plausible.edge_cm2:
                yield (
                    f"the result touches the {side} of the image with {area:.0f} cm2; the field of view seems to cut "
                    "the brain, and volumes are too small."
                )


def _doubts_about_volumes(card: Card, array: np.ndarray, voxel_ml: float) -> Iterator[str]:
    plausible = card.plausible or Plausible()
    counts = dict(zip(*(part.tolist() for part in np.unique(array, return_counts=True)), strict=True))
    volumes = {label.name: counts.get(label.value, 0) * voxel_ml for label in card.output.labels.values()}
    if plausible.volumes_ml and not any(volumes[name] for name in plausible.volumes_ml):
        yield "nothing was found, not one voxel. Look at the image: contrast, orientation and field of view."
        return
    ranges = plausible.volumes_ml.items()
    unlikely = [
        f"{name} {volumes[name]:.3g} ml ({low:g} to {high:g})"
        for name, (low, high) in ranges
        if not low <= volumes[name] <= high
    ]
    if unlikely:
        yield f"unlikely volumes, look at the result: {_list(unlikely)}."
    if uneven := [*_uneven_sides(card.output.labels, volumes, plausible)]:
        yield f"left and right differ more than in people, look at the result: {_list(uneven)}."


def _uneven_sides(labels: dict[int, Label], volumes: dict[str, float], plausible: Plausible) -> Iterator[str]:
    """Yields structures whose sides differ by more than the card allows; those with a side of 0 ml are told above."""
    if plausible.asymmetry_percent is None:
        return
    for index, other in enumerate(partners(labels)):
        left, right = (volumes[labels[side].name] for side in (index, other))
        if index < other and left and right:
            percent = 200 * (left - right) / (left + right)
            if abs(percent) > plausible.asymmetry_percent:
                yield f"{labels[index].name} {left:.3g} ml, {labels[other].name} {right:.3g} ml ({percent:+.0f} %)"


def _list(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - LISTED} more" if len(texts) > LISTED else ""
    return ", ".join(texts[:LISTED]) + more
