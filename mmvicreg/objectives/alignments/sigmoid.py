"""Sigmoid loss for language-image pretraining (SigLIP, Zhai et al., arXiv 2303.15343)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvicreg.distributed import mean_rows
from mmvicreg.objectives.alignments.alignment import Alignment, PairContext
from mmvicreg.objectives.alignments.similarities import similarities
from mmvicreg.objectives.arguments import expect


class Sigmoid(Alignment):
    """sigmoid = -(1/N) sum_ij log sigmoid(y_ij (scale cos_ij + bias)), y = 1 for a pair and -1 otherwise.

    Scale (exp of a parameter) and bias are learned. The bias starts at -10, because most of the N^2 combinations are
    negatives. With ``identities`` (see :class:`PairContext`) combinations that show the same item are left out.
    """

    def __init__(self, weight: float = 1.0, *, scale: float = 10.0, bias: float = -10.0) -> None:
        super().__init__()
        expect("Sigmoid's scale", scale, holds=scale > 0, expected="above 0")
        self.weight = weight
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(bias))

    def weights(self) -> dict[str, float]:
        return {"sigmoid": self.weight}

    def terms(self, a_nD: Tensor, b_nD: Tensor, context: PairContext) -> dict[str, Tensor]:
        cosines = similarities(a_nD, b_nD, context)
        dtype = cosines.ab_nN.dtype
        logits = cosines.ab_nN * self.log_scale.exp().to(dtype) + self.bias.to(dtype)
        negatives = F.logsigmoid(-logits)
        if cosines.ignored_nN is not None:
            negatives = negatives.masked_fill(cosines.ignored_nN, 0.0)
        # log sigmoid(x) = log sigmoid(-x) + x turns the own pairs from negatives into positives.
        total = -negatives.sum() - logits.gather(1, cosines.own_n[:, None]).sum()
        other = (
            cosines.ba_nN.sum() * 0.0
        )  # the same matrix seen from the other view: every process must use it
        return {"sigmoid": mean_rows(total + other, a_nD.shape[0])}
