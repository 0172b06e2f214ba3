"""The real head that ships: that it is what it says, small, on one grid, and has no face."""

import numpy as np
import pytest
from support.scripts import load_script

from zoo.samples import sample
from zoo.volumes import image as images

NAMES = ("colin27", "colin27_mask", "colin27_aal")
AAL_PAIRS = {"hippocampus": 37, "amygdala": 41, "caudate": 71, "putamen": 73, "pallidum": 75, "thalamus": 77}


@pytest.fixture(scope="module")
def scans():
    return {name: images.read(sample(name)) for name in NAMES}


def test_samples_are_small_and_on_one_grid(scans):
    assert sum(sample(name).stat().st_size for name in NAMES) < 1.2 * 2**20
    images.check_same_grid(list(scans.values()), NAMES, tolerance_mm=0)
    head = scans["colin27"]
    assert head.shape == (91, 109, 91)
    assert images.spacing_mm(head.affine).tolist() == [2, 2, 2]
    assert head.header.get_xyzt_units()[0] == "mm"
    assert int(head.header["sform_code"]) == int(head.header["qform_code"]) == 4


def test_the_mask_is_a_brain_and_lies_in_the_head(scans):
    mask = images.array(scans["colin27_mask"])
    assert set(np.unique(mask)) == {0, 1}
    assert 1.6e6 < mask.sum() * 8 < 1.9e6  # mm3; ch2bet has 1.737e6 at 1 mm
    head = images.array(scans["colin27"])
    assert head[mask > 0].mean() > 2 * head[mask == 0].mean()


def test_aal_has_left_on_the_left(scans):
    labels, affine = images.array(scans["colin27_aal"]), scans["colin27_aal"].affine
    for left in AAL_PAIRS.values():
        centres = [affine[:3, :3] @ np.argwhere(labels == code).mean(0) + affine[:3, 3] for code in (left, left + 1)]
        assert centres[0][0] < 0 < centres[1][0]


def test_the_face_is_gone(scans):
    """Eyes, nose bridge and cheeks of Colin27 lie around these points in mm; the frontal pole stays."""
    head, inverse = images.array(scans["colin27"]), np.linalg.inv(scans["colin27"].affine)
    for point in [(0, 85, -45), (33, 66, -37), (-33, 66, -37), (0, 82, -32), (40, 60, -60)]:
        x, y, z = np.round(inverse[:3, :3] @ point + inverse[:3, 3]).astype(int)
        assert not head[x - 3 : x + 4, y - 3 : y + 4, z - 3 : z + 4].any(), point
    assert head[images.array(scans["colin27_mask"]) > 0].min() > 0


def test_an_unknown_sample_is_answered_with_the_names():
    with pytest.raises(ValueError, match="no sample 'colin'. Did you mean 'colin27'.*colin27_aal, colin27_mask"):
        sample("colin")
    with pytest.raises(ValueError, match="There is no sample '../image'"):
        sample("../image")


@pytest.mark.slow
def test_the_tool_makes_the_same_scans(tmp_path, capsys):
    make = load_script("tools/make_samples")
    if not (make.TEMPLATES / "aal.nii.gz").exists():
        pytest.skip("Colin27's labels are missing: apt-get install mricron-data")
    try:
        make.main(tmp_path)
    except SystemExit as error:
        pytest.skip(str(error))
    for name in NAMES:
        made = images.read(tmp_path / sample(name).name)
        shipped = images.read(sample(name))
        difference = np.abs(images.array(made) - images.array(shipped))  # halves round by the processor's last digit
        assert difference.max() <= 1 and np.count_nonzero(difference) < 10
        assert made.header == shipped.header
    assert "colin27_2mm.nii.gz" in capsys.readouterr().out


def test_the_eeg_is_a_minute_of_nineteen_channels_with_its_annotations():
    mne = pytest.importorskip("mne")
    assert sample("absence").stat().st_size < 0.6 * 2**20
    raw = mne.io.read_raw(sample("absence"), preload=True, verbose="ERROR")
    assert (len(raw.ch_names), raw.n_times, raw.info["sfreq"]) == (19, 12000, 200.0)
    assert set(raw.get_channel_types()) == {"eeg"} and raw.info["meas_date"] is None
    assert not raw.info.get("subject_info")
    assert [note["description"] for note in raw.annotations] == ["spikes", "EFD", "EFD", "EFD"]
    # Each note follows its discharge by less than a second: there the field is far above its median.
    power = raw.filter(1, 40, verbose="ERROR").set_eeg_reference("average", verbose="ERROR").get_data().std(0)
    for note in raw.annotations:
        end = int(note["onset"] * 200)
        assert power[end - 200 : end].max() > 2.5 * np.median(power)
