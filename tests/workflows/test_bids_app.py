"""`zoo bids` from a data set to derivatives: what is written, what the validator says, and what survives a kill."""

import contextlib
import csv
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from support.datasets import write_bids, write_bids_scan
from support.trained_models import LESION_MODEL, PAIR_MODEL, STRUCTURE_MODEL, bids_cards, save_untrained

import zoo

VALIDATOR = Path(sys.executable).with_name("bids-validator-deno")
LABEL = "desc-zooUnet3dToyLesion"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("models"), *bids_cards())


@pytest.fixture
def root(tmp_path):
    return write_bids(tmp_path / "raw")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def run(zoo_command, root, out):
    """Returns a function that runs `zoo bids` in this process."""
    return lambda *words, model=LESION_MODEL: zoo_command("bids", root, out, "participant", "--model", model, *words)


def statuses(done):
    return {row["case"]: row["status"] for row in json.loads(done.stdout)}


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines(), delimiter="\t"))


def log(out):
    (path,) = (out / "logs").glob(f"{LABEL}_*.tsv")
    return rows_of(path)


def test_a_mask_lies_on_its_scan_with_its_origin_beside_it(run, root, out, model_folder):
    done = run()
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"3 done, 0 kept, 0 failed: {out}/logs/{LABEL}_shard-1of1.tsv\n"
    result = out / "sub-02" / "anat" / f"sub-02_{LABEL}_mask.nii.gz"
    expected = zoo.predict(LESION_MODEL, root / "sub-02/anat/sub-02_T1w.nii.gz")
    image = nibabel.load(result)
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(expected.dataobj) == 7)
    np.testing.assert_array_equal(image.affine, np.diag([1.0, 1.5, 2.0, 1.0]))
    record = json.loads(result.with_name(f"sub-02_{LABEL}_mask.json").read_text())
    assert record["Type"] == "Lesion" and record["SpacingMm"] == [1, 1.5, 2]
    assert record["Sources"] == ["bids:raw:sub-02/anat/sub-02_T1w.nii.gz"]
    weights = zoo.card(LESION_MODEL).weights.sha256
    assert list(record["Model"].values())[:3] == [LESION_MODEL, "1.0.0", weights]
    (scan,) = record["Inputs"].values()
    content = (root / "sub-02/anat/sub-02_T1w.nii.gz").read_bytes()
    assert (scan["File"], scan["Bytes"]) == (record["Sources"][0], len(content))
    assert scan["Sha256"] == hashlib.sha256(content).hexdigest() and record["Warnings"] == []
    (row,) = rows_of(result.parent / f"sub-02_{LABEL}_volumes.tsv")
    voxels = int((np.asarray(expected.dataobj) == 7).sum())
    assert (row["structure"], int(row["num_voxels"]), row["asymmetry_percent"]) == ("lesion", voxels, "n/a")
    assert float(row["volume_ml"]) == pytest.approx(voxels * 0.003, abs=1e-4)
    about = json.loads((out / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative" and about["DatasetLinks"] == {"raw": "../raw"}
    assert [maker["Name"] for maker in about["GeneratedBy"]] == ["zoo"]
    assert (out / "participants.tsv").read_text() == (root / "participants.tsv").read_text()
    assert [row["status"] for row in log(out)] == ["done"] * 3


def test_a_bad_case_is_logged_and_the_rest_finish(run, root, out):
    (root / "sub-02/anat/sub-02_T1w.nii.gz").write_bytes(b"no image" * 99)
    write_bids_scan(root, "sub-04_FLAIR")
    done = run("--json")
    assert done.exit_code == 1
    assert statuses(done) == {"sub-01": "done", "sub-02": "failed", "sub-03": "done", "sub-04": "failed"}
    first, second = done.stderr.splitlines()
    assert (
        "sub-02_T1w.nii.gz is not a NIfTI file" in first
        and second == "zoo: sub-04: No T1w in sub-04, which holds FLAIR."
    )
    rows = {row["case"]: row for row in log(out)}
    assert rows["sub-04"]["error"].startswith("No T1w") and rows["sub-01"]["error"] == "n/a"
    assert "sub-02" not in (out / "participants.tsv").read_text()


def test_what_is_finished_is_kept_and_what_is_torn_or_changed_is_made_again(run, root, out):
    assert run().exit_code == 0
    paths = {subject: out / f"sub-{subject}/anat/sub-{subject}_{LABEL}_mask.nii.gz" for subject in ("01", "02", "03")}
    before = {subject: path.read_bytes() for subject, path in paths.items()}
    assert set(statuses(run("--json")).values()) == {"kept"}
    paths["01"].write_bytes(before["01"][: len(before["01"]) // 2])
    paths["02"].with_name(f"sub-02_{LABEL}_mask.json").unlink()
    assert statuses(run("--json")) == {"sub-01": "done", "sub-02": "done", "sub-03": "kept"}
    assert {subject: path.read_bytes() for subject, path in paths.items()} == before
    image = root / "sub-03/anat/sub-03_T1w.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(5).random((8, 8, 9)), np.eye(4)), image)
    done = run("--json")
    assert statuses(done) == {"sub-01": "kept", "sub-02": "kept", "sub-03": "done"}
    assert re.fullmatch(r"zoo: warning: sub-03: .*_mask\.nii\.gz was made from another input .*\n", done.stderr)
    assert nibabel.load(paths["03"]).shape == (8, 8, 9)
    assert set(statuses(run("--json", "--overwrite")).values()) == {"done"}


def test_the_warnings_of_a_case_are_on_stderr_in_its_json_file_and_in_the_log(run, root, out):
    for subject in ("01", "02"):
        scan = nibabel.load(root / f"sub-{subject}/anat/sub-{subject}_T1w.nii.gz")
        image = nibabel.Nifti1Image(np.asarray(scan.dataobj), scan.affine)
        image.set_qform(None, 0)
        image.set_sform(None, 0)
        nibabel.save(image, root / f"sub-{subject}/anat/sub-{subject}_T1w.nii.gz")
    for status in ("done", "kept"):
        done = run("--participant-label", "01", "02", "--json")
        assert set(statuses(done).values()) == {status} and done.exit_code == 0
        lines = done.stderr.splitlines()
        assert [line.split(": ")[1:3] for line in lines] == [["warning", "sub-01"], ["warning", "sub-02"]]
        assert all("which side is left is a guess" in line for line in lines)
        for subject, row in zip(("01", "02"), json.loads(done.stdout), strict=True):
            record = json.loads((out / f"sub-{subject}/anat/sub-{subject}_{LABEL}_mask.json").read_text())
            assert record["Warnings"] == row["warnings"] and len(row["warnings"]) == 1
        assert ["left is a guess" in row["warnings"] for row in log(out)] == [True, True]


@pytest.mark.slow
def test_other_settings_or_weights_are_an_error_until_overwritten(run, out, model_folder, tmp_path, monkeypatch):
    assert run().exit_code == 0
    done = run("--mirror")
    assert done.exit_code == 2
    assert "was made with other settings: Mirror was false, now true. Pass --overwrite to replace it" in done.stderr
    assert run("--mirror", "--overwrite").exit_code == 0
    others = tmp_path / "others"
    shutil.copytree(model_folder / LESION_MODEL, others / LESION_MODEL)
    card = json.loads((others / LESION_MODEL / "card.json").read_text())
    zoo.save(zoo.load("unet3d", **card["arguments"]), others / "new" / LESION_MODEL, zoo.card(LESION_MODEL))
    monkeypatch.setenv("ZOO_PATH", str(others / "new"))
    done = run("--mirror")
    assert done.exit_code == 2 and "WeightsSha256" in done.stderr and "Mirror" not in done.stderr


@pytest.mark.slow
def test_label_maps_have_a_table_of_names_and_models_share_a_folder(run, root, out):
    assert run("--participant-label", "01", "02", model=STRUCTURE_MODEL).exit_code == 0
    assert run("--participant_label", "sub-01", model=LESION_MODEL).exit_code == 0
    assert run("--probabilities", "--participant-label", "01", model=STRUCTURE_MODEL).exit_code == 0
    named = "desc-zooUnet3dToyParts"
    assert (out / f"{named}_dseg.tsv").read_text() == "index\tname\n17\tleft\n53\tright\n"
    labels = np.unique(np.asarray(nibabel.load(out / f"sub-02/anat/sub-02_{named}_dseg.nii.gz").dataobj))
    assert set(labels) <= {0, 17, 53}
    assert nibabel.load(out / f"sub-01/anat/sub-01_{named}_probseg.nii.gz").shape == (12, 14, 16, 3)
    record = json.loads((out / f"sub-01/anat/sub-01_{named}_probseg.json").read_text())
    assert record["LabelMap"] == ["background", "left", "right"]
    assert (out / f"sub-01/anat/sub-01_{LABEL}_mask.nii.gz").is_file()
    assert not (out / "sub-03").exists()
    makers = json.loads((out / "dataset_description.json").read_text())["GeneratedBy"]
    assert [maker["Description"] for maker in makers] == [
        f"zoo bids --model {model}" for model in (LESION_MODEL, STRUCTURE_MODEL)
    ]
    assert [line.split("\t")[0] for line in (out / "participants.tsv").read_text().splitlines()[1:]] == [
        "sub-01",
        "sub-02",
    ]


@pytest.mark.slow
def test_several_channels_and_an_age_from_the_table(run, root, out):
    for subject in ("01", "02"):
        write_bids_scan(root, f"sub-{subject}_acq-x_FLAIR", 9)
    rows = (root / "participants.tsv").read_text().replace("52", "n/a")
    (root / "participants.tsv").write_text(rows)
    assert statuses(run("--json", model=PAIR_MODEL)) == {"sub-01": "done", "sub-02": "done", "sub-03": "failed"}
    files = {"T1": root / "sub-01/anat/sub-01_T1w.nii.gz", "FLAIR": root / "sub-01/anat/sub-01_acq-x_FLAIR.nii.gz"}
    expected = zoo.predict(PAIR_MODEL, files, tabular={"age": 51})
    image = nibabel.load(out / "sub-01/anat/sub-01_desc-zooUnet3dToyPair_mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(expected.dataobj) == 7)
    sides = [json.loads(next(out.glob(f"sub-0{n}/anat/*_mask.json")).read_text())["Tabular"] for n in (1, 2)]
    assert sides == [{"age": 51}, {}]
    (root / "participants.tsv").write_text(rows.replace("51", "59"))
    assert statuses(run("--json", model=PAIR_MODEL)) == {"sub-01": "done", "sub-02": "kept", "sub-03": "failed"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard", "3"], "--shard is K/N, as 2/8; got '3'."),
        (["--shard", "3/2"], "got 3/2"),
        (["--participant-label", "1"], "There is no participant '1'."),
        (["--pattern", "T1w"], "--pattern is CHANNEL=NAME"),
    ],
)
def test_bad_arguments_are_told_in_one_line(run, out, words, message):
    done = run(*words)
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not out.exists()


def test_another_level_and_no_bids_data_set_are_refused(zoo_command, root, tmp_path):
    for words, message in (
        ([root, tmp_path / "o", "group"], "no level of analysis 'group'"),
        ([tmp_path, tmp_path / "o", "participant"], "is no BIDS data set"),
    ):
        done = zoo_command("bids", *words, "--model", LESION_MODEL)
        assert done.exit_code == 2 and message in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not VALIDATOR.exists(), reason="bids-validator-deno is not installed")
def test_the_validator_accepts_what_is_written(run, root, out):
    write_bids_scan(root, "sub-01_ses-a_run-1_T1w")
    for words, model in (((), LESION_MODEL), ((), STRUCTURE_MODEL), (("--probabilities",), STRUCTURE_MODEL)):
        assert run(*words, model=model).exit_code == 0
    for place in (out, root):
        if place == root:
            shutil.move(out, root / "derivatives" / "zoo")
        outcome = subprocess.run([VALIDATOR, place, "--format", "json"], capture_output=True, text=True, check=False)
        issues = json.loads(outcome.stdout)["issues"]["issues"]
        outcome = {(issue["severity"], issue["code"], issue["location"].split("/")[-1]) for issue in issues}
        if place == out:
            advice = {("TOO_FEW_AUTHORS", "dataset_description.json"), ("SIDECAR_KEY_RECOMMENDED", "participants.tsv")}
            advice |= {("SIDECAR_KEY_RECOMMENDED", "desc-zooUnet3dToyParts_dseg.tsv")}
            assert {issue[1:] for issue in outcome} == advice
        assert "error" not in {severity for severity, _, _ in outcome}


def command(model_folder, root, out, *words):
    """`zoo bids` as a process of its own."""
    environment = {**os.environ, "ZOO_PATH": str(model_folder), "ZOO_OFFLINE": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    words = [sys.executable, "-m", "zoo.cli", "bids", root, out, "participant", "--model", LESION_MODEL, *words]
    return subprocess.Popen(
        [str(word) for word in words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(what, process, seconds=120):
    end = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def endless(root):
    """sub-02 with a scan of so many windows that a process is still at it when it is killed."""
    (root / "sub-02/anat/sub-02_T1w.nii.gz").unlink()
    large = nibabel.Nifti1Image(np.random.default_rng(0).random((256, 256, 256), np.float32), np.eye(4))
    nibabel.save(large, root / "sub-02/anat/sub-02_T1w.nii")
    return root / "sub-02/anat/sub-02_T1w.nii"


def sidecars(out, *subjects):
    return [out / f"sub-{subject}/anat/sub-{subject}_{LABEL}_mask.json" for subject in subjects]


def children(process):
    return [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_whole_results_and_goes_on(run, model_folder, root, out, endless):
    process = command(model_folder, root, out)
    (first,) = sidecars(out, "01")
    wait_for(first.exists, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert list(out.glob("sub-*/**/*.json")) == [first] and [row["case"] for row in log(out)] == ["sub-01"]
    before = first.stat().st_mtime_ns
    endless.unlink()
    write_bids_scan(root, "sub-02_T1w", 1)
    assert statuses(run("--json")) == {"sub-01": "kept", "sub-02": "done", "sub-03": "done"}
    assert first.stat().st_mtime_ns == before
    assert [row["status"] for row in log(out)] == ["kept", "done", "done"]
    assert not list(out.rglob(".*.nii.gz*"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
def test_the_workers_of_a_run_that_is_killed_go_with_it(model_folder, root, out, endless):
    process = command(model_folder, root, out, "--jobs", "2")
    wait_for(lambda: all(path.exists() for path in sidecars(out, "01", "03")), process)
    workers = children(process)
    assert len(workers) >= 2
    process.kill()
    process.communicate()
    end = time.monotonic() + 60
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert sorted(out.glob("sub-*/**/*.json")) == sidecars(out, "01", "03")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
def test_a_worker_that_is_killed_costs_its_own_case_only(model_folder, root, out, endless):
    process = command(model_folder, root, out, "--jobs", "2", "--json")
    wait_for(lambda: all(path.exists() for path in sidecars(out, "01", "03")), process)
    while process.poll() is None:  # the pool first, then the process that tries the case alone
        for child in children(process):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(child, signal.SIGKILL)
        time.sleep(1)
    printed, _ = process.communicate()
    outcomes = {row["case"]: (row["status"], row["error"]) for row in json.loads(printed)}
    assert process.returncode == 1
    assert [outcomes[case][0] for case in sorted(outcomes)] == ["done", "failed", "done"]
    assert outcomes["sub-02"][1].startswith("Its process was killed")


def test_a_cluster_without_ray_is_told_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    done = run("--address", "local")
    assert done.exit_code == 1 and "Install it: pip install 'zoo3d[ray]'" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_local_ray_cluster_does_the_same(model_folder, root, out, tmp_path):
    (root / "sub-02/anat/sub-02_T1w.nii.gz").write_bytes(b"no image" * 99)
    process = command(model_folder, root, out, "--address", "local", "--jobs", "2", "--json")
    printed, errors = process.communicate(timeout=280)
    assert process.returncode == 1, errors
    outcomes = {row["case"]: row["status"] for row in json.loads(printed)}
    assert outcomes == {"sub-01": "done", "sub-02": "failed", "sub-03": "done"}
    here = command(model_folder, root, tmp_path / "here", "--json")
    here.communicate(timeout=120)
    for name in (f"sub-{subject}/anat/sub-{subject}_{LABEL}_mask.nii.gz" for subject in ("01", "03")):
        assert (out / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
