"""The task `stroke_outcome`: tabular inputs, masks, its loss, and that everything that trains it can."""

import json
import sys

import nibabel
import numpy as np
import pytest
import tensorflow as tf
from support import infarcts, stroke_task
from support.local_network import cluster_options
from support.paths import SUPPORT

from zoo.datasets import cases as data_cases
from zoo.hub.tabular import encode
from zoo.losses import binary_cross_entropy, negative_dice
from zoo.models.parts.sizes import strides_by_spacing
from zoo.synth.anatomy import territories
from zoo.synth.stroke_infarcts import mask_folder, outlines
from zoo.tasks import stroke_outcome as stroke
from zoo.training import batches, fit, local_cluster, network
from zoo.training.experiments import cross_validation, hyperparameter_search
from zoo.training.run import model_card, run_config, run_folder

OPTIONS = fit.TrainOptions(steps=25, precision="float32")


@pytest.fixture
def one_brain(monkeypatch):
    codes = np.zeros((1, 40, 48, 44), np.uint8)
    codes[0, 4:36, 4:44, 4:40] = 2 + territories.CODE * territories.TERRITORIES["middle_frontal"]
    places = np.full((1, len(territories.OCCLUSIONS), 2, territories.NUM_PLACES, 3), 20, np.float32)
    monkeypatch.setattr(territories, "coded", lambda names: (codes, places))


def test_samples_have_the_vector_that_encoding_gives(one_brain):
    task = stroke.TASK.replace(patch=(8, 16, 4))
    (image, vector), labels = stroke.synthesis(task, "train")(tf.constant([0, 1]))
    assert image.shape == (8, 16, 4, 6) and labels.shape == (8, 16, 4, 2) and vector.shape == (8,)
    values = np.asarray(vector).reshape(4, 2)
    assert not values[:, 1].any()  # nothing is missing
    grades = {word: encode(stroke.TABULAR, {"tici": word})[2] for word in stroke.TICI}
    assert min(abs(values[1, 0] - number) for number in grades.values()) < 1e-6
    hours = values[0, 0] * stroke.TABULAR[0].sd + stroke.TABULAR[0].mean
    assert 0.5 <= hours <= 24
    image_alone, _ = stroke.synthesis(task.replace(tabular=()), "train")(tf.constant([0, 1]))
    np.testing.assert_array_equal(image_alone, image)


def test_strides_wait_for_thick_slices():
    assert strides_by_spacing((1.2, 1.2, 6.5), 3) == ((2, 2, 1), (2, 2, 1), (2, 2, 2))
    assert strides_by_spacing((1, 1, 1), 2) == ((2, 2, 2), (2, 2, 2))
    assert strides_by_spacing((3, 1, 1.9), 1) == ((1, 2, 2),)


def test_the_loss_is_the_sources_by_hand_and_padding_does_not_count():
    logit = np.array([2.0, -1.0, 0.5, 7.0], np.float32)
    p = 1 / (1 + np.exp(-logit[:3]))
    y = np.array([1.0, 0.0, 1.0])
    expected = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)) - 2 * (y * p).sum() / (y.sum() + p.sum())
    logits = np.stack([np.zeros(4), logit], -1).reshape(1, 4, 1, 1, 2).astype(np.float32)
    labels = np.array([[1, 1], [0, 1], [1, 1], [1, 0]], np.int32).reshape(1, 4, 1, 1, 2)
    assert float(stroke.loss(epsilon=0.0)(labels, logits)) == pytest.approx(expected, abs=1e-6)
    entropy = float(stroke.loss(dice=0.0)(labels, logits))
    assert entropy == pytest.approx(float(binary_cross_entropy(labels[:, :3, ..., :1], logits[:, :3])[0]), abs=1e-6)


