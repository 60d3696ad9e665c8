"""Variance and covariance regularization (VICReg, Bardes, Ponce, LeCun, arXiv 2105.04906, equations 1-4).

n own rows, D features; N rows of all processes.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from mmvicreg.distributed import all_reduce_sum, row_counts, world_size
from mmvicreg.numerics import statistics_dtype, without_autocast
from mmvicreg.objectives.arguments import expect, expect_positive
from mmvicreg.objectives.regularizers.closed_form import needs_gradient, nothing, register
from mmvicreg.objectives.regularizers.covariance import (
    covariance_energy,
    gram_energy,
    gram_is_cheaper,
    gram_is_safe,
)
from mmvicreg.objectives.regularizers.regularizer import Regularizer

Form = Literal["auto", "gram", "covariance"]


class VICReg(Regularizer):
    """Keeps the standard deviation of each dimension above ``floor`` and dimensions uncorrelated.

    variance = mean_j relu(floor - sqrt(Var_j + epsilon)), unbiased Var, not halved.
    covariance = (1/D) sum_{i != j} C_ij^2, unbiased C.
    The first two arguments are the weights of these terms; a weight of 0 leaves its term out. Fewer than two rows in
    all have no variance: both terms are zero.
    ``form``: how the covariance term is computed (see ``covariance``). "auto" takes the cheaper form where it is as
    precise, which on a GPU costs a host sync if D >= 1.5 (N-1); a fixed form never syncs (CUDA graphs).
    For the coefficients of other implementations see ``VICRegCoefficients``.
    """

    def __init__(
        self,
        variance: float = 25.0,
        covariance: float = 1.0,
        *,
        floor: float = 1.0,
        epsilon: float = 1e-4,
        form: Form = "auto",
    ) -> None:
        super().__init__()
        self.variance, self.covariance = variance, covariance
        self.floor, self.epsilon, self.form = floor, epsilon, form
        expect_positive(self, "floor", "epsilon")
        forms = get_args(Form)
        expect("VICReg.form", self.form, holds=self.form in forms, expected=f"one of {forms}")

    def weights(self) -> dict[str, float]:
        both = {"variance": self.variance, "covariance": self.covariance}
        return {term: weight for term, weight in both.items() if weight != 0}

    def terms(self, z_nD: Tensor, *, seed: int) -> dict[str, Tensor]:
        z_nD = statistics_dtype(z_nD)
        with_covariance, need_gradient = self.covariance != 0, needs_gradient(z_nD)
        with without_autocast(z_nD):
            values, *_ = _vicreg(
                z_nD, self.floor, self.epsilon, self.form, with_covariance, need_gradient and with_covariance
            )
        both = dict(zip(("variance", "covariance"), values.unbind(), strict=True))
        return {term: both[term] for term in self.weights()}


@torch.library.custom_op("mmvicreg::vicreg", mutates_args=())
def _vicreg(
    z_nD: Tensor, floor: float, epsilon: float, form: str, with_covariance: bool, need_gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    counts = row_counts(z_nD)
    rows, features = sum(counts), z_nD.shape[1]
    if rows < 2:
        return nothing(z_nD, 2, need_gradient)
    mean_D = all_reduce_sum(z_nD.sum(0)) / rows
    x_nD = z_nD - mean_D
    v_D = all_reduce_sum(torch.linalg.vecdot(x_nD, x_nD, dim=0)) / (rows - 1)
    std_D = (v_D + epsilon).sqrt()
    variance = (floor - std_D).clamp(min=0).mean()
    slope_TD = z_nD.new_zeros(2, features)
    slope_TD[0] = torch.where(std_D < floor, -world_size() / ((rows - 1) * features * std_D), 0.0)
    covariance, gradient = torch.zeros_like(variance), z_nD.new_zeros(0)
    if with_covariance:
        if form == "auto":
            form = "gram" if gram_is_cheaper(rows, features) and gram_is_safe(rows, v_D) else "covariance"
        energy_of = gram_energy if form == "gram" else covariance_energy
        energy, gradient = energy_of(x_nD, counts, need_gradient=need_gradient)
        gradient *= world_size() / features
        covariance = (energy / features).to(z_nD.dtype)
    return torch.stack([variance, covariance]), gradient, mean_D, slope_TD, torch.zeros_like(slope_TD)


register(_vicreg, terms=2)
