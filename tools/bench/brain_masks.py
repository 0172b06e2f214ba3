"""Brain masks of several networks on a real head and on people who trained none of ours: Dice, HD95, seconds, memory.

    PYTHONPATH=. python tools/bench/brain_masks.py SIDE ... --real ../shared/data/real --peer FOLDER_OF_MINDGRAB

A side is a trained model, by name or folder, or "mindgrab", brainchop's network, which is read with plain TensorFlow.
Its numbers take the place of earlier ones in the result file, those of the other sides stay. Scans: a real T1 of a
whole head against FreeSurfer's brain mask, and the test people of `zoo.synth.anatomy.people` painted in five contrasts
and in slices of 5 mm. None of them trains or chooses weights.
"""

import argparse
import functools
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import nibabel.processing
import numpy as np
import real_heads
import timing
from scipy import ndimage

from zoo.evaluation.surfaces import segmentation_metrics
from zoo.hub import trained_models
from zoo.inference.plausibility import PlausibilityWarning
from zoo.inference.predictor import Predictor
from zoo.synth import phantoms
from zoo.synth.anatomy import people, sources
from zoo.tasks import brain_mask as task
from zoo.tasks import brain_structures as structures
from zoo.volumes import components
from zoo.volumes import image as images

MINDGRAB = "mindgrab"
HEAD = "head_ecog"
PEOPLE = "test people"
# How far from the brain fluid counts (mm) -> what that Dice is called: each network draws the line elsewhere.
LINES = {0.0: "dice_tight", 8.0: "dice_wide"}
BRIGHT, MARGIN = 0.5, 20  # brainchop's settings of mindgrab
RESULT = timing.RESULTS / "brain_masks.json"
Row = dict[str, float]
Predict = Callable[[Any], Any]


def head(folder: Path) -> tuple[nib.nifti1.Nifti1Image, np.ndarray]:
    """The real head, and FreeSurfer's brain mask without holes."""
    scan, mask = (nib.load(folder / HEAD / name) for name in ("T1.mgz", "brainmask.mgz"))
    brain = components.fill_holes(np.asanyarray(mask.dataobj) > 0)
    return nib.nifti1.Nifti1Image(np.asanyarray(scan.dataobj).astype(np.float32), scan.affine), brain


def score(predicted: np.ndarray, reference: np.ndarray, affine: np.ndarray) -> Row:
    """Dice, HD95 and both volumes."""
    spacing_mm = images.spacing_mm(affine)
    measured = segmentation_metrics(predicted != 0, reference, tuple(spacing_mm), labels=[1])[1]
    return {key: float(measured[key]) for key in ("dice", "hd95_mm", "volume_ml", "reference_ml")}


def judge_head(predict: Predict, folder: Path) -> Row:
    """The real head."""
    scan, brain = head(folder)
    return score(np.asanyarray(predict(scan).dataobj), brain, scan.affine)


@functools.lru_cache(maxsize=8)
def other_brain(name: str, fluid_mm: float) -> np.ndarray:
    """A test person's brain by another line between the fluid that counts and the rest."""
    labels = sources.anatomy(name, head=structures.TEST_HEAD, allow_test=True).labels
    return task.brain_of(labels, fluid_mm=fluid_mm)


def judge_person(predict: Predict, cases: Path, name: str, scan: phantoms.Scan) -> Row:
    """One test person in one contrast, painted into `cases` where that is not there yet."""
    image, mask = task.write_case(cases, name, scan)
    truth = nib.nifti1.load(mask)
    predicted = np.asanyarray(predict(nib.nifti1.load(image)).dataobj) != 0
    others = {
        key: real_heads.overlap_of(predicted, phantoms.sliced(other_brain(name, fluid_mm), scan))["dice"]
        for fluid_mm, key in LINES.items()
    }
    return score(predicted, np.asanyarray(truth.dataobj) != 0, truth.affine) | others


def box_of(mask: np.ndarray) -> tuple[slice, ...]:
    """The box around a mask with brainchop's margin, within the volume."""
    (found,) = ndimage.find_objects(mask.astype(np.uint8))
    return tuple(slice(max(along.start - MARGIN, 0), along.stop + MARGIN) for along in found)


