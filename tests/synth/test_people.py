"""People in folders of label maps: found by a setting, split in one table, refused when held out or not understood."""

import os

import nibabel
import numpy as np
import pytest
from support.paths import ROOT

from zoo.synth.anatomy import labels, people, sources

REAL = ROOT.parent / "shared" / "data" / "anatomies"
SPLITS = {"synthseg": 13, "synthsr": 4}


def name_of(index):
    return labels.LABELS[index].name


def head_codes():
    """A block of a head: air, skin, fluid, both sides of white matter and cortex, a ventricle with choroid in it."""
    codes = np.zeros((40, 44, 36), np.int32)
    codes[3:37, 3:41, 3:33] = 511
    codes[4:36, 4:40, 4:32] = 507
    codes[6:34, 6:38, 6:30] = 24
    codes[8:20, 8:36, 8:28], codes[20:32, 8:36, 8:28] = 3, 42
    codes[10:20, 10:34, 10:26], codes[20:30, 10:34, 10:26] = 2, 41
    codes[16:19, 16:24, 14:18], codes[21:24, 16:24, 14:18] = 4, 43
    codes[17:18, 18:20, 15:16], codes[22:23, 18:20, 15:16] = 136, 163
    codes[12, 12:14, 12], codes[27, 12:14, 12] = 25, 57
    codes[19:21, 20:24, 12:13] = 14
    return codes


