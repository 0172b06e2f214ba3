"""The graph of an exported model against `zoo.predict`, and the exported network in every format."""

import dataclasses
import json
import os
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import tensorflow as tf
from support import shipped_scans
from support.cards import AGE_AND_SEX, make_card
from support.datasets import oblique_affine, waves_in_air
from support.paths import SUPPORT
from support.trained_models import save_to_export

import zoo
from zoo.exporters import comparison, export, window_network
from zoo.exporters.saved_model import graph_grids, graph_intensity, graph_windows
from zoo.exporters.saved_model import signatures as saved
from zoo.exporters.weights_on_disk import StoredWeight
from zoo.hub import golden, trained_models
from zoo.hub.card import Step
from zoo.inference import exported_network
from zoo.inference.predictor import Predictor
from zoo.inference.settings import Settings
from zoo.inference.sliding_window import centred_window
from zoo.volumes import image, intensity, patches

FRESH = """
import sys
for name in ("keras", "zoo", "nibabel"):
    sys.modules[name] = None  # importing it raises ImportError
import numpy as np, tensorflow as tf
given = dict(np.load(sys.argv[2]))
found = tf.saved_model.load(sys.argv[1]).signatures[sys.argv[3]](**{k: tf.constant(v) for k, v in given.items()})
np.savez(sys.argv[4], **{k: v.numpy() for k, v in found.items()})
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    after = (Step("remove_small", {"minimum_ml": 0.02}), Step("largest_component", {"labels": ("left_part",)}))
    return save_to_export(tmp_path_factory.mktemp("model"), spacing_mm=(1.5, 1.25, 1.4), postprocessing=after)


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    return zoo.export(folder, tmp_path_factory.mktemp("out") / "served")


def values_of(picture):
    return np.asanyarray(picture.dataobj)


def served(model, scan, signature="serving_default", dtype=np.float32, **more):
    inputs = {"volume": values_of(scan)[..., None].astype(dtype), "affine": scan.affine.astype(np.float32)}
    inputs |= {"spacing_mm": np.zeros(3, np.float32), **more}
    return {
        k: v.numpy() for k, v in model.signatures[signature](**{k: tf.constant(v) for k, v in inputs.items()}).items()
    }


@pytest.mark.parametrize("world", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (1, -1, -1)])
def test_orientation_is_nibabels_there_and_back(world, signs):
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (to, sign, size) in enumerate(zip(world, signs, (1.0, 2.0, 0.7), strict=True)):
        affine[to, axis] = sign * size
    affine[:3, :3] = affine[:3, :3] + np.random.default_rng(0).uniform(-0.1, 0.1, (3, 3))
    volume = np.random.default_rng(1).random((3, 4, 5, 2)).astype(np.float32)
    order, reverse = graph_grids.orientation(tf.constant(affine))
    turned = graph_grids.to_ras(tf.constant(volume), order, reverse)
    np.testing.assert_array_equal(turned, image.to_ras(volume, affine)[0])
    np.testing.assert_array_equal(graph_grids.from_ras(turned, order, reverse), volume)


@pytest.mark.parametrize("antialias", [False, True])
def test_resampling_is_that_of_volumes(antialias):
    volume = np.random.default_rng(0).random((13, 10, 7, 2)).astype(np.float32)
    spacing, target = np.array([1.0, 1.1, 3.0]), (2.0, 1.1, 1.3)
    steps = [("resample", {"spacing_mm": target, "antialias": antialias})]
    resampled, now = graph_grids.to_work_grid(tf.constant(volume), tf.constant(spacing), steps)
    np.testing.assert_allclose(resampled, image.resample(volume, spacing, target, antialias=antialias), atol=1e-6)
    np.testing.assert_allclose(now, target)


def test_percentiles_are_numpys():
    array = np.random.default_rng(0).normal(0, 100, (9, 8, 7)).astype(np.float32)
    array[:4] = 0
    for percent in (0, 0.5, 37.3, 99.5, 100):
        result = graph_intensity.percentile(tf.constant(array), tf.constant(array != 0), percent)
        np.testing.assert_allclose(result, np.percentile(array[array != 0], percent), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("background", [0.0, -1000.0])
@pytest.mark.parametrize("spike", [0.0, 1e6])
def test_the_graph_finds_air_and_spikes_as_prediction_does(background, spike):
    x, y, z = np.ogrid[:24, :20, :22]
    ball = (x - 12) ** 2 + (y - 10) ** 2 + (z - 11) ** 2 < 9**2
    array = np.where(ball, np.random.default_rng(3).uniform(100, 200, ball.shape), background).astype(np.float32)
    array[1, 1, 1] += spike
    expected = intensity.measure(array, [{"name": "maximum"}]).apply(array)
    card = make_card(preprocessing=(Step("maximum", {}),))
    normalised = graph_intensity.normalise(card, tf.constant(array[..., None]), [{"name": "maximum"}])[..., 0]
    np.testing.assert_allclose(normalised, expected, atol=1e-5)
    assert float(np.max(normalised)) == pytest.approx(1) and float(np.min(normalised)) == 0


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8])
def test_windows_start_where_those_of_predict_do(overlap):
    starts = graph_windows.starts(tf.constant([37, 16, 53]), (16, 16, 12), overlap)
    np.testing.assert_array_equal(starts, patches.starts((37, 16, 53), (16, 16, 12), overlap))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("shape", [(40, 37, 33), (12, 40, 21), (20, 60, 24)])
def test_the_graph_looks_straight_at_the_foreground_as_prediction_does(shape, activation):
    volume = np.random.default_rng(2).normal(0, 0.1, (*shape, 1)).astype(np.float32)
    volume[3:12, 5:30, 4:20] += 1

    def network(windows):
        values = windows - np.asarray(windows).mean((1, 2, 3), keepdims=True) - 0.3
        return np.concatenate([-values, values] if activation == "softmax" else [values], -1)

    def graph(windows):
        values = windows - tf.reduce_mean(windows, (1, 2, 3), keepdims=True) - 0.3
        return tf.concat([-values, values] if activation == "softmax" else [values], -1)

    inside = np.ones(shape, bool)
    inside[:2] = False
    expected = centred_window(network, volume, patch=(16, 24, 16), activation=activation, skip=inside)
    settings = {"patch": (16, 24, 16), "overlap": 0.5, "num_classes": expected.shape[-1], "activation": activation}
    logits, reached = graph_windows.centred_window(graph, tf.constant(volume), inside=tf.constant(inside), **settings)
    np.testing.assert_allclose(graph_windows.activate(logits, reached, activation), expected, atol=1e-5)


def test_a_saved_model_needs_tensorflow_alone_and_agrees_on_shapes_it_has_not_seen(folder, exported, tmp_path):
    scan = waves_in_air((19, 27, 31), oblique_affine())
    inputs = {"volume": values_of(scan)[..., None], "spacing_mm": np.zeros(3, np.float32)}
    np.savez(tmp_path / "given.npz", **inputs, affine=scan.affine.astype(np.float32))
    words = [exported, tmp_path / "given.npz", "serving_default", tmp_path / "found.npz"]
    subprocess.run(
        [sys.executable, "-c", FRESH, *map(str, words)], check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )
    result = np.load(tmp_path / "found.npz")
    expected = values_of(zoo.predict(folder, scan))
    assert result["labels"].dtype == expected.dtype == np.int16
    assert set(np.unique(expected)) == {0, 10, 260}
    assert np.mean(result["labels"] == expected) >= 0.999
    np.testing.assert_allclose(
        result["probabilities"], values_of(zoo.predict(folder, scan, probabilities=True)), atol=1e-3
    )


def test_one_trace_serves_all_sizes_and_every_signature_agrees(folder, exported):
    model = tf.saved_model.load(str(exported))
    for shape, affine in (((24, 20, 17), np.diag([-1.5, 1.25, 1.4, 1])), ((9, 33, 12), np.diag([1, -1, 3.0, 1]))):
        scan = waves_in_air(shape, affine)
        whole = nibabel.Nifti1Image(np.rint(values_of(scan)).astype(np.int16), affine)
        expected = values_of(zoo.predict(folder, whole))
        for signature, dtype in (("serving_default", np.float32), ("int16", np.int16), ("labels", np.float32)):
            assert np.mean(served(model, whole, signature, dtype)["labels"] == expected) >= 0.999, signature
    straight = waves_in_air((18, 20, 22), np.diag([1.5, 1.25, 1.4, 1]))
    inputs = {"spacing_mm": np.array([1.5, 1.25, 1.4], np.float32), "affine": np.zeros((4, 4), np.float32)}
    assert np.mean(served(model, straight, **inputs)["labels"] == values_of(zoo.predict(folder, straight))) >= 0.999


def test_a_card_with_centred_and_mirrored_windows_is_predicted_and_exported_so(folder, tmp_path):
    card = trained_models.card(folder)
    other = dataclasses.replace(card, input=dataclasses.replace(card.input, centred=True, mirrored=True))
    folder = zoo.save(trained_models.load(folder), tmp_path / card.name, other)
    scan = waves_in_air((33, 27, 38), oblique_affine())
    expected = values_of(zoo.predict(folder, scan, probabilities=True))
    model = tf.saved_model.load(str(zoo.export(folder, tmp_path / "served")))
    np.testing.assert_allclose(served(model, scan)["probabilities"], expected, atol=1e-3)
    assert (
        np.abs(
            values_of(zoo.predict(trained_models.load(folder), scan, card=card, probabilities=True)) - expected
        ).max()
        > 1e-3
    )
    centred = dataclasses.replace(card, input=dataclasses.replace(card.input, centred=True))
    asked = Predictor(trained_models.load(folder), card=centred, settings=Settings(mirror=True, probabilities=True))
    np.testing.assert_array_equal(values_of(asked(scan)), expected)


@pytest.mark.slow
def test_mirrors_tabular_values_and_channels(tmp_path):
    folder = save_to_export(tmp_path, channels=("T1w", "FLAIR"), tabular=AGE_AND_SEX)
    out = zoo.export(
        folder, tmp_path / "served", patch=(12, 12, 12), windows=export.Windows(mirror=(0, 2), overlap=0.25)
    )
    scans = [waves_in_air((17, 14, 21), oblique_affine(), seed) for seed in (1, 2)]
    settings = Settings(mirror=(0, 2), patch=(12, 12, 12), overlap=0.25, probabilities=True)
    expected = values_of(Predictor(folder, settings=settings)(scans, tabular={"sex": "m"}))
    volume = np.stack([values_of(channel) for channel in scans], -1)
    model = tf.saved_model.load(str(out))
    result = served(model, scans[0], volume=volume, tabular=np.array([np.nan, 1], np.float32))
    np.testing.assert_allclose(result["probabilities"], expected, atol=1e-3)
    other = served(model, scans[0], volume=volume, tabular=np.array([80, 0], np.float32))
    assert np.abs(other["probabilities"] - expected).max() > 1e-2
    with pytest.raises(tf.errors.InvalidArgumentError, match="tabular must be age 18 to 90, sex 0 to 1"):
        served(model, scans[0], volume=volume, tabular=np.array([7, 0], np.float32))


def test_a_saved_model_says_what_is_wrong_with_a_volume(exported):
    model, scan = tf.saved_model.load(str(exported)), waves_in_air((16, 16, 16))
    for bad, message in (
        ({"volume": np.full((16, 16, 16, 1), np.nan, np.float32)}, "finite and not all zero"),
        ({"spacing_mm": np.array([2, 1, 1], np.float32)}, "spacing_mm and the voxel size of the affine differ"),
        ({"affine": np.zeros((4, 4), np.float32)}, "three positive numbers"),
        ({"volume": np.full((16, 16, 16, 1), 7, np.float32)}, "no brain in the volume"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            served(model, scan, **bad)


def test_the_signature_that_a_server_reads(exported):
    facts = saved.read_signatures(exported)
    volume, grid = ("float", (-1, -1, -1, 1)), ("float", (-1, -1, -1, 3))
    assert set(facts) == {"serving_default", "int16", "labels", "patch"}
    default = facts["serving_default"]
    assert default["inputs"] == {"affine": ("float", (4, 4)), "spacing_mm": ("float", (3,)), "volume": volume}
    assert default["outputs"] == {"labels": ("int16", (-1, -1, -1)), "probabilities": grid}
    assert default["method"] == "tensorflow/serving/predict"
    assert default["defaults"] == ["affine"]  # what a client may leave out
    assert facts["int16"]["inputs"]["volume"] == ("int16", (-1, -1, -1, 1))
    assert set(facts["labels"]["outputs"]) == {"labels"}
    assert facts["patch"]["inputs"] == {"windows": ("float", (-1, -1, -1, -1, 1))}


def test_the_patch_signature_gives_the_golden_output(folder, exported):
    inputs, expected = golden.read(folder / golden.FILE)
    result = exported_network.opened("tensorflow", exported)(inputs)
    assert window_network.relative_difference(result, expected["output_0"]) < 1e-4


@pytest.mark.parametrize("runtime", ["onnx", pytest.param("openvino", marks=pytest.mark.slow), "litert"])
def test_every_format_gives_the_golden_output(runtime, folder, tmp_path):
    pytest.importorskip({"onnx": "tf2onnx", "openvino": "openvino", "litert": "ai_edge_litert"}[runtime])
    inputs, expected = golden.read(folder / golden.FILE)
    out = zoo.export(folder, tmp_path / "out", format=runtime, patch=inputs[0].shape[1:4])
    run = exported_network.opened(runtime, out / exported_network.RUNTIMES[runtime])
    assert window_network.relative_difference(run(inputs), expected["output_0"]) < 1e-4
    record = json.loads((out / export.RECORD).read_text())
    assert record["format"] == runtime and record["difference"] < 1e-4
    assert (out / "card.json").exists()


def test_predict_runs_through_a_runtime(folder, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    network = export.runtime_file(folder, "onnx")
    assert network == export.runtime_file(folder, "onnx") and network.exists()
    scan = waves_in_air((21, 18, 16), oblique_affine())
    result = Predictor(folder, settings=Settings(runtime="onnx", network=network))(scan)
    assert np.mean(values_of(result) == values_of(zoo.predict(folder, scan))) >= 0.999


@pytest.mark.parametrize(
    ("dtype", "share", "least"), [pytest.param("float16", 0.6, 0.98, marks=pytest.mark.slow), ("int8", 0.4, 0.8)]
)
def test_narrow_weights_shrink_the_file_and_the_loss_is_measured(dtype, share, least, folder, exported, tmp_path):
    out = zoo.export(folder, tmp_path / dtype, weights=dtype)
    size = [(home / "variables" / "variables.data-00000-of-00001").stat().st_size for home in (out, exported)]
    assert size[0] < size[1] * (share + 0.35)  # a network this small is half vectors, which stay float32
    dice = comparison.dice_with(out, folder, waves_in_air((20, 22, 24)))
    assert set(dice) == {"left_part", "right_part"} and least <= min(dice.values()) <= 1
    record = json.loads((out / "assets.extra" / export.RECORD).read_text())
    assert 0 < record["difference"] < 0.2


def test_int8_keeps_each_output_channel_within_half_a_step():
    values = np.random.default_rng(0).normal(0, [1, 10, 0.1], (3, 3, 3, 2, 3)).astype(np.float32)
    step = np.abs(values).max((0, 1, 2, 3)) / 127
    assert np.all(np.abs(StoredWeight(values, "int8").read() - values).max((0, 1, 2, 3)) <= step * 0.5001)


REFUSED = [
    ({"format": "onxx"}, r"'onxx'.*'onnx'"),
    ({"weights": "int4"}, "int4"),
    ({"format": "onnx", "weights": "int8"}, r"dtype of weights in onnx 'int8'"),
    ({"format": "openvino", "windows": export.Windows(mirror=True)}, "holds the network alone"),
    ({"patch": (10, 12, 8)}, r"multiples of \(4, 4, 4\)"),
    ({"windows": export.Windows(overlap=1.0)}, "overlap must be in"),
    ({"windows": export.Windows(mirror=(3,))}, "mirror_axes must be some of 0, 1, 2"),
    ({"format": "monai_bundle"}, "remove_small"),
]


@pytest.mark.parametrize(("choices", "message"), REFUSED, ids=str)
def test_what_cannot_be_is_refused_by_name_and_leaves_nothing(choices, message, folder, tmp_path):
    with pytest.raises(ValueError, match=message):
        zoo.export(folder, tmp_path / "out", **choices)
    assert not list(tmp_path.iterdir())


def test_cards_that_a_graph_cannot_hold_are_refused_by_name(folder):
    import dataclasses

    card = trained_models.card(folder)
    for changed, message in (
        (dataclasses.replace(card, postprocessing=(Step("eeg_decode"),)), "eeg_decode"),
        (dataclasses.replace(card, preprocessing=(Step("histogram_match"),)), "histogram_match"),
        (dataclasses.replace(card, output=dataclasses.replace(card.output, kind="codes")), "gives codes"),
    ):
        with pytest.raises(ValueError, match=message):
            saved.check(changed)


def test_a_folder_that_exists_is_kept(folder, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        zoo.export(folder, tmp_path / "out")


CLI = "import sys; from tensorflow.python.tools.saved_model_cli import main; sys.exit(main())"


@pytest.fixture
def quick(monkeypatch):
    """Lets a format write one small file in place of a network."""

    def use(write, format="onnx"):
        def whole(model, plan, folder):
            write(folder)

        monkeypatch.setitem(export.FORMATS, format, whole)

    return use


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        tf.errors.ResourceExhaustedError(None, None, "x.tempstate; No space left on device [Op:MergeV2Checkpoints]"),
    ],
    ids=["system", "tensorflow"],
)
def test_a_full_disk_is_one_error_that_names_the_folder(error, quick, folder, tmp_path):
    def write(part):
        (part / "half").write_text("half")
        raise error

    quick(write)
    with pytest.raises(OSError, match=r"/served could not be written \(No space left on device\); what was there is"):
        zoo.export(folder, tmp_path / "served", format="onnx")
    assert not list(tmp_path.iterdir())


def test_other_failures_of_a_writer_pass_as_they_are(quick, folder, tmp_path):
    def write(part):
        raise tf.errors.InternalError(None, None, "a kernel failed")

    quick(write)
    with pytest.raises(tf.errors.InternalError, match="a kernel failed"):
        zoo.export(folder, tmp_path / "served", format="onnx")


def test_of_two_exports_at_once_the_second_is_told(quick, folder, tmp_path):
    def write(part):
        (part / "network.onnx").write_text("second")
        (tmp_path / "served").mkdir(exist_ok=True)
        (tmp_path / "served" / "network.onnx").write_text("first")

    quick(write)
    with pytest.raises(FileExistsError, match="served exists"):
        zoo.export(folder, tmp_path / "served", format="onnx")
    assert (tmp_path / "served" / "network.onnx").read_text() == "first"


def test_a_cached_network_that_is_broken_or_empty_is_made_again(quick, folder, tmp_path, monkeypatch):
    made = []

    def write(part):
        made.append(1)
        (part / "network.onnx").write_text("network")

    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    quick(write)
    path = export.runtime_file(folder, "onnx")
    assert export.runtime_file(folder, "onnx") == path and len(made) == 1
    path.write_text("netwerk")
    assert export.runtime_file(folder, "onnx").read_text() == "network" and len(made) == 2
    for file in path.parent.iterdir():
        file.unlink()
    assert export.runtime_file(folder, "onnx").read_text() == "network" and len(made) == 3


@pytest.mark.slow
def test_saved_model_cli_runs_it(folder, exported, tmp_path):
    scan = waves_in_air((19, 16, 22), oblique_affine())
    np.save(tmp_path / "volume.npy", values_of(scan)[..., None].astype(np.float32))
    np.save(tmp_path / "affine.npy", scan.affine.astype(np.float32))
    np.save(tmp_path / "spacing_mm.npy", np.zeros(3, np.float32))
    files = ";".join(f"{name}={tmp_path}/{name}.npy" for name in ("volume", "affine", "spacing_mm"))
    words = ["run", "--dir", exported, "--tag_set", "serve", "--signature_def", "serving_default", "--inputs", files]
    words += ["--outdir", tmp_path]
    done = subprocess.run([sys.executable, "-c", CLI, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.mean(np.load(tmp_path / "labels.npy") == values_of(zoo.predict(folder, scan))) >= 0.999


SHIPPED = [name for name in zoo.list_models("*.*") if trained_models.card(name).output.kind == "segmentation"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::zoo.inference.plausibility.PlausibilityWarning")  # agreement alone counts here
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_agree_on_a_shape_not_seen(name, tmp_path):
    card = trained_models.card(name)
    scans = shipped_scans.scans_for(card)
    if card.input.tabular:
        scans = [sample.slicer[20:28, :, :] for sample in scans]
    tabular = {"tabular": np.full(len(card.input.tabular), np.nan, np.float32)} if card.input.tabular else {}
    volume = np.stack([values_of(sample) for sample in scans], -1)
    out = zoo.export(name, tmp_path / "served")
    result = served(tf.saved_model.load(str(out)), scans[0], "labels", volume=volume, **tabular)["labels"]
    expected = values_of(zoo.predict(name, scans if len(scans) > 1 else scans[0]))
    assert np.mean(result == expected) >= 0.999
    both = np.count_nonzero(result) + np.count_nonzero(expected)
    assert both > 50 and 2 * np.count_nonzero((result == expected) & (expected > 0)) / both > 0.998


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("runtime", ["onnx", "openvino", "litert", "tensorflow"])
def test_shipped_networks_give_their_golden_output(name, runtime, tmp_path):
    home = trained_models.find(name)
    inputs, expected = golden.read(home / golden.FILE)
    format = "saved_model" if runtime == "tensorflow" else runtime
    try:
        out = zoo.export(name, tmp_path / "out", format=format, patch=inputs[0].shape[1:4])
    except ValueError as error:
        assert "can hold" in str(error) or "cannot hold" in str(error)
        pytest.skip(str(error))
    path = out if runtime == "tensorflow" else out / exported_network.RUNTIMES[runtime]
    assert (
        window_network.relative_difference(exported_network.opened(runtime, path)(inputs), expected["output_0"]) < 1e-4
    )


@pytest.mark.slow
@pytest.mark.skipif("ZOO_TORCH" not in os.environ, reason="ZOO_TORCH names a Python that has torch and monai")
@pytest.mark.parametrize("name", SHIPPED)
def test_bundles_pass_monais_own_check_and_give_the_golden_output(name, tmp_path):
    try:
        out = zoo.export(name, tmp_path / "bundle", format="monai_bundle")
    except ValueError as error:
        assert "can hold" in str(error)
        pytest.skip(str(error))
    worker = SUPPORT / "monai_worker.py"
    words = [os.environ["ZOO_TORCH"], worker, out, trained_models.find(name) / golden.FILE]
    done = subprocess.run(list(map(str, words)), check=True, capture_output=True, text=True)
    assert float(done.stdout.strip().splitlines()[-1]) < 1e-4
