"""The search: space, resuming, table, refusals."""

import json

import pytest
from support.tasks import BALL

from zoo.training import fit
from zoo.training.experiments import hyperparameter_search
from zoo.training.run.divergence import DivergedError

OPTIONS = fit.TrainOptions(steps=25, precision="float32")
SPACE = {
    "optimizer.learning_rate": hyperparameter_search.Between(1e-3, 3e-2, log=True),
    "arguments.filters": [(2, 4), (4, 8)],
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    out = tmp_path_factory.mktemp("search")
    task = BALL.replace(optimizer={"name": "adam"}, patch=(16, 16, 16), batch_size=1)
    hyperparameter_search.search(task, "synthetic", out, space=SPACE, trials=1, options=OPTIONS)
    return out, hyperparameter_search.search(task, "synthetic", out, space=SPACE, trials=3, options=OPTIONS)


@pytest.mark.slow
def test_a_search_goes_on_until_its_trials_have_ended(searched):
    out, best = searched
    rows = (out / hyperparameter_search.TABLE).read_text().splitlines()
    assert rows[0] == "trial,state,score,optimizer.learning_rate,arguments.filters" and len(rows) == 4
    assert len({row.split(",")[3] for row in rows[1:]}) == 3  # one that goes on draws no trial twice
    assert json.loads((out / "best.json").read_text())["settings"].keys() == SPACE.keys() == best.keys()
    assert best["arguments.filters"] in SPACE["arguments.filters"]
    assert (out / hyperparameter_search.IMPORTANCE).read_bytes().startswith(b"\x89PNG")
    assert (out / "trial_002" / "unet3d.ball" / "card.json").exists()


def test_an_interrupted_trial_is_made_up_for_and_a_diverged_one_counts(tmp_path, monkeypatch):
    ends = iter([KeyboardInterrupt(), DivergedError("nan"), None])

    def run(task, source, folder, options, callbacks):
        end = next(ends)
        if end is not None:
            raise end
        folder.mkdir(parents=True)
        (folder / "log.csv").write_text("step,val_dice\n1,0.5\n")

    monkeypatch.setattr(fit, "run", run)
    monkeypatch.setattr(hyperparameter_search.run_folder, "read_log", lambda path: [{"val_dice": 0.5}])
    task = BALL.replace(monitor="dice")
    with pytest.raises(KeyboardInterrupt):
        hyperparameter_search.search(task, "synthetic", tmp_path, space=SPACE, trials=2)
    hyperparameter_search.search(task, "synthetic", tmp_path, space=SPACE, trials=2)
    rows = (tmp_path / hyperparameter_search.TABLE).read_text().splitlines()[1:]
    assert [row.split(",")[:2] for row in rows] == [["1", "FAIL"], ["2", "COMPLETE"]]
    wider = {**SPACE, "arguments.filters": [(2, 4), (4, 8), (8, 16)]}
    with pytest.raises(
        ValueError, match=r"holds another run: space\.arguments\.filters was \[\[2, 4\], \[4, 8\]\], now"
    ):
        hyperparameter_search.search(task, "synthetic", tmp_path, space=wider, trials=3)
    with pytest.raises(ValueError, match="holds another run: batch_size was 2, now 3"):
        hyperparameter_search.search(task.replace(batch_size=3), "synthetic", tmp_path, space=SPACE, trials=3)


def test_settings_are_changed_by_path():
    changed = hyperparameter_search.with_settings(
        BALL, {"batch_size": 3, "optimizer.learning_rate": 0.5, "arguments.dropout": 0.2}
    )
    assert changed.fit.batch_size == 3 and changed.fit.optimizer["learning_rate"] == 0.5
    assert changed.fit.optimizer["schedule"] == "polynomial" and changed.network.arguments == {
        "filters": (4, 8),
        "dropout": 0.2,
    }


def test_bad_spaces_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no task setting 'optimiser'. Did you mean 'optimizer'"):
        hyperparameter_search.search(BALL, "synthetic", tmp_path, space={"optimiser.learning_rate": [1]})
    with pytest.raises(ValueError, match=r"search space is empty"):
        hyperparameter_search.search(BALL, "synthetic", tmp_path, space={})
