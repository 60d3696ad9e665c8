"""Squared sliced Wasserstein distance to the standard normal, and its gradient.

Every process projects its rows on all slices; an all-to-all gives it all rows of its part of the slices,
which it sorts, so that sorting is global, exact and divided over processes. A second all-to-all returns the
slopes. n own rows, N all rows, D features, K slices, k own slices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmvicreg.distributed import (
    all_reduce_sum,
    from_feature_shards,
    row_counts,
    to_feature_shards,
    world_size,
)
from mmvicreg.numerics import statistics_dtype, without_autocast
from mmvicreg.objectives.arguments import expect_positive
from mmvicreg.objectives.regularizers.closed_form import needs_gradient, no_columns, nothing, register
from mmvicreg.objectives.regularizers.directions import add_projected_back, directions, project
from mmvicreg.objectives.regularizers.regularizer import Regularizer


class SlicedWasserstein(Regularizer):
    """sliced_wasserstein = mean over slices w and rows of (sort(Z w) - q)^2, q_i = normal quantile i/(N+1).

    It covers location, scale and shape at once. ``slices``: random directions, equal on all processes; ``chunk``:
    directions computed at a time.
    """

    def __init__(self, weight: float = 1.0, *, slices: int = 1024, chunk: int = 256) -> None:
        super().__init__()
        self.weight, self.slices, self.chunk = weight, slices, chunk
        expect_positive(self, "slices", "chunk")

    def weights(self) -> dict[str, float]:
        return {"sliced_wasserstein": self.weight}

    def terms(self, z_nD: Tensor, *, seed: int) -> dict[str, Tensor]:
        z_nD = statistics_dtype(z_nD)
        with without_autocast(z_nD):
            values, *_ = _sliced_wasserstein(z_nD, seed, self.slices, self.chunk, needs_gradient(z_nD))
        return {"sliced_wasserstein": values[0]}


def normal_quantiles(rows: int, like: Tensor) -> Tensor:
    """(N,) quantiles i/(N+1) of the standard normal, found in fp64."""
    ranks = torch.arange(1, rows + 1, dtype=torch.float64, device=like.device)
    return torch.special.ndtri(ranks / (rows + 1)).to(like.dtype)


def sliced_distance(
    z_nD: Tensor, counts: tuple[int, ...], *, seed: int, slices: int, chunk: int, need_gradient: bool
) -> tuple[Tensor, Tensor]:
    """The distance (fp64) and its gradient to own rows (n, D), empty unless needed."""
    rows = sum(counts)
    quantiles_N = normal_quantiles(rows, z_nD)
    value = torch.zeros((), dtype=torch.float64, device=z_nD.device)
    gradient: Tensor | None = None
    for directions_KD in directions(z_nD, slices=slices, seed=seed).split(chunk):
        x_kN = to_feature_shards(project(z_nD, directions_KD).T, counts).T.contiguous()
        sorted_kN, order_kN = x_kN.sort(dim=1)
        gap_kN = sorted_kN.sub_(quantiles_N)
        value += torch.linalg.vecdot(gap_kN, gap_kN).sum(dtype=torch.float64)
        if need_gradient:
            x_kN.scatter_(1, order_kN, gap_kN)
            slope_nK = from_feature_shards(x_kN.T, counts, len(directions_KD))
            gradient = add_projected_back(gradient, slope_nK.T, directions_KD)
    gradient = z_nD.new_zeros(0) if gradient is None else gradient.mul_(2 * world_size() / (rows * slices))
    return all_reduce_sum(value) / (rows * slices), gradient


@torch.library.custom_op("mmvicreg::sliced_wasserstein", mutates_args=())
def _sliced_wasserstein(
    z_nD: Tensor, seed: int, slices: int, chunk: int, need_gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    counts = row_counts(z_nD)
    if sum(counts) == 0:
        return nothing(z_nD, 1, need_gradient)
    value, gradient = sliced_distance(
        z_nD, counts, seed=seed, slices=slices, chunk=chunk, need_gradient=need_gradient
    )
    return value.to(z_nD.dtype).reshape(1), gradient, *no_columns(z_nD, 1)


register(_sliced_wasserstein, terms=1)
