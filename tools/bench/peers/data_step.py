"""Part of tools/bench/data.py: a training step on the pipeline's batches and on one constant batch, in turn."""

import argparse
import json
import os
import pathlib
import statistics
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import keras
import tensorflow as tf

import zoo
from zoo.datasets import cases
from zoo.pipeline import dataset, prepare

parser = argparse.ArgumentParser()
parser.add_argument("--folder", type=pathlib.Path, required=True)
parser.add_argument("--steps", type=int, required=True)
options = parser.parse_args()

PATCH, BATCH = (64, 64, 64), 2
patterns = {"channels": {"image": "image{id}.nii.gz"}, "labels": "label{id}.nii.gz"}
listed = cases.cases(options.folder, reader="folder", **patterns)
fed = iter(dataset.dataset(listed, patch=PATCH, batch_size=BATCH, reading=prepare.Reading()))
constant = iter(tf.data.Dataset.from_tensors(next(fed)).cache().repeat())
model = zoo.load("unet3d", input_shape=(None, None, None, 1), num_classes=2, filters=(16, 32, 64))
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
take = model.make_train_function(force=True) or model.train_function


def timed(batches):
    begin = time.perf_counter()
    float(take(batches)["loss"])
    return time.perf_counter() - begin


for batches in (fed, constant) * 2:
    timed(batches)
pairs = [(timed(fed), timed(constant)) for _ in range(options.steps)]
fed_s, constant_s = (statistics.median(side) for side in zip(*pairs, strict=True))
print(json.dumps({"fed_s": fed_s, "constant_s": constant_s, "batch": f"{BATCH} x {PATCH[0]}^3"}))
