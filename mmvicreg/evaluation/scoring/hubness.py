"""Scores corrected for hubs: items that are near many queries are moved away from all of them.

CSLS (Conneau et al. 2018, arXiv 1710.04087, section 2.3) ranks by 2 cos(q, m) - r(q) - r(m), r(m) the mean cosine of an
item with its ``NEIGHBORS`` nearest queries. The inverted softmax (Smith et al. 2017, arXiv 1702.03859, equation 10)
ranks by exp(beta cos(q, m)) / sum over queries p of exp(beta cos(p, m)). For one query both order the items as
cos(q, m) - bias(m) does, with a bias for each item that all queries of the set decide (they are transductive):

    CSLS                bias(m) = r(m) / 2
    inverted softmax    bias(m) = log(sum over p of exp(beta cos(p, m))) / beta

Rows with three columns more have cos(q, m) - bias(m) as their cosine, up to a factor; so whatever ranks by cosine ranks
by these, with the same treatment of ties.

Shapes: Q queries, M items, D dimensions.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mmvicreg import distributed
from mmvicreg.evaluation.unit_rows import UnitRows

Hubness = Literal["none", "csls", "inverted_softmax"]

NEIGHBORS = 10
"""Nearest queries of an item that CSLS averages (Conneau et al.)."""
BETA = 30.0
"""Inverse temperature of the inverted softmax, that of Conneau et al.'s comparison. Smith et al. fit it to a training
dictionary; fitted to test data it would be a choice by test scores."""
TILE = 1024


@torch.no_grad()
def corrected_rows(
    queries_QD: Tensor | np.ndarray,
    items_MD: Tensor | np.ndarray,
    hubness: Hubness,
    *,
    device: str | torch.device = "cpu",
    sharded: bool = False,
) -> tuple[Tensor, Tensor]:
    """Rows float64 (Q, D + 3) and (M, D + 3) whose cosines order the items of each query as ``hubness`` does.

    For "none", unit rows. ``sharded``: the processes of the default group share the work, and each gets the result.
    Raises ValueError for rows that are not finite.
    """
    device = torch.device(device)
    queries = UnitRows(queries_QD, "queries", TILE, device)
    items = UnitRows(items_MD, "items", TILE, device)
    query_QD, item_MD = (side.exact(torch.arange(len(side))) for side in (queries, items))
    if hubness == "none":
        return query_QD.cpu(), item_MD.cpu()
    bias_M = item_biases(query_QD, item_MD, hubness, sharded=sharded)
    bias_M -= (bias_M.min() + bias_M.max()) / 2  # the same for all items, so it changes no order
    largest = bias_M.abs().max()
    root = largest.sqrt()
    slope_M = bias_M / root if largest > 0 else bias_M
    # A row of zeros has no direction; its last columns give it the length of the others.
    query_rest = (1 - query_QD.square().sum(1)).clamp(min=0).sqrt()
    item_rest = (1 + largest - item_MD.square().sum(1) - slope_M.square()).clamp(min=0).sqrt()
    ones, zeros = torch.ones_like(query_rest), torch.zeros_like
    query_columns = [query_QD, (root * ones)[:, None], zeros(ones)[:, None], query_rest[:, None]]
    item_columns = [item_MD, -slope_M[:, None], item_rest[:, None], zeros(item_rest)[:, None]]
    return torch.cat(query_columns, dim=1).cpu(), torch.cat(item_columns, dim=1).cpu()


def item_biases(query_QD: Tensor, item_MD: Tensor, hubness: Hubness, *, sharded: bool = False) -> Tensor:
    """The bias of each item, float64 (M,); rows are float64 of unit length."""
    bias_M = torch.zeros(len(item_MD), dtype=torch.float64, device=item_MD.device)
    rank, size = (distributed.rank(), distributed.world_size()) if sharded else (0, 1)
    for number, start in enumerate(range(0, len(item_MD), TILE)):
        if number % size == rank:
            bias_M[start : start + TILE] = _biases_of(query_QD, item_MD[start : start + TILE], hubness)
    return distributed.all_reduce_sum(bias_M) if sharded else bias_M


def _biases_of(query_QD: Tensor, item_KD: Tensor, hubness: Hubness) -> Tensor:
    """Of the items of one tile, from tiles of queries."""
    nearest_KN = item_KD.new_full((len(item_KD), 0), 0.0)
    total_K = item_KD.new_full((len(item_KD),), -torch.inf)
    for part_CD in query_QD.split(TILE):
        cosine_KC = item_KD @ part_CD.T
        if hubness == "csls":
            seen = torch.cat([nearest_KN, cosine_KC], dim=1)
            nearest_KN = seen.topk(min(NEIGHBORS, seen.shape[1]), dim=1).values
        else:
            total_K = torch.logaddexp(total_K, (BETA * cosine_KC).logsumexp(dim=1))
    return nearest_KN.mean(dim=1) / 2 if hubness == "csls" else total_K / BETA
