"""Files of every kind that mne reads, written by mne or by hand, and their conditions."""

import numpy as np
import pytest
from scipy import io

from zoo.source_imaging import recording_files
from zoo.source_imaging.recording import read_recording

mne = pytest.importorskip("mne")
NAMES = ("Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz", "C4", "T8", "P7", "P3", "Pz", "P4", "P8", "O1",
         "O2", "POz")  # fmt: skip
RATE = 100.0


def signal(times=400):
    return np.random.default_rng(0).standard_normal((len(NAMES), times)) * 1e-5


def info(names=NAMES):
    return mne.create_info(list(names), RATE, "eeg", verbose="ERROR")


def write_brainvision(folder, data):
    """The three files of BrainVision: text, markers, and 16 bit numbers of 0.1 uV."""
    (np.round(data * 1e7).astype("<i2").T).tofile(folder / "rest.eeg")
    channels = "\n".join(f"Ch{number}={name},,0.1,µV" for number, name in enumerate(NAMES, start=1))
    (folder / "rest.vhdr").write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nCodepage=UTF-8\nDataFile=rest.eeg\n"
        f"MarkerFile=rest.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\nNumberOfChannels={len(NAMES)}\n"
        f"SamplingInterval={1e6 / RATE:g}\n[Binary Infos]\nBinaryFormat=INT_16\n[Channel Infos]\n{channels}\n",
        encoding="utf-8",
    )
    (folder / "rest.vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n[Common Infos]\nDataFile=rest.eeg\n[Marker Infos]\n"
        "Mk1=Stimulus,S  1,150,1,0\nMk2=Stimulus,S  1,220,1,0\n",
        encoding="utf-8",
    )
    return folder / "rest.vhdr"


def write_edf(folder, data, names):
    """The European Data Format: a header of ASCII fields, then 16 bit numbers of 0.1 uV, a record a second."""
    count, seconds = len(names), data.shape[1] // int(RATE)
    fields = [(names, 16), ([""] * count, 80), (["uV"] * count, 8), (["-3276.8"] * count, 8), (["3276.7"] * count, 8),
              (["-32768"] * count, 8), (["32767"] * count, 8), ([""] * count, 80), ([f"{RATE:g}"] * count, 8),
              ([""] * count, 32)]  # fmt: skip
    start = ["0".ljust(8), "X".ljust(80), "X".ljust(80), "01.01.20", "00.00.00", str(256 * (count + 1)).ljust(8)]
    start += ["".ljust(44), str(seconds).ljust(8), "1".ljust(8), str(count).ljust(4)]
    text = "".join(start) + "".join(value.ljust(width) for values, width in fields for value in values)
    records = np.round(data * 1e7).astype("<i2").reshape(count, seconds, -1).transpose(1, 0, 2)
    (folder / "night.edf").write_bytes(text.encode("ascii") + records.tobytes())
    return folder / "night.edf"


def write_eeglab(path, data, *, trials=1, names=NAMES):
    """EEGLAB's struct, in uV; positions around the middle of the head in mm, x to the nose."""
    montage = mne.channels.make_standard_montage("fsaverage_1005").get_positions()["ch_pos"]
    kinds = [(name, object) for name in ("labels", "X", "Y", "Z", "type", "theta", "radius", "ref", "urchan",
                                         "sph_theta", "sph_phi", "sph_radius")]  # fmt: skip
    places = np.zeros((1, len(names)), dtype=kinds)
    for number, name in enumerate(names):
        x, y, z = (montage[name] if name in montage else np.array([0.03, 0.09, -0.04])) * 1e3
        places[0, number] = (name, y, -x, z, "", 0.0, 0.0, "", 0, 0.0, 0.0, 90.0)
    points = data.shape[1] // trials
    volume = (data * 1e6).reshape(len(names), trials, points).transpose(0, 2, 1) if trials > 1 else data * 1e6
    kinds = [("latency", object), ("type", object), ("epoch", object)]
    events = np.zeros((1, max(trials, 2)), dtype=kinds)
    for number in range(events.shape[1]):
        latency = (number * points + 31.0) if trials > 1 else 150.0 + 70 * number
        events[0, number] = (latency, "left" if number % 2 else "right", number + 1)
    first = -0.3 if trials > 1 else 0.0
    struct = {
        "data": volume, "nbchan": len(names), "pnts": points, "trials": trials, "srate": RATE, "chanlocs": places,
        "xmin": first, "xmax": first + (points - 1) / RATE, "event": events, "setname": "x", "icawinv": [],
        "icaweights": [], "icasphere": [], "epoch": [], "times": np.arange(points) * 10.0, "ref": "common",
    }  # fmt: skip
    if trials > 1:
        epochs = np.zeros((1, trials), dtype=[("event", object), ("eventlatency", object), ("eventtype", object)])
        for number in range(trials):
            epochs[0, number] = (number + 1, 0.0, "left" if number % 2 else "right")
        struct["epoch"] = epochs
    io.savemat(path, {"EEG": struct}, appendmat=False)
    return path


