"""Patches a second from NIfTI files, cold and cached, beside MONAI and TorchIO; a training step fed by the pipeline.

    python tools/bench/data.py --torch PATH     where PATH is a Python with torch, monai and torchio

Every side is a process of its own, in turn, the order reversed every round. Cold: nothing is cached, each case is read
and gives four patches. Cached: what a later epoch sees. Memory is what the process and its workers hold above the
imports, shared pages counted once, mapped files not. Results go to tools/bench/results.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import nibabel
import numpy as np
import timing
from scipy import ndimage

HERE = pathlib.Path(__file__).resolve().parent
WORKER = HERE / "peers" / "data_worker.py"
STEP = HERE / "peers" / "data_step.py"
OURS = ("zoo_memory", "zoo_disk")
PEERS = ("monai_cache", "monai_cache_indices", "monai_persistent", "torchio_queue", "torchio_loaded")
# Written before the first run: ratios of patches a second to the quickest peer of the row, and of a fed step.
PREDICTED = {
    "cold": 2.0,
    "cached in memory": 10.0,
    "cached on disk": 5.0,
    "fed step": 1.03,
    "why": "Cold, both sides wait for zlib, and ours makes fewer copies after it; cached, ours slices int16 in place "
    "and lines up 96^3 voxels where the peers copy or search whole float32 volumes; from disk we read the planes of "
    "the patch alone.",
}


def write_files(folder: pathlib.Path, num: int, size: int) -> None:
    """Heads of noisy tissue in air, int16, with a few small lesions each."""
    axes = np.linspace(-1, 1, size, dtype=np.float32)
    x, y, z = np.meshgrid(axes, axes, axes, indexing="ij", sparse=True)
    head = (x / 0.7) ** 2 + (y / 0.85) ** 2 + (z / 0.75) ** 2 < 1
    for number in range(num):
        draw = np.random.default_rng(number)
        tissue = ndimage.zoom(draw.normal(300, 60, (size // 8,) * 3).astype(np.float32), 8, order=1)
        image = np.where(head, tissue + draw.normal(0, 15, head.shape).astype(np.float32), 0).astype(np.int16)
        label = np.zeros(head.shape, np.uint8)
        for centre in draw.integers(size // 3, 2 * size // 3, (4, 3)):
            label[tuple(slice(c, c + size // 32) for c in centre)] = 1
        for name, voxels in (("image", image), ("label", label)):
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / f"{name}{number:02d}.nii.gz")


class Watch(threading.Thread):
    """Follows the memory of a process and its children; `peak_mb` is the most that was seen above the start."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.running, self.start_mb = pid, True, held_mb(pid)
        self.peak_mb = 0.0

    def run(self) -> None:
        while self.running:
            self.peak_mb = max(self.peak_mb, held_mb(self.pid) - self.start_mb)
            time.sleep(0.1)


def held_mb(pid: int) -> float:
    """Memory of a process and its children in MB, each shared page divided by its holders, file pages left out."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    kinds = ("Pss_Anon:", "Pss_Shmem:")  # mapped files are the system's to drop
    own = sum(int(line.split()[1]) for line in lines if line.startswith(kinds)) / 1024
    return own + sum(held_mb(int(child)) for child in children)


def measured(command: list[str]) -> dict:
    """Runs one side, watched from the moment its imports are done."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while process.stdout.readline() not in ("ready\n", ""):
        pass
    watch = Watch(process.pid)
    watch.start()
    process.stdin.write("go\n")
    process.stdin.flush()
    line = process.stdout.readline()
    watch.running = False
    process.communicate("done\n")
    if not line.startswith("{"):
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode} and no result.")
    return {**json.loads(line), "peak_mb": watch.peak_mb}


def serve(arguments: argparse.Namespace, folder: pathlib.Path) -> dict[str, list[dict]]:
    """All rounds of all sides."""
    options = ["--folder", str(folder), "--patch", str(arguments.patch), "--warm", str(arguments.warm)]
    runs: dict[str, list[dict]] = {side: [] for side in (*OURS, *PEERS)}
    for number in range(arguments.rounds):
        for side in list(runs)[:: 1 if number % 2 == 0 else -1]:
            python = sys.executable if side in OURS else arguments.torch
            runs[side].append(measured([python, str(WORKER), "--side", side, *options]))
            print(side, {key: value for key, value in runs[side][-1].items() if key != "version"}, file=sys.stderr)
    return runs


def medians(runs_of_side: dict[str, list[dict]]) -> list[dict]:
    """One row a side."""
    return [
        {
            "side": side,
            "cold patches/s": 1 / statistics.median(run["cold_s"] for run in runs),
            "cached patches/s": 1 / statistics.median(run["cached_s"] for run in runs),
            "peak MB": statistics.median(run["peak_mb"] for run in runs),
            "version": " ".join(f"{name} {text}" for name, text in runs[0]["version"].items()),
        }
        for side, runs in runs_of_side.items()
    ]


def headline(rows: list[dict], options: argparse.Namespace) -> list[dict]:
    """What the README shows: ours beside the quickest peer of the same kind."""
    by_side = {row["side"]: row for row in rows}
    kinds = (
        ("cold", "zoo_memory", PEERS, "cold patches/s"),
        ("cached in memory", "zoo_memory", [side for side in PEERS if side != "monai_persistent"], "cached patches/s"),
        ("cached on disk", "zoo_disk", ["monai_persistent"], "cached patches/s"),
    )
    lines = []
    for kind, ours, peers, key in kinds:
        best = max((by_side[side] for side in peers), key=lambda row: row[key])
        mine = by_side[ours]
        lines.append(
            {
                "what": f"patches/s of {options.patch}^3 from {options.cases} x {options.size}^3 NIfTI, {kind}",
                "zoo": f"{mine[key]:.3g} (peak {mine['peak MB']:.0f} MB)",
                "peer": f"{best[key]:.3g} ({best['side']}, peak {best['peak MB']:.0f} MB)",
                "ratio": mine[key] / best[key],
                "goal": ">= 2",
            }
        )
    return lines


def fed_step(options: argparse.Namespace, folder: pathlib.Path) -> dict:
    """The training step on the pipeline's batches beside the same step on one constant batch."""
    command = [sys.executable, str(STEP), "--folder", str(folder), "--steps", str(options.steps)]
    runs = [json.loads(subprocess.check_output(command, text=True).splitlines()[-1]) for _ in range(options.rounds)]
    fed, constant = (statistics.median(run[key] for run in runs) for key in ("fed_s", "constant_s"))
    return {
        "what": f"training step fed by the pipeline against one constant batch, {runs[0]['batch']}",
        "zoo": f"{fed:.3g} s",
        "peer": f"{constant:.3g} s (constant)",
        "ratio": statistics.median(run["fed_s"] / run["constant_s"] for run in runs),
        "goal": "<= 1.1",
    }


def main() -> None:
    """Makes the files, runs everything, writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", required=True, help="a Python with torch, monai and torchio")
    settings = {"cases": 20, "size": 256, "patch": 96, "warm": 400, "rounds": 3, "steps": 12}
    for name, default in settings.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        write_files(pathlib.Path(folder), options.cases, options.size)
        runs = serve(options, pathlib.Path(folder))
        step = fed_step(options, pathlib.Path(folder))
    rows = medians(runs)
    conditions = {name: getattr(options, name) for name in settings} | {"load before": load}
    print(
        timing.write(
            "data", predicted=PREDICTED, settings=conditions, rows=rows, headline=[*headline(rows, options), step]
        )
    )


if __name__ == "__main__":
    main()
