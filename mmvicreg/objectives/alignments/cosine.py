"""Cosine distance between the two embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvicreg.distributed import mean_rows
from mmvicreg.numerics import statistics_dtype, without_autocast
from mmvicreg.objectives.alignments.alignment import Alignment, PairContext


class Cosine(Alignment):
    """cosine = mean over rows of 1 - cos(a, b): half of the 2 - 2 cos of BYOL and W-MSE."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def weights(self) -> dict[str, float]:
        return {"cosine": self.weight}

    def terms(self, a_nD: Tensor, b_nD: Tensor, context: PairContext) -> dict[str, Tensor]:
        return {"cosine": mean_rows(cosine_distances(a_nD, b_nD).sum(), a_nD.shape[0])}


def cosine_distances(a_nD: Tensor, b_nD: Tensor) -> Tensor:
    """1 - cos of each row, (n,), in fp32 (fp64 for fp64 input)."""
    a_nD, b_nD = (F.normalize(statistics_dtype(x), dim=1) for x in (a_nD, b_nD))
    with without_autocast(a_nD):
        return 1 - torch.linalg.vecdot(a_nD, b_nD)
