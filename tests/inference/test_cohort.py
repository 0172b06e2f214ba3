"""Many cases: a bad one is reported, the rest finish, and a stopped run goes on."""

import json

import nibabel
import numpy as np
import pytest
from support.cards import make_card
from support.datasets import noise_in_air
from support.networks import identity, linear

from zoo.inference.cohort import Report, predict_many
from zoo.inference.inputs import find_cases
from zoo.inference.predictor import Predictor
from zoo.inference.settings import Settings


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "scans"
    source.mkdir()
    for number in range(3):
        nibabel.save(noise_in_air(seed=number), source / f"sub-0{number}_T1w.nii.gz")
    (source / "sub-01_T1w.nii.gz").write_bytes(b"not an image" * 40)
    (source / "notes.txt").write_text("left out")
    (source / ".hidden.nii").write_text("left out")
    return source


def test_a_bad_case_is_reported_and_the_rest_finish(folder, tmp_path):
    report = predict_many(identity(), folder, tmp_path / "out", card=make_card())
    assert list(report.done) == ["sub-00_T1w", "sub-02_T1w"]
    assert list(report.failed) == ["sub-01_T1w"]
    assert "sub-01_T1w.nii.gz" in report.failed["sub-01_T1w"] and "\n" not in report.failed["sub-01_T1w"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "sub-00_T1w_test.json",
        "sub-00_T1w_test.nii.gz",
        "sub-02_T1w_test.json",
        "sub-02_T1w_test.nii.gz",
    ]
    result = nibabel.load(report.done["sub-02_T1w"])
    np.testing.assert_array_equal(result.get_fdata(), noise_in_air(seed=2).get_fdata())
    again = json.loads(json.dumps(report.as_dict()))
    assert Report(**again) == report and set(report.seconds) == set(report.done)


