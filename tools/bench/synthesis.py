"""Synthetic samples a second, ours against TorchIO and MONAI: the same 96^3 label map, two threads a side.

    python tools/bench/synthesis.py --peer /path/to/python/with/torchio/and/monai

Each side runs in a process of its own, by turns in alternating order; the medians are compared and written to
`tools/bench/results/`. A sample is affine + elastic field + a Gaussian a label + bias field + blur + noise + gamma;
ours adds the mirror, texture, slice spacing, partial volume and ghosts that its default recipe holds.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import timing

SIZE, WORKERS = 96, 2
PREDICTION = (
    "Written before the first run: one compiled sample took 60 ms alone on the machine, TorchIO is said to take "
    "0.73 s on one thread; with two workers each, expect 20 to 30 samples/s against 2 to 3, a ratio of 8 to 12. "
    "MONAI: its elastic field is smoothed at full size by a convolution, so no quicker than TorchIO."
)
SIDES = {"zoo": "zoo3d", "torchio": "torchio", "monai": "monai"}


def ours(labels, count):
    import tensorflow as tf

    from zoo.synth.scene import Recipe, synthesise

    recipe, anatomy = Recipe(shape=(SIZE,) * 3), tf.constant(labels)
    sample = tf.function(lambda number: synthesise(anatomy, number, recipe), jit_compile=True)
    batches = tf.data.Dataset.range(10**6).map(lambda n: sample(tf.cast(n, tf.int32)), num_parallel_calls=WORKERS)
    return timed(iter(batches.batch(1).prefetch(1)), count)


def torchio(labels, count):
    import torch
    import torchio as tio

    spatial = tio.RandomAffineElasticDeformation(
        affine_kwargs={"scales": (0.8, 1.2), "degrees": 15}, elastic_kwargs={"num_control_points": 7}
    )
    chain = [spatial, tio.RandomLabelsToImage(label_key="labels"), tio.RandomBiasField(), tio.RandomBlur()]
    transform = tio.Compose([*chain, tio.RandomNoise(), tio.RandomGamma()])
    subject = tio.Subject(labels=tio.LabelMap(tensor=torch.from_numpy(labels[None].copy())))
    return timed(iter(loader(lambda: transform(subject)["image_from_labels"].data, count)), count)


def monai(labels, count):
    import numpy as np
    from monai import transforms as mt

    random = np.random.default_rng(0)
    label_map, num_labels = labels[None].astype("float32"), int(labels.max()) + 1
    bend = {
        "sigma_range": (5, 7),
        "magnitude_range": (50, 150),
        "rotate_range": [0.26] * 3,
        "scale_range": [0.2] * 3,
    }
    spatial = mt.Rand3DElastic(**bend, prob=1, mode="nearest", padding_mode="zeros")
    chain = [mt.RandBiasField(prob=1), mt.RandGaussianSmooth(prob=1), mt.RandGaussianNoise(prob=1)]
    intensity = mt.Compose([*chain, mt.RandAdjustContrast(prob=1)])

    def sample():
        moved = np.asarray(spatial(label_map)).astype("int32")
        means, sds = random.uniform(0, 1, num_labels), random.uniform(0, 0.1, num_labels)
        noise = random.standard_normal(moved.shape).astype("float32")
        return intensity(means.astype("float32")[moved] + sds.astype("float32")[moved] * noise)

    return timed(iter(loader(sample, count)), count)


def loader(sample, count):
    import torch

    torch.set_num_threads(1)

    class Samples(torch.utils.data.Dataset):
        def __len__(self):
            return count + 100

        def __getitem__(self, number):
            return sample()

    return torch.utils.data.DataLoader(Samples(), num_workers=WORKERS, batch_size=1)


def timed(samples, count):
    """Samples a second, and CPU seconds a sample, which hardly change when others use the machine too."""
    for _ in range(2 * WORKERS + 2):  # compiles and fills the queues
        next(samples)
    start, spent = time.perf_counter(), cpu_s()
    for _ in range(count):
        next(samples)
    return {"rate": count / (time.perf_counter() - start), "cpu_s": (cpu_s() - spent) / count}


def cpu_s():
    """CPU seconds of this process and of its workers, user and system."""
    processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    fields = [pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in processes]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


def run_side(side, labels_path, count):
    import numpy as np

    labels = np.load(labels_path)
    speed = {"zoo": ours, "torchio": torchio, "monai": monai}[side](labels, count)
    versions = [SIDES[side], *(["tensorflow-cpu", "keras"] if side == "zoo" else ["torch"])]
    print(json.dumps(speed | {"versions": {name: importlib.metadata.version(name) for name in versions}}))
    sys.stdout.flush()
    os._exit(0)  # the loaders' queues are still full; joining their workers would take longer than the run


def label_map(path):
    """A whole head at 2 mm in 96^3."""
    import numpy as np

    from zoo.synth.anatomy import sources

    labels = sources.anatomy("nibabies", head=0).labels[::2, ::2, ::2]
    result = np.zeros((SIZE,) * 3, np.int32)
    cut = tuple(slice(max(0, (n - SIZE) // 2), max(0, (n - SIZE) // 2) + SIZE) for n in labels.shape)
    part = labels[cut]
    result[tuple(slice(0, n) for n in part.shape)] = part
    np.save(path, result)
    return len(np.unique(result))


def measure(side, python, labels_path, count):
    threads = {
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    environment = os.environ | threads | {"TF_NUM_INTEROP_THREADS": "2", "TF_NUM_INTRAOP_THREADS": "2"}
    command = [python, __file__, "--side", side, "--labels", labels_path, "--count", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(peer, rounds):
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "labels.npy")
        num_labels = label_map(path)
        rates, spent, versions = {side: [] for side in SIDES}, {side: [] for side in SIDES}, {}
        for number in range(rounds):
            for side in list(SIDES)[:: 1 if number % 2 == 0 else -1]:
                result = measure(side, sys.executable if side == "zoo" else peer, path, 60 if side == "zoo" else 12)
                rates[side].append(round(result["rate"], 3))
                spent[side].append(round(result["cpu_s"], 4))
                versions |= result["versions"]
                print(
                    f"round {number}: {side} {result['rate']:.2f} samples/s, {result['cpu_s']:.3f} CPU s a sample",
                    flush=True,
                )
    settings = {"size": [SIZE] * 3, "labels": num_labels, "workers": WORKERS, "load": os.getloadavg()}
    rows = [
        {
            "side": side,
            "samples_per_s": timing.median(rates[side]),
            "cpu_s_per_sample": timing.median(spent[side]),
            "all": rates[side],
            "version": f"{package} {versions[package]}",
        }
        for side, package in SIDES.items()
    ]
    print(timing.write("synthesis", predicted={"why": PREDICTION}, settings=settings, rows=rows, headline=told(rows)))


def told(rows):
    """Samples a second and CPU seconds a sample beside each peer."""
    ours, *peers = rows
    for theirs in peers:
        for what, unit in (("samples a second", "samples_per_s"), ("CPU seconds a sample", "cpu_s_per_sample")):
            ratio = ours[unit] / theirs[unit]
            yield {
                "what": f"synthesis at {SIZE}^3, {what}",
                "zoo": f"{ours[unit]:.3g}",
                "peer": f"{theirs[unit]:.3g} ({theirs['side']})",
                "ratio": ratio if unit == "samples_per_s" else 1 / ratio,
                "goal": ">= 5",
            }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="a Python that has torchio and monai")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--labels", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        run_side(arguments.side, arguments.labels, arguments.count)
    elif not arguments.peer:
        parser.error("--peer names a Python that has torchio and monai")
    compare(arguments.peer, arguments.rounds)


if __name__ == "__main__":
    main()
