"""Models whose computation ends the process, as a library that writes past its memory does."""

import os

import torch
from torch import nn


class Dies(nn.Module):
    """A model that a plan's layout or number format kills."""

    def __init__(self, layout=None, precision=None):
        super().__init__()
        self.conv, self.layout, self.precision = nn.Conv2d(3, 4, 3), layout, precision

    def forward(self, x):
        last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        if self.layout in ("both", "last" if last else "first"):
            os.abort()
        if torch.is_autocast_enabled("cpu") and self.precision == "bf16":
            os.abort()
        return self.conv(x).mean((2, 3))