def descend(loss, steps=300):
    """Logits of one lesion voxel in eight and of the rest, learned over patches of which three in four are empty."""
    import keras

    weights = tf.Variable([np.log(0.01 / 0.99), 0.0])  # bias, and the weight of a feature that marks the lesion
    optimizer = keras.optimizers.SGD(2.0)
    feature = np.zeros((4, 8, 8, 8, 1), np.float32)
    feature[0, :4, :4, :4] = 1.0
    for _ in range(steps):
        with tf.GradientTape() as tape:
            cost = tf.reduce_mean(loss(feature, weights[0] + weights[1] * feature))
        optimizer.apply([tape.gradient(cost, weights)], [weights])
    return 1 / (1 + np.exp(-float(weights[0] + weights[1])))


def test_cross_entropy_and_dice_escape_where_dice_alone_stays_at_a_small_constant():
    both = descend(lambda y, z: binary_cross_entropy(y, z) + negative_dice(y, z))
    alone = descend(negative_dice)
    assert both > 0.9 and alone < 0.01


def test_gaps_come_as_often_as_asked_and_repeat():
    task = stroke.TASK.replace(tabular_dropout=0.2)
    batch = ((np.zeros((2, 1, 1, 1, 6), np.float32), np.tile([1.5, 0.0], (2, 4)).astype(np.float32)), np.zeros((2, 1)))
    endless = tf.data.Dataset.from_tensors(batch).repeat()
    first, again = (
        np.stack([x[1] for x, _ in batches._drop_tabular(task, endless, 3, 0, (0, 1)).take(500).as_numpy_iterator()])
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)
    missing = first.reshape(1000, 4, 2)[..., 1] > 0
    assert set(map(tuple, first.reshape(-1, 2))) == {(1.5, 0.0), (0.0, 1.0)}
    assert 0.15 < missing.all(1).mean() < 0.25
    assert 0.23 < missing.mean() < 0.33  # 0.2 + 0.8 x 0.1
    later = next(iter(batches._drop_tabular(task, endless, 3, 7, (0, 1))))[0][1]
    np.testing.assert_array_equal(later, first[7])


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """Cases on three grids in the layout of ISLES 2017, with a table."""
    return stroke_task.write_cases(tmp_path_factory.mktemp("native"))


def test_a_folder_of_native_grids_gives_padded_masked_batches_with_its_table(native, tmp_path):
    task = stroke_task.TASK.replace(samples=None, patch=(16, 16, 12), batch_size=4, tabular_dropout=0.0)
    data = batches.open_data(task, native, seed=0, out=tmp_path)
    (volume, vector), labels = next(iter(data.training(0)))
    assert volume.shape == (4, 16, 16, 12, 6) and labels.shape == (4, 16, 16, 12, 2) and vector.shape == (4, 8)
    depth = np.asarray(labels)[:, 8, 8, :, 1].sum(1)
    assert set(depth) <= {6, 8, 10}  # slices of the scans; the rest of each patch is padding
    assert not np.asarray(volume)[np.asarray(labels)[..., 1] == 0].any()
    assert np.asarray(vector)[:, 7].all()  # NIHSS is not in the table
    assert np.asarray(vector)[:, 1].sum() == 0  # the time is
    prior = data.class_prior()
    assert sum(prior) == pytest.approx(1) and 0.005 < prior[1] < 0.5


def test_a_bad_table_names_the_case_and_the_value(native):
    case = data_cases.cases(native)[0]
    bad = type(case)(case.id, case.subject, case.channels, case.labels, {"time_to_reperfusion_h": -1.0})
    with pytest.raises(ValueError, match=r"Case training_1: time_to_reperfusion_h is -1 h, and it goes from 0 to 24"):
        batches.conditioned(stroke_task.TASK, bad)


def test_the_card_tells_the_tabular_inputs():
    card = model_card.describe(stroke.TASK, {"source": "synthetic", "seed": 0, "steps": 1}, {"seconds": 60.0})
    assert [field.name for field in card.input.tabular] == ["time_to_reperfusion_h", "tici", "age", "nihss"]
    assert card.arguments["conditioning"] == 8 and card.input.spacing_mm is None and card.training.synthetic
    assert card.input.tabular[1].grades["2b"] == 0.7


