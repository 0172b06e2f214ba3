"""The parameter search of the EEG task's source, on both networks: python studies/eeg_search.py [--work runs]

Loss, its background weight, optimiser, rate, dilated or Gaussian targets, few or many data, by Optuna as
`zoo.training.experiments.hyperparameter_search` runs it: 12 trials a network, 75 steps of 8 topographies each, poor
ones pruned. Short, so that it ranks settings and says nothing about what a trained network reaches;
the networks see the linear inverses alone. Writes `results/eeg_search.md` and importances as
pictures in `docs`. A search that was stopped goes on.
"""

import argparse
import csv
import pathlib
import shutil

from zoo.eeg.kernels import CHANNELS
from zoo.files import write_whole
from zoo.tasks import eeg_sources
from zoo.training.experiments.hyperparameter_search import IMPORTANCE, TABLE, search
from zoo.training.fit import TrainOptions

HERE = pathlib.Path(__file__).parent
RESULT = HERE / "results" / "eeg_search.md"
DOCS = HERE.parent / "docs"
TRIALS, STEPS, BATCH = 12, 75, 8
SHORT = {
    "loss_arguments.location": "loss",
    "loss_arguments.background": "background weight",
    "optimizer.name": "optimiser",
    "optimizer.learning_rate": "rate",
    "sample_arguments.target": "target",
    "sample_arguments.examples": "batches to learn from",
}


def searched(task: object, work: pathlib.Path) -> list[dict[str, str]]:
    """The trials of one network, the best first; the picture of importances goes to `docs`."""
    linear = {"channels": CHANNELS, "sample_arguments": {"sbl_steps": ()}, "preprocessing": ()}
    settings = task.replace(monitor="hit", batch_size=BATCH, validation_batches=8, **linear)
    out = work / f"search_{task.network.builder}"
    search(settings, "synthetic", out, space=eeg_sources.SEARCH, trials=TRIALS, options=TrainOptions(steps=STEPS))
    if (out / IMPORTANCE).exists():
        shutil.copyfile(out / IMPORTANCE, DOCS / f"eeg_search_{task.network.builder}.png")
    with open(out / TABLE, newline="") as file:
        rows = list(csv.DictReader(file))
    return sorted(rows, key=lambda row: -float(row["score"]) if row["state"] == "COMPLETE" else 1.0)


def line(row: dict[str, str]) -> str:
    score = f"{float(row['score']):.3f}" if row["state"] == "COMPLETE" else row["state"].lower()
    rate = f"{float(row['optimizer.learning_rate']):.1e}"
    values = [rate if key == "optimizer.learning_rate" else row[key] or "no limit" for key in SHORT]
    if row["loss_arguments.location"] != "weighted_entropy":
        values[1] = "-"
    return f"| {score} | " + " | ".join(values).replace("None", "no limit") + " |"


def main(work: pathlib.Path) -> pathlib.Path:
    parts = [
        "# The source's parameter search\n",
        f"{TRIALS} trials a network, {STEPS} steps of {BATCH} topographies, one seed; score: share of validation "
        "topographies whose\nlargest place lies within 17 mm of a source. Too short to rank near neighbours.\n",
    ]
    for task in (eeg_sources.TASK, eeg_sources.VNET):
        rows = searched(task, work)
        head = f"| score | {' | '.join(SHORT.values())} |\n|{'---|' * (len(SHORT) + 1)}\n"
        parts.append(f"## {task.network.builder}\n\n{head}" + "\n".join(line(row) for row in rows) + "\n")
    return write_whole(RESULT, "\n".join(parts).encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, default=HERE.parent / "runs")
    print(main(parser.parse_args().work))
