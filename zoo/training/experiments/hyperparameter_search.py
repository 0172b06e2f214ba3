"""Hyper-parameter search with Optuna: on SQLite, pruned, resumable, with its importance plot."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from zoo.errors import unknown_choice
from zoo.files import csv_text, replacing, write_whole
from zoo.training import fit
from zoo.training.run import run_folder
from zoo.training.run.divergence import DivergedError
from zoo.training.run.run_config import run_config
from zoo.training.task import Task

STUDY, TABLE, IMPORTANCE = "study.sqlite", "trials.csv", "importance.png"
DIVERGED = "diverged"


@dataclasses.dataclass(frozen=True)
class Between:
    """Numbers from `low` to `high`, evenly on a logarithmic axis where `log`; whole numbers where both are."""

    low: float
    high: float
    log: bool = False


Space = Mapping[str, Between | Sequence[Any]]


def suggest(trial: Any, space: Space) -> dict[str, Any]:
    """Returns one point of the space: a `Between` gives a number, a sequence one of its entries."""
    return {key: _suggest_value(trial, key, choice) for key, choice in space.items()}


def _suggest_value(trial: Any, key: str, choice: Between | Sequence[Any]) -> Any:
    if not isinstance(choice, Between):
        # Entries may be tuples, which the study's database cannot hold: it stores their positions.
        return choice[trial.suggest_categorical(key, list(range(len(choice))))]
    if isinstance(choice.low, int) and isinstance(choice.high, int):
        return trial.suggest_int(key, choice.low, choice.high, log=choice.log)
    return trial.suggest_float(key, choice.low, choice.high, log=choice.log)


def with_settings(task: Task, settings: Mapping[str, Any]) -> Task:
    """Returns the task with settings changed by path.

    Args:
        task: where to start.
        settings: "batch_size", "optimizer.learning_rate", "arguments.filters" and the like, to new values.

    Raises:
        ValueError: a path that names no field of a task; the nearest match is named.

    Example:
        >>> with_settings(task, {"optimizer.learning_rate": 0.01}).fit.optimizer["learning_rate"]  # doctest: +SKIP
        0.01
    """
    for path, value in settings.items():
        name, _, inner = path.partition(".")
        known = task.settings()
        if name not in known:
            raise unknown_choice("task setting", name, known)
        task = task.replace(**{name: dict(known[name]) | {inner: value} if inner else value})
    return task


class _Report(keras.callbacks.Callback):
    """Reports each epoch's score to the study and stops a trial that the study gives up."""

    def __init__(self, trial: Any, monitor: str):
        super().__init__()
        self.trial, self.monitor = trial, f"val_{monitor}"

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        import optuna

        self.trial.report(float((logs or {})[self.monitor]), epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned(f"given up after epoch {epoch}")


def search(
    task: Task,
    source: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    space: Space,
    trials: int = 20,
    options: fit.TrainOptions | None = None,
) -> dict[str, Any]:
    """Looks for the settings with the best validation score.

    Each trial is an ordinary run folder below `out`. The study lives in `out/study.sqlite`: killed and started again
    it continues until `trials` have ended; several processes may share it. Median pruning ends poor trials early.

    Args:
        task: what to learn.
        source: as in `zoo.train`.
        out: the folder of the search.
        space: setting path (see `with_settings`) to `Between(low, high)` or a list of choices.
        trials: number of trials to end, earlier ones included.
        options: seed, steps and precision of every trial.

    Returns:
        The best settings, `{path: value}`; also written to `best.json`, beside `trials.csv` and `importance.png`.

    Raises:
        ValueError: an empty space, a path that is no setting, or a folder of a search with another task, source, space
            or other options: every difference is named.
        ImportError: optuna is missing.

    Example:
        >>> search(task, "synthetic", "runs/search", space={"batch_size": [1, 2]})  # doctest: +SKIP
        {'batch_size': 2}
    """
    if not space:
        raise ValueError("The search space is empty: give at least one setting, such as optimizer.learning_rate.")
    with_settings(task, {path: None for path in space if "." not in path} | {path: 0 for path in space if "." in path})
    options, out = options or fit.TrainOptions(), pathlib.Path(out)
    config = run_config(task, source, options, steps=options.steps or task.fit.steps)
    run_folder.open_run(out, config | {"space": json.loads(json.dumps(dict(space), default=_as_plain))})
    study = _open_study(out, options.seed)

    def objective(trial: Any) -> float:
        changed = with_settings(task, suggest(trial, space))
        run = out / f"trial_{trial.number:03d}"
        try:
            fit.run(changed, source, run, options, callbacks=[_Report(trial, task.fit.monitor)])
        except DivergedError:
            trial.set_user_attr(DIVERGED, True)
            raise
        finally:
            keras.utils.clear_session()  # or the networks of all trials stay in memory
        return max(row[f"val_{task.fit.monitor}"] for row in run_folder.read_log(run / "log.csv"))

    study.optimize(objective, n_trials=max(trials - len(_ended_trials(study)), 0), catch=(DivergedError,))
    return _write_results(study, space, out)


def _as_plain(value: Any) -> Any:
    """Returns a choice that JSON has no word for as JSON has it: a `Between`, or a function by its name."""
    if isinstance(value, Between):
        return dataclasses.asdict(value)
    return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else repr(value)


def _open_study(out: pathlib.Path, seed: int) -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError("A search needs optuna: pip install 'zoo3d[tasks]'.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="zoo",
        storage=f"sqlite:///{out / STUDY}",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2),
    )
    # A study that goes on would draw its first trials again from the same seed.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    return study


def _ended_trials(study: Any) -> list[Any]:
    """Returns the trials with a score, pruned, or diverged. An interrupted one does not count: another replaces it."""
    names = ("COMPLETE", "PRUNED")
    return [trial for trial in study.trials if trial.state.name in names or DIVERGED in trial.user_attrs]


def _write_results(study: Any, space: Space, out: pathlib.Path) -> dict[str, Any]:
    """Writes the best settings, the table of trials and the importance plot."""
    rows = [
        {"trial": t.number, "score": t.value, "state": t.state.name} | _tried_values(t.params, space)
        for t in _ended_trials(study)
    ]
    shown = [
        {key: str(value) if isinstance(value, list | tuple) else value for key, value in row.items()} for row in rows
    ]
    write_whole(out / TABLE, csv_text(shown, ["trial", "state", "score", *space]).encode())
    best = _tried_values(study.best_params, space)
    write_whole(out / "best.json", json.dumps({"score": study.best_value, "settings": best}, indent=1).encode())
    _draw_importance(study, out / IMPORTANCE)
    return best


def _tried_values(params: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """Returns what a trial tried: numbers as they are, and the entry of a sequence that a position stands for."""
    values = {}
    for key, value in params.items():
        choice = space[key]
        values[key] = value if isinstance(choice, Between) else choice[value]
    return values


def _draw_importance(study: Any, path: pathlib.Path) -> None:
    """Draws bars of each setting's importance (fANOVA); no picture before two complete trials differ."""
    import optuna
    from matplotlib.figure import Figure

    complete = [trial.value for trial in study.trials if trial.state.name == "COMPLETE"]
    if len(set(complete)) < 2:
        return
    shares = optuna.importance.get_param_importances(study)
    names = list(shares)[::-1]
    figure = Figure(figsize=(6, 1.2 + 0.4 * len(names)), layout="constrained")
    axis = figure.subplots()
    axis.barh(names, [shares[name] for name in names], color="#31688e")
    axis.set(xlabel="share of the score's variance (fANOVA)", title=f"{len(complete)} complete trials", xlim=(0, 1))
    axis.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
