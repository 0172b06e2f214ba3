"""The zoo's `unet3d` written for PyTorch, so that both sides of a benchmark run one and the same network."""

import torch
from torch import nn


def stage(channels, width, norm="batch", activation="relu"):
    """Two 3x3x3 convolutions, each with norm and activation; before an instance norm they have no bias."""
    layers = []
    for _ in range(2):
        layers.append(nn.Conv3d(channels, width, 3, padding=1, bias=norm == "batch"))
        layers.append(nn.BatchNorm3d(width) if norm == "batch" else nn.InstanceNorm3d(width, affine=True))
        layers.append(nn.ReLU(inplace=True) if activation == "relu" else nn.LeakyReLU(0.01, inplace=True))
        channels = width
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Levels of `filters`, max-pool 2, transposed convolutions that keep the width, skips concatenated."""

    def __init__(self, channels, num_classes, filters, norm="batch", activation="relu"):
        super().__init__()
        both = list(zip((channels, *filters), filters, strict=False))
        self.encoder = nn.ModuleList(stage(*widths, norm, activation) for widths in both)
        pairs = list(zip(filters[::-1], filters[-2::-1], strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose3d(deep, deep, 2, stride=2) for deep, _ in pairs)
        self.decoder = nn.ModuleList(stage(deep + skip, skip, norm, activation) for deep, skip in pairs)
        self.head = nn.Conv3d(filters[0], num_classes, 1)

    def forward(self, x):
        """Logits of (batch, channels, x, y, z)."""
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(nn.functional.max_pool3d(x, 2) if level else x)
            skips.append(x)
        for up, block, skip in zip(self.up, self.decoder, skips[-2::-1], strict=True):
            x = block(torch.cat([up(x), skip], 1))
        return self.head(x)


def count(model):
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
