"""Cosine similarities between this process's rows and the rows of all processes, in both directions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvicreg.distributed import gather_rows, rank, row_counts
from mmvicreg.numerics import statistics_dtype, without_autocast
from mmvicreg.objectives.alignments.alignment import PairContext


@dataclass(frozen=True)
class Similarities:
    """``ab_nN``, ``ba_nN``: cosines of this process's n rows of one view with all N rows of the other.

    ``own_n``: the column that holds a row's own pair, int64 (n,). ``rows``: N.
    ``ignored_nN``: True for a column that shows the same item as the row without being its own pair, so that it is
    neither a positive nor a negative; None where no identities were given.
    """

    ab_nN: Tensor
    ba_nN: Tensor
    own_n: Tensor
    rows: int
    ignored_nN: Tensor | None


def similarities(a_nD: Tensor, b_nD: Tensor, context: PairContext) -> Similarities:
    """With gradient. Each process computes its n rows of both N x N matrices, so that the work is divided."""
    a_nD, b_nD = (F.normalize(statistics_dtype(x), dim=1) for x in (a_nD, b_nD))
    counts = row_counts(a_nD)
    with without_autocast(a_nD):
        ab_nN = a_nD @ gather_rows(b_nD, counts).T
        ba_nN = b_nD @ gather_rows(a_nD, counts).T
    start = sum(counts[: rank()])
    own_n = torch.arange(start, start + a_nD.shape[0], device=a_nD.device)
    return Similarities(ab_nN, ba_nN, own_n, sum(counts), _ignored(context, own_n, counts))


def _ignored(context: PairContext, own_n: Tensor, counts: tuple[int, ...]) -> Tensor | None:
    """Pairs with an equal identity in either view. The relation is symmetric, so it serves both directions."""
    if context.identities is None:
        return None
    same = [x_n[:, None] == gather_rows(x_n, counts)[None] for x_n in context.identities]
    return (same[0] | same[1]).scatter(1, own_n[:, None], False)
