"""Maximum of hinges: only the hardest negative counts (VSE++, Faghri et al., arXiv 1707.05612)."""

from __future__ import annotations

import torch
from torch import Tensor

from mmvicreg.distributed import mean_rows
from mmvicreg.objectives.alignments.alignment import Alignment, Targets
from mmvicreg.objectives.alignments.similarities import similarities


class MaxHinge(Alignment):
    """max_hinge = mean over rows of max_j relu(margin - cos(a_i, b_i) + cos(a_i, b_j)) + the same of b.

    VSE++ sums over rows instead of averaging: its loss is N times this one.
    """

    def __init__(self, *, weight: float = 1.0, margin: float = 0.2) -> None:
        super().__init__()
        self.weight, self.margin = weight, margin

    def weights(self) -> dict[str, float]:
        return {"max_hinge": self.weight}

    def forward(
        self, a_nD: Tensor, b_nD: Tensor, *, seed: int, targets: Targets | None = None
    ) -> dict[str, Tensor]:
        cosines = similarities(a_nD, b_nD)
        if cosines.rows < 2:  # no negatives
            return {"max_hinge": (cosines.ab_nN.sum() + cosines.ba_nN.sum()) * 0.0}
        total = torch.zeros_like(cosines.ab_nN.sum())
        for x_nN in (cosines.ab_nN, cosines.ba_nN):
            own = x_nN.gather(1, cosines.own_n[:, None])
            hardest = x_nN.scatter(1, cosines.own_n[:, None], -torch.inf).amax(1)
            total = total + (self.margin - own[:, 0] + hardest).clamp(min=0).sum()
        return {"max_hinge": mean_rows(total, a_nD.shape[0])}
