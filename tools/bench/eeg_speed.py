"""Times what a user of EEG sources waits for: python tools/bench/eeg_speed.py

A lead field of BioSemi-64 at the 5,215 places (computed, not read from the cache), kernels of a montage that was not
seen before, one topography located once the kernels are there, a window of 100 samples located by sparse Bayes, and
topographies made by the generator. Predicted before the first run: 20 s, 4 s, 40 ms, 0.3 s and 1000 a second.
"""

import argparse
import importlib
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from unittest import mock

import numpy as np
import timing

GOALS = {"lead_field_s": 30.0, "kernels_s": 15.0, "located_ms": 50.0, "window_s": 1.0, "samples_per_s": 1000.0}
PREDICTED = {"lead_field_s": 20.0, "kernels_s": 4.0, "located_ms": 40.0, "window_s": 0.3, "samples_per_s": 1000.0}


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Median over rounds."""
    taken = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def lead_field_s() -> float:
    """A head that no cache holds: the files go to an empty folder."""
    from zoo.eeg import bank
    from zoo.eeg.leadfield import lead_field

    with tempfile.TemporaryDirectory() as empty, mock.patch.dict(os.environ, ZOO_CACHE=empty):
        return seconds(lambda: lead_field().montage(bank.montage_names("biosemi64")), 1)


def kernels_s(rounds: int) -> float:
    from zoo.eeg import bank
    from zoo.eeg.kernels import kernels
    from zoo.eeg.leadfield import lead_field

    draw = np.random.default_rng(0)
    montages = iter([lead_field().montage(bank.scattered(64, draw)) for _ in range(rounds)])
    return seconds(lambda: kernels(next(montages)), rounds)


def located_ms(model: str, rounds: int) -> float:
    """Features, network, peaks and dipoles of one topography."""
    from zoo.eeg import bank
    from zoo.eeg.leadfield import lead_field
    from zoo.source_imaging.locator import Locator

    field = lead_field().montage(bank.montage_names("biosemi64"))
    locator = Locator(model, field)
    topography = np.random.default_rng(0).standard_normal((1, len(field.names)))

    def locate() -> None:
        posterior, _ = locator(topography)
        locator.decode(topography[0], posterior[0], 2)

    locate()
    return 1000 * seconds(locate, rounds)


def window_s(rounds: int, samples: int = 100) -> float:
    """Whitening, sparse Bayes, the number of dipoles, their places and where else they could be: two sources."""
    from zoo.eeg import bank
    from zoo.eeg.leadfield import lead_field
    from zoo.eeg.sparse_bayes import make_window
    from zoo.eeg.window_sources import find_sources

    field = lead_field().montage(bank.montage_names("biosemi64"))
    draw = np.random.default_rng(0)
    columns = field.matrix[:, [1500, 3800]].astype(float) @ np.array([1.0, -2.0, 0.5])
    clean = columns / np.linalg.norm(columns, axis=0) * 8 @ draw.standard_normal((2, samples))
    data = clean + draw.standard_normal(clean.shape)
    whitening = np.linalg.svd(np.eye(64) - 1 / 64)[2][:63]

    def locate() -> None:
        find_sources(make_window(data - data.mean(0), field.matrix, whitening))

    locate()
    return seconds(locate, rounds)


def samples_per_s(rounds: int, batches: int = 20) -> float:
    """Topographies with their volumes, through tf.data as in training."""
    from zoo.tasks.eeg_sources import TASK
    from zoo.training import batches as sources

    stream = iter(sources.synthetic(TASK, split="train", seed=0))
    next(stream)
    return batches * TASK.fit.batch_size / seconds(lambda: [next(stream) for _ in range(batches)], rounds)


def main() -> pathlib.Path:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unet3d.eeg_sources")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    results = {
        "lead_field_s": lead_field_s(),
        "kernels_s": kernels_s(options.rounds),
        "located_ms": located_ms(options.model, 5 * options.rounds),
        "samples_per_s": samples_per_s(options.rounds),
    }
    versions = [f"{name}-{importlib.import_module(name).__version__}" for name in ("mne", "tensorflow")]
    rows = [{"what": key, "measured": round(value, 3), "goal": GOALS[key]} for key, value in results.items()]
    return timing.write(
        "eeg_speed",
        predicted=PREDICTED,
        settings={"montage": "biosemi64", "rounds": options.rounds, "model": options.model},
        rows=[{"version": " ".join(versions)}, *rows],
        headline=[],  # no peer runs beside it
    )


if __name__ == "__main__":
    print(main())