def write(path, codes, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([1.0, 1, 1, 1]) if affine is None else affine
    nibabel.Nifti1Image(codes.astype(np.int16), affine).to_filename(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """SynthSeg's and SynthSR's folders with three people, the head turned to left, inferior, anterior."""
    turned = head_codes()[::-1, :, ::-1].transpose(0, 2, 1)
    affine = np.array([[-1.0, 0, 0, 39], [0, 0, 1, 0], [0, -1, 0, 35], [0, 0, 0, 1]])
    write(tmp_path / "synthseg" / "training_seg_01.nii.gz", turned, affine)
    write(tmp_path / "synthseg" / "training_seg_14.nii.gz", turned, affine)
    merged = head_codes()
    merged[np.isin(merged, (24, 25, 57, 507, 511))] = 0
    for right, left in {41: 2, 42: 3, 43: 4, 136: 31, 163: 31}.items():
        merged[merged == right] = left
    write(tmp_path / "synthsr" / "brain1_labels.nii.gz", merged)
    (tmp_path / "synthseg" / "notes.txt").write_text("not a label map")
    monkeypatch.setenv("ZOO_ANATOMIES", str(tmp_path))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_one_table_says_who_trains():
    trains = [name for name, person in people.PEOPLE.items() if person.split == "train"]
    assert {folder: sum(name.startswith(f"{folder}_") for name in trains) for folder in SPLITS} == SPLITS
    assert people.PEOPLE["synthseg_14"].split == people.PEOPLE["synthsr_5"].split == "test"
    assert len({person.file for person in people.PEOPLE.values()}) == len(people.PEOPLE)


@pytest.mark.parametrize("form", ["parent", "folders"])
def test_folders_are_found_by_themselves_and_by_their_parent(folder, monkeypatch, form):
    if form == "folders":
        monkeypatch.setenv("ZOO_ANATOMIES", os.pathsep.join(str(folder / name) for name in SPLITS))
    assert people.names() == ["synthseg_01", "synthsr_1"] and people.names("test") == ["synthseg_14"]


def test_a_head_comes_back_upright_in_the_scheme(folder):
    person = sources.anatomy("synthseg_01")
    size = 2 * people.MARGIN
    assert person.labels.shape == (34 + size, 38 + size, 30 + size) and person.split == "train"
    cut = head_codes()[3:37, 3:41, 3:33]
    inner = person.labels[(slice(people.MARGIN, -people.MARGIN),) * 3]
    assert {name_of(index) for index in np.unique(inner[cut == 136])} == {"left_choroid"}
    pairs = {24: "csf", 507: "soft_tissue", 511: "skin", 2: "left_white", 43: "right_ventricle", 57: "right_lesion"}
    for code, name in pairs.items():
        assert {name_of(index) for index in np.unique(inner[cut == code])} == {name}
    np.testing.assert_allclose(person.affine[:3, 3], 3 - people.MARGIN)
    assert labels.INDEX["left_thalamus"] in person.missing and labels.INDEX["left_white"] not in person.missing


def test_merged_sides_are_split_at_the_midline_and_fluid_is_added(folder):
    person = sources.anatomy("synthsr_1")
    names = person.volumes_ml
    assert names["left_white"] == names["right_white"] and names["left_choroid"] == names["right_choroid"]
    centre = lambda name: np.argwhere(person.labels == labels.INDEX[name]).mean(0)  # noqa: E731
    assert centre("left_white")[0] < centre("right_white")[0]
    assert names["csf"] > 0 and "soft_tissue" not in names


def test_the_midline_of_a_turned_brain_is_its_own():
    grid = np.indices((60, 60, 20)).astype(float)
    across = (grid[0] - 29.5) * np.cos(0.2) + (grid[1] - 29.5) * np.sin(0.2)
    along = (grid[1] - 29.5) * np.cos(0.2) - (grid[0] - 29.5) * np.sin(0.2)
    brain = (np.abs(across) < 17) & (np.abs(along) < 24) & (grid[2] > 3)
    merged = np.where(brain, labels.INDEX["left_white"], 0)
    sides = people.split_merged(merged)
    wrong = (sides == labels.INDEX["right_white"]) != (across > 0)
    assert (wrong & brain).sum() < 0.04 * brain.sum()
    both = np.where(brain & (across > 0), labels.INDEX["right_white"], merged)
    assert people.split_merged(both) is both


def test_only_a_bare_brain_grows_a_head(folder):
    assert (sources.anatomy("synthseg_01", head=3).labels == sources.anatomy("synthseg_01").labels).all()
    assert "scalp" in sources.anatomy("synthsr_1", head=3).volumes_ml


def test_a_test_person_is_only_had_by_name_and_leave(folder):
    with pytest.raises(ValueError, match="'synthseg_14' is held out for tests"):
        sources.anatomy("synthseg_14")
    assert sources.anatomy("synthseg_14", allow_test=True).split == "test"


def test_unknown_codes_are_refused_with_their_volume():
    codes = head_codes()
    codes[0, 0, :3], codes[0, 1, 0], codes[0, 2, 0] = 99, -4, 70_000
    expected = r"a.nii.gz has codes .*: -4 \(1 voxels\), 99 \(3 voxels\), 70000 \(1 voxels\)"
    with pytest.raises(ValueError, match=expected):
        people.from_synthseg(codes, "a.nii.gz")


def test_voxels_of_another_size_are_refused(folder):
    write(folder / "synthsr" / "brain2_labels.nii.gz", head_codes(), np.diag([2.0, 1, 1, 1]))
    with pytest.raises(ValueError, match=r"voxels of \[2.0, 1.0, 1.0\] mm, not 1 mm"):
        sources.anatomy("synthsr_2")


@pytest.mark.parametrize(("setting", "said"), [("", "ZOO_ANATOMIES is not set"), ("/nowhere", "has no file")])
def test_without_the_folder_the_error_says_what_to_clone(monkeypatch, tmp_path, setting, said):
    monkeypatch.setenv("ZOO_ANATOMIES", setting)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"{said}.*Clone https://github.com/BBillot/SynthSeg"):
        people.required()
    with pytest.raises(FileNotFoundError, match="BBillot/SynthSR"):
        sources.anatomy("synthsr_1")
    assert people.names() == []


@pytest.mark.skipif(not REAL.is_dir(), reason="the label maps of SynthSeg and SynthSR are not beside the checkout")
@pytest.mark.parametrize("name", ["synthseg_14", "synthsr_5"])
def test_real_people_are_plausible(monkeypatch, name):
    monkeypatch.setenv("ZOO_ANATOMIES", str(REAL))
    person = sources.anatomy(name, allow_test=True)
    volumes = person.volumes_ml
    for structure, (low, high) in {"white": (150, 300), "thalamus": (4, 11), "hippocampus": (1.5, 6)}.items():
        left, right = volumes[f"left_{structure}"], volumes[f"right_{structure}"]
        assert low < left < high and 0.75 < left / right < 1.33, f"{structure} {left:.1f} {right:.1f}"
    centre = lambda name: np.argwhere(person.labels == labels.INDEX[name]).mean(0)  # noqa: E731
    assert (centre("left_putamen") - centre("right_putamen"))[0] < -30
    assert (centre("brainstem") - centre("left_thalamus"))[2] < -10
    assert (centre("left_caudate") - centre("left_thalamus"))[1] > 10
