"""`unet3d.brain_structures` on real heads and on people who never trained it: Dice and HD95 by structure.

    PYTHONPATH=. python tools/bench/real_heads.py MODEL --real ../shared/data/real --out tools/bench/results

MODEL is a name or a folder. The scans: a real T1 of a whole head with FreeSurfer's labels, Colin27 against AAL, and the
test people of `zoo.synth.anatomy.people` painted in five contrasts and in slices of 5 mm. `--peer` adds brainchop's
`model30chan18cls` on the real head, read with plain Keras. None of these scans trains or chooses weights.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from zoo.evaluation.surfaces import segmentation_metrics
from zoo.hub import trained_models
from zoo.inference.predictor import Predictor
from zoo.synth import phantoms
from zoo.synth.anatomy import people, sources
from zoo.tasks import brain_structures as task
from zoo.volumes import image as images
from zoo.volumes import resampling

SIX = ("thalamus", "caudate", "putamen", "pallidum", "hippocampus", "amygdala")
LARGE = ("cortex", "white", "cerebellum_cortex", "brainstem", "thalamus")
PEOPLE = "test people"
EXACT = (14, 15, 5, 44)  # ventricles that `from_freesurfer` joins
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
    """Dice and HD95 by the name of the structure, sides averaged; what neither map has is left out."""
    names = structure_names()
    sides: dict[str, list[Mapping[str, float]]] = {}
    for value, metrics in scores.items():
        if not metrics["both_empty"]:
            sides.setdefault(names[value], []).append(metrics)
    return {
        name: {key: float(np.nanmean([one[key] for one in many])) for key in ("dice", "hd95_mm")}
        for name, many in sides.items()
    }


def score(
    predicted: np.ndarray, reference: np.ndarray, spacing_mm: Iterable[float], names: Sequence[str] = ()
) -> Table:
    """A table of the structures asked for, or of all that the reference has."""
    have = set(np.unique(reference).tolist())
    wanted = [value for value, name in structure_names().items() if value in have and (not names or name in names)]
    return by_structure(segmentation_metrics(predicted, reference, tuple(spacing_mm), labels=wanted))


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


def judge_people(
    predict: Predict, cases: Path, names: Sequence[str], scans: Sequence[phantoms.Scan] = task.SCANS
) -> dict[str, Table]:
    """Scan -> table, the mean of people, painted into `cases` where they are not there yet."""
    values, found = task.source_values()[task.class_table()], {}
    for scan in scans:
        tables = []
        for name in names:
            brain = sources.anatomy(name, head=task.TEST_HEAD, allow_test=True)
            paths = phantoms.write(cases, name, brain.labels, brain.affine, scan=scan, values=values)
            truth = nib.nifti1.load(paths[1])
            predicted = np.asanyarray(predict(str(paths[0])).dataobj)
            tables.append(score(predicted, np.asanyarray(truth.dataobj), images.spacing_mm(truth.affine)))
            print(f"{scan.name} {name} {mean(tables[-1]):.3f}", file=sys.stderr, flush=True)
        found[scan.name] = average(tables)
    return found


def average(tables: Sequence[Table]) -> Table:
    """Mean over tables of every structure, of those that have it."""
    names = {name for table in tables for name in table}
    keys = ("dice", "hd95_mm")
    return {
        name: {key: float(np.mean([table[name][key] for table in tables if name in table])) for key in keys}
        for name in sorted(names)
    }


def judge_bound(folder: Path) -> Table:
    """What the network's grid allows on the real head, in a box around the brain."""
    scan, truth = real_head(folder)
    box = tuple(slice(max(a.start - 8, 0), a.stop + 8) for a in ndimage.find_objects(truth > 0)[0])
    return score(grid_bound(truth[box], scan.affine), truth[box], images.spacing_mm(scan.affine))


# brainchop's classes, sides joined, in the order of its colour map.
PEER_NAMES = (
    *("background", "white", "cortex", "ventricle", "inferior_ventricle", "cerebellum_white", "cerebellum_cortex"),
    *("thalamus", "caudate", "putamen", "pallidum", "third_ventricle", "fourth_ventricle", "brainstem"),
    *("hippocampus", "amygdala", "accumbens", "ventral_diencephalon"),
)


