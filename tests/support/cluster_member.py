"""The task of balls as a member of a cluster: `TF_CONFIG=... python cluster_member.py OUT BATCH`."""

import sys

from support.tasks import BALL
from zoo.training import fit

TASK = BALL.replace(
    arguments={"filters": (4, 8), "norm": "none"},
    optimizer={"name": "sgd", "learning_rate": 0.05},
    patch=(8, 12, 16),
    batch_size=int(sys.argv[2]) if len(sys.argv) > 2 else 1,
    steps=50,
)

if __name__ == "__main__":
    fit.train(TASK, "synthetic", sys.argv[1], options=fit.TrainOptions(precision="float32"))
