"""Mean recall of many solutions on the same validation rows.

Q queries, M items, D width of an embedding, F width of the features.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.positives import Positives
from mmvicreg.evaluation.ranks import rank_both
from mmvicreg.solvers.solution import Solution, embed_with
from mmvicreg.solvers.statistics.feature_maps import blocks
from mmvicreg.solvers.statistics.pairing import PairedRows
from mmvicreg.solvers.statistics.space_features import Space

RECALL_AT = (1, 5, 10)
WHOLE = 1 << 24
"""Scores that are held as one matrix."""


class Scorer:
    """Mean recall of solutions on validation rows, whose features are computed once."""

    def __init__(self, data: PairedRows, spaces: Mapping[str, Space], device: torch.device) -> None:
        self.features = {
            name: features_of(space, data.branch(space.branch), device) for name, space in spaces.items()
        }
        self.positives = {
            (a, b): found
            for a, b in combinations(data.rows, 2)
            if (found := data.positives(a, b)).indices.size
        }
        if not self.positives:
            raise InvalidValueError(
                "no sample of the validation data has two modalities: nothing can be chosen by them; check their "
                "members with 'mmvicreg check'"
            )

    def __call__(self, solution: Solution) -> float:
        """Mean of R@1, R@5 and R@10 over both directions of every pair, a fraction."""
        z = {name: embed_with(parts, self.features) for name, parts in solution.branches.items()}
        return float(np.mean([mean_recall(z[a], z[b], found) for (a, b), found in self.positives.items()]))


def mean_recall(z_a: Tensor, z_b: Tensor, positives: Positives) -> float:
    """Mean of R@1, R@5 and R@10 over both directions, a fraction; queries without a match are left out.

    Small data are scored by one fp32 product, in which cosines that differ by rounding are not tied as
    :func:`mmvicreg.evaluation.ranks.rank_both` would tie them: enough to compare settings.
    """
    if len(z_a) * len(z_b) > WHOLE:
        ranks = rank_both(z_a, z_b, positives, device=z_a.device, skip_unmatched=True)
        return float(np.mean([each.recall(k).mean() for each in ranks for k in RECALL_AT]))
    scores = normalize(z_a.float(), dim=1) @ normalize(z_b.float(), dim=1).T
    queries, items = (torch.from_numpy(np.asarray(each)).to(scores.device) for each in positives.pairs())
    found = [*_recalls(scores, queries, items), *_recalls(scores.T.contiguous(), items, queries)]
    return sum(found) / len(found)


def _recalls(scores_QM: Tensor, query_P: Tensor, item_P: Tensor) -> list[float]:
    """R@k of queries that match something, by the expected rank among equal scores of the best match."""
    best = scores_QM.new_full((len(scores_QM),), -torch.inf)
    best.scatter_reduce_(0, query_P, scores_QM[query_P, item_P], "amax")
    matched = torch.isfinite(best)
    best, scores = best[matched, None], scores_QM[matched]
    above, tied = (scores > best).sum(1), (scores == best).sum(1)
    return [float(((k - above) / tied).clamp(0, 1).mean()) for k in RECALL_AT]


@torch.no_grad()
def features_of(space: Space, rows_ME: np.ndarray, device: torch.device) -> Tensor:
    """Features of rows (M, E) in a space, fp32 (M, F) in memory: for rows that are few."""
    parts = [
        space.features(torch.from_numpy(np.array(rows_ME[part], dtype=np.float32)).to(device))
        for part in blocks(len(rows_ME))
    ]
    if not parts:
        raise InvalidValueError(f"the held-out data have no rows of {space.branch!r}")
    return torch.cat(parts)
