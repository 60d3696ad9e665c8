"""InfoNCE between two views: CLIP's loss (Radford et al., arXiv 2103.00020), the contrastive baseline."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvicreg.alignments.alignment import Alignment, Targets
from mmvicreg.distributed import gather_rows, mean_rows, rank, row_counts
from mmvicreg.regularizers.precision import statistics_dtype, without_autocast


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
        self.weight, self.largest = weight, math.log(largest_scale)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)), requires_grad=learn_scale)

    def weights(self) -> dict[str, float]:
        return {"infonce": self.weight}

    def forward(
        self, a_nD: Tensor, b_nD: Tensor, *, seed: int, targets: Targets | None = None
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            self.log_scale.clamp_(0, self.largest)  # as CLIP clamps after a step: the gradient stays alive
        a_nD, b_nD = (F.normalize(statistics_dtype(x), dim=1) for x in (a_nD, b_nD))
        counts = row_counts(a_nD)
        if sum(counts) == 0:
            return {"infonce": (a_nD.sum() + b_nD.sum()) * self.log_scale}
        scale = self.log_scale.exp().to(a_nD.dtype)
        with without_autocast(a_nD):
            ab_nN = scale * a_nD @ gather_rows(b_nD, counts).T
            ba_nN = scale * b_nD @ gather_rows(a_nD, counts).T
        start = sum(counts[: rank()])
        labels = torch.arange(start, start + a_nD.shape[0], device=a_nD.device)
        total = F.cross_entropy(ab_nN, labels, reduction="sum") + F.cross_entropy(
            ba_nN, labels, reduction="sum"
        )
        return {"infonce": mean_rows(total / 2, a_nD.shape[0])}
