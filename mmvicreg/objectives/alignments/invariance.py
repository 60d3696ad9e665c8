"""Invariance: mean squared error between the two embeddings (VICReg, arXiv 2105.04906, Algorithm 1)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmvicreg.distributed import mean_rows
from mmvicreg.numerics import statistics_dtype
from mmvicreg.objectives.alignments.alignment import Alignment, Targets


class Invariance(Alignment):
    """invariance = mean over rows and dimensions of (a - b)^2, ``F.mse_loss`` of all processes' rows."""

    def __init__(self, *, weight: float = 25.0) -> None:
        super().__init__()
        self.weight = weight

    def weights(self) -> dict[str, float]:
        return {"invariance": self.weight}

    def forward(
        self, a_nD: Tensor, b_nD: Tensor, *, seed: int, targets: Targets | None = None
    ) -> dict[str, Tensor]:
        total = F.mse_loss(statistics_dtype(a_nD), statistics_dtype(b_nD), reduction="sum")
        return {"invariance": mean_rows(total / a_nD.shape[1], a_nD.shape[0])}
