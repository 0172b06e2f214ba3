"""One side of tools/bench/train.py: times PyTorch training steps; prints one line of JSON."""

import argparse
import json
import resource
import time

import torch
from unet_torch import UNet, count

parser = argparse.ArgumentParser()
parser.add_argument("--precision", choices=["float32", "bfloat16"], required=True)
parser.add_argument("--mode", choices=["eager", "compile"], required=True)
for number in ("steps", "batch", "classes", "threads"):
    parser.add_argument(f"--{number}", type=int, required=True)
parser.add_argument("--patch", type=int, nargs=3, required=True)
parser.add_argument("--filters", type=int, nargs="+", required=True)
parser.add_argument("--norm", required=True)
parser.add_argument("--activation", required=True)
arguments = parser.parse_args()


def dice_cross_entropy(logits, labels):
    """The zoo's loss of this name: soft Dice without background, and cross-entropy."""
    chances = torch.softmax(logits, 1)
    reference = torch.nn.functional.one_hot(labels, logits.shape[1]).movedim(-1, 1)
    voxels = (2, 3, 4)
    common, total = (chances * reference).sum(voxels), chances.sum(voxels) + reference.sum(voxels)
    dice = 1 - (2 * common + 1e-5) / (total + 1e-5)
    return dice[:, 1:].mean() + torch.nn.functional.cross_entropy(logits, labels)


torch.set_num_threads(arguments.threads)
torch.manual_seed(0)
network = UNet(1, arguments.classes, arguments.filters, arguments.norm, arguments.activation)
network = network.to(memory_format=torch.channels_last_3d)
model = torch.compile(network) if arguments.mode == "compile" else network
loss_of = torch.compile(dice_cross_entropy) if arguments.mode == "compile" else dice_cross_entropy
optimizer = torch.optim.Adam(network.parameters(), 1e-3)
idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
x = torch.rand(arguments.batch, 1, *arguments.patch).to(memory_format=torch.channels_last_3d)
y = torch.randint(arguments.classes, (arguments.batch, *arguments.patch))
times = []
for _ in range(arguments.steps + 2):
    begin = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=arguments.precision == "bfloat16"):
        logits = model(x)
    loss = loss_of(logits.float(), y)
    loss.backward()
    optimizer.step()
    times.append(time.perf_counter() - begin)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = {"compile_s": times[0], "step_s": sorted(times[2:])[arguments.steps // 2], "peak_mib": (peak - idle) / 1024}
print(json.dumps(result | {"parameters": count(network), "loss": loss.item(), "version": torch.__version__}))
