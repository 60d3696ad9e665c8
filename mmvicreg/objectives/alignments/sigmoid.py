"""Sigmoid loss for language-image pretraining (SigLIP, Zhai et al., arXiv 2303.15343)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvicreg.distributed import mean_rows
from mmvicreg.objectives.alignments.alignment import Alignment, Targets
from mmvicreg.objectives.alignments.similarities import similarities
from mmvicreg.objectives.arguments import expect


class Sigmoid(Alignment):
    """sigmoid = -(1/N) sum_ij log sigmoid(y_ij (scale cos_ij + bias)), y = 1 for a pair and -1 otherwise.

    Scale (exp of a parameter) and bias are learned; a bias of -10 starts with every pair a negative, which
    is what most of them are.
    """

    def __init__(self, *, weight: float = 1.0, scale: float = 10.0, bias: float = -10.0) -> None:
        super().__init__()
        expect("Sigmoid's scale", scale, holds=scale > 0, expected="above 0")
        self.weight = weight
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(bias))

    def weights(self) -> dict[str, float]:
        return {"sigmoid": self.weight}

    def forward(
        self, a_nD: Tensor, b_nD: Tensor, *, seed: int, targets: Targets | None = None
    ) -> dict[str, Tensor]:
        cosines = similarities(a_nD, b_nD)
        dtype = cosines.ab_nN.dtype
        logits = cosines.ab_nN * self.log_scale.exp().to(dtype) + self.bias.to(dtype)
        # log sigmoid(-x) = log sigmoid(x) - x: all as negatives, then the own pairs put right.
        own = logits.gather(1, cosines.own_n[:, None])
        total = -F.logsigmoid(-logits).sum() - own.sum()
        other = cosines.ba_nN.sum() * 0.0  # the same matrix from the other side: nothing to add
        return {"sigmoid": mean_rows(total + other, a_nD.shape[0])}
