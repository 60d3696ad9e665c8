"""Hubs: items that are among the first results of many more queries than chance would give.

Hubness is a property of nearest neighbours in many dimensions (Radovanovic et al., JMLR 2010). N_k of an item is how
often it is among the k best of a query; its mean over items is k Q / M for Q queries and M items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import normalize

from mmvicreg.evaluation.report.content import Shown

BLOCK = 1024


@dataclass(frozen=True)
class Hub:
    """An item and how often it was retrieved."""

    item: Shown
    count: int
    """queries that have it among their first k"""
    expected: float
    """the mean count of an item"""


def occurrences(queries_QD: np.ndarray, items_MD: np.ndarray, *, k: int = 10) -> np.ndarray:
    """N_k of every item by cosine, int64 (M,). ``k`` is at most the number of items."""
    k = min(k, len(items_MD))
    items = normalize(torch.from_numpy(np.array(items_MD, dtype=np.float32)), dim=1)
    counts = torch.zeros(len(items_MD), dtype=torch.int64)
    for start in range(0, len(queries_QD), BLOCK):
        block = torch.from_numpy(np.array(queries_QD[start : start + BLOCK], dtype=np.float32))
        best = (normalize(block, dim=1) @ items.T).topk(k, dim=1).indices
        counts += torch.bincount(best.flatten(), minlength=len(items_MD))
    return counts.numpy()


def largest(counts_M: np.ndarray, *, count: int = 6) -> Sequence[int]:
    """Items with the largest N_k that have at least three times the mean, largest first."""
    order = np.argsort(-counts_M, kind="stable")[:count]
    return [int(item) for item in order if counts_M[item] >= 3 * counts_M.mean()]
