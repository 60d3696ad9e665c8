"""Prediction of one view's embedding from the other's, without gradient to what is predicted.

LeVLJEPA (arXiv 2607.00784): distance "mse". SimSiam (arXiv 2011.10566): "cosine". BYOL (arXiv 2006.07733):
"cosine" with ``momentum``, predicting the embeddings of moving averages of the branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from mmvicreg.branches.model import projector
from mmvicreg.distributed import mean_rows
from mmvicreg.errors import InvalidValueError
from mmvicreg.numerics import statistics_dtype
from mmvicreg.objectives.alignments.alignment import Alignment, Targets
from mmvicreg.objectives.alignments.cosine import cosine_distances
from mmvicreg.objectives.arguments import expect


class Prediction(Alignment):
    """prediction = 1/2 [distance(p_ab(a), sg(b)) + distance(p_ba(b), sg(a))], sg = stop gradient.

    "mse": mean over rows and dimensions; "cosine": mean over rows of 2 - 2 cos. Each predictor is an MLP
    with batch normalisation of ``hidden`` widths; () is a linear map. The views' widths may differ:
    ``widths`` = (width of a, width of b). Score retrieval with ``predict``, not with raw cosine.
    """

    def __init__(
        self,
        widths: tuple[int, int],
        *,
        hidden: Sequence[int] = (2048,),
        weight: float = 1.0,
        distance: Literal["mse", "cosine"] = "mse",
        momentum: float | None = None,
    ) -> None:
        super().__init__()
        known = ("mse", "cosine")
        expect("Prediction's distance", distance, holds=distance in known, expected=f"one of {known}")
        moving = momentum is None or 0 <= momentum < 1
        expect("Prediction's momentum", momentum, holds=moving, expected="None, or 0 to below 1")
        self.widths = (widths[0], widths[1])
        self.weight, self.distance, self.momentum = weight, distance, momentum
        self.from_a = projector(widths[0], (*hidden, widths[1]))
        self.from_b = projector(widths[1], (*hidden, widths[0]))

    def weights(self) -> dict[str, float]:
        return {"prediction": self.weight}

    def predict(self, a_nD: Tensor, b_nD: Tensor) -> tuple[Tensor, Tensor]:
        """What a predicts of b, and b of a: each in the other's space."""
        return self.from_a(a_nD), self.from_b(b_nD)

    def forward(
        self, a_nD: Tensor, b_nD: Tensor, *, seed: int, targets: Targets | None = None
    ) -> dict[str, Tensor]:
        if self.momentum is not None and targets is None:
            raise InvalidValueError(
                f"momentum is {self.momentum}, so targets are expected: pass those branches' z"
            )
        to_a, to_b = targets or (a_nD, b_nD)
        of_b, of_a = self.predict(a_nD, b_nD)
        total = self._distance(of_b, to_b.detach()) + self._distance(of_a, to_a.detach())
        return {"prediction": mean_rows(total / 2, a_nD.shape[0])}

    def _distance(self, found_nD: Tensor, goal_nD: Tensor) -> Tensor:
        """Summed over rows."""
        if self.distance == "cosine":
            return 2 * cosine_distances(found_nD, goal_nD).sum()
        total = F.mse_loss(statistics_dtype(found_nD), statistics_dtype(goal_nD), reduction="sum")
        return total / goal_nD.shape[1]
