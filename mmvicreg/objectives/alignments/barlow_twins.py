"""Barlow Twins: the cross-correlation of the two views is the identity (Zbontar et al., arXiv 2103.03230)."""

from __future__ import annotations

import torch
from torch import Tensor

from mmvicreg.distributed import mean_rows, row_counts
from mmvicreg.numerics import statistics_dtype, without_autocast
from mmvicreg.objectives.alignments.alignment import Alignment, PairContext
from mmvicreg.objectives.alignments.cross_covariance import Standardize, off_diagonal_energy


class BarlowTwins(Alignment):
    """diagonal = sum_i (1 - C_ii)^2 and off_diagonal = sum_{i != j} C_ij^2 of the cross-correlation C.

    C = standardize(a)' standardize(b) / N over the rows of all processes, with biased variance as in BatchNorm. The
    weights of the terms are ``weight`` and ``weight * redundancy``. Fewer than two rows in all: zero.
    """

    def __init__(self, weight: float = 1.0, *, redundancy: float = 0.0051, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.redundancy, self.epsilon = weight, redundancy, epsilon

    def weights(self) -> dict[str, float]:
        return {"diagonal": self.weight, "off_diagonal": self.weight * self.redundancy}

    def terms(self, a_nD: Tensor, b_nD: Tensor, context: PairContext) -> dict[str, Tensor]:
        a_nD, b_nD = statistics_dtype(a_nD), statistics_dtype(b_nD)
        rows = sum(row_counts(a_nD))
        if rows < 2:
            zero = (a_nD.sum() + b_nD.sum()) * 0.0
            return {"diagonal": zero, "off_diagonal": zero.clone()}
        with without_autocast(a_nD):
            a_nD, b_nD = (Standardize.apply(x, rows, self.epsilon) for x in (a_nD, b_nD))
            correlation_D = mean_rows(torch.linalg.vecdot(a_nD, b_nD, dim=0), a_nD.shape[0])
            off_diagonal = off_diagonal_energy(a_nD, b_nD)
        return {"diagonal": (1 - correlation_D).square().sum(), "off_diagonal": off_diagonal}
