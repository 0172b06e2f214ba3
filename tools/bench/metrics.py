"""Times the surface metrics of two 256^3 label maps with ten structures beside MONAI and MedPy, on the CPU.

python tools/bench/metrics.py --peer-python PATH   where PATH is a Python with monai, medpy and torch.
Every library is a process of its own that waits while another works; the order changes each round; each answers with
wall and CPU seconds and its numbers, which must agree. Results go to tools/bench/results.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import timing
from scipy import ndimage

HERE = pathlib.Path(__file__).resolve().parent
WORKER = HERE / "peers" / "metrics_worker.py"
SPACING = (1.0, 1.0, 1.2)
# Written before the first run. zoo: one label pass and four distance transforms in each structure's box.
PREDICTION = {
    "seconds": {"zoo": 3, "monai": 30, "medpy": 300},
    "why": "MONAI crops too, but transforms with SciPy (6 times slower than edt) once more for every metric and all "
    "channels; MedPy transforms the whole volume four times a structure.",
    "reach": {"monai_over_zoo": 5, "medpy_over_zoo": 5},
}
# Centre and radii in voxels: two hemispheres' shells, two cores, then smaller structures of a brain's sizes.
STRUCTURES = (
    ((88, 128, 128), (52, 82, 68)),
    ((168, 128, 128), (52, 82, 68)),
    ((88, 128, 128), (38, 66, 54)),
    ((168, 128, 128), (38, 66, 54)),
    ((128, 70, 60), (48, 32, 24)),
    ((128, 110, 60), (14, 14, 30)),
    ((108, 125, 125), (12, 16, 11)),
    ((148, 125, 125), (12, 16, 11)),
    ((95, 140, 128), (7, 18, 10)),
    ((160, 115, 100), (7, 20, 7)),
)


def label_map(seed):
    """Ten ellipsoids whose surfaces wave, later ones over earlier ones, in a 256^3 volume; uint8."""
    rng = np.random.default_rng(seed)
    wave = ndimage.zoom(ndimage.gaussian_filter(rng.normal(size=(64, 64, 64)), 1.5), 4, order=1)
    wave *= 0.06 / wave.std()
    grid = np.indices((256, 256, 256), dtype=np.float32, sparse=True)
    labels = np.zeros((256, 256, 256), np.uint8)
    for label, (centre, radii) in enumerate(STRUCTURES, start=1):
        distance = sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, centre, radii, strict=True))
        labels[np.sqrt(distance) + wave < 1] = label
    return labels


def perturbed(labels):
    """A prediction: the reference moved by about a voxel, with some speckle, and one structure partly lost."""
    rng = np.random.default_rng(9)
    moved = np.roll(labels, (1, -1, 0), (0, 1, 2))
    moved[(moved == 9) & (np.indices(moved.shape, sparse=True)[1] > 145)] = 0
    speckle = tuple(rng.integers(60, 200, (3, 40)))
    moved[speckle] = rng.integers(1, 11, 40)
    return moved


class Worker:
    """A process that computes one library's metrics each time it is asked."""

    def __init__(self, python, library, folder):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [python, str(WORKER), library, str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.versions = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")
        return json.loads(line)

    def ask(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def agreement(answers):
    """Largest relative difference of each number to zoo's."""
    ours = answers["zoo"][-1]["numbers"]
    differences = {}
    for library in set(answers) - {"zoo"}:
        for metric, theirs in answers[library][-1]["numbers"].items():
            difference = np.abs(np.array(theirs) - ours[metric]) / np.maximum(np.abs(ours[metric]), 1e-9)
            differences[f"{library} {metric}"] = float(difference.max())
    return differences


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", required=True, help="a Python with monai, medpy and torch")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each library")
    parser.add_argument("--medpy-rounds", type=int, default=1, help="of MedPy, which takes minutes")
    arguments = parser.parse_args()
    rounds = {"zoo": arguments.rounds, "monai": arguments.rounds, "medpy": arguments.medpy_rounds}
    answers = {library: [] for library in rounds}
    with tempfile.TemporaryDirectory() as folder:
        reference = label_map(1)
        np.savez(pathlib.Path(folder) / "pair.npz", prediction=perturbed(reference), reference=reference)
        python = {"zoo": sys.executable, "monai": arguments.peer_python, "medpy": arguments.peer_python}
        workers = {library: Worker(python[library], library, folder) for library in rounds}
        for number in range(max(rounds.values())):
            order = list(rounds)[number % 3 :] + list(rounds)[: number % 3]
            for library in order:
                if number < rounds[library]:
                    answers[library].append(workers[library].ask())
                    print(library, {k: v for k, v in answers[library][-1].items() if k != "numbers"}, file=sys.stderr)
        for worker in workers.values():
            worker.close()
    write(answers, {library: worker.versions for library, worker in workers.items()})


UNITS = ("wall_s", "cpu_s", "hd95_only_wall_s", "hd95_only_cpu_s", "peak_mb")


def write(answers, versions):
    """Medians of every library and their ratios, into the result file."""
    medians = {
        library: {unit: timing.median(answer[unit] for answer in numbers) for unit in UNITS}
        for library, numbers in answers.items()
    }
    rows = [
        {"side": library, "rounds": len(answers[library]), **values, "version": told(versions[library])}
        for library, values in medians.items()
    ]
    settings = {"largest_relative_difference": agreement(answers), "load": os.getloadavg(), "threads asked of each": 1}
    headline = [row for library in ("monai", "medpy") for row in compared(medians["zoo"], medians[library], library)]
    print(timing.write("metrics", predicted=PREDICTION, settings=settings, rows=rows, headline=headline))


def compared(ours, theirs, library):
    """CPU seconds of one peer beside ours; the wall clock of a shared machine says less."""
    for what, unit in (("Dice, HD95, ASSD and NSD", "cpu_s"), ("HD95 alone", "hd95_only_cpu_s")):
        told = {"zoo": f"{ours[unit]:.2f} s", "peer": f"{theirs[unit]:.1f} s ({library})"}
        ratio = theirs[unit] / ours[unit]
        yield {"what": f"{what}, 10 structures, 256^3, CPU time", **told, "ratio": ratio, "goal": ">= 5"}


def told(versions):
    """Versions in words."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


if __name__ == "__main__":
    main()
