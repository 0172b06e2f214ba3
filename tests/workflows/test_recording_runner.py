"""`zoo predict` on EEG files: conditions, options, names of results, and recordings without a source."""

import types
from pathlib import Path

import numpy as np
import pytest

from zoo.cli import recording_options
from zoo.cli.terminal import UsageError
from zoo.eeg import grid
from zoo.source_imaging import locate
from zoo.source_imaging.located_sources import Evidence, LocatedSource, LocatedSources
from zoo.workflows import recording_runner
from zoo.workflows.case_results import OptionError, RunOptions
from zoo.workflows.recording_runner import SourceChoices, locate_recordings

mne = pytest.importorskip("mne")
NAMES = ("Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz", "C4", "T8", "P7", "P3", "Pz", "P4", "P8", "O1",
         "O2", "POz")  # fmt: skip


def located(number):
    source = LocatedSource((1.0, 2.0, 3.0), (1.0, 3.5, 4.2), (6.0, 0.0, 8.0), 0.9, 0.8, 7.0)
    status = "located" if number else "no source above noise"
    evidence = Evidence("the baseline before 0 s", 4.0, 1e-5, 1.1)
    posterior = np.full(grid.NUM_PLACES, 1 / grid.NUM_PLACES)
    return LocatedSources(
        None, None, (source,) * number, status, evidence, 0.9, np.eye(6)[number], (0.1, 0.1), 1.0, posterior,
        np.ones((number, 3)), np.arange(3) / 100, 5.5, ("repaired.",), ("noted.",),
    )  # fmt: skip


@pytest.fixture
def calls(monkeypatch):
    """Stands in for the network: notes its arguments and finds one source, or none in the condition "noise"."""
    received = []

    def locate_sources(recording, **options):
        received.append({"recording": recording, **options})
        return located(0 if options["condition"] == "noise" else 1)

    monkeypatch.setattr(locate, "locate_sources", locate_sources)
    monkeypatch.setattr(recording_runner.card_file, "read", lambda folder: None)
    monkeypatch.setattr(recording_runner.result_record, "describe_model", lambda card: {"Name": "unet3d.eeg_sources"})
    return received


def averages(path, names=("signal", "noise")):
    info = mne.create_info(list(NAMES), 100.0, "eeg", verbose="ERROR")
    data = np.random.default_rng(0).standard_normal((len(NAMES), 20)) * 1e-6
    mne.write_evokeds(path, [mne.EvokedArray(data, info, comment=name, verbose="ERROR") for name in names],
                      verbose="ERROR")  # fmt: skip
    return path


def test_each_condition_is_located_by_itself_and_none_above_noise_is_a_result(calls, tmp_path):
    path = averages(tmp_path / "sub-01-ave.fif")
    results = locate_recordings(Path("model"), {"sub-01": path}, RunOptions(out=tmp_path / "out"))
    assert [result.case for result in results] == ["sub-01-ave.fif signal", "sub-01-ave.fif noise"]
    assert [result.error for result in results] == [None, None] and [call["condition"] for call in calls] == [
        "signal",
        "noise",
    ]
    answer, none = (result.as_dict() for result in results)
    assert answer["status"] == "located" and answer["count"] == 1 and answer["sources"][0]["strength_nam"] == 10.0
    assert answer["electrode_rms_mm"] == 5.5 and answer["repairs"] == ["repaired."] and answer["notes"] == ["noted."]
    assert none["status"] == "no source above noise" and none["count"] == 0 and none["sources"] == []
    assert none["counts"] == [1, 0, 0, 0, 0, 0]
    assert sorted(file.name for file in (tmp_path / "out").glob("*.csv")) == [
        "sub-01_noise_courses.csv",
        "sub-01_noise_sources.csv",
        "sub-01_signal_courses.csv",
        "sub-01_signal_sources.csv",
    ]
    assert (tmp_path / "out" / "sub-01_signal_courses.csv").read_text().splitlines()[:2] == [
        "time_s,source_1_nam",
        "0.0,1.0",
    ]