def mindgrab(folder: Path) -> Predict:
    """brainchop's network as a function from an image to its mask on the same grid.

    As brainchop runs it: 256^3 voxels of 1 mm as FreeSurfer lays them, 2nd to 98th percentile to 0 to 1, cut to a box
    around what is brighter than a half, convolutions whose channels are normalised over that box, GELU, and the largest
    piece of the result.
    """
    import tensorflow as tf

    layers, stored = real_heads.read_peer(folder)

    @tf.function
    def convolve(x: Any, kernel: Any, dilation: int) -> Any:
        x = tf.nn.convolution(x, kernel, padding="SAME", dilations=dilation)
        mean, variance = tf.nn.moments(x, [1, 2, 3], keepdims=True)
        return tf.nn.gelu((x - mean) * tf.math.rsqrt(variance + 1e-5))

    def run(volume: np.ndarray) -> np.ndarray:
        x = tf.constant(volume[None, ..., None], tf.float32)
        for layer in layers[:-1]:
            x = convolve(x, stored[f"{layer['name']}/kernel"], layer["dilation_rate"][0])
        kernel, bias = (stored[f"{layers[-1]['name']}/{part}"] for part in ("kernel", "bias"))
        return tf.argmax(tf.tensordot(x, kernel[0, 0, 0], 1) + bias, -1)[0].numpy() != 0

    def predict(image: nib.nifti1.Nifti1Image) -> nib.nifti1.Nifti1Image:
        laid = nibabel.processing.conform(image, (256,) * 3, (1.0,) * 3, order=1, orientation="LIA")
        volume = laid.get_fdata(dtype=np.float32)
        low, high = np.percentile(volume, (2, 98))
        volume = np.clip((volume - low) / (high - low), 0, 1)
        box = box_of(volume > BRIGHT)
        mask = np.zeros(volume.shape, np.float32)
        mask[box] = components.largest_component(run(volume[box]), 26)
        found = nib.nifti1.Nifti1Image(mask, laid.affine)
        back = nibabel.processing.resample_from_to(found, image, order=1)
        return nib.nifti1.Nifti1Image((back.get_fdata() > 0.5).astype(np.uint8), image.affine)

    return predict


def predictor(side: str, peer: Path | None) -> Predict:
    """What makes masks; networks for T1 are not asked to agree that they see one."""
    if side == MINDGRAB:
        if peer is None:
            sys.exit("mindgrab needs --peer, the folder of its model.json.")
        return mindgrab(peer)
    predict = Predictor(side)

    def quiet(image: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PlausibilityWarning)
            return predict(image)

    return quiet


def judge(side: str, arguments: argparse.Namespace) -> dict[str, Row]:
    """Every scan of one network; what a `kept` file has is not made again."""
    kept = arguments.kept / f"brain_masks_{Path(side).name}.json" if arguments.kept else None
    rows: dict[str, Row] = json.loads(kept.read_text()) if kept and kept.exists() else {}
    predict = predictor(side, arguments.peer)
    parts: dict[str, Callable[[], Row]] = {HEAD: lambda: judge_head(predict, arguments.real)}
    for name in people.names("test") if arguments.people is None else arguments.people:
        for scan in structures.SCANS:
            if not arguments.scans or scan.name in arguments.scans:
                part = functools.partial(judge_person, predict, arguments.cases, name, scan)
                parts[f"{PEOPLE}, {scan.name}, {name}"] = part
    for name, part in parts.items():
        if name not in rows:
            rows[name] = part()
            print(side, name, json.dumps(rows[name]), file=sys.stderr, flush=True)
            if kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(rows))
    return rows


def summary(rows: Mapping[str, Row]) -> dict[str, Row]:
    """The head, and every scan of the people with its mean and its worst; then all painted scans together."""
    by_scan: dict[str, list[Row]] = {}
    for name, row in rows.items():
        by_scan.setdefault(name.rpartition(", ")[0] or name, []).append(row)
    found = {scan: mean_of(many) for scan, many in by_scan.items()}
    painted = [row for scan, many in by_scan.items() if scan != HEAD for row in many]
    return found | ({PEOPLE: mean_of(painted)} if painted else {})


