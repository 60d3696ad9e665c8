"""Cosines between this process's rows and the rows of all processes, in both directions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvicreg.distributed import gather_rows, rank, row_counts
from mmvicreg.numerics import statistics_dtype, without_autocast


@dataclass(frozen=True)
class Similarities:
    """``ab_nN``, ``ba_nN``: cosines of own rows of one view with all rows of the other. ``own_n``: which
    column of a row is its own pair. ``rows``: N."""

    ab_nN: Tensor
    ba_nN: Tensor
    own_n: Tensor
    rows: int


def similarities(a_nD: Tensor, b_nD: Tensor) -> Similarities:
    """Each process computes its n rows of both N x N matrices, so the work is split; with gradient."""
    a_nD, b_nD = (F.normalize(statistics_dtype(x), dim=1) for x in (a_nD, b_nD))
    counts = row_counts(a_nD)
    with without_autocast(a_nD):
        ab_nN = a_nD @ gather_rows(b_nD, counts).T
        ba_nN = b_nD @ gather_rows(a_nD, counts).T
    start = sum(counts[: rank()])
    own_n = torch.arange(start, start + a_nD.shape[0], device=a_nD.device)
    return Similarities(ab_nN, ba_nN, own_n, sum(counts))
