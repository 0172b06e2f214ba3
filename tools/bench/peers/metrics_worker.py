"""One library's metrics of a pair of label maps, timed each time a line comes in; started by tools/bench/metrics.py."""

import importlib.metadata
import json
import pathlib
import resource
import sys
import time
import warnings

import numpy as np

SPACING = (1.0, 1.0, 1.2)
LABELS = range(1, 11)


def zoo(prediction, reference):
    from zoo.evaluation import surfaces

    def everything():
        metrics = surfaces.segmentation_metrics(prediction, reference, SPACING)
        return {
            metric: [metrics[label][metric] for label in LABELS] for metric in ("dice", "hd95_mm", "assd_mm", "nsd")
        }

    def hd95_only():
        boxes = [(prediction == label, reference == label) for label in LABELS]
        return [surfaces.hausdorff_95(*pair, SPACING) for pair in boxes]

    def pooled():
        metrics = surfaces.segmentation_metrics(prediction, reference, SPACING, hd95="pooled")
        return {"hd95_pooled_mm": [metrics[label]["hd95_mm"] for label in LABELS]}

    return everything, hd95_only, pooled


def monai(prediction, reference):
    import monai.metrics
    import torch

    torch.set_num_threads(1)
    # One-hot outside the clock, in the smallest dtype.
    pair = [torch.from_numpy(np.stack([m == label for label in (0, *LABELS)])[None]) for m in (prediction, reference)]

    def hd95():
        return monai.metrics.compute_hausdorff_distance(*pair, percentile=95, spacing=SPACING)[0].tolist()

    def everything():
        assd = monai.metrics.compute_average_surface_distance(*pair, symmetric=True, spacing=SPACING)
        nsd = monai.metrics.compute_surface_dice(*pair, [1.0] * len(LABELS), spacing=SPACING, use_subvoxels=True)
        dice = monai.metrics.compute_dice(*pair, include_background=False)
        numbers = {"assd_mm": assd, "nsd": nsd, "dice": dice}
        return {"hd95_mm": hd95(), **{name: value[0].tolist() for name, value in numbers.items()}}

    return everything, hd95, dict


def medpy(prediction, reference):
    from medpy.metric import binary

    def hd95():
        return [binary.hd95(prediction == label, reference == label, voxelspacing=SPACING) for label in LABELS]

    def everything():
        pairs = [(prediction == label, reference == label) for label in LABELS]
        dice = [binary.dc(*pair) for pair in pairs]
        assd = [binary.assd(*pair, voxelspacing=SPACING) for pair in pairs]
        return {"dice": dice, "assd_mm": assd, "hd95_pooled_mm": hd95()}

    return everything, hd95, dict


def timed(function):
    wall, cpu = time.perf_counter(), time.process_time()
    value = function()
    return value, time.perf_counter() - wall, time.process_time() - cpu


def main():
    warnings.simplefilter("ignore")
    library, folder = sys.argv[1:]
    with np.load(pathlib.Path(folder) / "pair.npz") as pair:
        functions = {"zoo": zoo, "monai": monai, "medpy": medpy}[library](pair["prediction"], pair["reference"])
    everything, hd95_only, more = functions
    packages = {"zoo": ("zoo3d", "numpy", "edt"), "monai": ("monai", "torch", "scipy"), "medpy": ("medpy", "scipy")}
    print(json.dumps({name: importlib.metadata.version(name) for name in packages[library]}), flush=True)
    for _ in sys.stdin:
        numbers, wall, cpu = timed(everything)
        # MedPy's HD95 is half of what it did; it is not worth minutes more.
        single = (wall / 2, cpu / 2) if library == "medpy" else timed(hd95_only)[1:]
        answer = {"wall_s": wall, "cpu_s": cpu, "hd95_only_wall_s": single[0], "hd95_only_cpu_s": single[1]}
        answer["numbers"] = {**numbers, **more()}
        answer["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
