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
from mmvicreg.objectives.alignments.alignment import Alignment, PairContext
from mmvicreg.objectives.alignments.cosine import cosine_distances
from mmvicreg.objectives.arguments import expect


class Prediction(Alignment):
    """prediction = 1/2 [distance(p_ab(a), sg(b)) + distance(p_ba(b), sg(a))], sg = stop gradient.

    ``distance``: "mse" is the mean over rows and dimensions, "cosine" the mean over rows of 2 - 2 cos.
    ``widths``: embedding widths of a and b, which may differ. ``hidden``: hidden widths of each predictor, an MLP
    with batch normalization; () is a linear map. ``momentum``: predict the embeddings of moving averages of the
    branches. Score retrieval with what ``predict`` returns, not with the raw cosine.
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
        widths: tuple[int, int],
        hidden: Sequence[int] = (2048,),
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
        """Predictions of b (n, width of b) from a, and of a (n, width of a) from b."""
        return self.from_a(a_nD), self.from_b(b_nD)

    def terms(self, a_nD: Tensor, b_nD: Tensor, context: PairContext) -> dict[str, Tensor]:
        if self.momentum is not None and context.targets is None:
            raise InvalidValueError(
                f"Prediction has the momentum {self.momentum} and got no targets; pass the embeddings of both views "
                "from the moving averages of their branches, or leave momentum out"
            )
        to_a, to_b = context.targets or (a_nD, b_nD)
        of_b, of_a = self.predict(a_nD, b_nD)
        total = self._distance(of_b, to_b.detach()) + self._distance(of_a, to_a.detach())
        return {"prediction": mean_rows(total / 2, a_nD.shape[0])}

    def _distance(self, found_nD: Tensor, goal_nD: Tensor) -> Tensor:
        """Summed over rows."""
        if self.distance == "cosine":
            return 2 * cosine_distances(found_nD, goal_nD).sum()
        total = F.mse_loss(statistics_dtype(found_nD), statistics_dtype(goal_nD), reduction="sum")
        return total / goal_nD.shape[1]
