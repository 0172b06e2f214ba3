"""`zoo fit-normative` and `zoo predict` with a model of codes, from files to files."""

import csv
import json

import keras
import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

import zoo
from zoo.cli.main import app
from zoo.datasets.cases import Case
from zoo.normative import lesion_map, model
from zoo.normative.detectors import Moments
from zoo.synth.anatomy import common_space
from zoo.synth.anatomy.labels import INDEX
from zoo.tasks import epilepsy_lesions
from zoo.training.run import model_card

SHAPE = (40, 44, 48)


def template():
    x, y, z = np.indices(SHAPE)
    radius = np.sqrt((x - 20) ** 2 + (y - 22) ** 2 + (z - 24) ** 2)
    labels = np.where(radius < 16, INDEX["left_white"], 0)
    return np.where((radius >= 13) & (radius < 16), INDEX["left_cortex"], labels).astype(np.uint8)


def person(seed, lesion=None):
    """T1 and FLAIR of a ball of two tissues, a little noisy; a lesion is a bright box."""
    draw, labels = np.random.default_rng(seed), template()
    images = []
    for white, grey in ((3.0, 2.0), (1.5, 2.5)):
        image = np.where(labels == INDEX["left_white"], white, grey) + draw.normal(0, 0.1, SHAPE)
        if lesion is not None:
            image[lesion] += 2.5
        images.append((image * (labels > 0)).astype(np.float32))
    return images


def write(folder, name, images, affine=None):
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for channel, image in zip(("T1w", "FLAIR"), images, strict=True):
        files[channel] = folder / f"{name}{channel}.nii.gz"
        nib.nifti1.Nifti1Image(image, common_space.AFFINE if affine is None else affine).to_filename(files[channel])
    return files


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small common space, a tiny network of codes with its own controls, and the command line."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("models")
    patch.setattr(common_space, "SHAPE", SHAPE)
    patch.setenv("ZOO_PATH", str(folder))
    patch.setenv("ZOO_OFFLINE", "1")
    keras.utils.set_random_seed(3)
    task = epilepsy_lesions.TASK.replace(arguments={"filters": (4, 6, 8)}, code_size=8)
    card = model_card.describe(task, {"source": "synthetic", "seed": 0, "steps": 1}, {"seconds": 1.0})
    network = zoo.load("siamese", **card.arguments)
    zoo.save(network, folder / card.name, card)
    encode = lesion_map.make_encoder(network, step=3)
    where = model.find_places(template() > 0, step=3)
    scans = [[nib.nifti1.Nifti1Image(one, common_space.AFFINE) for one in person(seed)] for seed in range(12)]
    people = [lesion_map.to_common_space(pair, template())[0] for pair in scans]
    codes = model.encode_people(encode, people, where)
    model.fit(codes, where, Moments(), step=3, template=template()).write(folder / card.name / model.FILE)
    yield lambda *words: CliRunner().invoke(app, [str(word) for word in words])
    patch.undo()


def lesion_box():
    mask = np.zeros(SHAPE, bool)
    mask[22:30, 18:26, 20:28] = True
    return mask


def test_lesion_is_found_written_and_drawn(world, tmp_path):
    files = write(tmp_path / "in", "p_", person(99, lesion_box()))
    given = [f"{name}={path}" for name, path in files.items()]
    result = world("predict", "siamese.epilepsy_lesions", *given, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    stem = tmp_path / "out" / "p_T1w"
    z = nib.nifti1.load(f"{stem}_z.nii.gz")
    np.testing.assert_array_equal(z.affine, common_space.AFFINE)
    values = z.get_fdata()
    assert values[lesion_box()].max() > 5 and np.all(values[template() == 0][:50] == 0)
    rows = list(csv.DictReader((tmp_path / "out" / "p_T1w_clusters.csv").read_text().splitlines()))
    centre = np.array([float(rows[0][f"{axis}_mm"]) for axis in "xyz"]) - common_space.AFFINE[:3, 3]
    assert np.all(np.abs(centre - [26, 22, 24]) < 10)
    ranks = nib.nifti1.load(f"{stem}_clusters.nii.gz").get_fdata()
    assert ranks[lesion_box()].max() == 1 or 1 in ranks[lesion_box()]
    assert (tmp_path / "out" / "p_T1w_clusters.png").stat().st_size > 5000


def test_without_matplotlib_all_but_the_picture_is_written(world, tmp_path, monkeypatch):
    monkeypatch.setattr(lesion_map.importlib.util, "find_spec", lambda name: None)
    files = write(tmp_path / "in", "p_", person(99, lesion_box()))
    given = [f"{name}={path}" for name, path in files.items()]
    result = world("predict", "siamese.epilepsy_lesions", *given, "--out", tmp_path / "out")
    assert result.exit_code == 0 and "no picture: it needs matplotlib" in " ".join(result.output.split())
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".gz", ".csv", ".json"}


def test_a_scanner_that_the_controls_do_not_know_is_told(world, tmp_path):
    turned = [2.0 * (image > 0) - image for image in person(98)]
    files = write(tmp_path / "in", "p_", turned)
    given = [f"{name}={path}" for name, path in files.items()]
    result = world("predict", "siamese.epilepsy_lesions", *given, "--out", tmp_path / "out", "--json")
    row = (
        json.loads(result.output)["cases"][0] if "cases" in json.loads(result.output) else json.loads(result.output)[0]
    )
    assert row["share_out"] > lesion_map.MOST_OUT and "Fit your own (zoo fit-normative)" in row["text"]


def write_controls(folder, count=10):
    for seed in range(count):
        write(folder / f"sub-{seed:02d}", "", person(100 + seed))


