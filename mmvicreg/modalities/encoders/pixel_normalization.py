"""Normalization of pixels on the device: uint8 to what an encoder expects."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PixelNormalization(nn.Module):
    """uint8 (n, C, H, W) to (value / 255 - mean) / std in the default floating dtype, channels last.

    ``mean`` and ``std`` are per channel, on the scale from 0 to 1. Their buffers are not saved in checkpoints.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        mean_C, std_C = torch.tensor(mean), torch.tensor(std)
        self.register_buffer("scale", (1 / (255 * std_C)).view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", (mean_C / std_C).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # Convolutions are about twice as fast channels last, on CPUs and tensor cores alike.
        return (x.to(self.scale.dtype) * self.scale - self.shift).contiguous(
            memory_format=torch.channels_last
        )
