"""Pairwise independence of dimensions by HSIC (Gretton et al. 2005; Mialon et al., arXiv 2209.14905).

n own rows, N all rows, D features, d own features, c features of a chunk.
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
from mmvicreg.objectives.regularizers.regularizer import Regularizer


class HSIC(Regularizer):
    """hsic = mean over pairs i != j of tr(K_i H K_j H) / (N-1)^2, K Gaussian kernels of single dimensions.

    It measures every dependence between two dimensions, not only the linear one. ``bandwidth`` is in the units of the
    embeddings, so regularize their variance beside it. ``chunk``: dimensions computed at a time. Time is N^2 D
    (divided over processes by dimensions), memory N^2 per dimension of a chunk; nothing is D^2.
    """

    def __init__(self, weight: float = 1.0, *, bandwidth: float = 1.0, chunk: int = 8) -> None:
        super().__init__()
        self.weight, self.bandwidth, self.chunk = weight, bandwidth, chunk
        expect_positive(self, "bandwidth", "chunk")

    def weights(self) -> dict[str, float]:
        return {"hsic": self.weight}

    def terms(self, z_nD: Tensor, *, seed: int) -> dict[str, Tensor]:
        z_nD = statistics_dtype(z_nD)
        with without_autocast(z_nD):
            values, *_ = _hsic(z_nD, self.bandwidth, self.chunk, needs_gradient(z_nD))
        return {"hsic": values[0]}


def _kernels(z_cN: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    """Gaussian kernels of each dimension (c, N, N): K - 1, and centred (HKH).

    K - 1 instead of K, because kernels of rows closer than the bandwidth differ from 1 by less than fp32 resolves;
    centring removes the 1 anyway.
    """
    apart = z_cN[:, :, None] - z_cN[:, None, :]
    kernel = apart.square_().mul_(-0.5 / bandwidth**2).expm1_()
    mean_cN = kernel.mean(2)
    centred = kernel - mean_cN[:, :, None] - mean_cN[:, None, :] + mean_cN.mean(1)[:, None, None]
    return kernel, centred


@torch.library.custom_op("mmvicreg::hsic", mutates_args=())
def _hsic(
    z_nD: Tensor, bandwidth: float, chunk: int, need_gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    counts = row_counts(z_nD)
    rows, features = sum(counts), z_nD.shape[1]
    if rows < 2 or features < 2:
        return nothing(z_nD, 1, need_gradient)
    z_dN = to_feature_shards(z_nD, counts).T.contiguous()
    z_dN = z_dN - z_dN.mean(1, keepdim=True)  # only differences count: the products below cancel less
    total_NN = z_nD.new_zeros(rows, rows)
    own = torch.zeros((), dtype=torch.float64, device=z_nD.device)
    for z_cN in z_dN.split(chunk):
        centred = _kernels(z_cN, bandwidth)[1]
        total_NN += centred.sum(0)
        own += centred.square().sum(dtype=torch.float64)
    total_NN, own = all_reduce_sum(total_NN, overwrite=True), all_reduce_sum(own)
    norm = features * (features - 1) * (rows - 1) ** 2
    value = (total_NN.square().sum(dtype=torch.float64) - own) / norm
    if not need_gradient:
        return value.to(z_nD.dtype).reshape(1), z_nD.new_zeros(0), *no_columns(z_nD, 1)
    gradient_dN = torch.empty_like(z_dN)
    for z_cN, gradient_cN in zip(z_dN.split(chunk), gradient_dN.split(chunk), strict=True):
        less_one, centred = _kernels(z_cN, bandwidth)
        pull = (total_NN - centred).mul_(less_one.add_(1.0))
        pull.diagonal(dim1=1, dim2=2).zero_()  # a row does not pull itself
        gradient_cN.copy_((pull @ z_cN[:, :, None])[:, :, 0] - pull.sum(2) * z_cN)
    gradient_dN *= 4 * world_size() / (bandwidth**2 * norm)
    gradient = from_feature_shards(gradient_dN.T, counts, features).contiguous()
    return value.to(z_nD.dtype).reshape(1), gradient, *no_columns(z_nD, 1)


register(_hsic, terms=1)