def test_own_controls_by_the_command_line_and_after_a_stop(world, tmp_path, monkeypatch):
    write_controls(tmp_path / "controls")
    out, words = tmp_path / "own.npz", ("fit-normative", tmp_path / "controls", "--detector", "nearest", "--out")
    with monkeypatch.context() as patch:
        patch.setattr(model.NormativeModel, "write", fail(OSError("the disk is full")))
        assert "the disk is full" in world(*words, out).output
    codes = sorted((tmp_path / "own.work").glob("*.npy"))
    assert len(codes) == 10 and not out.exists()
    times = [path.stat().st_mtime_ns for path in codes]
    codes[0].write_bytes(b"")
    result = world(*words, out, "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["controls"] == 10
    assert not (tmp_path / "own.work").exists()
    fresh = tmp_path / "fresh.npz"
    assert world(*words, fresh).exit_code == 0 and len(times) == 10
    one, other = (model.NormativeModel.read(path) for path in (out, fresh))
    np.testing.assert_array_equal(one.calibration.mean, other.calibration.mean)
    files = write(tmp_path / "in", "p_", person(99, lesion_box()))
    given = [f"{name}={path}" for name, path in files.items()]
    result = world("predict", "siamese.epilepsy_lesions", *given, "--out", tmp_path, "--normative", out, "--json")
    assert result.exit_code == 0 and '"clusters"' in result.output


def fail(error):
    def call(*_, **__):
        raise error

    return call


def test_a_normative_model_is_kept_by_its_scans_and_settings(world, tmp_path, monkeypatch):
    write_controls(tmp_path / "controls")
    out, words = tmp_path / "own.npz", ["fit-normative", tmp_path / "controls", "--out", tmp_path / "own.npz"]
    assert world(*words).exit_code == 0
    written = out.stat().st_mtime_ns
    assert world(*words).exit_code == 0 and out.stat().st_mtime_ns == written
    refused = world(*words, "--detector", "centre")
    assert refused.exit_code == 1 and 'other settings: Detector was "moments", now "centre"' in refused.output
    assert out.stat().st_mtime_ns == written
    assert world(*words, "--detector", "centre", "--overwrite").exit_code == 0
    mean = model.NormativeModel.read(out).calibration.mean
    write(tmp_path / "controls" / "sub-03", "", person(500))  # another scan of the same name
    again = world(*words, "--detector", "centre")
    assert again.exit_code == 0 and "own.npz was made from another input" in again.stderr
    assert not np.array_equal(model.NormativeModel.read(out).calibration.mean, mean)
    out.with_suffix(".json").unlink()
    assert "is there without a own.json of zoo" in world(*words, "--detector", "centre").output


def test_bad_input_is_one_error(world, tmp_path):
    files = write(tmp_path, "p_", person(1))
    flair = nib.nifti1.Nifti1Image(person(1)[1][:-2], common_space.AFFINE)
    flair.to_filename(files["FLAIR"])
    given = [f"{name}={path}" for name, path in files.items()]
    result = world("predict", "siamese.epilepsy_lesions", *given, "--out", tmp_path / "out")
    assert result.exit_code == 1 and "FLAIR" in result.output and "grid" in result.output
    result = world("predict", "siamese.epilepsy_lesions", *given, "--normative", tmp_path / "no.npz")
    assert result.exit_code == 2 and "Make one with zoo fit-normative FOLDER" in result.output
    files = write(tmp_path, "skull_", [image + 1 for image in person(1)])
    result = world("predict", "siamese.epilepsy_lesions", *[f"{name}={path}" for name, path in files.items()])
    assert result.exit_code == 1 and "brain cut out, but 84 ml" in result.output
    write(tmp_path / "few" / "sub-1", "", person(1))
    result = world("fit-normative", tmp_path / "few", "--out", tmp_path / "own.npz")
    assert result.exit_code == 1 and "needs 10 controls or more, got 1" in result.output


def test_ten_people_are_needed_however_many_scans_they_have(tmp_path):
    cases = [Case(f"sub-{number // 2}_ses-{number % 2}", f"sub-{number // 2}", {}) for number in range(12)]
    with pytest.raises(ValueError, match="needs 10 controls or more, got 6 with 12 scans"):
        lesion_map.check_controls(cases, ())


def test_scans_of_a_person_are_left_out_together(world, tmp_path):
    cases = []
    for number in range(12):  # the last two are second scans
        files = write(tmp_path / f"s{number}", "", person(100 + number))
        cases.append(Case(f"scan-{number:02d}", f"sub-{number % 10}", files))
    own = lesion_map.fit_normative(cases, tmp_path / "own.npz", detector="nearest")
    record = json.loads((tmp_path / "own.json").read_text())
    assert own.controls == 12 and record["Settings"]["People"] == 10


def test_intensities_may_be_scaled_by_tissues(world, monkeypatch):
    labels = np.where((template() == INDEX["left_white"]) & (np.indices(SHAPE)[0] < 14), INDEX["csf"], template())
    monkeypatch.setattr(lesion_map, "_find_structures", lambda scan, tell: labels)
    scans = [nib.nifti1.Nifti1Image(image, common_space.AFFINE) for image in person(1)]
    found, _ = lesion_map.to_common_space(scans, template(), intensities="tissue")
    grey = labels == INDEX["left_cortex"]
    assert np.median(found[..., 0][labels == INDEX["left_white"]]) == pytest.approx(0, abs=0.1)
    assert np.all(found[template() == 0] == 0) and abs(np.median(found[..., 1][grey])) > 0.5