def test_brainvision_is_read_with_its_events(tmp_path):
    opened = recording_files.open_recording(write_brainvision(tmp_path, signal()))
    assert recording_files.list_conditions(opened) == ("Stimulus/S  1",)
    read = read_recording(opened)
    assert read.names == NAMES and read.continuous
    expected = signal() - signal().mean(0)
    assert read.data == pytest.approx(expected, abs=2e-7)
    averaged = read_recording(opened, condition="Stimulus/S  1")
    assert averaged.averages == 2 and averaged.times_s[[0, -1]] == pytest.approx([-0.5, 1.0])
    assert averaged.noise.origin == "the baselines of 2 epochs"


def test_edf_of_a_hospital_is_read_by_its_names(tmp_path):
    names = [f"EEG {name}-Ref" for name in NAMES]
    path = write_edf(tmp_path, np.vstack([signal(), signal()[:1] * 3]), [*names, "ECG ECG1-Ref"])
    read = read_recording(path)
    assert read.names == NAMES and any("no EEG by their names: ECG" in text for text in read.repairs)
    assert read.data == pytest.approx(signal() - signal().mean(0), abs=2e-7)


def test_continuous_and_epoched_eeglab_files_are_told_apart(tmp_path):
    raw = recording_files.open_recording(write_eeglab(tmp_path / "rest.set", signal()))
    assert set(recording_files.list_conditions(raw)) == {"left", "right"}
    assert read_recording(raw).continuous
    epochs = recording_files.open_recording(write_eeglab(tmp_path / "odd.set", signal(), trials=4))
    assert set(recording_files.list_conditions(epochs)) == {"left", "right"}
    with pytest.raises(ValueError, match=r"has 2 conditions \(.*\): pass recording.average\(\) for all .*condition='"):
        read_recording(epochs)
    left = read_recording(epochs, condition="left")
    assert left.averages == 2 and not left.continuous
    trials = signal().reshape(len(NAMES), 4, 100)[:, 1::2].mean(1)
    assert left.data == pytest.approx(trials - trials.mean(0), abs=1e-7)


@pytest.mark.filterwarnings("ignore::zoo.source_imaging.units.RecordingWarning")
def test_one_eye_channel_with_a_position_does_not_move_the_electrodes_of_an_eeglab_file(tmp_path):
    from zoo.eeg import head_surfaces
    from zoo.source_imaging.electrodes import place_electrodes

    data = np.vstack([signal(), signal()[:1]])
    read = read_recording(write_eeglab(tmp_path / "eyes.set", data, names=(*NAMES, "EXG1")))
    placement = place_electrodes(read.names, read.positions_mm)
    known = dict(zip(head_surfaces.electrode_names(), head_surfaces.head().electrodes_mm, strict=True))
    for name in NAMES:
        assert placement.places_mm[name] == pytest.approx(known[name])


def test_averages_and_epochs_of_several_conditions_need_a_name(tmp_path):
    averages = [mne.EvokedArray(signal(50) * factor, info(), comment=name, verbose="ERROR")
                for name, factor in (("left", 1), ("right", 2))]  # fmt: skip
    mne.write_evokeds(tmp_path / "sub-01-ave.fif", averages, verbose="ERROR")
    opened = recording_files.open_recording(tmp_path / "sub-01-ave.fif")
    assert recording_files.list_conditions(opened) == ("left", "right")
    with pytest.raises(ValueError, match=r"has 2 conditions \(left, right\): pass condition='left'"):
        read_recording(tmp_path / "sub-01-ave.fif")
    right = read_recording(tmp_path / "sub-01-ave.fif", condition="right")
    assert right.data == pytest.approx(2 * (signal(50) - signal(50).mean(0)), rel=1e-5)
    with pytest.raises(ValueError, match=r"no condition 'up'; its conditions are left, right"):
        read_recording(tmp_path / "sub-01-ave.fif", condition="up")


def test_a_recording_without_events_says_so():
    raw = mne.io.RawArray(signal(), info(), verbose="ERROR")
    with pytest.raises(ValueError, match="no condition 'spike'; it has no events"):
        read_recording(raw, condition="spike")
    raw.set_annotations(mne.Annotations([0.1], 0.0, "spike"))
    with pytest.raises(ValueError, match=r"No event 'spike' has 0.5 s before and 1 s after it"):
        read_recording(raw, condition="spike")
