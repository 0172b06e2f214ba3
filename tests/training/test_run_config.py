"""The settings of a run: every one of them guards the run folder."""

import dataclasses
import functools
import json

import pytest
from support.tasks import BALL, draw_balls

from zoo.hub.card import Plausible
from zoo.hub.tabular import Tabular
from zoo.losses import Combined, cross_entropy, dice
from zoo.training.run import run_folder
from zoo.training.run.run_config import TrainOptions, differences, run_config
from zoo.training.task import Mining

AGE = Tabular("age", "years", 18, 110, 60, 10)


def another_loss():
    return Combined([(1.0, dice)])


# Another value of each setting of a task.
CHANGES = {
    "name": "cube",
    "channels": ("T2w",),
    "labels": {0: ("background", 0), 1: ("ball", 8)},
    "spacing_mm": (1.0, 1.0, 2.0),
    "patch": (16, 24, 16),
    "native_grid": True,
    "preprocessing": ({"name": "z_score"},),
    "context": 2,
    "masked": True,
    "tabular": (AGE,),
    "tabular_dropout": 0.5,
    "reader": "folder",
    "patterns": {"T1w": "{id}.nii.gz"},
    "label_map": {255: 7},
    "positive_fraction": 0.5,
    "augment": lambda image, labels, seed: (image, labels),
    "builder": "resunet",
    "arguments": {"filters": (4, 8), "dropout": 0.2},
    "divisor": (4, 4, 4),
    "code_size": 8,
    "fixed_size": True,
    "kind": "codes",
    "activation": "sigmoid",
    "postprocessing": ({"name": "largest_component"},),
    "lesions": ("ball",),
    "loss": another_loss,
    "loss_arguments": {"reduction": "sum"},
    "optimizer": {**BALL.fit.optimizer, "learning_rate": 1e-3},
    "batch_size": 3,
    "steps": 120,
    "metrics": list,
    "monitor": "dice",
    "validation_batches": 3,
    "mining": Mining(every=2),
    "prior_power": 0.5,
    "final_bias": (0.0, 1.0),
    "learner": print,
    "watchers": print,
    "samples": functools.partial(draw_balls, radius=3),
    "sample_arguments": {"radius": 3},
    "batched": True,
    "maps": ("place",),
    "test_cases": print,
    "description": "Finds a dark ball.",
    "intensities": {"T1w": "any scale"},
    "training_data": {"data": "cubes", "licence": "none needed"},
    "references": ("10.1000/1",),
    "intended_use": "Tests.",
    "limits": ("Balls only.",),
}
OPTIONS = {
    "seed": 1,
    "steps": 120,
    "precision": "bfloat16",
    "jit": False,
    "deterministic": True,
    "start_from": "runs/other",
    "memory": "low",
}


def toy_loss(reduction="sum_over_batch_size"):
    import keras

    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)


TASK = BALL.replace(loss=toy_loss)


FLOAT32 = TrainOptions(precision="float32")


def config(task=TASK, options=FLOAT32, source="synthetic"):
    return run_config(task, source, options, steps=options.steps or task.fit.steps)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return run_folder.open_run(tmp_path_factory.mktemp("runs") / "run", config())


def test_every_setting_has_a_change_to_try():
    assert set(CHANGES) == set(TASK.settings()) - set(run_folder.NOT_COMPARED)
    assert set(OPTIONS) == {field.name for field in dataclasses.fields(TrainOptions)}


@pytest.mark.parametrize("name", CHANGES)
def test_a_folder_is_refused_after_another_setting_of_the_task(out, name):
    key = {"name": "task"}.get(name, name)
    with pytest.raises(ValueError, match=rf"holds another run: (.*; )?{key}[. ].*was .*, now .*Repeat its settings"):
        run_folder.open_run(out, config(TASK.replace(**{name: CHANGES[name]})))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_folder_is_refused_after_another_option(out, name):
    options = dataclasses.replace(FLOAT32, **{name: OPTIONS[name]})
    with pytest.raises(ValueError, match=rf"{name} was .*, now .*choose a new folder"):
        run_folder.open_run(out, config(options=options))


def test_a_folder_is_refused_after_another_source_and_opened_with_the_same(out):
    with pytest.raises(ValueError, match=r"source was 'synthetic', now 'data'"):
        run_folder.open_run(out, config(source="data"))
    assert run_folder.open_run(out, config()) == out


def test_two_lambdas_of_one_name_are_two_losses():
    losses = [lambda term=term: Combined([(1.0, term)]) for term in (dice, cross_entropy)]
    one, other = (config(TASK.replace(loss=loss)) for loss in losses)
    assert one["loss"][0] == other["loss"][0] and one["loss"] != other["loss"]


def test_equal_settings_give_equal_configs_after_json():
    assert json.loads(json.dumps(config())) == config() == config(dataclasses.replace(TASK))


def test_differences_name_the_path_of_a_setting():
    now = config(TASK.replace(optimizer={**TASK.fit.optimizer, "learning_rate": 1.0}))
    assert differences(config(), now) == ["optimizer.learning_rate was 0.003, now 1.0"]


def test_a_run_goes_on_when_only_prediction_and_its_checks_changed(out):
    bounds = Plausible(extent_mm=(60.0, 700.0))
    assert run_folder.open_run(out, config(TASK.replace(plausible=bounds, centred=True, mirrored=True))) == out


def test_a_state_without_its_settings_is_refused(tmp_path):
    (tmp_path / run_folder.LAST).write_bytes(b"state")
    with pytest.raises(ValueError, match=r"last\.safetensors without config\.json.*Put config\.json back"):
        run_folder.open_run(tmp_path, config())


def test_a_trained_model_without_the_settings_of_its_run_is_refused(tmp_path):
    (tmp_path / "unet3d.ball").mkdir()
    (tmp_path / "unet3d.ball" / "card.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds unet3d\.ball without config\.json.*choose a new folder"):
        run_folder.open_run(tmp_path, config())


def test_settings_that_are_no_json_are_refused(tmp_path):
    (tmp_path / run_folder.CONFIG).write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no JSON"):
        run_folder.open_run(tmp_path, config())


def test_runs_from_before_there_was_a_choice_of_memory_go_on():
    assert "memory" not in config() and config(options=TrainOptions(memory="low"))["memory"] == "low"


def test_an_unknown_memory_names_its_neighbour():
    with pytest.raises(ValueError, match=r"memory 'lo'.*'low'"):
        TrainOptions(memory="lo")
