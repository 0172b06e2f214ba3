"""`unet3d.brain_structures` on real heads and on people who never trained it: Dice and HD95 by structure.

    PYTHONPATH=. python tools/bench/real_heads.py MODEL --real ../shared/data/real --out tools/bench/results

MODEL is a name or a folder. The scans: a real T1 of a whole head with FreeSurfer's labels, Colin27 against AAL, and the
test people of `zoo.synth.anatomy.people` painted in five contrasts and in slices of 5 mm. `--peer` adds brainchop's
`model30chan18cls` on the real head, read with plain TensorFlow, and `--rounds 3` seconds and peak memory of both there.
None of these scans trains or chooses weights.
"""

import argparse
import functools
import itertools
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import timing
from scipy import ndimage

from zoo.evaluation.surfaces import segmentation_metrics
from zoo.hub import trained_models
from zoo.hub.card import Card
from zoo.inference.predictor import Predictor
from zoo.synth import phantoms
from zoo.synth.anatomy import people, sources
from zoo.tasks import brain_structures as task
from zoo.volumes import image as images
from zoo.volumes import resampling

SIX = ("thalamus", "caudate", "putamen", "pallidum", "hippocampus", "amygdala")
LARGE = ("cortex", "white", "cerebellum_cortex", "brainstem", "thalamus")
PEOPLE = "test people"
BRAINCHOP = "brainchop model30chan18cls"
EXACT = (14, 15, 5, 44)  # ventricles that `from_freesurfer` joins
METRICS = ("dice", "hd95_mm", "volume_error")
Table = dict[str, dict[str, float]]
Predict = Callable[[Any], Any]


def structure_names() -> dict[int, str]:
    """Value in a label map -> name of the structure without its side, background left out."""
    return {
        value: name.removeprefix("left_").removeprefix("right_")
        for index, (name, value) in task.TASK.data.labels.items()
        if index
    }


def by_structure(scores: Mapping[int, Mapping[str, float]]) -> Table:
    """Dice, HD95 where it was measured, and the error of the volume, by the name of the structure, sides averaged."""
    names = structure_names()
    sides: dict[str, list[Mapping[str, float]]] = {}
    for value, metrics in scores.items():
        sides.setdefault(names[value], []).append(metrics)
    return {
        name: {key: float(np.nanmean([one[key] for one in many])) for key in METRICS if key in many[0]}
        for name, many in sides.items()
    }


def score(
    predicted: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Iterable[float],
    names: Sequence[str] = (),
    *,
    surfaces: bool = True,
) -> Table:
    """A table of the structures asked for, or of all that the reference has; Dice alone without surfaces."""
    have = set(np.unique(reference).tolist())
    wanted = [value for value, name in structure_names().items() if value in have and (not names or name in names)]
    scores: dict[int, dict[str, float]] = {
        value: overlap_of(predicted == value, reference == value) for value in wanted
    }
    if surfaces:
        measured = segmentation_metrics(predicted, reference, tuple(spacing_mm), labels=wanted)
        scores = {
            value: scores[value] | {key: row[key] for key in ("dice", "hd95_mm")} for value, row in measured.items()
        }
    return by_structure(scores)


