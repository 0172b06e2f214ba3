"""The task `stroke_outcome` with a tiny network on made-up blocks: Run as a script, it trains into OUT."""

import signal
import sys
import threading
import time

import nibabel
import numpy as np
import tensorflow as tf

from zoo.tasks import stroke_outcome as stroke
from zoo.training import fit
from zoo.training.run import checkpoint

SHAPES = ((20, 22, 6), (18, 20, 8), (22, 18, 10))
MAPS = {"CBV": "rCBV", "CBF": "rCBF"}


def synthesis(task, split):
    """Draws a bright block whose width the first tabular value decides."""

    def sample(seed):
        u = tf.random.stateless_uniform((4,), seed)
        wide = tf.cast(tf.range(task.data.patch[0]), "float32")[:, None, None] < 2.0 + 4.0 * u[0]
        block = tf.cast(tf.broadcast_to(wide, task.data.patch), "float32")[..., None]
        image = tf.repeat(block, 6, -1) + 0.3 * tf.random.stateless_normal((*task.data.patch, 6), seed + 1)
        vector = tf.reshape(tf.stack([u, tf.zeros((4,))], -1), (8,))
        return (image, vector), tf.concat([tf.cast(block, "int32"), tf.ones((*task.data.patch, 1), "int32")], -1)

    return sample


TASK = stroke.TASK.replace(
    arguments={"filters": (2, 4), "strides": ((2, 2, 1),), "any_size": True, "activation": "relu"},
    divisor=(2, 2, 1),
    patch=(8, 16, 6),
    samples=synthesis,
    optimizer={"name": "adam", "learning_rate": 3e-3},
    batch_size=1,
    steps=50,
    validation_batches=2,
    plausible=None,  # its cases are a few centimetres large
    patterns={"ADC": "ADC", **MAPS, "MTT": "MTT", "TTP": "TTP", "Tmax": "Tmax"},
)


def write_cases(root):
    """Writes five cases in the layout of ISLES 2017, on three grids, with a table of times and grades."""
    random, rows = np.random.default_rng(0), ["case,time_to_reperfusion_h,tici,age"]
    for number in range(1, 6):
        shape = SHAPES[(number - 1) % 3]
        affine = np.diag([2.0, 2.0, 5.0 + number % 3, 1.0])
        lesion = np.zeros(shape, np.uint8)
        lesion[4:10, 5:12, 1 : 3 + number % 3] = 1
        for offset, name in enumerate((*stroke.CHANNELS, "OT")):
            kind = "OT" if name == "OT" else f"MR_{MAPS.get(name, name)}"
            image = lesion if name == "OT" else (random.normal(100, 5, shape) + 60 * lesion).astype(np.float32)
            stem = f"VSD.Brain.XX.O.{kind}.{1000 * number + offset}"
            home = root / f"training_{number}" / stem
            home.mkdir(parents=True)
            nibabel.save(nibabel.Nifti1Image(image, affine), home / f"{stem}.nii")
        rows.append(f"{number},{2 * number},2b,{60 + number}")
    (root / "outcome.csv").write_text("\n".join(rows) + "\n")
    return root


def killer(out, started, *, step):
    """Starts a thread that kills a worker once a state of that step is written."""

    def kill():
        for _ in range(2400):
            if (out / fit.LAST).exists() and checkpoint.progress(out / fit.LAST)["step"] >= step:
                workers = [member for member in started if member.role == "worker"]
                workers[-1].process.send_signal(signal.SIGKILL)
                return
            time.sleep(0.1)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


if __name__ == "__main__":
    fit.train(TASK, "synthetic", sys.argv[1], options=fit.TrainOptions(precision="float32"))
