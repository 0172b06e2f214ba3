#!/usr/bin/env python3
"""Measures `epilepsy_lesions` on patients with outlined lesions: python studies/epilepsy_real.py OUT.json FOLDER...

A folder holds T1.nii.gz, FLAIR.nii.gz and lesions.nii.gz on one grid, as the two patients of open_ms_data do. These
judge: nothing is chosen by them. Written for each: the share of the brain above the threshold; the clusters; how many
lesions over 0.3 ml are touched by a cluster that is no tenth of the brain; the mean z of all lesions and of the rest
of the white matter.
"""

import argparse
import datetime
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from zoo import files
from zoo.evaluation import clusters
from zoo.hub import result_record, trained_models
from zoo.hub.download import sha256
from zoo.inference.predictor import Predictor
from zoo.inference.settings import Settings
from zoo.normative import lesion_map
from zoo.normative import model as normative
from zoo.training.run import run_folder
from zoo.volumes import image as volumes

LEAST_ML = 0.3
WHITE = (2, 41)  # FreeSurfer's codes of white matter


def measure(finder: lesion_map.Finder, folder: Path) -> dict[str, float]:
    """Compares the map of one patient with the outlined lesions."""
    scans = {"T1w": folder / "T1.nii.gz", "FLAIR": folder / "FLAIR.nii.gz"}
    found = finder(scans, tell=lambda stage: print(f"{folder.name}: {stage}", file=sys.stderr))
    parcels = Predictor(lesion_map.PARCELLATION, settings=Settings(precision="auto"))(found.scan)
    white = np.isin(np.asanyarray(parcels.dataobj), WHITE)
    lesions = volumes.array(volumes.read(folder / "lesions.nii.gz")) > 0
    return {"out": found.out} | compare(volumes.array(found.z), found.clusters, lesions, white, found.scan.affine)


def compare(
    z: np.ndarray, found: tuple[clusters.Cluster, ...], lesions: np.ndarray, white: np.ndarray, affine: np.ndarray
) -> dict[str, float]:
    """Counts the lesions that clusters touch, and compares z inside and outside."""
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    most = clusters.LARGEST * np.count_nonzero(z)
    small = [cluster for cluster in found if len(cluster.voxels) < most]
    touched = clusters.map_ranks(small, z.shape) > 0
    numbered, count = ndimage.label(lesions, np.ones((3, 3, 3)))
    large = [label for label in range(1, count + 1) if np.count_nonzero(numbered == label) * voxel_ml > LEAST_ML]
    rest = white & ~lesions & (z != 0)
    inside = lesions & (z != 0)
    return {
        "clusters": len(found),
        "clusters_of_a_tenth": len(found) - len(small),
        "lesions": len(large),
        "lesions_touched": sum(bool(touched[numbered == label].any()) for label in large),
        "z_lesions": float(z[inside].mean()) if inside.any() else float("nan"),
        "z_rest_of_white": float(z[rest].mean()) if rest.any() else float("nan"),
    }


def main() -> None:
    """Measures every folder and writes what was measured, with what."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--model", default=lesion_map.MODEL)
    parser.add_argument("--normative", type=Path, default=None, help="left out: the one shipped with the model")
    given = parser.parse_args()
    finder = lesion_map.Finder(given.model, fitted=given.normative)
    rows = {folder.name: measure(finder, folder) for folder in given.folders}
    fitted = given.normative or trained_models.find(given.model) / normative.FILE
    told: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": run_folder.commit(),
        "model": result_record.describe_model(finder.card),
        "normative_sha256": sha256(fitted),
        "controls": finder.normative.controls,
        "patients": rows,
    }
    text = json.dumps(told, indent=1, default=str)
    files.write_whole(given.out, (text + "\n").encode())
    print(text)


if __name__ == "__main__":
    main()