def overlap_of(predicted: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Dice of two masks, the second not empty, and by what part the volume of the first is off."""
    ours, theirs = float(predicted.sum()), float(reference.sum())
    dice = 2 * float((predicted & reference).sum()) / (ours + theirs)
    return {"dice": dice, "volume_error": abs(ours / theirs - 1)}


def mean(table: Mapping[str, Mapping[str, float]], names: Iterable[str] | None = None, key: str = "dice") -> float:
    """Mean of one metric over structures, those asked for or all."""
    return float(np.mean([table[name][key] for name in (table if names is None else names)]))


def aseg_values(codes: np.ndarray) -> np.ndarray:
    """FreeSurfer's aseg in this task's values; the callosum and hypointensities belong to the nearer white matter.

    Fluid (24) is left out: FreeSurfer outlines little of what lies around the brain.
    """
    values = task.source_values()[task.class_table()[sources.from_freesurfer(codes)]]
    values = np.where(np.isin(codes, EXACT), codes, values)
    return np.where(values == 24, 0, values)


def grid_bound(reference: np.ndarray, affine: np.ndarray, spacing_mm: float = task.SPACING_MM) -> np.ndarray:
    """The reference brought to the network's grid, each class as a share of a voxel, and back: the most to reach."""
    values, index = np.unique(reference, return_inverse=True)
    index = index.reshape(reference.shape)
    best, winner = np.full(reference.shape, -1.0, np.float32), np.zeros(reference.shape, np.int32)
    for number in range(len(values)):
        share = (index == number).astype(np.float32)
        coarse = resampling.resample(share, images.spacing_mm(affine), spacing_mm, antialias=True)
        grid = resampling.resample_affine(affine, share.shape, spacing_mm)
        back = resampling.resample_like(coarse, grid, share.shape, affine)
        winner, best = np.where(back > best, number, winner), np.maximum(back, best)
    return values[winner]


def real_head(folder: Path) -> tuple[nib.nifti1.Nifti1Image, np.ndarray]:
    """The scan and FreeSurfer's labels on its grid, in this task's values."""
    scan, truth = (nib.load(folder / "head_ecog" / name) for name in ("T1.mgz", "aseg.mgz"))
    scan = nib.nifti1.Nifti1Image(np.asanyarray(scan.dataobj).astype(np.float32), scan.affine)
    return scan, aseg_values(np.asanyarray(truth.dataobj).astype(np.int32))


def judge_head(predict: Predict, folder: Path) -> Table:
    """The real head with FreeSurfer's labels."""
    scan, truth = real_head(folder)
    return score(np.asanyarray(predict(scan).dataobj), truth, images.spacing_mm(scan.affine))


def judge_colin27(predict: Predict) -> Table:
    """Colin27's T1 against AAL's six structures on the same grid."""
    scan = nib.nifti1.load(sources.MRICRON / "ch2.nii.gz")
    truth = sources.anatomy("colin27", allow_test=True)
    found = np.asanyarray(nib.funcs.as_closest_canonical(predict(scan)).dataobj)
    reference = task.source_values()[task.class_table()[truth.labels]]
    return score(found, reference, nib.affines.voxel_sizes(truth.affine), SIX)


def judge_person(predict: Predict, cases: Path, name: str, scan: phantoms.Scan, *, surfaces: bool = False) -> Table:
    """One test person in one contrast, painted into `cases` where that is not there yet."""
    values, brain = (
        task.source_values()[task.class_table()],
        sources.anatomy(name, head=task.TEST_HEAD, allow_test=True),
    )
    paths = phantoms.write(cases, name, brain.labels, brain.affine, scan=scan, values=values)
    truth = nib.nifti1.load(paths[1])
    predicted = np.asanyarray(predict(str(paths[0])).dataobj)
    return score(predicted, np.asanyarray(truth.dataobj), images.spacing_mm(truth.affine), surfaces=surfaces)


def average(tables: Sequence[Table]) -> Table:
    """Mean over tables of every structure, of those that have it."""
    return {
        name: {
            key: float(np.mean([table[name][key] for table in tables if key in table.get(name, {})]))
            for key in next(table[name] for table in tables if name in table)
        }
        for name in sorted({name for table in tables for name in table})
    }


def judge_bound(folder: Path) -> Table:
    """What the network's grid allows on the real head, in a box around the brain."""
    scan, truth = real_head(folder)
    box = tuple(slice(max(a.start - 8, 0), a.stop + 8) for a in ndimage.find_objects((truth > 0).astype(np.uint8))[0])
    return score(grid_bound(truth[box], scan.affine), truth[box], images.spacing_mm(scan.affine))


# brainchop's classes, sides joined, in the order of its colour map.
PEER_NAMES = (
    *("background", "white", "cortex", "ventricle", "inferior_ventricle", "cerebellum_white", "cerebellum_cortex"),
    *("thalamus", "caudate", "putamen", "pallidum", "third_ventricle", "fourth_ventricle", "brainstem"),
    *("hippocampus", "amygdala", "accumbens", "ventral_diencephalon"),
)


def read_peer(folder: Path) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The convolutions of a layers model of brainchop, in order, and its weights by name."""
    described = json.loads((folder / "model.json").read_text())
    flat, stored, place = np.fromfile(folder / "model.bin", np.float32), {}, 0
    for entry in described["weightsManifest"][0]["weights"]:
        size = int(np.prod(entry["shape"]))
        stored[entry["name"]] = flat[place : place + size].reshape(entry["shape"])
        place += size
    layers = described["modelTopology"]["model_config"]["config"]["layers"]
    return [layer["config"] for layer in layers if layer["class_name"] == "Conv3D"], stored


def peer_network(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """brainchop's dilated convolutions from its layers model, as a function (x, y, z) -> (x, y, z) class numbers.

    Slabs of 64 planes with a margin of the receptive field, so that 30 channels of a head fit into memory.
    """
    import tensorflow as tf

    layers, stored = read_peer(folder)

    def run(volume: np.ndarray) -> np.ndarray:
        x = tf.constant(volume[None, ..., None], tf.float32)
        for layer in layers:
            name, by = layer["name"], layer["dilation_rate"]
            x = tf.nn.convolution(x, stored[f"{name}/kernel"], padding="SAME", dilations=by) + stored[f"{name}/bias"]
            x = x if name == layers[-1]["name"] else tf.nn.elu(x)
        return tf.argmax(x, -1)[0].numpy()

    def in_slabs(volume: np.ndarray) -> np.ndarray:
        margin, step, parts = sum(layer["dilation_rate"][0] for layer in layers), 64, []
        for start in range(0, volume.shape[0], step):
            low, high = max(start - margin, 0), min(start + step + margin, volume.shape[0])
            parts.append(run(volume[low:high])[start - low : start - low + step])
        return np.concatenate(parts)

    return in_slabs


def label_as_brainchop(folder: Path, scan: nib.nifti1.Nifti1Image) -> np.ndarray:
    """brainchop's class numbers of a scan of 256^3 voxels of 1 mm, scaled by its 2nd and 98th percentile."""
    volume = np.asanyarray(scan.dataobj)
    low, high = np.percentile(volume, (2, 98))
    return peer_network(folder)(np.clip((volume - low) / (high - low), 0, 1))


def judge_peer(folder: Path, real: Path) -> Table:
    """brainchop on the real head: 2nd to 98th percentile to 0 to 1, sides joined in reference and result."""
    scan, truth = real_head(real)
    found = label_as_brainchop(folder, scan)
    number = {name: index for index, name in enumerate(PEER_NAMES)}
    reference = np.zeros(truth.shape, np.int32)
    for value, name in structure_names().items():
        reference[truth == value] = number.get(name, 0)
    scores = segmentation_metrics(found, reference, (1, 1, 1), labels=list(range(1, len(PEER_NAMES))))
    return {PEER_NAMES[index]: {key: row[key] for key in ("dice", "hd95_mm")} for index, row in scores.items()}


def summary(table: Table) -> dict[str, float]:
    """Mean over all structures and over six, the two large tissues, and how far volumes of large structures are off."""
    six = [name for name in SIX if name in table]
    found = {"dice": mean(table), "dice_six": mean(table, six)}
    if all("hd95_mm" in table[name] for name in six):
        found["hd95_mm_six"] = mean(table, six, "hd95_mm")
    errors = [table[name]["volume_error"] for name in LARGE if "volume_error" in table.get(name, {})]
    if len(errors) == len(LARGE):
        found |= {"volume_error_large": float(np.mean(errors)), "volume_error_most": max(errors)}
    return found | {f"dice_{name}": table[name]["dice"] for name in ("cortex", "white") if name in table}


def parts(predict: Predict, arguments: argparse.Namespace) -> dict[str, Callable[[], Table]]:
    """Name of a scan -> what judges it, in order."""
    found = {
        "head_ecog": lambda: judge_head(predict, arguments.real),
        "colin27": lambda: judge_colin27(predict),
    }
    chosen = people.names("test") if arguments.people is None else arguments.people
    for scan, name in itertools.product(task.SCANS, chosen):
        if not arguments.scans or scan.name in arguments.scans:
            found[f"{PEOPLE}, {scan.name}, {name}"] = functools.partial(
                judge_person, predict, arguments.cases, name, scan, surfaces=arguments.surfaces
            )
    if arguments.bound:
        found["head_ecog, labels to 2 mm and back"] = lambda: judge_bound(arguments.real)
    if arguments.peer:
        found[f"head_ecog, {BRAINCHOP}"] = lambda: judge_peer(arguments.peer, arguments.real)
    return found


def judge(model: str | Path, arguments: argparse.Namespace, kept: Path | None = None) -> dict[str, Any]:
    """Judges one model on all that was asked for, and says who it is.

    Args:
        model: its name or folder.
        arguments: those of `parser`.
        kept: a file that gets each table as soon as it is there, and is gone on with.
    """
    predict = Predictor(model)
    tables: dict[str, Table] = json.loads(kept.read_text()) if kept and kept.exists() else {}
    for name, part in parts(predict, arguments).items():
        if name not in tables:
            tables[name] = part()
            print(name, json.dumps(summary(tables[name])), file=sys.stderr, flush=True)
            if kept:
                kept.write_text(json.dumps(tables))
    cost = measure(model, arguments) if arguments.rounds and arguments.peer else {}
    return describe(trained_models.card(model), tables) | ({"cost": cost} if cost else {})


def time_once(side: str, arguments: argparse.Namespace) -> None:
    """Prints seconds and peak memory of the labels of the real head in this process, loading the network included."""
    scan, _ = real_head(arguments.real)
    timing.resident_mib(reset=True)
    begin = time.perf_counter()
    if side == BRAINCHOP:
        label_as_brainchop(arguments.peer, scan)
    else:
        Predictor(arguments.model)(scan)
    print(json.dumps({"seconds": time.perf_counter() - begin, "peak_mib": timing.peak_mib()}))


def measure(model: str | Path, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Seconds and peak memory of ours and brainchop's on the real head: medians of child processes that alternate."""
    command = [sys.executable, __file__, str(model), "--real", str(arguments.real), "--peer", str(arguments.peer)]
    sides = (trained_models.card(model).name, BRAINCHOP)
    found = timing.alternate({side: [*command, "--time", side] for side in sides}, rounds=arguments.rounds)
    return {
        side: {key: timing.median(row[key] for row in rows) for key in ("seconds", "peak_mib")}
        for side, rows in found.items()
        if rows
    }


def describe(card: Card, tables: Mapping[str, Table]) -> dict[str, Any]:
    """All tables with their summaries, people averaged for each scan."""
    structures = {name: table for name, table in tables.items() if not name.startswith(PEOPLE)}
    scans: dict[str, dict[str, Table]] = {}
    for name, table in tables.items():
        if name.startswith(PEOPLE):
            scan, _, person = name.rpartition(", ")
            scans.setdefault(scan, {})[person] = table
    structures |= {scan: average(list(each.values())) for scan, each in scans.items()}
    return {
        "model": card.name,
        "version": card.version,
        "steps": card.training.steps,
        "processor": platform.processor() or platform.machine(),
        "people": {scan: sorted(each) for scan, each in scans.items()},
        "summary": {name: summary(table) for name, table in structures.items()},
        "structures": structures,
    }


def write(result: Mapping[str, Any], out: Path) -> Path:
    """Writes a result, named after the version."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"real_heads_{result['version']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def parser(description: str | None = __doc__) -> argparse.ArgumentParser:
    """The options of a judge, for this script and for the one that trains."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--real", type=Path, required=True, help="folder that holds head_ecog")
    options.add_argument("--cases", type=Path, default=Path("runs/brain_structures_cases"))
    options.add_argument("--people", nargs="*", help="test people; all that are there when left out, none when empty")
    options.add_argument("--scans", nargs="*", help="such as t1 t2 t1_5mm; all when left out")
    options.add_argument("--peer", type=Path, help="folder of brainchop's model30chan18cls")
    options.add_argument("--surfaces", action="store_true", help="HD95 of the test people, too")
    options.add_argument(
        "--rounds", type=int, default=0, help="how often seconds and memory are measured beside --peer"
    )
    options.add_argument("--bound", action="store_true", help="what the network's grid allows, too")
    return options


def main(arguments: argparse.Namespace) -> None:
    """Judges one model, prints the summary and writes what it found."""
    if arguments.time:
        time_once(arguments.time, arguments)
        return
    result = judge(arguments.model, arguments)
    print(json.dumps(result["summary"], indent=1))
    if arguments.out:
        print("wrote", write(result, arguments.out))


if __name__ == "__main__":
    options = parser()
    options.add_argument("model", nargs="?", default=task.TASK.model_name)
    options.add_argument("--out", type=Path)
    options.add_argument("--time", help=argparse.SUPPRESS)
    main(options.parse_args())
