"""A result is kept where the same weights and settings made it from the same input; warnings go with their case."""

import dataclasses
import json
import os
import warnings

import nibabel
import numpy as np
import pytest
from support.cards import make_card
from support.datasets import noise_in_air
from support.networks import identity, linear

from zoo.hub import result_record
from zoo.inference.cohort import Writer, predict_many
from zoo.inference.predictor import Predictor
from zoo.inference.settings import Settings
from zoo.volumes import nifti
from zoo.volumes.header import GeometryWarning

NAME = "a_test.nii.gz"


@pytest.fixture
def made(tmp_path):
    """A scan, its result by the network that returns its input, and what is given for it."""
    nibabel.save(noise_in_air(seed=0), tmp_path / "a.nii.gz")
    predict_many(identity(), tmp_path / "a.nii.gz", tmp_path / "out", card=make_card())
    return tmp_path


def again(folder, model=None, card=None, **options):
    model = identity() if model is None else model
    return predict_many(model, folder / "a.nii.gz", folder / "out", card=card or make_card(), **options)


def record(folder):
    return json.loads((folder / "out" / "a_test.json").read_text())


def test_the_record_names_weights_settings_and_input(made):
    message = record(made)
    assert message["Model"]["Name"] == "toy.test" and len(message["Model"]["WeightsSha256"]) == 64
    assert message["Settings"]["Mirror"] is False and message["Settings"]["Overlap"] == 0.5
    (scan,) = message["Inputs"].values()
    content = (made / "a.nii.gz").read_bytes()
    assert scan["File"] == str(made / "a.nii.gz") and scan["Bytes"] == len(content) and len(scan["Sha256"]) == 64
    assert message["Warnings"] == [] and message["GeneratedBy"][0]["Name"] == "zoo"
    assert list(again(made).kept) == ["a"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": linear([[2.0]])}, "other weights: WeightsSha256 was"),
        ({"card": dataclasses.replace(make_card(), name="vnet.test")}, 'other weights: Name was "toy.test", now "v'),
        ({"settings": Settings(mirror=True)}, "other settings: Mirror was false, now true. Pass --overwrite to repl"),
        ({"settings": Settings(overlap=0.25)}, "other settings: Overlap was 0.5, now 0.25"),
        ({"settings": Settings(patch=32)}, "other settings: Patch was null, now [32, 32, 32]"),
    ],
    ids=["weights", "builder", "mirror", "overlap", "patch"],
)
def test_a_result_made_otherwise_is_neither_kept_nor_replaced(made, change, message):
    before = (made / "out" / NAME).read_bytes(), record(made)
    report = again(made, **change)
    assert (
        not report.kept
        and not report.done
        and message in report.failed["a"]
        and str(made / "out" / NAME) in (report.failed["a"])
    )
    assert ((made / "out" / NAME).read_bytes(), record(made)) == before
    assert list(again(made, **change, overwrite=True).done) == ["a"] and list(again(made, **change).kept) == ["a"]


def test_speed_and_memory_do_not_make_another_result(made):
    assert list(again(made, settings=Settings(batch_size=1, memory_budget_mb=64, progress=False)).kept) == ["a"]


def test_a_scan_that_changed_is_predicted_again_with_a_warning(made):
    nibabel.save(noise_in_air(seed=1), made / "a.nii.gz")
    with pytest.warns(result_record.ChangedInputWarning, match=r"a: .*a_test\.nii\.gz was made from another input"):
        report = again(made)
    assert list(report.done) == ["a"]
    np.testing.assert_array_equal(nibabel.load(made / "out" / NAME).get_fdata(), noise_in_air(seed=1).get_fdata())
    assert record(made)["Warnings"] == [] and list(again(made).kept) == ["a"]


def test_a_scan_that_was_only_touched_or_moved_is_the_same(made):
    os.utime(made / "a.nii.gz", (1, 1))
    assert list(again(made).kept) == ["a"]
    (made / "moved").mkdir()
    (made / "a.nii.gz").rename(made / "moved" / "a.nii.gz")
    assert list(predict_many(identity(), made / "moved", made / "out", card=make_card()).kept) == ["a"]


def test_a_result_without_a_record_is_refused_and_a_torn_one_made_again(made):
    (made / "out" / "a_test.json").unlink()
    assert "is there without a a_test.json of zoo" in again(made).failed["a"]
    (made / "out" / "a_test.json").write_text("{")
    assert "is there without a a_test.json of zoo" in again(made).failed["a"]
    (made / "out" / NAME).write_bytes((made / "out" / NAME).read_bytes()[:500])
    assert list(again(made).done) == ["a"] and record(made)["Inputs"]


def test_the_json_file_of_another_program_is_not_overwritten(made):
    (made / "out" / NAME).unlink()
    (made / "out" / "a_test.json").write_text('{"EchoTime": 0.003}')
    report = again(made, overwrite=True)
    assert "a_test.json is not a record of zoo" in report.failed["a"]
    assert (made / "out" / "a_test.json").read_text() == '{"EchoTime": 0.003}' and not (made / "out" / NAME).exists()


def test_a_failure_keeps_the_old_result_and_its_record(made, monkeypatch):
    before = record(made)
    (made / "a.nii.gz").write_bytes(b"no scan" * 50)
    assert "a" in again(made, overwrite=True).failed
    assert record(made) == before and (made / "out" / NAME).exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_that_is_killed_while_it_writes_goes_on_there(made, monkeypatch, overwrite):
    """A kill between the image and its record: the image is whole, and nothing says yet how it was made."""
    if not overwrite:
        for file in (made / "out").iterdir():
            file.unlink()
    other = linear([[2.0]])

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(result_record, "write", die)
        again(made, other, overwrite=overwrite)
    assert (made / "out" / NAME).exists() and record(made)["Pending"] is True
    assert list(again(made, other).done) == ["a"] and "Pending" not in record(made)
    np.testing.assert_allclose(nibabel.load(made / "out" / NAME).get_fdata(), 2 * noise_in_air(seed=0).get_fdata())