def test_test_cases_are_whole_scans_on_their_grids(one_brain, monkeypatch, tmp_path):
    monkeypatch.setattr(stroke, "GRIDS", (((16, 24, 8), (3.0, 2.0, 5.0)), ((20, 16, 6), (2.0, 3.0, 6.0))))
    monkeypatch.setattr(stroke, "NUM_TEST", 3)
    cases = stroke.test_cases(tmp_path)
    shapes = [nibabel.load(case.channels["Tmax"]).shape for case in cases]
    assert shapes == [(16, 24, 8), (16, 24, 8), (20, 16, 6)]
    assert nibabel.load(cases[2].labels).header.get_zooms() == (2.0, 3.0, 6.0)
    assert encode(stroke.TABULAR, cases[0].tabular)[1::2].sum() == 0
    assert (tmp_path / "tabular.csv").read_text().startswith("case,time_to_reperfusion_h,tici,age,nihss\ntest_00,")
    before = cases[0].labels.stat().st_mtime_ns
    assert stroke.test_cases(tmp_path)[0].tabular == cases[0].tabular
    assert cases[0].labels.stat().st_mtime_ns == before


@pytest.fixture
def real_infarcts(one_brain, monkeypatch, tmp_path):
    """Six masks, of which four train, over the made-up brain, which lies as they do."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ZOO_INFARCTS", str(infarcts.write_folder(tmp_path / "masks")))
    stroke._tell_infarcts.cache_clear()

    def lay(names, shape):
        nodes = [np.arange(0, size + outlines.LATTICE_MM, outlines.LATTICE_MM) for size in shape]
        grid = np.stack(np.meshgrid(*nodes, indexing="ij"))
        return (grid[None] + np.reshape(infarcts.ORIGIN, (1, 3, 1, 1, 1))).astype(np.float32)

    monkeypatch.setattr(outlines, "stacked_ways", lay)
    return stroke.with_infarcts(stroke.BALLS, 4)


def test_without_a_folder_of_infarcts_the_task_is_that_of_the_shipped_weights():
    assert stroke.BALLS.synthesis.samples is stroke.synthesis and not stroke.BALLS.synthesis.sample_arguments
    assert mask_folder.names() or stroke.TASK is stroke.BALLS


def test_a_run_on_infarcts_says_what_it_found_and_its_settings_and_card_tell(real_infarcts, capsys):
    task = real_infarcts.replace(patch=(8, 16, 4))
    (image, vector), labels = task.synthesis.samples(task, "train", infarcts=4)(tf.constant([0, 1]))
    assert "4 train, 2 of them with age and NIHSS; 2 are held out" in capsys.readouterr().err
    assert image.shape == (8, 16, 4, 6) and labels.shape == (8, 16, 4, 2) and vector.shape == (8,)
    task.synthesis.samples(task, "validation", infarcts=4)
    assert "Infarcts of" not in capsys.readouterr().err  # said once
    with pytest.raises(ValueError, match="trains on 5 infarcts, and ZOO_INFARCTS has 4 now"):
        stroke.infarct_synthesis(task, "train", infarcts=5)
    differing = run_config.differences(
        *(run_config.run_config(each, "synthetic", OPTIONS, steps=9) for each in (stroke.BALLS, real_infarcts))
    )
    assert any(phrase.startswith("sample_arguments") for phrase in differing)
    card = model_card.describe(real_infarcts, {"source": "synthetic", "seed": 0, "steps": 1}, {"seconds": 60.0})
    assert "outlines, age and NIHSS of 4 real infarcts" in card.training.data
    assert "no real patient" not in card.training.data


def test_values_that_are_not_known_are_missing_in_the_vector(real_infarcts):
    sample = stroke.infarct_synthesis(real_infarcts.replace(patch=(4, 6, 2)), "train", infarcts=4)
    pairs = {tuple(np.asarray(sample(tf.constant([0, number]))[0][1]).reshape(4, 2)[2]) for number in range(12)}
    age = stroke.TABULAR[2]
    known = {((years - age.mean) / age.sd, 0.0) for years in (78, 89)}
    assert len(pairs) == 3 and (0.0, 1.0) in pairs
    np.testing.assert_allclose(sorted(pairs - {(0.0, 1.0)}), sorted(known), rtol=1e-5)


def test_test_cases_of_infarcts_are_held_out_ones(real_infarcts, monkeypatch, tmp_path):
    monkeypatch.setattr(stroke, "GRIDS", (((24, 20, 16), (2.0, 3.0, 4.0)),))
    monkeypatch.setattr(stroke, "NUM_TEST", 1)
    asked = []
    load = outlines.load
    monkeypatch.setattr(outlines, "load", lambda split, **leave: asked.append(split) or load(split, **leave))
    (case,) = real_infarcts.synthesis.test_cases(tmp_path / "cases")
    assert case.id == "infarct_00" and asked == ["test"]
    assert set(case.tabular) == {"time_to_reperfusion_h", "tici"}  # age and NIHSS of 5 and 10 are not known
    assert (tmp_path / "cases" / "tabular.csv").read_text().splitlines()[1].endswith(",,")
    assert encode(stroke.TABULAR, case.tabular)[1::2].tolist() == [0, 0, 1, 1]


def test_both_published_forms_build():
    narrow = {"filters": (2, 4, 8)}
    for form in (stroke.MONTEIRO, stroke.PAPER):
        model = network.build(stroke.TASK.replace(arguments={**form, **narrow}), 1)
        assert [tensor.shape[-1] for tensor in model.inputs] == [6, 8]


@pytest.mark.slow
def test_folds_predict_every_case_with_its_own_table(native, tmp_path):
    task = stroke_task.TASK.replace(samples=None, validation_batches=1)
    rows = cross_validation.cross_validate(task, native, tmp_path, folds=5, options=OPTIONS)
    dice = next(row for row in rows if row["label"] == "infarct" and row["metric"] == "dice")
    assert dice["n"] == 5
    predicted = nibabel.load(tmp_path / cross_validation.OUT_OF_FOLD / "training_1_stroke_outcome.nii.gz")
    assert predicted.shape == (20, 22, 6)


@pytest.mark.slow
def test_a_search_reaches_the_loss_and_goes_on(tmp_path):
    space = {
        "optimizer.learning_rate": hyperparameter_search.Between(1e-4, 1e-2, log=True),
        "loss_arguments.dice": stroke.SEARCH["loss_arguments.dice"],
    }
    hyperparameter_search.search(stroke_task.TASK, "synthetic", tmp_path, space=space, trials=1, options=OPTIONS)
    best = hyperparameter_search.search(stroke_task.TASK, "synthetic", tmp_path, space=space, trials=2, options=OPTIONS)
    assert best.keys() == space.keys() and len((tmp_path / hyperparameter_search.TABLE).read_text().splitlines()) == 3
    assert json.loads((tmp_path / "best.json").read_text())["settings"]["loss_arguments.dice"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("servers", [0, 1])
def test_a_cluster_trains_it_and_survives_the_death_of_a_worker(tmp_path, monkeypatch, servers):
    out, started = tmp_path / "run", []
    begin = local_cluster._start_member
    monkeypatch.setattr(local_cluster, "_start_member", lambda *args: started.append(begin(*args)) or started[-1])
    killer = stroke_task.killer(out, started, step=25)
    command = [sys.executable, str(SUPPORT / "stroke_task.py"), str(out)]
    assert local_cluster.launch(command, workers=2, parameter_servers=servers, **cluster_options()) == 0
    killer.join()
    assert len(started) >= 3
    assert run_folder.read_log(out / "log.csv")[-1]["step"] == 50
    assert (out / "vnet.stroke_outcome" / "card.json").exists()
