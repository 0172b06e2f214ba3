"""Real infarcts: found by a setting, held out by their number, deep as a ball is, and lost without treatment."""

import os

import nibabel
import numpy as np
import pytest
from keras import ops
from support.infarcts import HOLES, ORIGIN, balls, write_folder

from zoo.synth import stroke
from zoo.synth.anatomy import territories
from zoo.synth.stroke_infarcts import mask_folder, outlines, outlines_in_graph

GRID = ((48, 44, 40), (1.0, 1.0, 1.0))
RANGES = stroke.Perfusion(grids=(GRID,), centred=1.0, rotation_deg=0.0, scaling=(1.0, 1.0))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the masks 1, 2, 4, 5, 8 and 10, a table and an atlas."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ZOO_INFARCTS", str(tmp_path / "masks"))
    return write_folder(tmp_path / "masks" / "soop")


def test_ids_that_five_divides_are_held_out(folder):
    assert mask_folder.names() == ["soop_1", "soop_2", "soop_4", "soop_8"]
    assert mask_folder.names("test") == ["soop_5", "soop_10"]
    with pytest.raises(ValueError, match="no split 'validation'"):
        mask_folder.names("validation")


def test_folders_are_found_by_themselves_and_joined(folder, monkeypatch, tmp_path):
    write_folder(tmp_path / "more", numbers=(11, 2))
    monkeypatch.setenv("ZOO_INFARCTS", os.pathsep.join([str(folder), str(tmp_path / "more")]))
    assert mask_folder.names() == ["soop_1", "soop_2", "soop_4", "soop_8", "soop_11"]
    assert mask_folder.locate("soop_2").parent == folder


@pytest.mark.parametrize(("setting", "said"), [("", "ZOO_INFARCTS is not set"), ("/nowhere", "has no file")])
def test_without_the_folder_the_error_says_what_to_clone(monkeypatch, setting, said):
    monkeypatch.setenv("ZOO_INFARCTS", setting)
    assert mask_folder.names() == []
    with pytest.raises(FileNotFoundError, match=f"{said}.*Clone https://github.com/neurolabusc/Stroke"):
        mask_folder.required()
    with pytest.raises(FileNotFoundError, match="bwsrsub-5_lesion"):
        outlines.load("test", allow_test=True)
    with pytest.raises(ValueError, match=r"as 'soop_12', got 'sub-1'"):
        mask_folder.locate("sub-1")


def test_held_out_infarcts_are_only_had_with_leave(folder):
    with pytest.raises(ValueError, match="'soop_5' is held out for tests"):
        mask_folder.read("soop_5")
    with pytest.raises(ValueError, match="'soop_5' is held out for tests"):
        outlines.load("test")
    assert outlines.load("test", allow_test=True).names == ["soop_5", "soop_10"]


def test_a_mask_comes_back_upright_in_its_place(folder):
    mask, affine = mask_folder.read("soop_1")
    np.testing.assert_array_equal(mask, balls(1))
    np.testing.assert_allclose(affine[:3, 3], ORIGIN)


def test_masks_of_other_voxels_and_empty_ones_are_refused(folder):
    nibabel.Nifti1Image(np.ones((4, 5, 6), np.uint8), np.diag([2.0, 1, 1, 1])).to_filename(
        folder / "bwsrsub-21_lesion.nii.gz"
    )
    nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4)).to_filename(folder / "bwsrsub-22_lesion.nii.gz")
    with pytest.raises(ValueError, match="not on an upright grid of 1 mm"):
        mask_folder.read("soop_21")
    with pytest.raises(ValueError, match="empty mask"):
        mask_folder.read("soop_22")


def test_people_keep_their_infarcts(folder):
    assert mask_folder.age_and_nihss("soop_1") == (78.0, 17.0)
    assert mask_folder.age_and_nihss("soop_2") == (89.0, 0.0)  # known as 89+
    assert np.isnan(mask_folder.age_and_nihss("soop_4")).all()  # n/a in the table
    assert np.isnan(mask_folder.age_and_nihss("soop_8")).all()  # not in the table
    training = outlines.load()
    np.testing.assert_array_equal(training.people[:2], [[78, 17], [89, 0]])
    assert np.isnan(training.people[2:]).all()