def test_a_full_disk_keeps_the_old_result_and_its_record(made, monkeypatch):
    before = record(made)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(nifti, "_stream", full)
        report = again(made, linear([[2.0]]), overwrite=True)
    assert f"{made / 'out' / NAME} could not be written (No space left on device)" in report.failed["a"]
    assert record(made) == before and list(again(made).kept) == ["a"]


def test_an_image_in_memory_is_known_by_its_voxels(tmp_path):
    for seed, kept in ((0, False), (0, True)):
        report = predict_many(identity(), {"a": noise_in_air(seed=seed)}, tmp_path, card=make_card())
        assert bool(report.kept) == kept
    with pytest.warns(result_record.ChangedInputWarning):
        assert predict_many(identity(), {"a": noise_in_air(seed=1)}, tmp_path, card=make_card()).done


def test_a_product_of_other_settings_is_refused_and_a_missing_one_made():
    origin = result_record.Origin({}, {}, products={"Labels": ["lacune"]})
    stored = {"Model": {}, "Settings": {}}
    assert origin.judge(stored, "a.nii.gz") is result_record.Verdict.ABSENT
    assert origin.judge(stored | {"Products": {"Labels": ["lacune"]}}, "a") is result_record.Verdict.CURRENT
    with pytest.raises(result_record.StaleResultError, match=r'a was made with other settings: Labels was \["wmh"\]'):
        origin.judge(stored | {"Products": {"Labels": ["wmh"]}}, "a")


class Noter(Writer):
    """Leaves a note beside the image."""

    def files_beside(self, target):
        return (target.with_name("note.txt"),)

    def is_whole(self, target):
        return super().is_whole(target) and self.files_beside(target)[0].exists()

    def write(self, made, target):
        super().write(made, target)
        self.files_beside(target)[0].write_text("note")


def test_what_is_missing_beside_an_image_is_made_but_not_by_another_network(made):
    note = made / "out" / "note.txt"
    refused = again(made, linear([[2.0]]), writer=Noter())
    assert "other weights" in refused.failed["a"] and not note.exists()
    assert list(again(made, writer=Noter()).done) == ["a"] and note.read_text() == "note"
    assert list(again(made, writer=Noter()).kept) == ["a"] and list(again(made).kept) == ["a"]
    note.unlink()
    assert list(again(made, writer=Noter()).done) == ["a"] and record(made)["Files"] == [NAME, "note.txt"]


def test_a_file_of_the_user_beside_the_image_is_not_replaced(made):
    note = made / "out" / "note.txt"
    note.write_text("mine")
    (made / "out" / NAME).unlink()
    report = again(made, writer=Noter())
    assert "note.txt is there, and no a_test.json says that zoo wrote it. Pass --overwrite" in report.failed["a"]
    assert note.read_text() == "mine" and not (made / "out" / NAME).exists()
    assert list(again(made, writer=Noter(), overwrite=True).done) == ["a"] and note.read_text() == "note"


def doubtful(path, seed):
    image = noise_in_air(seed=seed)
    image.set_qform(None, 0)
    image.set_sform(None, 0)
    nibabel.save(image, path)


def test_every_case_has_its_warnings_also_when_it_is_kept(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        doubtful(tmp_path / f"{name}.nii.gz", seed)
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            report = predict_many(identity(), [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"], tmp_path / "out",
                                  card=make_card())  # fmt: skip
        texts = [str(warning.message) for warning in caught]
        assert [text.split(": ")[0] for text in texts] == ["a", "b"] and "which side is left is a guess" in texts[1]
        assert {name: len(of_case) for name, of_case in report.warnings.items()} == {"a": 1, "b": 1}
        assert record(tmp_path)["Warnings"] == report.warnings["a"]
    assert list(report.kept) == ["a", "b"] and not any(issubclass(w.category, GeometryWarning) for w in caught)


def test_the_warnings_of_a_case_that_fails_are_reported(tmp_path, monkeypatch):
    doubtful(tmp_path / "a.nii.gz", 0)

    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Predictor, "predict", fail)
    with pytest.warns(GeometryWarning, match="a: .*which side is left"):
        report = predict_many(identity(), tmp_path / "a.nii.gz", tmp_path / "out", card=make_card())
    assert report.failed == {"a": "MemoryError"} and len(report.warnings["a"]) == 1


def test_a_warning_about_a_converted_copy_names_the_file_of_the_user(tmp_path):
    doubtful(tmp_path / "copy.nii.gz", 0)
    nibabel.save(noise_in_air(seed=0), tmp_path / "a.nii.gz")
    writer = Writer(settings={"Unit": "ppb"}, sources={"a": {"T1w": tmp_path / "a.nii.gz"}})
    with pytest.warns(GeometryWarning, match=r"a: .*/a\.nii\.gz: the header"):
        report = predict_many(identity(), {"a": {"T1w": tmp_path / "copy.nii.gz"}}, tmp_path / "out", card=make_card(),
                              writer=writer)  # fmt: skip
    assert record(tmp_path)["Inputs"]["T1w"]["File"] == str(tmp_path / "a.nii.gz")
    assert record(tmp_path)["Settings"]["Unit"] == "ppb" and "copy.nii.gz" not in str(report.warnings)
