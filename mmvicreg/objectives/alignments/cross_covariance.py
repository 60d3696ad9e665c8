"""Cross-covariance of two views without a D x D matrix: standardized columns and off-diagonal energy.

E = sum over i != j of C_ij^2, C = A'B / N. Strips of C with an exactly zero diagonal (6 N D^2), or, where N
is small, the strips of AA' and BB': sum of C_ij^2 = <AA', BB'> / N^2 (6 N^2 D). Gradients in forward.
The split over processes is that of ``regularizers.covariance``.

n own rows, N all rows, D features, d own features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmvicreg.distributed import (
    all_reduce_sum,
    from_feature_shards,
    row_counts,
    to_feature_shards,
    world_size,
)
from mmvicreg.numerics import once_only
from mmvicreg.objectives.regularizers.covariance import COVARIANCE_STRIP, GRAM_STRIP, gram_is_cheaper, squares

Both = tuple[Tensor, Tensor, Tensor]


class Standardize(torch.autograd.Function):
    """(x - mean) / sqrt(biased variance + epsilon) over the rows of all processes; keeps only the result."""

    @staticmethod
    def forward(ctx: Any, x_nD: Tensor, rows: int, epsilon: float) -> Tensor:
        y_nD = x_nD - all_reduce_sum(x_nD.sum(0)) / rows
        variance_D = all_reduce_sum(torch.linalg.vecdot(y_nD, y_nD, dim=0)) / rows
        inverse_D = (variance_D + epsilon).rsqrt()
        y_nD *= inverse_D
        ctx.rows = rows
        ctx.save_for_backward(y_nD, inverse_D)
        return y_nD

    @staticmethod
    def backward(ctx: Any, grad_nD: Tensor) -> tuple[Tensor, None, None]:
        y_nD, inverse_D = ctx.saved_tensors
        with torch.no_grad():
            means = torch.stack([grad_nD.sum(0), torch.linalg.vecdot(grad_nD, y_nD, dim=0)])
            mean_D, slope_D = all_reduce_sum(means) / ctx.rows
            gradient = (grad_nD - mean_D).sub_(y_nD * slope_D).mul_(inverse_D)
        return once_only(gradient, y_nD, grad_nD), None, None


def off_diagonal_energy(a_nD: Tensor, b_nD: Tensor) -> Tensor:
    """E of centred columns, with gradient to both."""
    need_gradient = torch.is_grad_enabled() and (a_nD.requires_grad or b_nD.requires_grad)
    return _cross_energy(a_nD, b_nD, need_gradient)[0]


@torch.library.custom_op("mmvicreg::cross_energy", mutates_args=())
def _cross_energy(a_nD: Tensor, b_nD: Tensor, need_gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    counts = row_counts(a_nD)
    form = _gram if gram_is_cheaper(sum(counts), a_nD.shape[1]) else _covariance
    energy, a, b = form(a_nD, b_nD, counts, need_gradient)
    return energy.to(a_nD.dtype), a.mul_(world_size()), b.mul_(world_size())


@_cross_energy.register_fake
def _(a_nD: Tensor, b_nD: Tensor, need_gradient: bool) -> Both:
    empty = a_nD.new_empty(0)
    gradients = (torch.empty_like(a_nD), torch.empty_like(b_nD)) if need_gradient else (empty, empty.clone())
    return a_nD.new_empty(()), *gradients


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Both) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:2], *output[1:])


def _backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, Tensor | None, None]:
    if grad is None:
        return None, None, None
    a_nD, b_nD, to_a, to_b = ctx.saved_tensors
    return once_only(to_a * grad, a_nD, b_nD, grad), once_only(to_b * grad, a_nD, b_nD, grad), None


_cross_energy.register_autograd(_backward, setup_context=_keep)


def _gram(a_nD: Tensor, b_nD: Tensor, counts: tuple[int, ...], need_gradient: bool) -> Both:
    scale, features = 1.0 / sum(counts), a_nD.shape[1]
    a, b = to_feature_shards(a_nD, counts), to_feature_shards(b_nD, counts)
    diagonal_d = torch.linalg.vecdot(a, b, dim=0) * scale
    energy = -all_reduce_sum(diagonal_d.double().square().sum())
    to_a, to_b = (x * (diagonal_d * (-2 * scale)) if need_gradient else x.new_zeros(0) for x in (b, a))
    for start in range(0, a.shape[0], GRAM_STRIP):
        stop = min(start + GRAM_STRIP, a.shape[0])
        strip_a, strip_b = (
            all_reduce_sum(x[start:stop] @ x[start:].T, overwrite=True).mul_(scale) for x in (a, b)
        )
        width = stop - start
        product = torch.linalg.vecdot(strip_a, strip_b)
        square = torch.linalg.vecdot(strip_a[:, :width], strip_b[:, :width])
        energy += (2 * product - square).sum(dtype=torch.float64)
        if need_gradient:
            for gradient, x, strip in ((to_a, a, strip_b), (to_b, b, strip_a)):
                gradient[start:stop].addmm_(strip, x[start:], alpha=2 * scale)
                gradient[stop:].addmm_(strip[:, width:].T, x[start:stop], alpha=2 * scale)
    if need_gradient:
        to_a, to_b = (from_feature_shards(x, counts, features) for x in (to_a, to_b))
    return energy, to_a, to_b


def _covariance(a_nD: Tensor, b_nD: Tensor, counts: tuple[int, ...], need_gradient: bool) -> Both:
    scale, features = 1.0 / sum(counts), a_nD.shape[1]
    energy = torch.zeros((), dtype=torch.float64, device=a_nD.device)
    to_a, to_b = (torch.zeros_like(x) if need_gradient else x.new_zeros(0) for x in (a_nD, b_nD))
    for start in range(0, features, COVARIANCE_STRIP):
        stop = min(start + COVARIANCE_STRIP, features)
        strip = all_reduce_sum(a_nD[:, start:stop].T @ b_nD, overwrite=True).mul_(scale)
        strip[:, start:stop].fill_diagonal_(0)
        energy += squares(strip)
        if need_gradient:
            to_a[:, start:stop].addmm_(b_nD, strip.T, alpha=2 * scale)
            to_b.addmm_(a_nD[:, start:stop], strip, alpha=2 * scale)
    return energy, to_a, to_b
