"""The command line as scripts and people use it: exit codes, one-line errors, JSON, files where they belong."""

import json
import os
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from support.cards import unet3d_card

import zoo
from zoo.cli import terminal
from zoo.hub import card_file
from zoo.hub.card import Label

VERBS = ("list", "info", "predict", "verify", "demo")
ONE, TWO = "unet3d.tiny_one", "unet3d.tiny_two"
SHAPE = (16, 24, 32)


def tiny_card(name, channels):
    labels = {0: Label("background", 0), 1: Label("left", 17), 2: Label("right", 53)}
    return unet3d_card(name, channels, labels, patch=(16, 16, 16), spacing_mm=(1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A folder with a model of one channel and one of two."""
    folder = tmp_path_factory.mktemp("models")
    for name, channels in ((ONE, ("T1w",)), (TWO, ("T1w", "FLAIR"))):
        card = tiny_card(name, channels)
        zoo.save(zoo.load("unet3d", **card.arguments), folder / name, card)
    return folder


@pytest.fixture
def scans(tmp_path):
    """Three scans, the second one damaged."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number, name in enumerate(("sub-01_T1w.nii.gz", "sub-02_T1w.nii.gz", "sub-03_T1w.nii")):
        volume = np.random.default_rng(number).random(SHAPE, np.float32)
        nibabel.save(nibabel.Nifti1Image(volume, np.diag([1.0, 1.0, 1.0, 1.0])), folder / name)
    damaged = folder / "sub-02_T1w.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:500])
    return folder


def one_line(text):
    return text.count("\n") == 1 and "Traceback" not in text


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_fits_80_columns_and_has_an_exit_code_of_0(zoo_command, verb):
    done = zoo_command(*verb.split(), "--help")
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "Usage: " in done.stdout and "--help" in done.stdout


def test_no_verb_shows_the_help_and_version_the_version(zoo_command):
    assert all(verb in zoo_command().stdout for verb in VERBS)
    assert zoo_command("--version").stdout == f"{zoo.__version__}\n"


def test_list_names_builders_and_trained_models(zoo_command):
    rows = {row["name"]: row for row in json.loads(zoo_command("list", "--json").stdout)}
    assert set(rows) == set(zoo.list_models())
    assert (rows["unet3d"]["trained"], rows[ONE]["trained"]) == (False, True)
    assert rows[ONE]["parameters"] == zoo.load(ONE).count_params()
    assert all(row["description"] for row in rows.values())
    shown = zoo_command("list", "*tiny*").stdout
    assert [line.split()[0] for line in shown.splitlines()[1:]] == [ONE, TWO]
    assert max(map(len, shown.splitlines())) <= 80


def test_a_card_with_faults_spoils_only_its_own_row(zoo_command, model_folder, tmp_path, monkeypatch):
    bad = tmp_path / "more" / "unet3d.spoilt"
    bad.mkdir(parents=True)
    (bad / "card.json").write_text('{"name": 1}')
    monkeypatch.setenv("ZOO_PATH", f"{model_folder}{os.pathsep}{bad.parent}")
    rows = {row["name"]: row for row in json.loads(zoo_command("list", "*.*", "--json").stdout)}
    assert "must be str, got 1" in rows["unet3d.spoilt"]["error"] and rows[ONE]["description"] == "A toy."


def test_info_shows_the_card(zoo_command, model_folder):
    outcome = zoo_command("info", TWO)
    assert outcome.exit_code == 0
    for words in ("A toy.", "T1w: any", "FLAIR: any", "background, left, right", "z_score"):
        assert words in outcome.stdout
    assert "Synthetic images. nothing" in outcome.stdout and "- Knows nothing." in outcome.stdout
    assert json.loads(zoo_command("info", TWO, "--json").stdout) == json.loads(
        (model_folder / TWO / "card.json").read_text()
    )
    assert json.loads(zoo_command("info", model_folder / ONE, "--json").stdout)["name"] == ONE


def test_info_shows_what_a_network_takes(zoo_command):
    assert zoo_command("info", "unet3d").stdout.startswith("unet3d: Builds the 3D U-Net")
    assert (
        "input_shape: (x, y, z, channels)"
        in json.loads(zoo_command("info", "unet3d", "--json").stdout)["documentation"]
    )


def test_predict_finishes_the_good_scans_and_reports_the_bad(zoo_command, scans, tmp_path):
    done = zoo_command("predict", ONE, scans, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert one_line(done.stderr) and done.stderr.startswith("zoo: sub-02_T1w: ")
    files = sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz"))
    assert files == ["sub-01_T1w_tiny_one.nii.gz", "sub-03_T1w_tiny_one.nii.gz"]
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == [str(tmp_path / "out" / f) for f in files]
    expected = zoo.predict(ONE, scans / "sub-01_T1w.nii.gz")
    np.testing.assert_array_equal(nibabel.load(tmp_path / "out" / files[0]).dataobj, expected.dataobj)


def test_predict_tells_volumes_as_json_and_keeps_what_is_there(zoo_command, scans, tmp_path):
    files = [scans / "sub-01_T1w.nii.gz", scans / "sub-03_T1w.nii"]
    first, second, third = (
        json.loads(zoo_command("predict", ONE, *files, "--out", tmp_path, "--json", *more).stdout)
        for more in ((), (), ("--overwrite",))
    )
    assert [row["case"] for row in first] == ["sub-01_T1w", "sub-03_T1w"]
    assert [[row["kept"] for row in rows] for rows in (first, second, third)] == [[False] * 2, [True] * 2, [False] * 2]
    for row in first:
        labels = np.asarray(nibabel.load(row["out"]).dataobj)
        volumes_ml = {"left": (labels == 17).sum() / 1000, "right": (labels == 53).sum() / 1000}  # 1 mm voxels
        assert row["volumes_ml"] == pytest.approx(volumes_ml)
    assert second[0]["volumes_ml"] == first[0]["volumes_ml"]
    assert "was there already" in zoo_command("predict", ONE, files[0], "--out", tmp_path).stdout


def test_predict_tells_the_doubts_of_every_case_on_stderr_in_json_and_in_its_record(zoo_command, scans, tmp_path):
    files = [scans / "sub-01_T1w.nii.gz", scans / "sub-03_T1w.nii"]
    for file in files:
        image = nibabel.load(file)
        nameless = nibabel.Nifti1Image(np.array(image.dataobj), image.affine)  # not mapped: the file is replaced
        nameless.set_qform(None, 0)
        nameless.set_sform(None, 0)
        nibabel.save(nameless, file)
    for kept in (False, True):
        done = zoo_command("predict", ONE, *files, "--out", tmp_path / "out", "--json")
        rows, lines = json.loads(done.stdout), done.stderr.splitlines()
        assert done.exit_code == 0 and [row["kept"] for row in rows] == [kept] * 2
        for row, line, file in zip(rows, lines, files, strict=True):
            (text,) = row["warnings"]
            assert line == f"zoo: warning: {row['case']}: {text}" and str(file) in text
            assert "which side is left is a guess" in text
            record = json.loads((tmp_path / "out" / f"{row['case']}_tiny_one.json").read_text())
            assert record["Warnings"] == [text]


def test_predict_neither_keeps_nor_replaces_the_result_of_other_settings(zoo_command, scans, tmp_path):
    words = ("predict", ONE, scans / "sub-01_T1w.nii.gz", "--out", tmp_path / "out")
    assert zoo_command(*words).exit_code == 0
    refused = zoo_command(*words, "--mirror")
    assert refused.exit_code == 1 and one_line(refused.stderr)
    assert "was made with other settings: Mirror was false, now true. Pass --overwrite" in refused.stderr
    assert zoo_command(*words, "--mirror", "--overwrite").exit_code == 0
    assert "was there already" in zoo_command(*words, "--mirror").stdout


def test_predict_takes_channels_by_name_in_any_order(zoo_command, scans, tmp_path):
    t1w, flair = scans / "sub-01_T1w.nii.gz", scans / "sub-03_T1w.nii"
    done = zoo_command("predict", TWO, f"FLAIR={flair}", f"T1w={t1w}", "--out", tmp_path / "two.nii.gz")
    assert (done.exit_code, done.stderr) == (0, "")
    expected = zoo.predict(TWO, {"T1w": t1w, "FLAIR": flair})
    np.testing.assert_array_equal(nibabel.load(tmp_path / "two.nii.gz").dataobj, expected.dataobj)


def test_a_file_whose_name_has_an_equals_sign_is_a_file(zoo_command, scans, tmp_path, monkeypatch):
    monkeypatch.chdir(scans)
    (scans / "sub-01_T1w.nii.gz").rename(scans / "run=1.nii.gz")
    assert zoo_command("predict", ONE, "run=1.nii.gz", "--out", tmp_path).exit_code == 0
    assert (tmp_path / "run=1_tiny_one.nii.gz").is_file()


def test_predict_writes_probabilities(zoo_command, scans, tmp_path):
    out = tmp_path / "p.nii.gz"
    done = zoo_command(
        "predict", ONE, scans / "sub-01_T1w.nii.gz", "--out", out, "--probabilities", "--mirror", "--json"
    )
    assert json.loads(done.stdout)[0]["volumes_ml"] == {}
    values = nibabel.load(out).get_fdata()
    assert values.shape == (*SHAPE, 3)
    np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("predict",), "Missing argument"),
        (("frobnicate",), "No such command 'frobnicate'"),
        (("list", "--wat"), "No such option: --wat"),
        (("list", "nope*"), "There is no model like 'nope*'"),
        (("info", "unet3d.tiny_on"), "Did you mean 'unet3d.tiny_one'?"),
        (("verify", "unet3d.tiny_on"), "Did you mean 'unet3d.tiny_one'?"),
        (("predict", ONE, "nowhere.nii"), "There is no file or folder 'nowhere.nii'"),
        (("predict", ONE, "{empty}"), "There are no cases in"),
        (
            ("predict", ONE, "{good}", "{folder}"),
            "Pass several NIfTI files or one folder, not both: got sub-01_T1w.nii.gz and scans/.",
        ),
        (("predict", ONE, "{good}", "{good}"), "Two cases are called 'sub-01_T1w'"),
        (("predict", ONE, "T2w={good}"), "There is no channel 'T2w'. Did you mean 'T1w'?"),
        (("predict", TWO, "T1w={good}"), "takes T1w=FILE FLAIR=FILE, each once"),
        (("predict", TWO, "T1w={good}", "T1w={good}"), "takes T1w=FILE FLAIR=FILE, each once"),
        (("predict", TWO, "{good}"), "takes T1w=FILE FLAIR=FILE, each once"),
        (("predict", ONE, "{good}", "--device", "tpu"), "There is no device 'tpu'"),
        (("predict", ONE, "{good}", "--out", "{good}"), "is the scan itself"),
        (("predict", ONE, "{folder}", "--out", "x.nii.gz"), "is one file, got 3 scans"),
    ],
)
def test_bad_arguments_end_in_2_and_one_line(zoo_command, scans, tmp_path, words, message):
    (tmp_path / "empty").mkdir()
    places = {"good": scans / "sub-01_T1w.nii.gz", "folder": scans, "empty": tmp_path / "empty"}
    done = zoo_command(*(word.format(**places) for word in words))
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr and one_line(done.stderr)


