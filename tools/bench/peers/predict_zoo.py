"""One side of tools/bench/predict.py: predicts a whole volume with the zoo; prints one line of JSON."""

import argparse
import json
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import keras
import numpy as np
import tensorflow as tf
import timing

import zoo
from zoo.inference.compiled_network import prepare
from zoo.inference.sliding_window import sliding_window

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("--precision", choices=["float32", "bfloat16"], required=True)
parser.add_argument("--batch", type=int, required=True)
parser.add_argument("--patch", type=int, required=True)
parser.add_argument("--threads", type=int, required=True)
parser.add_argument("--filters", type=int, nargs="+", required=True)
options = parser.parse_args()

tf.config.threading.set_intra_op_parallelism_threads(options.threads)
volume = np.load(options.folder / "volume.npy")
filters = tuple(options.filters)
model = zoo.load("unet3d", num_classes=2, filters=filters, up_filters=filters[:-1])
weights = np.load(options.folder / "weights.npz")
for variable in model.weights:
    variable.assign(weights[variable.path.replace("/", ".")])
idle = timing.resident_mib(reset=True)
begin = time.perf_counter()
forward = prepare(model, precision=options.precision)
forward(np.zeros((options.batch, *[options.patch] * 3, 1), np.float32))
ready, busy = time.perf_counter(), time.process_time()
result = sliding_window(forward, volume, patch=options.patch, overlap=0.5, batch_size=options.batch)
end, used = time.perf_counter(), time.process_time() - busy
peak = timing.peak_mib()
np.save(options.folder / f"volume_zoo_{options.precision}.npy", result[..., 1])
corner = volume[None, : options.patch, : options.patch, : options.patch, None]
window = forward(np.repeat(corner, options.batch, 0))[0]
np.save(options.folder / f"window_zoo_{options.precision}.npy", keras.activations.softmax(window)[..., 1])
answer = {
    "predict_s": end - ready,
    "cpu_s": used,
    "compile_s": ready - begin,
    "peak_mib": peak - idle,
    "idle_mib": idle,
}
answer |= {"parameters": model.count_params(), "version": f"keras {keras.__version__}, tensorflow {tf.__version__}"}
print(json.dumps(answer))