def mean_of(rows: list[Row]) -> Row:
    """Means of every number, the least Dice and how many there are."""
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    return means | {"least_dice": min(row["dice"] for row in rows), "n": len(rows)}


def time_once(side: str, arguments: argparse.Namespace) -> None:
    """Prints seconds and peak memory of one mask of the real head in this process, loading the network included."""
    scan, _ = head(arguments.real)
    timing.resident_mib(reset=True)
    begin = time.perf_counter()
    predictor(side, arguments.peer)(scan)
    print(json.dumps({"seconds": time.perf_counter() - begin, "peak_mib": timing.peak_mib()}))


def measure(sides: list[str], arguments: argparse.Namespace) -> dict[str, Row]:
    """Seconds and peak memory of every side, medians over rounds of child processes that alternate."""
    peer = ["--peer", str(arguments.peer)] if arguments.peer else []
    command = [sys.executable, __file__, "--real", str(arguments.real), *peer, "--time"]
    found = timing.alternate({side: [*command, side] for side in sides}, rounds=arguments.rounds)
    return {
        side: {key: timing.median(row[key] for row in rows) for key in ("seconds", "peak_mib")}
        for side, rows in found.items()
        if rows
    }


def describe(side: str, rows: Mapping[str, Row]) -> dict[str, Any]:
    """What the result file says of one side."""
    card = None if side == MINDGRAB else trained_models.card(side)
    who = {"version": card.version, "steps": card.training.steps} if card else {}
    return who | {"summary": summary(rows), "rows": dict(rows)}


def read(path: Path = RESULT) -> dict[str, Any]:
    """The result file; without sides where there is none."""
    return json.loads(path.read_text()) if path.exists() else {"sides": {}}


def write(found: Mapping[str, Mapping[str, Any]], path: Path = RESULT) -> Path:
    """Writes what was found of sides into the result file, in place of the same of before."""
    sides = read(path)["sides"]
    sides |= {name: sides.get(name, {}) | dict(side) for name, side in found.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {"processor": platform.processor() or platform.machine(), "sides": sides}
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def run(sides: Mapping[str, str], arguments: argparse.Namespace, *, beside: Sequence[str] = ()) -> dict[str, Any]:
    """Judges sides (name in the result -> model), and measures seconds and memory of these and others where asked."""
    found = {name: describe(side, judge(side, arguments)) for name, side in sides.items()}
    if arguments.rounds:
        timed = measure([*sides.values(), *beside], arguments)
        names = {side: name for name, side in sides.items()}
        for side, row in timed.items():
            found[names.get(side, side)] = found.get(names.get(side, side), {}) | row
    return found


def parser(description: str | None = __doc__) -> argparse.ArgumentParser:
    """The options of the judge, for this script and for the one that trains."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--real", type=Path, help="folder that holds head_ecog")
    options.add_argument("--cases", type=Path, default=Path("runs/brain_structures_cases"))
    options.add_argument("--people", nargs="*", help="test people; all that are there when left out, none when empty")
    options.add_argument("--scans", nargs="*", help="such as t1 t2 t1_5mm; all when left out")
    options.add_argument("--peer", type=Path, help="folder of brainchop's mindgrab")
    options.add_argument("--rounds", type=int, default=0, help="how often seconds and memory are measured")
    options.add_argument("--kept", type=Path, help="folder for what was judged so far, to go on after a stop")
    return options


def main(arguments: argparse.Namespace) -> None:
    """Judges every side, prints the summaries and writes them."""
    if arguments.time:
        return time_once(arguments.time, arguments)
    found = run({name: name for name in arguments.sides}, arguments)
    print(json.dumps({name: side.get("summary") for name, side in found.items()}, indent=1))
    print("wrote", write(found, arguments.out))
    return None


if __name__ == "__main__":
    options = parser()
    options.add_argument("sides", nargs="*", help="trained models or mindgrab")
    options.add_argument("--out", type=Path, default=RESULT)
    options.add_argument("--time", help=argparse.SUPPRESS)
    main(options.parse_args())
