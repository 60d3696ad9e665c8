"""Variance and covariance regularization (VICReg, Bardes, Ponce, LeCun, arXiv 2105.04906, equations 1-4).

n own rows, D features; N rows of all processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mmvicreg.distributed import all_reduce_sum, row_counts, world_size
from mmvicreg.regularizers.covariance import (
    covariance_energy,
    gram_energy,
    gram_is_cheaper,
    gram_is_safe,
)
from mmvicreg.regularizers.precision import statistics_dtype, without_autocast
from mmvicreg.regularizers.regularizer import Regularizer

Form = Literal["auto", "gram", "covariance"]


@dataclass(frozen=True)
class VarianceCovariance(Regularizer):
    """Each dimension's standard deviation at least ``floor``, dimensions uncorrelated.

    variance = mean_j relu(floor - sqrt(Var_j + epsilon)), unbiased Var, not halved.
    covariance = (1/D) sum_{i != j} C_ij^2, C unbiased. A weight of 0 leaves the term out.
    Fewer than two rows in all have no variance: both terms are zero.
    ``form``: how the covariance is computed. "auto" takes the cheaper one where it is as precise, which on
    a GPU costs a host sync if D >= 1.5 (N-1); a fixed form does not sync (CUDA graphs).
    For other implementations' coefficients see ``Coefficients``.
    """

    variance: float = 25.0
    covariance: float = 1.0
    floor: float = 1.0
    epsilon: float = 1e-4
    form: Form = "auto"

    def weights(self) -> dict[str, float]:
        both = {"variance": self.variance, "covariance": self.covariance}
        return {term: weight for term, weight in both.items() if weight != 0}

    def __call__(self, z_nD: Tensor, *, seed: int) -> dict[str, Tensor]:
        need_gradient = z_nD.requires_grad and torch.is_grad_enabled()
        z_nD = statistics_dtype(z_nD)
        with without_autocast(z_nD):
            variance, covariance, *_ = _variance_covariance(
                z_nD, self.floor, self.epsilon, self.form, self.covariance != 0, need_gradient
            )
        both = {"variance": variance, "covariance": covariance}
        return {term: both[term] for term in self.weights()}


@torch.library.custom_op("mmvicreg::variance_covariance", mutates_args=())
def _variance_covariance(
    z_nD: Tensor, floor: float, epsilon: float, form: str, with_covariance: bool, need_gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Both terms; the covariance's gradient (n, D); mean_D and the variance's gradient per centred value.

    One opaque operator, so that torch.compile neither breaks on it nor undoes its memory plan.
    """
    counts = row_counts(z_nD)
    rows, features = sum(counts), z_nD.shape[1]
    nothing = z_nD.new_zeros(0)
    if rows < 2:
        gradient = torch.zeros_like(z_nD) if with_covariance and need_gradient else nothing
        return (
            z_nD.new_zeros(()),
            z_nD.new_zeros(()),
            gradient,
            z_nD.new_zeros(features),
            z_nD.new_zeros(features),
        )
    mean_D = all_reduce_sum(z_nD.sum(0)) / rows
    x_nD = z_nD - mean_D
    v_D = all_reduce_sum(torch.linalg.vecdot(x_nD, x_nD, dim=0)) / (rows - 1)
    std_D = (v_D + epsilon).sqrt()
    variance = (floor - std_D).clamp(min=0).mean()
    slope_D = torch.where(std_D < floor, -world_size() / ((rows - 1) * features * std_D), 0.0)
    if not with_covariance:
        return variance, torch.zeros_like(variance), nothing, mean_D, slope_D
    if form == "auto":
        form = "gram" if gram_is_cheaper(rows, features) and gram_is_safe(rows, v_D) else "covariance"
    energy_of = gram_energy if form == "gram" else covariance_energy
    energy, gradient = energy_of(x_nD, counts, need_gradient=need_gradient)
    gradient *= world_size() / features
    return variance, (energy / features).to(z_nD.dtype), gradient, mean_D, slope_D


@_variance_covariance.register_fake
def _(
    z_nD: Tensor, floor: float, epsilon: float, form: str, with_covariance: bool, need_gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    gradient = torch.empty_like(z_nD) if with_covariance and need_gradient else z_nD.new_empty(0)
    features = z_nD.shape[1]
    return (
        z_nD.new_empty(()),
        z_nD.new_empty(()),
        gradient,
        z_nD.new_empty(features),
        z_nD.new_empty(features),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, _, gradient, mean_D, slope_D = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(inputs[0], gradient, mean_D, slope_D)


def _backward(ctx: Any, grad_variance: Tensor | None, grad_covariance: Tensor | None, *_: Any) -> Any:
    z_nD, gradient, mean_D, slope_D = ctx.saved_tensors
    if grad_variance is None:
        total = None if grad_covariance is None else gradient * grad_covariance
    else:
        total = (z_nD - mean_D) * (slope_D * grad_variance)
        if grad_covariance is not None and gradient.numel():
            total = total.addcmul_(gradient, grad_covariance)
    return total, None, None, None, None, None


_variance_covariance.register_autograd(_backward, setup_context=_keep)
