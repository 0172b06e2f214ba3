"""Results of `zoo predict` that are several files: kept, refused or made again by their record; warnings by case."""

import json
import warnings

import pytest

from zoo.cli.predict_command import print_results
from zoo.hub.result_record import Origin
from zoo.volumes.header import GeometryWarning
from zoo.workflows.case_results import CaseResult, Made, RunOptions, Steps, keep_or_make


@pytest.fixture
def run(tmp_path):
    """Runs a case that copies its scan; returns its result and how often it was computed so far."""
    (tmp_path / "scan").write_text("one")
    computed = []

    def compute():
        computed.append(1)
        warnings.warn("sides in doubt", GeometryWarning, stacklevel=1)
        return (tmp_path / "scan").read_text()

    def write(text, seconds):
        files = (tmp_path / "a_z.csv", tmp_path / "a_more.csv")
        for file in files:
            file.write_text(text)
        return Made(tuple(map(str, files)), f"{files[0]}: done.", {"clusters": 2, "seconds": seconds})

    def call(settings=None, *, overwrite=False, steps=None):
        origin = Origin({"Name": "m"}, settings or {}, {"scan": tmp_path / "scan"})
        options = RunOptions(out=tmp_path, overwrite=overwrite)
        return keep_or_make("a", tmp_path / "a_z.csv", origin, options, steps or Steps(compute, write)), len(computed)

    return call


def test_a_result_is_made_once_and_kept_with_its_words(run, tmp_path):
    (first, _), (second, times) = run(), run()
    assert times == 1 and not first.details["kept"] and second.details["kept"]
    assert second.files == first.files and second.details["clusters"] == 2
    assert "was there already (--overwrite replaces it)" in second.message
    assert first.warnings == second.warnings == ("sides in doubt",)
    assert json.loads((tmp_path / "a_z.json").read_text())["Warnings"] == ["sides in doubt"]


def test_another_setting_is_refused_until_overwritten(run, tmp_path):
    run()
    refused, times = run({"P": 0.1})
    assert times == 1 and "made with other settings: P was null, now 0.1. Pass --overwrite" in refused.error
    assert run({"P": 0.1}, overwrite=True)[1] == 2 and run({"P": 0.1})[1] == 2


def test_another_scan_or_a_lost_file_makes_it_again(run, tmp_path):
    run()
    (tmp_path / "scan").write_text("two")
    changed, times = run()
    assert times == 2 and (tmp_path / "a_more.csv").read_text() == "two" and "another input" in changed.warnings[0]
    (tmp_path / "a_more.csv").unlink()
    assert run()[1] == 3 and run()[1] == 3


def test_a_failure_has_its_warnings_and_keeps_the_old_record(run, tmp_path):
    run()
    before = (tmp_path / "a_z.json").read_text()

    def fail():
        warnings.warn("units converted", GeometryWarning, stacklevel=1)
        raise MemoryError

    failed, _ = run(overwrite=True, steps=Steps(fail, lambda made, seconds: pytest.fail("nothing to write")))
    assert failed.error == "MemoryError" and failed.warnings == ("units converted",)
    assert failed.as_dict() == {"case": "a", "error": "MemoryError", "warnings": ["units converted"]}
    assert (tmp_path / "a_z.json").read_text() == before


def test_warnings_are_lines_on_stderr_that_name_their_case(capsys):
    results = [CaseResult("a", ("a.nii.gz",), "a.nii.gz: 1 s", warnings=("sides\n in doubt",)), CaseResult("b", ("b",))]
    print_results(results, as_json=False)
    assert capsys.readouterr().err == "zoo: warning: a: sides in doubt\n"
    print_results(results, as_json=True)
    assert [row["warnings"] for row in json.loads(capsys.readouterr().out)] == [["sides\n in doubt"], []]
