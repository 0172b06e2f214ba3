"""Single bad electrodes, against dipoles that no channel may be blamed for."""

import numpy as np
import pytest

from zoo.eeg import bank
from zoo.eeg.leadfield import lead_field
from zoo.source_imaging import head_model, locate
from zoo.source_imaging.bad_electrodes import find_bad_electrodes
from zoo.source_imaging.recording import Recording
from zoo.source_imaging.units import RecordingWarning

pytest.importorskip("mne")


@pytest.fixture(scope="module")
def field():
    return lead_field("sphere").montage(bank.montage_names("biosemi64"))


def dipoles(field, number):
    random = np.random.default_rng(4)
    places = random.integers(field.matrix.shape[1], size=number)
    moments = random.standard_normal((number, 3))
    return np.einsum("cpd,pd->pc", field.matrix[:, places].astype(float), moments)


def test_a_potential_of_one_electrode_alone_is_its_fault(field):
    for row, topography in zip((0, 17, 47, 63), dipoles(field, 4), strict=True):
        topography = topography / np.linalg.norm(topography)
        topography[row] += 2.0
        assert find_bad_electrodes(topography, field) == [row]


def test_dipoles_anywhere_are_no_fault_of_an_electrode(field):
    blamed = sum(bool(find_bad_electrodes(topography, field)) for topography in dipoles(field, 100))
    assert blamed <= 1


def test_a_bad_electrode_of_the_old_system_is_left_out_by_its_own_name(field, monkeypatch):
    names = tuple({"T7": "T3", "T8": "T4"}.get(name, name) for name in field.names)
    monkeypatch.setattr(head_model, "lead_field", lambda **given: lead_field("sphere", **given))
    topography = dipoles(field, 1)[0]
    topography *= 1e-5 / np.abs(topography).max()
    topography[names.index("T3")] += 1e-4
    eeg = Recording((topography - topography.mean())[:, None], names, np.zeros(1), {}, ())
    head, eeg = head_model.template_head_model(eeg)
    with pytest.warns(RecordingWarning, match=r"1 channels left out, bad, for no source explains .*: T3\."):
        head, left = locate._leave_out_bad(head, eeg, None)
    assert "T3" not in left.names and "T7" not in head.field.names and len(left.names) == len(head.field.names) == 63