def test_verify_names_what_is_damaged_and_checks_the_rest(zoo_command, model_folder, tmp_path, monkeypatch):
    assert zoo_command("verify", ONE, TWO).stdout == f"{ONE}: verified\n{TWO}: verified\n"
    copy = tmp_path / "models" / ONE
    copy.mkdir(parents=True)
    for path in (model_folder / ONE).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "weights.safetensors").write_bytes(b"spoilt")
    done = zoo_command("verify", copy, TWO, "--json")
    assert done.exit_code == 1 and one_line(done.stderr)
    assert "weights.safetensors has 6 bytes" in done.stderr
    assert [row["verified"] for row in json.loads(done.stdout)] == [False, True]


def test_a_card_with_faults_is_work_that_failed(zoo_command, tmp_path):
    folder = tmp_path / "unet3d.spoilt"
    folder.mkdir()
    (folder / card_file.FILE).write_text("{}")
    done = zoo_command("info", folder)
    assert done.exit_code == 1 and one_line(done.stderr) and "fault(s)" in done.stderr


def test_zoo_debug_shows_the_traceback(zoo_command, tmp_path, monkeypatch):
    (tmp_path / "unet3d.spoilt").mkdir()
    (tmp_path / "unet3d.spoilt" / card_file.FILE).write_text("{}")
    monkeypatch.setenv("ZOO_DEBUG", "1")
    assert isinstance(zoo_command("info", tmp_path / "unet3d.spoilt").exception, ValueError)


