"""Times the zoo's training step against PyTorch's on the same network, batch, patch and precision.

    python tools/bench/train.py --torch /path/to/environment/with/torch/bin/python

The sides run in processes of their own, in turn, the order reversed every round; PyTorch runs eager and compiled in
channels_last_3d and its better median counts. Predicted before the first run: float32 0.85, bfloat16 1.3, memory 1.2.
"""

import argparse
import pathlib
import sys

import timing

HERE = pathlib.Path(__file__).parent
PREDICTED = {"float32": 0.85, "bfloat16": 1.3, "memory": 1.2}
GOALS = {"float32": 0.85, "bfloat16": 1.0, "memory": 1.0}


def commands(options: argparse.Namespace, precision: str) -> dict[str, list[str]]:
    """Side -> command line, for one precision."""
    size = ["--steps", options.steps, "--batch", options.batch, "--patch", options.patch, "--threads", options.threads]
    same = [str(word) for word in ["--precision", precision, *size, "--filters", *options.filters]]
    torch = [options.torch, str(HERE / "peers" / "train_torch.py"), *same]
    return {
        "zoo": [sys.executable, str(HERE / "peers" / "train_zoo.py"), *same],
        "torch eager": [*torch, "--mode", "eager"],
        "torch compile": [*torch, "--mode", "compile"],
    }


def compare(options: argparse.Namespace, precision: str) -> tuple[list[dict], list[dict]]:
    """Rows of one precision, and their headline."""
    runs = timing.alternate(commands(options, precision), rounds=options.rounds)
    rows = [
        {"side": side, "precision": precision} | {key: timing.median(run[key] for run in results) for key in results[0]}
        for side, results in runs.items()
        if results
    ]
    counts = {row["parameters"] for row in rows}
    if len(counts) != 1:
        raise ValueError(f"The sides differ in their parameters, {counts}: they would not run the same network.")
    ours, peer = rows[0], min(rows[1:], key=lambda row: row["step_s"])
    headline = []
    for what, key, goal in (("step", "step_s", GOALS[precision]), ("peak memory", "peak_mib", GOALS["memory"])):
        unit = "s" if key == "step_s" else "MiB"
        summary = {"zoo": f"{ours[key]:.3g} {unit}", "peer": f"{peer[key]:.3g} {unit} ({peer['side']})"}
        what = f"training {what}, {precision}, {options.batch} x {options.patch}^3"
        headline.append({"what": what, **summary, "ratio": ours[key] / peer[key], "goal": f"<= {goal}"})
    return rows, headline


def main() -> None:
    """Runs both precisions and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", required=True, help="python of an environment with torch")
    for name, default in {"steps": 7, "batch": 2, "patch": 64, "threads": 2, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--filters", type=int, nargs="+", default=[16, 32, 64, 128])
    options = parser.parse_args()
    rows, headline = [], []
    for precision in ("float32", "bfloat16"):
        more, summary = compare(options, precision)
        rows, headline = rows + more, headline + summary
    settings = {key: value for key, value in vars(options).items() if key != "torch"}
    print(timing.write("train", predicted=PREDICTED, settings=settings, rows=rows, headline=headline))


if __name__ == "__main__":
    main()
