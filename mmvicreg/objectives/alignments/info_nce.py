"""InfoNCE between two views: CLIP's loss (Radford et al., arXiv 2103.00020), the contrastive baseline."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvicreg.distributed import mean_rows
from mmvicreg.objectives.alignments.alignment import Alignment, Targets
from mmvicreg.objectives.alignments.similarities import similarities
from mmvicreg.objectives.arguments import expect


class InfoNCE(Alignment):
    """infonce = (1/2N) sum_i [CE(scale a_i'B, i) + CE(scale b_i'A, i)] of l2-normalised rows, N negatives.

    The negatives are those of all processes; each process computes its own rows of both matrices.
    ``temperature``: 1 / first scale. ``learn_scale``: the scale is exp of a parameter (name it without
    weight decay), kept at most ``largest_scale``.
    """

    def __init__(
        self,
        *,
        weight: float = 1.0,
        temperature: float = 0.07,
        learn_scale: bool = True,
        largest_scale: float = 100.0,
    ) -> None:
        super().__init__()
        kept = 1 / largest_scale <= temperature <= 1
        expect("InfoNCE's temperature", temperature, holds=kept, expected=f"{1 / largest_scale:g} to 1")
        self.weight, self.largest = weight, math.log(largest_scale)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)), requires_grad=learn_scale)

    def weights(self) -> dict[str, float]:
        return {"infonce": self.weight}

    def forward(
        self, a_nD: Tensor, b_nD: Tensor, *, seed: int, targets: Targets | None = None
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            self.log_scale.clamp_(0, self.largest)  # as CLIP clamps after a step: the gradient stays alive
        cosines = similarities(a_nD, b_nD)
        if cosines.rows == 0:
            return {"infonce": (cosines.ab_nN.sum() + cosines.ba_nN.sum()) * self.log_scale}
        scale = self.log_scale.exp().to(cosines.ab_nN.dtype)
        total = F.cross_entropy(scale * cosines.ab_nN, cosines.own_n, reduction="sum")
        total = total + F.cross_entropy(scale * cosines.ba_nN, cosines.own_n, reduction="sum")
        return {"infonce": mean_rows(total / 2, a_nD.shape[0])}
