"""InfoNCE between two views: the loss of CLIP (Radford et al., arXiv 2103.00020), the contrastive baseline."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvicreg.distributed import mean_rows
from mmvicreg.objectives.alignments.alignment import Alignment, PairContext
from mmvicreg.objectives.alignments.similarities import similarities
from mmvicreg.objectives.arguments import expect


class InfoNCE(Alignment):
    """infonce = (1/2N) sum_i [CE(scale a_i'B, i) + CE(scale b_i'A, i)] of l2-normalized rows.

    The negatives of a row are the rows of all processes. With ``identities`` (see :class:`PairContext`) rows that
    show the same item leave the denominator: a caption shared by several images is no negative of any of them.
    ``temperature``: 1 / initial scale. ``learn_scale``: the scale is exp of a parameter (give it no weight decay),
    which is limited to [1, ``largest_scale``] before each step, as CLIP limits it after each.
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
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

    @torch.no_grad()
    def begin_step(self) -> None:
        self.log_scale.clamp_(0, self.largest)

    def terms(self, a_nD: Tensor, b_nD: Tensor, context: PairContext) -> dict[str, Tensor]:
        cosines = similarities(a_nD, b_nD, context)
        dtype = cosines.ab_nN.dtype
        if cosines.rows == 0:
            zero = (cosines.ab_nN.sum() + cosines.ba_nN.sum()) * 0.0
            return {"infonce": zero + self.log_scale.to(dtype) * 0.0}
        scale = self.log_scale.exp().to(dtype)
        total = torch.zeros((), dtype=dtype, device=a_nD.device)
        for x_nN in (cosines.ab_nN, cosines.ba_nN):
            logits = scale * x_nN
            if cosines.ignored_nN is not None:
                logits = logits.masked_fill(cosines.ignored_nN, -torch.inf)
            total = total + F.cross_entropy(logits, cosines.own_n, reduction="sum")
        return {"infonce": mean_rows(total / 2, a_nD.shape[0])}
