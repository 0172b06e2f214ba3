"""What is read of a recording: names of channels, units, channels that are no EEG."""

import itertools

import numpy as np
import pytest

from zoo.source_imaging import channel_names, recording, units

mne = pytest.importorskip("mne")
NAMES = ("Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz", "C4", "T8", "P7", "P3", "Pz", "P4", "P8", "O1",
         "O2", "POz")  # fmt: skip


def evoked(names=NAMES, *, scale=1e-6, times=40):
    random = np.random.default_rng(3)
    info = mne.create_info(list(names), 100.0, "eeg", verbose="ERROR")
    return mne.EvokedArray(scale * 5 * random.standard_normal((len(names), times)), info, verbose="ERROR")


@pytest.mark.parametrize(
    ("name", "electrode"),
    [("EEG Fp1-Ref", "Fp1"), ("EEG FP1-REF", "Fp1"), ("Fc5.", "FC5"), ("C3-A2", "C3"), ("POL T3", "T3"),
     ("EEG CZ-LE", "Cz"), ("cz", "cz"), ("E12", "E12"), ("A1", "A1")],
)  # fmt: skip
def test_names_of_channels_are_read_as_electrodes(name, electrode):
    assert channel_names.clean_name(name) == electrode


def test_cleaned_names_are_stated():
    read = recording.read_recording(evoked([f"EEG {name.upper()}-REF" for name in NAMES]))
    assert read.names == NAMES
    assert "20 names read as electrodes of the 10-05 system, as 'EEG FP1-REF' as Fp1." in read.repairs


def test_one_common_reference_electrode_is_no_bipolar_montage():
    assert channel_names.clean_names([f"{name}-Cz" for name in NAMES[:9]])[0] == NAMES[:9]
    pairs = [f"{first}-{second}" for first, second in itertools.pairwise(NAMES)]
    with pytest.raises(ValueError, match=r"19 of 19 channels are bipolar \(Fp1-Fp2, .* Export the recording unipolar"):
        recording.read_recording(evoked(pairs))


def test_two_channels_of_one_electrode_are_refused():
    with pytest.raises(ValueError, match=r"Channels Cz, EEG CZ-REF are the same electrode: .*'EEG CZ-REF'"):
        channel_names.clean_names(["Fp1", "Cz", "EEG CZ-REF"])


def test_channels_that_are_no_eeg_by_name_are_left_out():
    read = recording.read_recording(evoked([*NAMES, "HEOG", "EKG1", "Status"]))
    assert read.names == NAMES and "3 channels left out, no EEG by their names: HEOG, EKG1, Status." in read.repairs


def test_microvolts_are_scaled_and_stated():
    with pytest.warns(units.RecordingWarning, match="is that of EEG in uV: scaled by 1e-6 to V"):
        read = recording.read_recording(evoked(scale=1.0))
    assert read.data == pytest.approx(recording.read_recording(evoked()).data)
    assert any("scaled by 1e-6" in text for text in read.repairs)


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_an_amplitude_that_fits_no_unit_is_refused(scale):
    with pytest.raises(ValueError, match=r"amplitude of the recording is .* V; EEG has 0.002 to 1000 uV. mne keeps"):
        recording.read_recording(evoked(scale=scale))


def test_a_simulation_without_a_unit_is_located_and_told():
    with pytest.warns(units.RecordingWarning, match="is below that of any EEG: places hold"):
        read = recording.read_recording(evoked(scale=1e-11))
    assert np.abs(read.data).max() < 1e-8


def test_constant_offsets_of_the_channels_do_not_count_as_amplitude():
    data = evoked().data
    offsets = np.random.default_rng(1).uniform(-0.02, 0.02, (len(data), 1))
    assert units.amplitude_v(data + offsets) == pytest.approx(units.amplitude_v(data), rel=0.3)
