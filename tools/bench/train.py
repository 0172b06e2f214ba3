"""Times the zoo's training step against PyTorch's on the same network, loss, batch, patch, precision and allocator.

    python tools/bench/train.py --torch /path/to/environment/with/torch/bin/python

The sides run in processes of their own, in turn, the order reversed every round; PyTorch runs eager and compiled in
channels_last_3d and its better median counts. Beside the network of both runs one of ours that folds voxels, and ours
that computes its stages again (`memory="low"`). `--once xla` adds our step compiled by XLA, in the first round alone.
Predicted before the first run with norms that keep their input: float32 0.75, bfloat16 1.0, memory 1.1.
"""

import argparse
import pathlib
import sys

import timing

from zoo.allocator import find_tcmalloc

HERE = pathlib.Path(__file__).parent
PREDICTED = {"float32": 0.75, "bfloat16": 1.0, "memory": 1.1}
GOALS = {"float32": 0.70, "bfloat16": 1.0, "memory": 1.0}
NUMBERS = {"steps": 7, "batch": 1, "classes": 33, "threads": 2}
XLA_STEPS = 1  # a step of XLA's 3D convolutions is far slower on a CPU


def commands(arguments: argparse.Namespace, precision: str) -> dict[str, list[str]]:
    """Side -> command line, for one precision."""
    library = find_tcmalloc() if arguments.allocator == "tcmalloc" else None
    before = ["env", f"LD_PRELOAD={library or ''}"]
    words = ["--precision", precision, "--norm", arguments.norm, "--activation", arguments.activation]
    for name in NUMBERS:
        words += [f"--{name}", getattr(arguments, name)]
    words += ["--patch", *arguments.patch]
    plain = ["--filters", *arguments.filters]
    ours = [*before, sys.executable, HERE / "peers" / "train_zoo.py", *words]
    theirs = [*before, arguments.torch, HERE / "peers" / "train_torch.py", *words, *plain]
    sides = {
        "zoo": [*ours, *plain],
        "zoo low memory": [*ours, *plain, "--memory", "low"],
        "zoo folded": [*ours, "--filters", *arguments.folded, "--fold", 2],
        "torch eager": [*theirs, "--mode", "eager"],
        "torch compile": [*theirs, "--mode", "compile"],
    }
    if "xla" in arguments.once:
        sides["zoo xla"] = [*ours, *plain, "--jit", "--steps", XLA_STEPS]
    return {side: [str(word) for word in line] for side, line in sides.items()}


def compare(arguments: argparse.Namespace, precision: str) -> tuple[list[dict], list[dict]]:
    """Rows of one precision, and their headline."""
    lines = commands(arguments, precision)
    once = {side: lines.pop(side) for side in ("zoo xla",) if side in lines}
    runs = timing.alternate(once, rounds=1) | timing.alternate(lines, rounds=arguments.rounds)
    rows = [
        {"side": side, "precision": precision, "rounds": len(results)}
        | {key: timing.median(run[key] for run in results) for key in results[0]}
        for side, results in runs.items()
        if results
    ]
    by_side = {row["side"]: row for row in rows}
    counts = {row["parameters"] for row in rows if row["side"] != "zoo folded"}
    if len(counts) != 1:
        raise ValueError(f"The sides differ in their parameters, {counts}: they would not run the same network.")
    return rows, headlines(arguments, precision, by_side)


def headlines(arguments: argparse.Namespace, precision: str, by_side: dict[str, dict]) -> list[dict]:
    """The rows of docs/speed.md of one precision."""
    size = " x ".join(map(str, arguments.patch))
    peer = min((by_side[side] for side in ("torch eager", "torch compile") if side in by_side), key=_step)
    plain = min((by_side[side] for side in ("zoo", "zoo xla") if side in by_side), key=_step)
    pairs = [
        ("step", "step_s", plain, peer, f"<= {GOALS[precision]}"),
        ("peak memory", "peak_mib", plain, peer, f"<= {GOALS['memory']}"),
        ('peak memory with memory="low"', "peak_mib", by_side["zoo low memory"], peer, f"<= {GOALS['memory']}"),
        ('step with memory="low" against without', "step_s", by_side["zoo low memory"], plain, ""),
        ("step of the folded network against the plain one", "step_s", by_side["zoo folded"], plain, ""),
        ("peak memory of the folded network against the plain one", "peak_mib", by_side["zoo folded"], plain, ""),
    ]
    return [
        {
            "what": f"training {what}, {precision}, {arguments.batch} x {size}",
            "zoo": _amount(ours, key),
            "peer": f"{_amount(other, key)} ({other['side']})",
            "ratio": ours[key] / other[key],
            "goal": goal,
        }
        for what, key, ours, other, goal in pairs
    ]


def _step(row: dict) -> float:
    return row["step_s"]


def _amount(row: dict, key: str) -> str:
    return f"{row[key]:.3g} s" if key == "step_s" else f"{row[key]:.0f} MiB"


def main() -> None:
    """Runs both precisions and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", required=True, help="python of an environment with torch")
    for name, default in (NUMBERS | {"rounds": 3}).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--patch", type=int, nargs=3, default=[80, 96, 80])
    parser.add_argument("--filters", type=int, nargs="+", default=[8, 24, 64, 128, 160])
    parser.add_argument("--folded", type=int, nargs="+", default=[32, 64, 128, 160], help="filters of the folded one")
    parser.add_argument("--norm", choices=["batch", "instance"], default="instance")
    parser.add_argument("--activation", choices=["leaky_relu", "relu"], default="leaky_relu")
    parser.add_argument("--allocator", choices=["system", "tcmalloc"], default="tcmalloc", help="of all sides")
    parser.add_argument("--precisions", nargs="+", choices=["bfloat16", "float32"], default=["float32", "bfloat16"])
    parser.add_argument("--once", nargs="*", choices=["xla"], default=[])
    arguments = parser.parse_args()
    rows, headline = [], []
    for precision in arguments.precisions:
        more, lines = compare(arguments, precision)
        rows, headline = rows + more, headline + lines
    settings = {key: value for key, value in vars(arguments).items() if key != "torch"}
    print(timing.write("train", predicted=PREDICTED, settings=settings, rows=rows, headline=headline))


if __name__ == "__main__":
    main()