def test_outlines_are_those_of_the_masks(folder):
    training = outlines.load()
    for row, name in enumerate(training.names):
        mask, _ = mask_folder.read(name)
        start = np.round(training.starts[row] - ORIGIN).astype(int)
        around = tuple(slice(first, first + size) for first, size in zip(start, training.shapes[row], strict=True))
        np.testing.assert_array_equal(training.box(row) > 0, mask[around])
        assert training.volumes_ml[row] == pytest.approx(mask.sum() / 1000)
    assert training.territories.tolist() == [1, 1, 2, 2]  # left and right half of the atlas
    chosen = training.select(territories=(2,), volume_ml=(0.1, 2.5))
    assert chosen.names == ["soop_4"]
    np.testing.assert_array_equal(chosen.box(0), training.box(2))
    with pytest.raises(ValueError, match="None of 4 infarcts has 300 to inf ml in territories of any kind"):
        training.select(volume_ml=(300, np.inf))


def test_masks_are_read_once(folder, monkeypatch):
    before = outlines.load()
    outlines._load_all.cache_clear()
    monkeypatch.setattr(mask_folder, "read", lambda *args, **kwargs: pytest.fail("read again"))
    np.testing.assert_array_equal(outlines.load().depth, before.depth)


def test_depth_falls_as_in_a_ball_whatever_the_outline():
    mask = np.zeros((40, 30, 24), bool)
    mask[2:36, 4:12, 3:20], mask[2:9, 4:28, 3:9] = True, True
    depth = outlines.measure_depth(mask)[mask] / outlines.MOST_DEPTH
    for threshold in (0.2, 0.5, 0.8):
        assert (depth > threshold).mean() == pytest.approx((1 - threshold) ** 3, abs=0.01)
    assert depth.min() > 0
    far = outlines.edt.edt(np.pad(mask, 1))[1:-1, 1:-1, 1:-1][mask]
    assert far[depth > 0.8].min() > far[depth < 0.1].mean()


@pytest.fixture
def brain(folder):
    """A block of white matter with a hole of fluid, whose first voxel lies at the masks' origin."""
    codes = np.zeros((64, 60, 56), np.uint8)
    codes[2:62, 2:58, 2:54] = territories.TISSUES.index("white")
    codes[HOLES] = territories.TISSUES.index("csf")
    places = np.full((len(territories.OCCLUSIONS), 2, territories.NUM_PLACES, 3), 30, np.float32)
    nodes = [np.arange(0, size + outlines.LATTICE_MM, outlines.LATTICE_MM) for size in codes.shape]
    way = np.stack(np.meshgrid(*nodes, indexing="ij")).astype(np.float32) + np.reshape(ORIGIN, (3, 1, 1, 1))
    of_brain = outlines_in_graph.Outlines(outlines.load(), ops.convert_to_tensor(way.astype(np.float32)))
    return stroke.Brain(ops.convert_to_tensor(codes), ops.convert_to_tensor(places), of_brain)


def whole(brain, params):
    """The maps before noise and what is lost, at every voxel of the anatomy."""
    axes = [np.arange(size, dtype=np.float32) for size in brain.codes.shape]
    where = [ops.convert_to_tensor(axis) for axis in np.meshgrid(*axes, indexing="ij")]
    maps, lesion = stroke.at(brain, brain.codes, where, params)
    return np.asarray(maps), np.asarray(lesion)


def patient(brain, number, **changes):
    params = stroke.draw(3, RANGES, grades=(0.0, 0.5, 1.0))
    params |= outlines_in_graph.draw(3, brain.outlines.infarcts, RANGES.peak_s)
    return params | {"infarct": ops.cast(number, "int32"), "old_mm": -15.0} | changes


