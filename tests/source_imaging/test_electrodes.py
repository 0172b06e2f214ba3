"""Electrodes on the template: units, frames, extra channels and names, against mne's own montages."""

import numpy as np
import pytest

from zoo.eeg import head_surfaces
from zoo.source_imaging import electrodes
from zoo.source_imaging.units import RecordingWarning

mne = pytest.importorskip("mne")


def cap(montage="biosemi64", *, head=True):
    """Positions of mne's montage, mm, in its head frame or, as EEGLAB has them, around the sphere's middle."""
    made = mne.channels.make_standard_montage(montage)
    info = mne.create_info(made.ch_names, 100.0, "eeg", verbose="ERROR").set_montage(made)
    if head:
        return {channel["ch_name"]: channel["loc"][:3] * 1e3 for channel in info["chs"]}
    return {name: place * 1e3 for name, place in made.get_positions()["ch_pos"].items()}


def nameless(places):
    return {f"X{name}": place for name, place in places.items()}


def template_error_mm(placement):
    """Mean distance to where the template has the electrode of that name."""
    known = dict(zip(head_surfaces.electrode_names(), head_surfaces.head().electrodes_mm, strict=True))
    return np.mean([np.linalg.norm(place - known[name.strip("X")]) for name, place in placement.places_mm.items()])


def test_positions_in_mnes_head_frame_are_kept_without_a_warning():
    places = nameless(cap())
    placement = electrodes.place_electrodes(tuple(places), places)
    assert not placement.by_name and placement.rms_mm < 7 and template_error_mm(placement) < 9
    assert placement.repairs == (
        f"64 channels placed by position, {placement.rms_mm:.1f} mm (RMS) from the scalp: "
        "XFp1, XAF7, XAF3, XF1, XF3, XF5 and 58 more.",
    )


@pytest.mark.parametrize(("unit", "factor"), [("cm", 100.0), ("mm", 1000.0)])
def test_positions_in_other_units_are_scaled_and_that_is_stated(unit, factor):
    places = {name: place * factor for name, place in nameless(cap()).items()}
    with pytest.warns(RecordingWarning, match=f"electrode positions were in {unit} "):
        placement = electrodes.place_electrodes(tuple(places), places)
    assert template_error_mm(placement) < 9 and f"were in {unit}" in placement.repairs[0]


@pytest.mark.filterwarnings("ignore::zoo.source_imaging.units.RecordingWarning")
def test_a_unit_sphere_is_scaled_to_the_head():
    places = {name: place / np.linalg.norm(place) * 1e3 for name, place in nameless(cap(head=False)).items()}
    placement = electrodes.place_electrodes(tuple(places), places)
    assert template_error_mm(placement) < 10 and "unit sphere (radius 1.00 m)" in placement.repairs[0]


def test_positions_around_the_middle_of_the_head_are_moved_to_the_scalp():
    """46 mm off, for mne's frame has its origin between the ears."""
    places = nameless(cap(head=False))
    with pytest.warns(RecordingWarning, match=r"moved by 4\d mm \(RMS\) to fit the template's scalp"):
        placement = electrodes.place_electrodes(tuple(places), places)
    assert template_error_mm(placement) < 9


def test_names_tell_the_frame_whatever_its_axes_and_one_extra_channel_does_not_move_the_others():
    turned = {name: np.array([y, -x, z]) for name, (x, y, z) in cap(head=False).items()}
    turned["X1"] = turned["Cz"] + [0.0, 0.0, 2.0]
    with pytest.warns(RecordingWarning, match="moved by"):
        placement = electrodes.place_electrodes(tuple(turned), turned)
    known = dict(zip(head_surfaces.electrode_names(), head_surfaces.head().electrodes_mm, strict=True))
    for name in set(turned) - {"X1"}:
        assert placement.places_mm[name] == pytest.approx(known[name])
    assert np.linalg.norm(placement.places_mm["X1"] - known["Cz"]) < 15


def test_an_electrode_far_from_the_scalp_is_left_out():
    places = nameless(cap())
    places["below the eye"] = places["XFpz"] * 1.6
    with pytest.warns(RecordingWarning, match="1 channels left out, more than 30 mm from the scalp: below the eye"):
        placement = electrodes.place_electrodes(tuple(places), places)
    assert "below the eye" not in placement.places_mm and len(placement.places_mm) == 64


def test_labels_of_a_biosemi_cap_are_not_taken_for_names_of_the_10_05_system():
    """Its C1 to C6 are frontal electrodes."""
    places = cap("biosemi128")
    placement = electrodes.place_electrodes(tuple(places), places)
    assert not placement.by_name and len(placement.places_mm) == 128
    known = dict(zip(head_surfaces.electrode_names(), head_surfaces.head().electrodes_mm, strict=True))
    assert placement.places_mm["C4"][1] > known["C4"][1] + 40


def test_positions_that_no_unit_or_frame_explains_are_refused():
    turned = {f"X{name}": np.array([y, -x, z]) for name, (x, y, z) in cap(head=False).items()}
    with pytest.raises(ValueError, match=r"not symmetric from left to right .* Set a montage with x to the right"):
        electrodes.place_electrodes(tuple(turned), turned)
    huge = {name: place * 5 for name, place in nameless(cap()).items()}
    with pytest.raises(ValueError, match=r"sphere of radius 0.475 m; a head has 0.06 to 0.13 m"):
        electrodes.place_electrodes(tuple(huge), huge)
    random = np.random.default_rng(0)
    loose = {name: place * (1 + 0.35 * random.standard_normal()) for name, place in nameless(cap()).items()}
    with pytest.raises(ValueError, match=r"fit no scalp: after a shift and a scale, \d+ of 64 lie more than 30 mm"):
        electrodes.place_electrodes(tuple(loose), loose)


def test_positions_that_contradict_all_names_are_stated():
    places = cap()
    shuffled = dict(zip(places, np.random.default_rng(0).permutation(list(places.values())), strict=True))
    with pytest.warns(RecordingWarning, match=r"Positions and names of the electrodes differ by \d+ mm"):
        placement = electrodes.place_electrodes(tuple(places), shuffled)
    assert placement.by_name and "the names were used" in placement.repairs[0]
