"""Runs the network of this bundle: layers from `graph.json`, weights from `model.npz`. Needs PyTorch and NumPy.

zoo copies this file into the bundle and does not import it.
"""

import json
import pathlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class GraphNetwork(nn.Module):
    """Builds a network from a list of layers.

    Args:
        folder: the folder of `graph.json` and `model.npz`.
        conditioning: the tabular values of a case, as the network takes them; None for all unknown.
    """

    def __init__(self, folder, conditioning=None):
        super().__init__()
        folder = pathlib.Path(folder)
        graph = json.loads((folder / "graph.json").read_text())
        self.layers, self.output, self.inputs = graph["layers"], graph["output"], graph["inputs"]
        with np.load(folder / "model.npz", allow_pickle=False) as arrays:
            for name in arrays.files:
                self.register_parameter(_parameter_name(name), nn.Parameter(torch.from_numpy(arrays[name].copy())))
        default = conditioning if conditioning is not None else graph["unknown"]
        self.register_buffer("conditioning", torch.tensor([default], dtype=torch.float32))

    def forward(self, image, conditioning=None):
        """Returns logits (batch, num_classes, x, y, z) of images (batch, channels, x, y, z) and values (batch, n)."""
        if conditioning is None:
            conditioning = self.conditioning
        if conditioning.shape[0] != image.shape[0]:
            conditioning = conditioning.expand(image.shape[0], -1)
        values = dict(zip(self.inputs, (image, conditioning), strict=False))
        uses: dict[str, int] = {}
        for layer in self.layers:
            for name in layer["inputs"]:
                uses[name] = uses.get(name, 0) + 1
        for layer in self.layers:
            inputs = [values[name] for name in layer["inputs"]]
            values[layer["name"]] = getattr(self, "_" + layer["kind"])(layer, *inputs)
            for name in layer["inputs"]:
                uses[name] -= 1
                if not uses[name]:
                    del values[name]
        return values[self.output]

    def _weight(self, layer, name):
        return getattr(self, _parameter_name(f"{layer['name']}.{name}"), None)

    def _pass(self, layer, x):
        return x

    def _conv(self, layer, x):
        kernel, dilation = self._weight(layer, "kernel"), layer["dilation"]
        if layer["padding"] == "same":
            x = functional.pad(x, _same_padding(x.shape[2:], kernel.shape[2:], layer["strides"], dilation))
        return functional.conv3d(x, kernel, self._weight(layer, "bias"), layer["strides"], 0, dilation)

    def _up(self, layer, x):
        kernel, strides = self._weight(layer, "kernel"), layer["strides"]
        sizes = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
        x = functional.conv_transpose3d(x, kernel, None, strides)
        before = [max(k - s, 0) // 2 for k, s in zip(kernel.shape[2:], strides, strict=True)]
        room = [max(b + n - m, 0) for b, n, m in zip(before, sizes, x.shape[2:], strict=True)]
        x = functional.pad(x, [value for after in reversed(room) for value in (0, after)])
        for axis, (first, size) in enumerate(zip(before, sizes, strict=True), 2):
            x = x.narrow(axis, first, size)
        bias = self._weight(layer, "bias")
        return x if bias is None else x + bias.view(1, -1, 1, 1, 1)

    def _pool(self, layer, x):
        x = functional.pad(
            x, _same_padding(x.shape[2:], layer["size"], layer["strides"], (1, 1, 1)), value=float("-inf")
        )
        return functional.max_pool3d(x, layer["size"], layer["strides"])

    def _group_norm(self, layer, x):
        groups = x.shape[1] if layer["groups"] == -1 else layer["groups"]
        return functional.group_norm(
            x, groups, self._weight(layer, "gamma"), self._weight(layer, "beta"), layer["epsilon"]
        )

    def _batch_norm(self, layer, x):
        mean, variance = self._weight(layer, "moving_mean"), self._weight(layer, "moving_variance")
        gamma, beta = self._weight(layer, "gamma"), self._weight(layer, "beta")
        return functional.batch_norm(x, mean, variance, gamma, beta, False, 0.0, layer["epsilon"])

    def _activation(self, layer, x):
        if layer["function"] == "leaky_relu":
            return functional.leaky_relu(x, layer["slope"])
        if layer["function"] == "prelu":
            return functional.prelu(x, self._weight(layer, "alpha").reshape(-1))
        return x if layer["function"] == "linear" else getattr(functional, layer["function"])(x)

    def _join(self, layer, *parts):
        return torch.cat(parts, 1)

    def _add(self, layer, first, *others):
        return sum(others, first)

    def _crop(self, layer, x, like):
        for axis in (2, 3, 4):
            rest = x.shape[axis] - like.shape[axis]
            x = x.narrow(axis, rest // 2 if layer["keep"] == "center" else 0, like.shape[axis])
        return x

    def _film(self, layer, x, condition):
        scale, shift = (condition @ self._weight(layer, "kernel") + self._weight(layer, "bias")).chunk(2, 1)
        return x * (1 + scale[:, :, None, None, None]) + shift[:, :, None, None, None]

    def _repeat(self, layer, x):
        for axis, times in enumerate(layer["size"], 2):
            x = x.repeat_interleave(times, axis)
        return x


def _parameter_name(name):
    return name.replace(".", "__")


def _same_padding(sizes, kernel, strides, dilation):
    """Returns zeros for both sides, so that n voxels give ceil(n / stride), an odd zero at the end; last axis first."""
    room = []
    for n, k, s, d in zip(sizes, kernel, strides, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        room.append((total // 2, total - total // 2))
    return [value for pair in reversed(room) for value in pair]