@pytest.mark.parametrize("number", [0, 2])
def test_without_treatment_the_outline_is_lost_and_nothing_else(brain, number):
    maps, lost = whole(brain, patient(brain, number, recanalised=0.0))
    mask, _ = mask_folder.read(brain.outlines.infarcts.names[number])
    expected = np.zeros(lost.shape, bool)
    expected[: mask.shape[0], : mask.shape[1], : mask.shape[2]] = mask
    assert expected[HOLES].any()  # fluid does not die
    expected[HOLES] = False
    np.testing.assert_array_equal(lost, expected)
    delays, flow = maps[5], maps[2]
    white = np.asarray(brain.codes) == territories.TISSUES.index("white")
    assert delays[lost].min() > stroke.LATE_S > delays[~lost & white].max()
    assert flow[lost].max() < 0.7 * np.median(flow[~lost & white])


def test_treatment_saves_what_is_near_the_surface_and_never_the_core(brain):
    sizes, before = [], None
    for time_h in (24.0, 6.0, 0.5):
        maps, lost = whole(brain, patient(brain, 0, recanalised=1.0, time_h=time_h, core=0.4, peak_s=16.0))
        assert before is None or not (lost & ~before).any()
        sizes.append(int(lost.sum()))
        before = lost
    assert sizes[0] > sizes[1] > sizes[2] > 0
    untreated = whole(brain, patient(brain, 0, recanalised=0.0, core=0.4, peak_s=16.0))[1]
    dead = maps[0] < 0.75 * np.median(maps[0][untreated & ~lost])
    assert dead[untreated].any() and not (dead & untreated & ~lost).any()


def test_poor_collaterals_leave_a_large_core_and_long_delays(brain):
    drawn = [outlines_in_graph.draw(seed, brain.outlines.infarcts, (10.0, 16.0)) for seed in range(200)]
    core, peak = (np.array([float(params[key]) for params in drawn]) for key in ("core", "peak_s"))
    assert np.corrcoef(core, peak)[0, 1] == pytest.approx(1, abs=1e-4)
    assert outlines_in_graph.CORE[0] <= core.min() < 0.3 and 0.75 < core.max() <= outlines_in_graph.CORE[1]
    people = {tuple(float(params[key]) for key in ("infarct", "age", "nihss", "nihss_missing")) for params in drawn}
    assert people == {(0, 78, 17, 0), (1, 89, 0, 0), (2, 0, 0, 1), (3, 0, 0, 1)}
    assert {int(params["side"]) for params in drawn if int(params["infarct"]) == 0} == {0}
    assert {int(params["side"]) for params in drawn if int(params["infarct"]) == 3} == {1}


def test_patches_are_centred_on_the_infarct(brain):
    for number in range(4):
        params = patient(brain, number)
        peak = brain.outlines.infarcts.peaks[number] - ORIGIN
        assert np.abs(np.asarray(brain.place(params)) - peak).max() <= outlines.LATTICE_MM / 2
        maps, lesion, _ = stroke.apply(brain, params | {"recanalised": 0.0}, (32, 28, 24), RANGES)
        assert np.asarray(lesion).any() and np.isfinite(np.asarray(maps)).all()


def test_a_way_to_mni_is_the_affine_where_both_brains_are_the_template(monkeypatch):
    labels = np.zeros((50, 60, 40), np.int16)
    draw = np.random.default_rng(0)
    for index in range(1, 12):
        x, y, z = draw.integers(4, (40, 50, 30))
        labels[x : x + 5, y : y + 4, z : z + 6] = index
    affine = np.array([[1.0, 0, 0, -20], [0, 1, 0, -30], [0, 0, 1, -10], [0, 0, 0, 1]])
    person = type("Person", (), {"labels": labels, "affine": affine})
    monkeypatch.setattr(outlines, "anatomy", lambda name, allow_test=False: person)
    box = (slice(4, 44), slice(6, 54), slice(2, 38))
    way = outlines.ways_to_mni("anyone", box, (44, 48, 40))
    assert way.shape == (3, 9, 9, 8)
    np.testing.assert_allclose(way[:, 0, 0, 0], [4 - 2 - 20, 6 - 0 - 30, 2 - 2 - 10], atol=0.01)
    np.testing.assert_allclose(way[:, 2, 3, 1] - way[:, 0, 0, 0], [12, 18, 6], atol=0.01)
