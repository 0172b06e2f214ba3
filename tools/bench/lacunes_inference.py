#!/usr/bin/env python3
"""Times unet3d.lacunes on a scan of 512 x 512 x 192 voxels of 0.49 x 0.49 x 0.8 mm, three channels, two threads.

Goals: under 180 s and 8 GiB of memory, from files to a label map on the scan's own grid. A network of random weights
stands in until the trained one is there: time and memory do not depend on what it learned.
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import nibabel as nib
import numpy as np
import timing

SHAPE, SPACING_MM = (512, 512, 192), (0.49, 0.49, 0.8)
GOAL_S, GOAL_MIB = 180, 8192
# Written down before the first measurement.
PREDICTED = {
    "predict_s": 75,
    "peak_mib": 4096,
    "why": "the channels are 0.6 GiB as float32, twice while they are stacked; at 1 mm the brain takes "
    "about 100 windows of 64 voxels, half a second each; reading and going back take about 20 s",
}


def write_scan(folder: pathlib.Path) -> list[pathlib.Path]:
    """Three channels of noise in an ellipsoid of a brain's size (1.5 l), exactly 0 outside; compressed int16."""
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(SHAPE, SPACING_MM, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    brain = (x / 67) ** 2 + (y / 83) ** 2 + (z / 64) ** 2 < 1
    affine, paths = np.diag([*SPACING_MM, 1.0]), []
    for number, name in enumerate(("T1", "T2", "FLAIR")):
        noise = np.random.default_rng(number).integers(500, 1500, SHAPE, dtype=np.int16)
        paths.append(folder / f"{name}.nii.gz")
        nib.save(nib.nifti1.Nifti1Image(noise * brain, affine), paths[-1])
    return paths


def measure(model: str, folder: pathlib.Path, threads: int) -> dict[str, float]:
    """One prediction in this process: seconds, and the most memory that it took."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    import zoo

    begin = time.monotonic()
    mask = zoo.predict(model, [folder / f"{name}.nii.gz" for name in ("T1", "T2", "FLAIR")], out=folder / "out.nii.gz")
    seconds = time.monotonic() - begin
    if mask.shape != SHAPE:
        raise ValueError(f"The result has {mask.shape} voxels, and {SHAPE} are right.")
    return {"predict_s": seconds, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def stand_in(folder: pathlib.Path) -> str:
    """Folder of a model of the task's size with random weights."""
    import zoo
    from zoo.tasks.lacunes import TASK
    from zoo.training.run import model_card

    (folder / "config.json").write_text('{"source": "synthetic", "seed": 0, "steps": 0}')
    model_card.publish(zoo.load(TASK.network.builder, **TASK.builder_arguments), TASK, folder, progress={"seconds": 0})
    return str(folder / TASK.model_name)


def main() -> None:
    """Measures in a process of its own, so that its peak is its own, and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a trained model; left out: random weights of the task's size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--inside", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        row = measure(options.model, options.inside, options.threads)
        print(f"{row['predict_s']} {row['peak_mib']}")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_scan(folder)
        model = options.model or stand_in(folder)
        command = [sys.executable, __file__, "--inside", name, "--model", model, "--threads", str(options.threads)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split()
    seconds, peak = map(float, printed)
    row = {
        "model": options.model or "random weights", "predict_s": seconds, "goal_s": GOAL_S,
        "peak_mib": peak, "goal_mib": GOAL_MIB,
    }  # fmt: skip
    settings = {"shape": SHAPE, "spacing_mm": SPACING_MM, "threads": options.threads, "model": row["model"]}
    print(timing.write("lacunes_inference", predicted=PREDICTED, settings=settings, rows=[row], headline=[]))


if __name__ == "__main__":
    main()