def test_a_stopped_run_goes_on(folder, tmp_path, monkeypatch):
    out, calls, run = tmp_path / "out", [], Predictor.__call__

    def once(self, images, **rest):
        calls.append(images)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(self, images, **rest)

    monkeypatch.setattr(Predictor, "__call__", once)
    with pytest.raises(KeyboardInterrupt):
        predict_many(identity(), folder, out, card=make_card())
    assert [path.name for path in out.glob("*.nii.gz")] == ["sub-00_T1w_test.nii.gz"]
    report = predict_many(identity(), folder, out, card=make_card())
    assert list(report.kept) == ["sub-00_T1w"] and list(report.done) == ["sub-02_T1w"]
    content = (out / "sub-00_T1w_test.nii.gz").read_bytes()
    (out / "sub-00_T1w_test.nii.gz").write_bytes(content[: len(content) // 2])
    report = predict_many(identity(), folder, out, card=make_card())
    assert list(report.done) == ["sub-00_T1w"] and list(report.kept) == ["sub-02_T1w"]
    assert (out / "sub-00_T1w_test.nii.gz").read_bytes() == content
    assert len(predict_many(identity(), folder, out, card=make_card(), overwrite=True).done) == 2


def test_results_beside_the_scans_are_no_cases(folder):
    predict_many(identity(), folder, folder, card=make_card())
    report = predict_many(identity(), folder, folder, card=make_card())
    assert len(report.kept) == 2 and len(report.failed) == 1 and not report.done


def test_several_channels_by_name(tmp_path):
    cases = {"one": {"T1w": noise_in_air(seed=0), "FLAIR": noise_in_air(seed=1)}, "two": {"T1w": noise_in_air(seed=0)}}
    report = predict_many(
        linear([[1.0], [1.0]]),
        cases,
        tmp_path,
        card=make_card(channels=("T1w", "FLAIR")),
        settings=Settings(overlap=0.25, progress=False),
    )
    assert list(report.done) == ["one"] and "FLAIR was not given" in report.failed["two"]


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    from zoo.volumes import nifti

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nifti, "_stream", full)
    report = predict_many(identity(), {"one": noise_in_air()}, tmp_path, card=make_card())
    assert "No space left" in report.failed["one"] and not list(tmp_path.iterdir())


def test_cases_are_found_by_file_name(folder, tmp_path):
    assert list(find_cases(folder)) == ["sub-00_T1w", "sub-01_T1w", "sub-02_T1w"]
    assert list(find_cases(folder / "sub-00_T1w.nii.gz")) == ["sub-00_T1w"]
    assert list(find_cases([folder / "a.nii", "b.nii.gz"])) == ["a", "b"]
    with pytest.raises(ValueError, match=r"Two cases are called 'a': .*one.* and .*two"):
        find_cases(["one/a.nii", "two/a.nii.gz"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="There are no cases in"):
        find_cases(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="There is no folder .*gone"):
        find_cases(tmp_path / "gone")


def test_a_listing_tells_what_it_leaves_out(folder, tmp_path, capsys):
    (folder / "sub-03_T1w.MGZ").write_bytes(b"")
    for suffix in ("nii.gz", "json"):
        (folder / f"sub-00_T1w_test.{suffix}").write_bytes(b"")
    assert list(find_cases(folder, ignore="_test"))[-1] == "sub-03_T1w"
    results = "sub-00_T1w_test.json, sub-00_T1w_test.nii.gz (a result of this model)"
    assert capsys.readouterr().err == f"{folder}: left out 3 files: notes.txt (not a scan), {results}\n"
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "IM0001").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(ValueError, match=r"no cases in .*dicom'; left out 1 file: IM0001 \(DICOM; dcm2niix -z y"):
        find_cases(tmp_path / "dicom")


def test_sub_folders_are_searched_on_request_and_kept_in_the_results(folder, tmp_path):
    for site in ("a", "b"):
        (folder / site / "x").mkdir(parents=True)
        nibabel.save(noise_in_air(seed=ord(site)), folder / site / "x" / "sub-00_T1w.nii.gz")
    cases = find_cases(folder, recursive=True)
    assert set(cases) - set(find_cases(folder)) == {"a/x/sub-00_T1w", "b/x/sub-00_T1w"}
    report = predict_many(identity(), cases, tmp_path / "out", card=make_card())
    for site in ("a", "b"):
        path = tmp_path / "out" / site / "x" / "sub-00_T1w_test.nii.gz"
        assert report.done[f"{site}/x/sub-00_T1w"] == str(path)
        np.testing.assert_array_equal(nibabel.load(path).dataobj, noise_in_air(seed=ord(site)).dataobj)


def test_results_of_other_models_are_no_scans(folder, capsys):
    predict_many(identity(), folder, folder, card=make_card(name="toy.other"))
    capsys.readouterr()
    assert list(find_cases(folder, ignore="_test")) == ["sub-00_T1w", "sub-01_T1w", "sub-02_T1w"]
    stderr = capsys.readouterr().err
    assert "sub-00_T1w_other.nii.gz, sub-02_T1w_other.nii.gz (made by zoo, by the record beside it)" in stderr
    for number in range(3):
        (folder / f"sub-0{number}_T1w.nii.gz").unlink()
    assert list(find_cases(folder, ignore="_test")) == ["sub-00_T1w_other", "sub-02_T1w_other"]  # nothing else is there


def test_results_are_not_written_as_mgh(folder, tmp_path):
    with pytest.raises(ValueError, match=r"out .*mask\.mgz is MGH, and results are written as NIfTI"):
        predict_many(identity(), folder / "sub-00_T1w.nii.gz", tmp_path / "mask.mgz", card=make_card())


def test_probabilities_do_not_take_the_place_of_labels(folder, tmp_path):
    out = tmp_path / "out"
    predict_many(identity(), folder, out, card=make_card())
    report = predict_many(identity(), folder, out, card=make_card(), settings=Settings(probabilities=True))
    assert list(report.done) == ["sub-00_T1w", "sub-02_T1w"] and not report.kept
    assert report.done["sub-00_T1w"].endswith("sub-00_T1w_test_probabilities.nii.gz")
    assert set(find_cases(out, ignore="_none")) - set(find_cases(folder)) == {
        "sub-00_T1w_test", "sub-02_T1w_test", "sub-00_T1w_test_probabilities", "sub-02_T1w_test_probabilities",
    }  # fmt: skip
    with pytest.raises(ValueError, match="There are no cases"):
        find_cases(out, ignore="_test")
