"""Times a window and a whole scan of a trained model in each runtime, and measures what narrow weights cost.

    python tools/bench/runtimes.py [--models NAME ...] [--rounds 3] [--cores 1]

Every runtime runs in a process of its own that is bound to as many cores, in turn, the order reversed from round to
round; medians count. The window is seeded noise of the card's size, the scan the real head that ships, both in float32,
warmed by one run. "keras", "tensorflow", "onnx" and "openvino" are `zoo predict --runtime`; "saved_model" is the
exported graph that takes the raw scan and needs no zoo. Exports are made before the clock runs. Seconds are those of
the processor (`_cpu_s`), which other programs on the machine disturb little, and those that went by (`_s`), which they
do. Dice is that of the labels of an export with those of `zoo.predict`.
"""

import argparse
import functools
import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timing

MODELS = ("unet3d.brain_mask", "unet3d.brain_structures")
RUNTIMES = ("keras", "tensorflow", "saved_model", "onnx", "openvino")
PACKAGES = {"keras": ("keras",), "onnx": ("onnxruntime",), "openvino": ("openvino",)}
TENSORFLOW = ("tensorflow", "tensorflow-cpu")
REPEATS = 3  # in each process
WEIGHTS = ("float32", "float16", "int8")
# Written down before the first measurement.
PREDICTED = {
    "window_ratio": {"tensorflow": 1.0, "onnx": 0.8, "openvino": 1.5},
    "scan_ratio": {"tensorflow": 1.0, "saved_model": 1.0, "onnx": 0.85, "openvino": 1.3},
    "dice_least": {"float16": 0.999, "int8": 0.98},
    "why": "Keras and the SavedModel run the same oneDNN kernels; OpenVINO fuses norms and activations into them, and "
    "ONNX Runtime has no blocked 3D convolutions. Ratios are seconds of the processor, Keras over runtime: above 1 the "
    "runtime is quicker.",
}


