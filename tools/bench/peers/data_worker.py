"""One side of tools/bench/data.py: serves patches from NIfTI files, cold and then cached; prints one line of JSON.

Each side reads, turns to RAS, z-scores, and cuts 96^3 patches, a third on foreground, four a batch, with two workers.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument("--side", required=True)
parser.add_argument("--folder", type=pathlib.Path, required=True)
parser.add_argument("--patch", type=int, required=True)
parser.add_argument("--warm", type=int, required=True, help="patches of the cached measurement")
options = parser.parse_args()

BATCH = 4
WORKERS = 2
FILES = [
    {"image": str(path), "label": str(path).replace("image", "label")} for path in options.folder.glob("image*.nii.gz")
]


def zoo(where):
    import tensorflow as tf

    from zoo.datasets import cases
    from zoo.pipeline import cache, dataset, prepare, sampler

    tf.config.threading.set_intra_op_parallelism_threads(WORKERS)
    patterns = {"channels": {"image": "image{id}.nii.gz"}, "labels": "label{id}.nii.gz"}
    yield {"tensorflow": tf.__version__}
    listed = cases.cases(options.folder, reader="folder", **patterns)
    built = cache.build(listed, prepare.Reading(), where)
    sampling = sampler.Sampling(positive_fraction=1 / 3)
    while True:
        batches = dataset.dataset(built, patch=(options.patch,) * 3, batch_size=BATCH, sampling=sampling)
        for image, _ in batches:
            yield image.shape[0]


def zoo_memory(scratch):
    return zoo("memory")


def zoo_disk(scratch):
    return zoo(scratch)


def monai(make, indices):
    import monai
    from monai import transforms as t
    from monai.data import DataLoader

    keys = ("image", "label")
    kept = [
        t.LoadImaged(keys),
        t.EnsureChannelFirstd(keys),
        t.Orientationd(keys, axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
        t.NormalizeIntensityd("image"),
    ]
    places = {}
    if indices:
        kept.append(t.FgBgToIndicesd("label", fg_postfix="_fg", bg_postfix="_bg"))
        places = {"fg_indices_key": "label_fg", "bg_indices_key": "label_bg"}
    size = (options.patch,) * 3
    crop = t.RandCropByPosNegLabeld(keys, "label", spatial_size=size, pos=1, neg=2, num_samples=BATCH, **places)
    yield {"monai": monai.__version__}
    data = make(FILES, t.Compose([*kept, crop]))
    # In memory, worker processes would copy nothing but send each patch; on disk they read side by side.
    loader = DataLoader(data, batch_size=1, shuffle=True, num_workers=WORKERS, persistent_workers=True)
    while True:
        for batch in loader:
            yield batch["image"].shape[0]


def cache_dataset(data, transform):
    from monai.data import CacheDataset

    return CacheDataset(data, transform, num_workers=WORKERS, progress=False)


def monai_cache(scratch):
    return monai(cache_dataset, indices=False)


def monai_cache_indices(scratch):
    return monai(cache_dataset, indices=True)


def monai_persistent(scratch):
    from monai.data import PersistentDataset

    return monai(lambda data, transform: PersistentDataset(data, transform, cache_dir=scratch), indices=False)


def torchio(loaded):
    import torch
    import torchio as tio

    steps = tio.Compose([tio.ToCanonical(), tio.ZNormalization()])
    sampler = tio.LabelSampler(options.patch, "label", {0: 2, 1: 1})
    yield {"torchio": tio.__version__}
    subjects = [tio.Subject(image=tio.ScalarImage(f["image"]), label=tio.LabelMap(f["label"])) for f in FILES]
    if loaded:
        subjects = [steps(subject) for subject in subjects]
    data = tio.SubjectsDataset(subjects, None if loaded else steps)
    queue = tio.Queue(data, 4 * BATCH, BATCH, sampler, num_workers=WORKERS)
    loader = torch.utils.data.DataLoader(queue, batch_size=BATCH, num_workers=0)
    while True:
        for batch in loader:
            yield batch["image"][tio.DATA].shape[0]


def torchio_queue(scratch):
    return torchio(loaded=False)


def torchio_loaded(scratch):
    return torchio(loaded=True)


def served(patches, num):
    """Seconds for at least `num` patches, as seconds a patch."""
    begin, count = time.perf_counter(), 0
    while count < num:
        count += next(patches)
    return (time.perf_counter() - begin) / count


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        patches = globals()[options.side](scratch)
        version = next(patches)
        print("ready", flush=True)
        sys.stdin.readline()
        cold = served(patches, BATCH * len(FILES))
        served(patches, BATCH * len(FILES))
        print(json.dumps({"cold_s": cold, "cached_s": served(patches, options.warm), "version": version}), flush=True)
        sys.stdin.readline()