def peer_network(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """brainchop's dilated convolutions from its layers model, as a function (x, y, z) -> (x, y, z) class numbers.

    Slabs of 32 planes with a margin of the receptive field, so that 30 channels of a head fit into memory.
    """
    import tensorflow as tf

    described = json.loads((folder / "model.json").read_text())
    flat, stored, place = np.fromfile(folder / "model.bin", np.float32), {}, 0
    for entry in described["weightsManifest"][0]["weights"]:
        size = int(np.prod(entry["shape"]))
        stored[entry["name"]] = flat[place : place + size].reshape(entry["shape"])
        place += size
    layers = [
        layer["config"]
        for layer in described["modelTopology"]["model_config"]["config"]["layers"]
        if layer["class_name"] == "Conv3D"
    ]

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


def judge_peer(folder: Path, real: Path) -> Table:
    """brainchop on the real head: 2nd to 98th percentile to 0 to 1, sides joined in reference and result."""
    scan, truth = real_head(real)
    volume = np.asanyarray(scan.dataobj)
    low, high = np.percentile(volume, (2, 98))
    found = peer_network(folder)(np.clip((volume - low) / (high - low), 0, 1))
    number = {name: index for index, name in enumerate(PEER_NAMES)}
    reference = np.zeros(truth.shape, np.int32)
    for value, name in structure_names().items():
        reference[truth == value] = number.get(name, 0)
    scores = segmentation_metrics(found, reference, (1, 1, 1), labels=list(range(1, len(PEER_NAMES))))
    return {PEER_NAMES[index]: {key: row[key] for key in ("dice", "hd95_mm")} for index, row in scores.items()}


def summary(table: Table) -> dict[str, float]:
    """Mean over all structures and over six, and the two large tissues where they are there."""
    six = [name for name in SIX if name in table]
    found = {"dice": mean(table), "dice_six": mean(table, six), "hd95_mm_six": mean(table, six, "hd95_mm")}
    return found | {f"dice_{name}": table[name]["dice"] for name in ("cortex", "white") if name in table}


def judge(model: str | Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Judges one model on all that was asked for, and says who it is."""
    begun = time.time()
    predict = Predictor(model)
    tables = {"head_ecog": judge_head(predict, arguments.real), "colin27": judge_colin27(predict)}
    for name, table in tables.items():
        print(name, json.dumps(summary(table)), file=sys.stderr, flush=True)
    if arguments.bound:
        tables["head_ecog, labels to 2 mm and back"] = judge_bound(arguments.real)
    if arguments.peer:
        tables["head_ecog, brainchop model30chan18cls"] = judge_peer(arguments.peer, arguments.real)
    chosen = people.names("test") if arguments.people is None else arguments.people
    if chosen:
        scans = [scan for scan in task.SCANS if not arguments.scans or scan.name in arguments.scans]
        found = judge_people(predict, arguments.cases, chosen, scans)
        tables |= {f"{PEOPLE}, {scan}": table for scan, table in found.items()}
    card = trained_models.card(model)
    result = {"model": card.name, "version": card.version, "steps": card.training.steps, "people": chosen}
    result |= {"processor": platform.processor() or platform.machine(), "minutes": (time.time() - begun) / 60}
    return result | {"summary": {name: summary(table) for name, table in tables.items()}, "structures": tables}


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
    options.add_argument("--bound", action="store_true", help="what the network's grid allows, too")
    return options


def main(arguments: argparse.Namespace) -> None:
    """Judges one model, prints the summary and writes what it found."""
    result = judge(arguments.model, arguments)
    print(json.dumps(result["summary"], indent=1))
    if arguments.out:
        print("wrote", write(result, arguments.out))


if __name__ == "__main__":
    options = parser()
    options.add_argument("model", nargs="?", default=task.TASK.model_name)
    options.add_argument("--out", type=Path)
    main(options.parse_args())