def worker(model: str, runtime: str, cores: int) -> dict[str, Any]:
    """One process: seconds of a window and of a scan, memory, distance from Keras, all after one warming run."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # all runtimes size their thread pools by this
    window, scan = _runs(model, runtime)
    row = {"model": model, "side": runtime, "version": _version(runtime)}
    if window is not None:
        row |= _seconds(window, "window")
    return row | _seconds(scan, "scan") | {"peak_mib": timing.peak_mib()}


def _runs(model: str, runtime: str) -> tuple[Callable[[], Any] | None, Callable[[], Any]]:
    """What to time: one window, and one scan from a file in memory to labels on its grid."""
    import nibabel

    import zoo
    from zoo.exporters import export, window_network
    from zoo.hub import trained_models
    from zoo.inference import compiled_network, exported_network
    from zoo.inference.predictor import Predictor
    from zoo.inference.settings import Settings

    card, head = trained_models.card(model), nibabel.load(zoo.sample())
    head.get_fdata()
    if runtime == "saved_model":
        return None, _served(export.runtime_file(model, "tensorflow"), head)
    drawn = window_network.draw_inputs(card, card.input.patch)
    if runtime == "keras":
        forward = compiled_network.prepare(trained_models.load(model))
        predictor = Predictor(model)
        return lambda: forward(drawn[0]), lambda: predictor(head)
    path = export.runtime_file(model, runtime)
    opened, predictor = (
        exported_network.opened(runtime, path),
        Predictor(model, settings=Settings(runtime=runtime, network=path)),
    )
    return lambda: opened(drawn), lambda: predictor(head)


def _served(folder: Path, head: Any) -> Callable[[], Any]:
    import numpy as np
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))  # held: a signature alone does not keep its variables
    volume = tf.constant(np.asarray(head.dataobj, np.float32)[..., None])
    inputs = {"volume": volume, "affine": tf.constant(head.affine, tf.float32), "spacing_mm": tf.zeros(3)}
    return lambda: loaded.signatures["labels"](**inputs)["labels"].numpy()


def _seconds(run: Callable[[], Any], what: str) -> dict[str, float]:
    """Medians of a few runs after a first one."""
    run()
    taken = []
    for _ in range(REPEATS):
        began, busy = time.perf_counter(), time.process_time()
        run()
        taken.append((time.process_time() - busy, time.perf_counter() - began))
    busy, passed = (statistics.median(each) for each in zip(*taken, strict=True))
    return {f"{what}_cpu_s": busy, f"{what}_s": passed}


def _version(runtime: str) -> str:
    for package in PACKAGES.get(runtime, TENSORFLOW):
        try:
            return f"{package}-{importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def apart(model: str) -> dict[str, float]:
    """How far each exported network is from the Keras one, as it was measured when it was written."""
    from zoo.exporters import export

    differences = {}
    for runtime in RUNTIMES:
        if runtime in ("keras", "saved_model"):
            continue
        path = export.runtime_file(model, runtime)
        record = next((path if path.is_dir() else path.parent).rglob(export.RECORD))
        differences[runtime] = json.loads(record.read_text())["difference"]
    return differences


def kept(path: Path, make: Callable[[], Any] | None) -> Any:
    """What was measured before, or is now: a run that was stopped goes on. With nothing to make it, None."""
    if not path.exists():
        if make is None:
            return None
        content = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(content))
        part.replace(path)
    return json.loads(path.read_text())


def timed(model: str, rounds: int, cores: int, work: Path, *, measure: bool = True) -> list[dict[str, Any]]:
    """A row a runtime, with its speed over that of Keras."""
    words = [sys.executable, __file__, "--cores", str(cores), "--models", model, "--worker"]
    differences, ran = apart(model), {runtime: [] for runtime in RUNTIMES}
    for number in range(rounds):
        for runtime in RUNTIMES[:: -1 if number % 2 else 1]:
            run = functools.partial(timing.alternate, {runtime: [*words, runtime]}, rounds=1) if measure else None
            ran[runtime] += (kept(work / f"{model}-{runtime}-{cores}-{number}.json", run) or {runtime: []})[runtime]
    keras = _medians(ran["keras"])
    return [_row(each, keras, differences.get(runtime, 0.0)) for runtime, each in ran.items() if each]


def _medians(each: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: timing.median(row[key] for row in each) for key in each[0]}


def _row(each: list[dict[str, Any]], keras: dict[str, Any], difference: float) -> dict[str, Any]:
    row = _medians(each) | {"difference": difference}
    for what in ("window", "scan"):
        if f"{what}_cpu_s" in row:
            row[f"{what}_cpu_s_each"] = [timing_row[f"{what}_cpu_s"] for timing_row in each]
            row[f"{what}_ratio"] = keras[f"{what}_cpu_s"] / row[f"{what}_cpu_s"]
    return row


def narrowed(model: str, dtype: str) -> dict[str, Any]:
    """Bytes of the SavedModel with such weights, and Dice of its labels with those of `zoo.predict`."""
    import zoo
    from zoo.exporters import comparison, export

    with tempfile.TemporaryDirectory() as home:
        folder = zoo.export(model, Path(home) / dtype, weights=dtype)
        record = json.loads((folder / "assets.extra" / export.RECORD).read_text())
        dice = comparison.dice_with(folder, model, zoo.sample())
    worst = min(dice, key=lambda name: dice[name])
    row = {"model": model, "weights": dtype, "bytes": record["bytes"], "difference": record["difference"]}
    return row | {"dice_mean": statistics.mean(dice.values()), "dice_least": dice[worst], "least": worst}


def main() -> None:
    """Measures everything and writes the result file; with `--worker`, one process of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="of one channel, for the head that ships")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument(
        "--work", type=Path, default=Path("runs/bench_runtimes"), help="what a stopped run goes on from"
    )
    parser.add_argument("--kept", action="store_true", help="measure nothing: write what a stopped run had measured")
    parser.add_argument("--worker", choices=RUNTIMES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options.models[0], options.worker, options.cores)))
        return
    rows = []
    for model in options.models:
        rows += timed(model, options.rounds, options.cores, options.work, measure=not options.kept)
        for dtype in WEIGHTS:
            run = None if options.kept else functools.partial(narrowed, model, dtype)
            row = kept(options.work / f"{model}-{dtype}.json", run)
            rows += [] if row is None else [row]
    settings = {
        "models": options.models,
        "rounds": options.rounds,
        "repeats": REPEATS,
        "cores": options.cores,
        "scan": "colin27, 2 mm",
    }
    print(timing.write("runtimes", predicted=PREDICTED, settings=settings, rows=rows, headline=[]))


if __name__ == "__main__":
    main()
