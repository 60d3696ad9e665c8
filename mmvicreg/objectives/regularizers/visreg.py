"""VISReg: scale, shape and centre of the embeddings apart (Wu, Balestriero, Levine, arXiv 2606.02572).

n own rows, D features; N rows of all processes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmvicreg.distributed import all_reduce_sum, row_counts, world_size
from mmvicreg.numerics import statistics_dtype, without_autocast
from mmvicreg.objectives.arguments import expect_positive
from mmvicreg.objectives.regularizers.closed_form import needs_gradient, nothing, register
from mmvicreg.objectives.regularizers.regularizer import Regularizer
from mmvicreg.objectives.regularizers.sliced_wasserstein import sliced_distance


class VISReg(Regularizer):
    """scale = mean_j (1 - s_j)^2, s_j = ||zc_j|| / sqrt(N) + epsilon (two-sided, biased std).
    shape = sliced Wasserstein distance of zc / stop-gradient(s) to the standard normal.
    center = mean_j mean(z_j)^2.

    The first three arguments are the weights of these terms; for long-tailed data the paper weighs the shape more
    (0.5, 2, 0.5). ``slices``: random directions, equal on all processes; more than D is best, D/8 still works.
    Fewer than two rows in all have no shape: all terms are zero.
    """

    def __init__(
        self,
        scale: float = 1.0,
        shape: float = 1.0,
        center: float = 1.0,
        *,
        slices: int = 1024,
        chunk: int = 256,
        epsilon: float = 1e-6,
    ) -> None:
        super().__init__()
        self.scale, self.shape, self.center = scale, shape, center
        self.slices, self.chunk, self.epsilon = slices, chunk, epsilon
        expect_positive(self, "slices", "chunk", "epsilon")

    def weights(self) -> dict[str, float]:
        return {"scale": self.scale, "center": self.center, "shape": self.shape}

    def terms(self, z_nD: Tensor, *, seed: int) -> dict[str, Tensor]:
        z_nD = statistics_dtype(z_nD)
        with without_autocast(z_nD):
            values, *_ = _visreg(z_nD, seed, self.slices, self.chunk, self.epsilon, needs_gradient(z_nD))
        return dict(zip(("scale", "center", "shape"), values.unbind(), strict=True))


@torch.library.custom_op("mmvicreg::visreg", mutates_args=())
def _visreg(
    z_nD: Tensor, seed: int, slices: int, chunk: int, epsilon: float, need_gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    counts = row_counts(z_nD)
    rows, features = sum(counts), z_nD.shape[1]
    if rows < 2:
        return nothing(z_nD, 3, need_gradient)
    mean_D = all_reduce_sum(z_nD.sum(0)) / rows
    x_nD = z_nD - mean_D
    raw_D = (all_reduce_sum(torch.linalg.vecdot(x_nD, x_nD, dim=0)) / rows).sqrt()
    std_D = raw_D + epsilon
    shape, gradient = sliced_distance(
        x_nD.div_(std_D), counts, seed=seed, slices=slices, chunk=chunk, need_gradient=need_gradient
    )
    if need_gradient:  # through the division by a constant and the subtraction of the mean
        gradient.sub_(all_reduce_sum(gradient.sum(0)) / rows).div_(std_D)
    slope_TD, shift_TD = z_nD.new_zeros(3, features), z_nD.new_zeros(3, features)
    per_value = 2 * world_size() / (rows * features)
    slope_TD[0] = torch.where(raw_D > 0, per_value * (std_D - 1) / raw_D, 0.0)
    shift_TD[1] = per_value * mean_D
    scale, center = (1 - std_D).square().mean(), mean_D.square().mean()
    return torch.stack([scale, center, shape.to(scale.dtype)]), gradient, mean_D, slope_TD, shift_TD


register(_visreg, terms=3)
