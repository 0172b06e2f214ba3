"""One side of tools/bench/train.py: times the zoo's compiled training step; prints one line of JSON."""

import argparse
import json
import os
import resource
import time

parser = argparse.ArgumentParser()
parser.add_argument("--precision", choices=["float32", "bfloat16"], required=True)
for number in ("steps", "batch", "classes", "threads"):
    parser.add_argument(f"--{number}", type=int, required=True)
parser.add_argument("--patch", type=int, nargs=3, required=True)
parser.add_argument("--filters", type=int, nargs="+", required=True)
parser.add_argument("--norm", required=True)
parser.add_argument("--activation", required=True)
parser.add_argument("--fold", type=int, default=1)
parser.add_argument("--memory", choices=["low", "normal"], default="normal")
parser.add_argument("--jit", action="store_true")
arguments = parser.parse_args()

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import zoo  # noqa: E402
from zoo import devices, losses  # noqa: E402
from zoo.training import optimizers  # noqa: E402
from zoo.training.rematerialised import rematerialise  # noqa: E402

tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
keras.utils.set_random_seed(0)
keras.config.set_dtype_policy(devices.policy(arguments.precision))
model = zoo.load(
    "unet3d",
    input_shape=(*arguments.patch, 1),
    num_classes=arguments.classes,
    filters=tuple(arguments.filters),
    norm=arguments.norm,
    activation=arguments.activation,
    fold=arguments.fold,
)
model = rematerialise(model) if arguments.memory == "low" else model
optimizers.compile_model(
    model,
    losses.Combined([(1.0, losses.dice_cross_entropy)]),
    optimizers.optimizer({"name": "adam", "learning_rate": 1e-3}, 100),
    jit=arguments.jit,
)
idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
draw = np.random.default_rng(0)
x = draw.random((arguments.batch, *arguments.patch, 1), "float32")
y = draw.integers(0, arguments.classes, x.shape).astype("int32")
data = iter(tf.data.Dataset.from_tensors((x, y)).repeat())
take = model.make_train_function(force=True) or model.train_function
times = []
for _ in range(arguments.steps + 2):
    begin = time.perf_counter()
    logs = take(data)
    loss = float(logs["loss"])
    times.append(time.perf_counter() - begin)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
weights = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
result = {"compile_s": times[0], "step_s": sorted(times[2:])[arguments.steps // 2], "peak_mib": (peak - idle) / 1024}
version = f"keras {keras.__version__}, tensorflow {tf.__version__}"
print(json.dumps(result | {"parameters": weights, "loss": loss, "version": version}))
