"""W-MSE: agreement after whitening, which cannot collapse (Ermolov et al., arXiv 2007.06346).

n own rows, N all rows, D features, s sub-batches, w rows of a sub-batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmvicreg.distributed import all_reduce_sum, gather_rows, rank, row_counts, world_size
from mmvicreg.errors import InvalidValueError
from mmvicreg.numerics import statistics_dtype, without_autocast
from mmvicreg.objectives.alignments.alignment import Alignment, PairContext
from mmvicreg.objectives.alignments.cosine import cosine_distances
from mmvicreg.objectives.arguments import expect


class WhitenedMSE(Alignment):
    """whitened = mean of 2 - 2 cos between rows whitened (Cholesky) in random sub-batches of ``size`` rows.

    Both views share the sub-batches, which are drawn from the seed over the rows of all processes and divided among
    them; rows that do not fill one are left out. ``size`` should be at least twice the width; fewer rows than
    ``size`` are one sub-batch. ``shrink`` mixes the covariance with the identity, (1 - e) C + e I. Whitening is
    computed in fp64: with few rows the condition number is variance / e, beyond fp32 at a standard deviation of 50.
    Fewer than two rows in all: zero.
    """

    def __init__(self, weight: float = 1.0, *, size: int = 256, shrink: float = 1e-3) -> None:
        super().__init__()
        if not 0 < shrink < 1:
            raise InvalidValueError(
                f"shrink is {shrink}; choose it between 0 and 1, so that there is a Cholesky factor"
            )
        expect(
            "WhitenedMSE's size", size, holds=size > 1, expected="at least 2 rows (twice the width is usual)"
        )
        self.weight, self.size, self.shrink = weight, size, shrink

    def weights(self) -> dict[str, float]:
        return {"whitened": self.weight}

    def terms(self, a_nD: Tensor, b_nD: Tensor, context: PairContext) -> dict[str, Tensor]:
        counts = row_counts(a_nD)
        rows = sum(counts)
        if rows < 2:
            return {"whitened": (statistics_dtype(a_nD).sum() + statistics_dtype(b_nD).sum()) * 0.0}
        size = min(self.size, rows)
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(context.seed))[
            : rows - rows % size
        ]
        own_sw = order.view(-1, size)[rank() :: world_size()].to(a_nD.device)
        with without_autocast(a_nD):
            white = [
                self._whiten(gather_rows(statistics_dtype(x), counts)[own_sw].double()).flatten(0, 1)
                for x in (a_nD, b_nD)
            ]
        total = 2 * cosine_distances(*white).sum()
        return {"whitened": (all_reduce_sum(total) / len(order)).to(statistics_dtype(a_nD).dtype)}

    def _whiten(self, x_swD: Tensor) -> Tensor:
        x_swD = x_swD - x_swD.mean(1, keepdim=True)
        covariance_sDD = x_swD.mT @ x_swD * ((1 - self.shrink) / (x_swD.shape[1] - 1))
        identity = torch.eye(x_swD.shape[2], dtype=x_swD.dtype, device=x_swD.device)
        # Where there is no factor (NaN in the embeddings) the result is NaN, as of any other loss: an exception on
        # one process would leave the others waiting.
        lower_sDD, failed_s = torch.linalg.cholesky_ex(covariance_sDD + self.shrink * identity)
        lower_sDD = torch.where(failed_s[:, None, None] == 0, lower_sDD, torch.nan)
        return torch.linalg.solve_triangular(lower_sDD, x_swD.mT, upper=False).mT
