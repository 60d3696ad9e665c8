"""Invariance: mean squared error between the two embeddings (VICReg, arXiv 2105.04906, Algorithm 1)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmvicreg.distributed import mean_rows
from mmvicreg.numerics import statistics_dtype
from mmvicreg.objectives.alignments.alignment import Alignment, PairContext


class Invariance(Alignment):
    """invariance = mean over rows and dimensions of (a - b)^2: ``F.mse_loss`` on the rows of all processes."""

    def __init__(self, weight: float = 25.0) -> None:
        super().__init__()
        self.weight = weight

    def weights(self) -> dict[str, float]:
        return {"invariance": self.weight}

    def terms(self, a_nD: Tensor, b_nD: Tensor, context: PairContext) -> dict[str, Tensor]:
        total = F.mse_loss(statistics_dtype(a_nD), statistics_dtype(b_nD), reduction="sum")
        return {"invariance": mean_rows(total / a_nD.shape[1], a_nD.shape[0])}
