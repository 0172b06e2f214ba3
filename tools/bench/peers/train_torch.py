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
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--batch", type=int, required=True)
parser.add_argument("--patch", type=int, required=True)
parser.add_argument("--filters", type=int, nargs="+", required=True)
parser.add_argument("--threads", type=int, required=True)
options = parser.parse_args()

torch.set_num_threads(options.threads)
torch.manual_seed(0)
network = UNet(1, 2, options.filters).to(memory_format=torch.channels_last_3d)
model = torch.compile(network) if options.mode == "compile" else network
optimizer = torch.optim.Adam(network.parameters(), 1e-3)
idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
x = torch.rand(options.batch, 1, *[options.patch] * 3).to(memory_format=torch.channels_last_3d)
y = (x[:, 0] > 0.5).long()
times = []
for _ in range(options.steps + 2):
    begin = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bfloat16"):
        logits = model(x)
    loss = torch.nn.functional.cross_entropy(logits.float(), y)
    loss.backward()
    optimizer.step()
    times.append(time.perf_counter() - begin)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = {"compile_s": times[0], "step_s": sorted(times[2:])[options.steps // 2], "peak_mib": (peak - idle) / 1024}
print(json.dumps(result | {"parameters": count(network), "version": torch.__version__}))
