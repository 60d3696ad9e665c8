"""Swapped prediction of balanced assignments to shared prototypes (SwAV, Caron et al., arXiv 2006.09882).

n own rows, N all rows, D features, K prototypes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvicreg.distributed import all_reduce_max, all_reduce_sum, mean_rows, row_counts
from mmvicreg.numerics import statistics_dtype, without_autocast
from mmvicreg.objectives.alignments.alignment import Alignment, PairContext
from mmvicreg.objectives.arguments import expect


class Prototypes(Alignment):
    """prototypes = -(1/2N) sum_i [q(b_i) log softmax(C a_i / temperature) + q(a_i) log softmax(C b_i / ...)].

    q: Sinkhorn-balanced assignments over the rows of all processes, without gradient. Embeddings and the ``count``
    prototypes C, which the views share, are l2-normalized with gradient; SwAV's code normalizes the stored prototypes
    before each step instead, which is the same to first order in the learning rate. ``sharpness``: temperature of q.
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
        width: int,
        count: int = 3000,
        temperature: float = 0.1,
        sharpness: float = 0.05,
        iterations: int = 3,
    ) -> None:
        super().__init__()
        expect("Prototypes' count", count, holds=count > 1, expected="at least 2 prototypes")
        expect("Prototypes' iterations", iterations, holds=iterations > 0, expected="at least 1")
        heat = min(temperature, sharpness)
        expect("Prototypes' lower temperature", heat, holds=heat > 0, expected="above 0")
        self.widths = (width, width)
        self.weight, self.temperature = weight, temperature
        self.sharpness, self.iterations = sharpness, iterations
        self.prototypes = nn.Parameter(F.normalize(torch.randn(count, width), dim=1))

    def weights(self) -> dict[str, float]:
        return {"prototypes": self.weight}

    def terms(self, a_nD: Tensor, b_nD: Tensor, context: PairContext) -> dict[str, Tensor]:
        with without_autocast(a_nD):
            a_nK, b_nK = (self._scores(x) for x in (a_nD, b_nD))
            rows = sum(row_counts(a_nD))
            code_a, code_b = (
                sinkhorn(x.detach(), rows, sharpness=self.sharpness, iterations=self.iterations)
                for x in (a_nK, b_nK)
            )
        total = -(code_b * torch.log_softmax(a_nK / self.temperature, dim=1)).sum()
        total = total - (code_a * torch.log_softmax(b_nK / self.temperature, dim=1)).sum()
        return {"prototypes": mean_rows(total / 2, a_nD.shape[0])}

    def _scores(self, x_nD: Tensor) -> Tensor:
        x_nD = F.normalize(statistics_dtype(x_nD), dim=1)
        return x_nD @ F.normalize(self.prototypes, dim=1).T.to(x_nD.dtype)


def sinkhorn(scores_nK: Tensor, rows: int, *, sharpness: float, iterations: int) -> Tensor:
    """(n, K) assignments, each row a distribution, every prototype with N/K mass over all processes."""
    if rows == 0:
        return scores_nK
    count = scores_nK.shape[1]
    largest = scores_nK.amax() if scores_nK.numel() else scores_nK.new_full((), -torch.inf)
    code_nK = torch.exp((scores_nK - all_reduce_max(largest)) / sharpness)
    for _ in range(iterations):
        code_nK = code_nK / (all_reduce_sum(code_nK.sum(0)) * count)
        code_nK = code_nK / (code_nK.sum(1, keepdim=True) * rows)
    return code_nK * rows
