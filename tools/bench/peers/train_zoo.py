"""One side of tools/bench/train.py: times the zoo's compiled training step; prints one line of JSON."""

import argparse
import json
import os
import resource
import time

parser = argparse.ArgumentParser()
parser.add_argument("--precision", choices=["float32", "bfloat16"], required=True)
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--batch", type=int, required=True)
parser.add_argument("--patch", type=int, required=True)
parser.add_argument("--filters", type=int, nargs="+", required=True)
parser.add_argument("--threads", type=int, required=True)
options = parser.parse_args()

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import zoo  # noqa: E402
from zoo import devices  # noqa: E402
from zoo.training import optimizers  # noqa: E402

tf.config.threading.set_intra_op_parallelism_threads(options.threads)
keras.utils.set_random_seed(0)
keras.config.set_dtype_policy(devices.policy(options.precision))
model = zoo.load("unet3d", input_shape=(None, None, None, 1), num_classes=2, filters=tuple(options.filters))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
optimizers.compile_model(
    model, loss, optimizers.optimizer({"name": "adam", "learning_rate": 1e-3}, 100), jit=devices.use_jit()
)
idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
x = np.random.default_rng(0).random((options.batch, *[options.patch] * 3, 1), "float32")
y = (x > 0.5).astype("int32")
data = iter(tf.data.Dataset.from_tensors((x, y)).repeat())
take = model.make_train_function(force=True) or model.train_function
times = []
for _ in range(options.steps + 2):
    begin = time.perf_counter()
    logs = take(data)
    float(logs["loss"])
    times.append(time.perf_counter() - begin)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
weights = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
result = {"compile_s": times[0], "step_s": sorted(times[2:])[options.steps // 2], "peak_mib": (peak - idle) / 1024}
print(
    json.dumps(result | {"parameters": weights, "version": f"keras {keras.__version__}, tensorflow {tf.__version__}"})
)
