"""Energy of the off-diagonal covariance and its gradient, exact, without a D x D or N x N matrix.

E = sum over i != j of C_ij^2 with C = s X'X, s = 1/(N-1), X (N, D) centred. Two exact forms, each in strips
of the upper triangle, each with the gradient formed along the way (closed form, so backward is free):

  covariance   strips of X'X with the diagonal exactly zero: no cancellation; 3 N D^2 multiply-adds.
  gram         s^2 ||XX'||^2 - sum_j v_j^2, v = diag C, by strips of XX': 3 N^2 D. It cancels where few
               dimensions carry the variance: with D_eff = (sum v)^2 / sum v^2 at most a fraction
               (N-1)/D_eff of ||C||^2 survives the subtraction, hence the rule in ``gram_is_safe``.

Several processes split the work and need no communication in backward. Covariance: each multiplies its own
rows and the strips are summed over processes. Gram: an all-to-all gives each process all rows of its part
of the features, the strips of XX' are summed, and a second all-to-all returns the gradient.

n own rows, N all rows, D features, d own features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmvicreg.distributed import all_reduce_sum, from_feature_shards, to_feature_shards
from mmvicreg.numerics import add_product, product

GRAM_STRIP = 512
COVARIANCE_STRIP = 1024


def gram_is_cheaper(rows: int, features: int) -> bool:
    """By shape alone: D >= 1.5 (N-1)."""
    return features >= 1.5 * (rows - 1)


def gram_is_safe(rows: int, variance_D: Tensor) -> bool:
    """Enough dimensions carry variance for the Gram form not to cancel. A device sync on a GPU."""
    v = variance_D.double()
    return bool(v.sum().square() >= 1.2 * (rows - 1) * v.square().sum())


def squares(strip: Tensor) -> Tensor:
    """Sum of squares in fp64; fp32 only along rows (``vector_norm`` in fp32 is off by up to 7e-4 on CPU)."""
    return torch.linalg.vecdot(strip, strip).sum(dtype=torch.float64)


def gram_energy(x_nD: Tensor, counts: tuple[int, ...], *, need_gradient: bool) -> tuple[Tensor, Tensor]:
    """E (fp64) by the Gram form, and dE/dX of own rows, empty unless needed. ``x_nD``: centred."""
    scale = 1.0 / (sum(counts) - 1)
    x_Nd = to_feature_shards(x_nD, counts)
    v_d = torch.linalg.vecdot(x_Nd, x_Nd, dim=0) * scale
    energy = -all_reduce_sum(v_d.double().square().sum())
    gradient = x_Nd * (v_d * (-4 * scale)) if need_gradient else x_Nd.new_zeros(0)
    rows = x_Nd.shape[0]
    for start in range(0, rows, GRAM_STRIP):
        stop = min(start + GRAM_STRIP, rows)
        strip = all_reduce_sum(product(x_Nd[start:stop], x_Nd[start:].T), overwrite=True)
        square, rest = strip[:, : stop - start], strip[:, stop - start :]
        energy += (squares(square) + 2 * squares(rest)) * scale**2
        if not need_gradient:
            continue
        add_product(gradient[start:stop], strip, x_Nd[start:], scale=4 * scale**2)
        if stop < rows:
            add_product(gradient[stop:], rest.T, x_Nd[start:stop], scale=4 * scale**2)
    return energy, from_feature_shards(gradient, counts, x_nD.shape[1]) if need_gradient else gradient


def covariance_energy(x_nD: Tensor, counts: tuple[int, ...], *, need_gradient: bool) -> tuple[Tensor, Tensor]:
    """E (fp64) by the covariance form, and dE/dX of own rows, empty unless needed. ``x_nD``: centred."""
    scale = 1.0 / (sum(counts) - 1)
    features = x_nD.shape[1]
    energy = torch.zeros((), dtype=torch.float64, device=x_nD.device)
    gradient = torch.zeros_like(x_nD) if need_gradient else x_nD.new_zeros(0)
    for start in range(0, features, COVARIANCE_STRIP):
        stop = min(start + COVARIANCE_STRIP, features)
        strip = all_reduce_sum(product(x_nD[:, start:stop].T, x_nD[:, start:]), overwrite=True)
        square, rest = strip[:, : stop - start], strip[:, stop - start :]
        square.fill_diagonal_(0)
        energy += (squares(square) + 2 * squares(rest)) * scale**2
        if not need_gradient:
            continue
        add_product(gradient[:, start:stop], x_nD[:, start:], strip.T, scale=4 * scale**2)
        if stop < features:
            add_product(gradient[:, stop:], x_nD[:, start:stop], rest, scale=4 * scale**2)
    return energy, gradient