def test_choices_reach_the_function_and_decide_whether_a_result_is_kept(calls, tmp_path):
    path, options = averages(tmp_path / "sub-01-ave.fif"), RunOptions(out=tmp_path / "out")
    choices = SourceChoices(times=(0.05, 0.1), condition="signal", count=2)
    for _ in range(2):
        (result,) = locate_recordings(Path("model"), {"sub-01": path}, options, choices)
        assert result.error is None
    assert len(calls) == 1 and calls[0]["times"] == (0.05, 0.1) and calls[0]["count"] == 2
    (result,) = locate_recordings(Path("model"), {"sub-01": path}, options, SourceChoices(condition="signal", count=3))
    assert result.error is not None and "Count" in result.error


def test_a_file_that_cannot_be_read_does_not_stop_the_others(calls, tmp_path):
    (tmp_path / "bad-ave.fif").write_bytes(b"nonsense")
    good = averages(tmp_path / "good-ave.fif", ("only",))
    files = {"bad": tmp_path / "bad-ave.fif", "good": good}
    bad, fine = locate_recordings(Path("model"), files, RunOptions(out=tmp_path / "out"))
    assert "mne cannot read bad-ave.fif" in bad.error and fine.error is None
    assert (tmp_path / "out" / "good_sources.csv").exists()


def test_a_forward_solution_that_mne_cannot_read_is_a_fault_of_the_option(calls, tmp_path):
    (tmp_path / "own-fwd.fif").write_bytes(b"nonsense")
    with pytest.raises(OptionError, match=r"--forward: mne.read_forward_solution cannot read own-fwd.fif"):
        locate_recordings(Path("model"), {}, RunOptions(out=tmp_path), SourceChoices(forward=tmp_path / "own-fwd.fif"))


def card(kind):
    return types.SimpleNamespace(name="unet3d.x", output=types.SimpleNamespace(kind=kind))


NOTHING = {"time": None, "window": "", "condition": "", "count": "", "forward": None, "noise_cov": None,
           "method": "auto"}  # fmt: skip


def test_options_are_parsed():
    assert recording_options.parse_choices(card("segmentation"), **NOTHING) is None
    choices = recording_options.parse_choices(card("sources"), **NOTHING | {"window": "0.08,0.12", "condition": "left"})
    assert choices == SourceChoices(times=(0.08, 0.12), condition="left")
    assert recording_options.parse_choices(card("sources"), **NOTHING | {"time": 0.0}) == SourceChoices(times=0.0)
    pair = recording_options.parse_choices(card("sources"), **NOTHING | {"count": "pair", "method": "sparse_bayes"})
    assert pair == SourceChoices(count="pair", method="sparse_bayes")


def test_a_method_decides_a_result_and_a_network_that_reads_one_time_is_the_old_setting():
    assert "Method" not in SourceChoices(times=0.1).as_settings()
    assert "Method" not in SourceChoices(times=(0.1, 0.2), method="network").as_settings()
    for choices in (SourceChoices((0.1, 0.2)), SourceChoices(0.1, method="sparse_bayes"), SourceChoices(count="pair")):
        assert choices.as_settings()["Method"] == "sparse_bayes"


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("segmentation", {"count": "2"}, "are for models that locate sources of EEG; unet3d.x gives segmentation"),
        ("segmentation", {"time": 0.0}, "are for models that locate sources"),
        ("sources", {"time": 0.1, "window": "0,1"}, "--time 0.1 and --window 0,1 exclude each other"),
        ("sources", {"window": "0.1"}, "--window is FIRST,LAST in s, as in 0.08,0.12, got '0.1'"),
        ("sources", {"count": "6"}, "--count is the number of sources, 1 to 5, or pair, got 6"),
        ("sources", {"method": "music"}, "--method is auto, network, sparse_bayes, got 'music'"),
        ("sources", {"method": "network", "count": "pair"}, "--count pair needs --method sparse_bayes or auto"),
        ("sources", {"noise_cov": Path("none-cov.fif")}, "--noise-cov: there is no file 'none-cov.fif'"),
    ],
)
def test_options_that_cannot_be_are_refused(kind, options, message):
    with pytest.raises(UsageError, match=message):
        recording_options.parse_choices(card(kind), **NOTHING | options)
