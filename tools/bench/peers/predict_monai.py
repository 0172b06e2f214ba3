"""One side of tools/bench/predict.py: predicts a whole volume with MONAI's sliding_window_inference; prints JSON."""

import argparse
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import monai
import numpy as np
import timing
import torch
from monai.inferers import sliding_window_inference
from torch import nn
from unet_torch import UNet, stage

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("--precision", choices=["float32", "bfloat16"], required=True)
parser.add_argument("--layout", choices=["channels_last", "channels_first"], required=True)
parser.add_argument("--batch", type=int, required=True)
parser.add_argument("--patch", type=int, required=True)
parser.add_argument("--threads", type=int, required=True)
parser.add_argument("--filters", type=int, nargs="+", required=True)
options = parser.parse_args()


def network(filters, weights):
    """The zoo's `unet3d` with up-convolutions as narrow as the skips, and its weights."""
    model = UNet(1, 2, filters)
    for index, (deep, skip) in enumerate(zip(filters[::-1], filters[-2::-1], strict=False)):
        model.up[index] = nn.ConvTranspose3d(deep, skip, 2, stride=2)
        model.decoder[index] = stage(2 * skip, skip)
    top = len(filters) - 2
    for level, part in [(f"encoder_{level}", part) for level, part in enumerate(model.encoder)] + [
        (f"decoder_{top - index}", part) for index, part in enumerate(model.decoder)
    ]:
        for index in range(2):
            carry(part[3 * index], weights, f"{level}_conv_{index}")
            carry_norm(part[3 * index + 1], weights, f"{level}_conv_{index}_norm")
    for index, up in enumerate(model.up):
        carry(up, weights, f"decoder_{top - index}_up")
    carry(model.head, weights, "logits")
    return model.eval()


def carry(layer, weights, name):
    """Keras ends in (in, out), or (out, in) for transposed convolutions; PyTorch begins so."""
    layer.weight.data = torch.from_numpy(weights[f"{name}.kernel"]).permute(4, 3, 0, 1, 2).contiguous()
    layer.bias.data = torch.from_numpy(weights[f"{name}.bias"])


def carry_norm(layer, weights, name):
    layer.eps = 1e-3  # Keras' default
    pairs = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    for own, theirs in pairs.items():
        getattr(layer, own).data = torch.from_numpy(weights[f"{name}.{theirs}"])


torch.set_num_threads(options.threads)
volume = torch.from_numpy(np.load(options.folder / "volume.npy"))[None, None]
layout = torch.channels_last_3d if options.layout == "channels_last" else torch.contiguous_format
model = network(options.filters, np.load(options.folder / "weights.npz")).to(memory_format=layout)
idle = timing.resident_mib(reset=True)
begin = time.perf_counter()
with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bfloat16"):
    model(torch.zeros(options.batch, 1, *[options.patch] * 3).to(memory_format=layout))
    ready, busy = time.perf_counter(), time.process_time()
    logits = sliding_window_inference(
        volume, (options.patch,) * 3, options.batch, lambda x: model(x.to(memory_format=layout)),
        overlap=0.5, mode="gaussian", sigma_scale=0.125,
    )  # fmt: skip
    result = torch.softmax(logits.float(), 1)
    end, used = time.perf_counter(), time.process_time() - busy
    peak = timing.peak_mib()
    window = model(volume[..., : options.patch, : options.patch, : options.patch].to(memory_format=layout))
np.save(options.folder / f"window_monai_{options.precision}.npy", torch.softmax(window.float(), 1)[0, 1].numpy())
np.save(options.folder / f"volume_monai_{options.precision}.npy", result[0, 1].numpy())
answer = {
    "predict_s": end - ready,
    "cpu_s": used,
    "compile_s": ready - begin,
    "peak_mib": peak - idle,
    "idle_mib": idle,
}
parameters = sum(parameter.numel() for parameter in model.parameters())
buffers = sum(buffer.numel() for name, buffer in model.named_buffers() if "running" in name)
print(
    json.dumps(
        answer
        | {"parameters": parameters + buffers, "version": f"monai {monai.__version__}, torch {torch.__version__}"}
    )
)
