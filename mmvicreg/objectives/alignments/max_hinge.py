"""Maximum of hinges: only the hardest negative counts (VSE++, Faghri et al., arXiv 1707.05612)."""

from __future__ import annotations

import torch
from torch import Tensor

from mmvicreg.distributed import mean_rows
from mmvicreg.objectives.alignments.alignment import Alignment, PairContext
from mmvicreg.objectives.alignments.similarities import similarities


class MaxHinge(Alignment):
    """max_hinge = mean over rows of max_j relu(margin - cos(a_i, b_i) + cos(a_i, b_j)), plus the same of b.

    VSE++ sums over rows instead of averaging: its loss is N times this one. With ``identities`` (see
    :class:`PairContext`) rows that show the same item are no negatives.
    """

    def __init__(self, weight: float = 1.0, *, margin: float = 0.2) -> None:
        super().__init__()
        self.weight, self.margin = weight, margin

    def weights(self) -> dict[str, float]:
        return {"max_hinge": self.weight}

    def terms(self, a_nD: Tensor, b_nD: Tensor, context: PairContext) -> dict[str, Tensor]:
        cosines = similarities(a_nD, b_nD, context)
        if cosines.rows < 2:  # no negatives
            return {"max_hinge": (cosines.ab_nN.sum() + cosines.ba_nN.sum()) * 0.0}
        total = torch.zeros_like(cosines.ab_nN.sum())
        for x_nN in (cosines.ab_nN, cosines.ba_nN):
            own = x_nN.gather(1, cosines.own_n[:, None])
            negatives = x_nN.scatter(1, cosines.own_n[:, None], -torch.inf)
            if cosines.ignored_nN is not None:
                negatives = negatives.masked_fill(cosines.ignored_nN, -torch.inf)
            total = total + (self.margin - own[:, 0] + negatives.amax(1)).clamp(min=0).sum()
        return {"max_hinge": mean_rows(total, a_nD.shape[0])}