def test_chatter_is_held_back_unless_loading_fails(capfd, monkeypatch):
    for fails in (False, True):
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
        try:
            with terminal._quiet():
                os.write(2, b"chatter of a library\n")
                if fails:
                    raise ImportError
        except ImportError:
            pass
        os.write(2, b"ours\n")
        assert capfd.readouterr().err == "chatter of a library\n" * fails + "ours\n"


def real(*words, cwd, **changes):
    """The command as a process of its own, in a clean environment."""
    quiet = {key: value for key, value in os.environ.items() if key not in ("TF_CPP_MIN_LOG_LEVEL", "ZOO_DEBUG")}
    command = [sys.executable, "-m", "zoo.cli", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=quiet | changes, capture_output=True, text=True)


def test_a_real_prediction_says_nothing_on_stderr(model_folder, scans, tmp_path):
    settings = {"ZOO_PATH": str(model_folder), "TF_CPP_MIN_LOG_LEVEL": "0"}
    done = real("predict", ONE, scans / "sub-01_T1w.nii.gz", "--device", "cpu", cwd=tmp_path, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("sub-01_T1w_tiny_one.nii.gz: left ")
    assert (tmp_path / "sub-01_T1w_tiny_one.nii.gz").is_file()


def test_help_and_listings_load_no_framework(tmp_path):
    code = (
        "import sys; from typer.testing import CliRunner; from zoo.cli.main import app\n"
        "for words in (['--help'], ['list'], ['info', 'unet3d'], ['predict', 'unet3d.nope', 'x']):\n"
        "    CliRunner().invoke(app, words)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not {"tensorflow", "keras", "jax", "torch", "scipy", "matplotlib"} & set(eval(done.stdout))
