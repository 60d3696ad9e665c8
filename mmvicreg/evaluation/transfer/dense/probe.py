"""A linear probe on feature maps: frozen features of each place to a class, by one 1x1 convolution.

As in DINOv2 (arXiv 2304.07193, section 7.4): features are standardized by channel, one linear layer is trained with
AdamW on the cross-entropy of its scores, enlarged to the mask by bilinear interpolation, and pixels of value 255 are
ignored. Pictures are the centre square at the encoder's size, without augmentation, so features are computed once.

Shapes: n pictures, E channels, C classes, S side of a picture and its mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvicreg.evaluation.transfer.dense.kept_features import Maps
from mmvicreg.evaluation.transfer.dense.masks import IGNORED, check_classes
from mmvicreg.progress import bar


class DenseProbe(nn.Module):
    """Features (n, E, rows, columns) to scores (n, C, S, S): standardize, one linear layer, enlarge."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean_E: Tensor, std_E: Tensor, classes: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.register_buffer("mean", mean_E.view(-1, 1, 1))
        self.register_buffer("std", std_E.view(-1, 1, 1))
        self.linear = nn.Conv2d(len(mean_E), classes, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        scores = self.linear((features.float() - self.mean) / self.std)
        return F.interpolate(scores, (self.side, self.side), mode="bilinear", align_corners=False)


def dense_probe(
    maps: Maps,
    rows: np.ndarray,
    *,
    classes: int,
    learning_rates: Sequence[float],
    epochs: int = 20,
    batch_size: int = 16,
    seed: int = 0,
    device: str = "cpu",
) -> list[DenseProbe]:
    """One probe for each learning rate, trained on these rows of ``maps`` side by side (one pass reads for all).

    AdamW, weight decay 1e-4, learning rate to 0 by a cosine. Raises ValueError where every pixel is ignored, or all
    others are of one class (masks of 0 and 255, which would score 1 whatever the probe says).
    """
    check_classes(np.asarray(maps.masks[rows]))
    mean_E, std_E = _standards(maps, rows)
    probes = [DenseProbe(mean_E, std_E, classes, maps.masks.shape[1]).to(device) for _ in learning_rates]
    optimizers = [
        torch.optim.AdamW(probe.parameters(), lr=rate, weight_decay=1e-4)
        for probe, rate in zip(probes, learning_rates, strict=True)
    ]
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(rows) // batch_size)
    done = 0
    with bar("dense probe", steps, unit="steps") as advance, torch.enable_grad():
        for _ in range(epochs):
            for part in torch.randperm(len(rows), generator=generator).split(batch_size):
                x, y = _batch(maps, np.sort(rows[part.numpy()]), device)
                for probe, optimizer, rate in zip(probes, optimizers, learning_rates, strict=True):
                    optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * done / steps)) / 2
                    optimizer.zero_grad()
                    # A sum over the count: cross_entropy's own mean is nan where all pixels are ignored.
                    loss = F.cross_entropy(probe(x), y, ignore_index=IGNORED, reduction="sum")
                    (loss / (y != IGNORED).sum().clamp(min=1)).backward()
                    optimizer.step()
                done += 1
                advance(1, "")
    return [probe.eval() for probe in probes]


@torch.inference_mode()
def predict_masks(
    probe: DenseProbe, maps: Maps, rows: np.ndarray, *, device: str = "cpu", batch_size: int = 16
) -> Tensor:
    """The class called for every pixel, uint8 (n, S, S)."""
    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return torch.cat(
        [probe(_batch(maps, part, device)[0]).argmax(1).to("cpu", torch.uint8) for part in parts]
    )


def _batch(maps: Maps, rows: np.ndarray, device: str) -> tuple[Tensor, Tensor]:
    features = torch.from_numpy(maps.features[rows]).to(device)
    return features, torch.from_numpy(maps.masks[rows]).long().to(device)


def _standards(maps: Maps, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    total, square, count = np.zeros(maps.features.shape[1]), np.zeros(maps.features.shape[1]), 0
    for start in range(0, len(rows), 64):
        block = np.asarray(maps.features[np.sort(rows[start : start + 64])], dtype=np.float64)
        total += block.sum((0, 2, 3))
        square += (block**2).sum((0, 2, 3))
        count += block.size // block.shape[1]
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0)).clip(1e-6)
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()
