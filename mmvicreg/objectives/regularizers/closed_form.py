"""Operators that compute their gradient in forward, in closed form, and keep it as one (n, D) matrix.

Each is one custom operator to torch.compile, which therefore neither breaks the graph at its collective operations
nor changes its memory use. It returns ``Outputs``; ``register`` gives it its backward and its shapes. Backward
multiplies and adds, without communication: the gradients contain the factor (number of processes) already. A second
derivative raises RuntimeError.

n own rows, D features, T terms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""values_T; the gradient (n, D) of the last term, empty where there is none or none is needed; and for each term
a gradient that is affine in each column, (z - mean_D) * slope_TD + shift_TD."""


def register(operator: Any, *, terms: int) -> None:
    """Backward and shapes of an operator (z_nD, ..., need_gradient) -> ``Outputs`` with T = ``terms``."""

    def shapes(z_nD: Tensor, *settings: Any) -> Outputs:
        columns = z_nD.new_empty(terms, z_nD.shape[1])
        matrix = torch.empty_like(z_nD) if settings[-1] else z_nD.new_empty(0)
        return (
            z_nD.new_empty(terms),
            matrix,
            z_nD.new_empty(z_nD.shape[1]),
            columns,
            torch.empty_like(columns),
        )

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
        ctx.set_materialize_grads(False)
        ctx.settings = len(inputs) - 1
        ctx.save_for_backward(inputs[0], *output[1:])

    @once_differentiable  # differentiating the stored gradient would miss its dependence on z
    def backward(ctx: Any, grad_T: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        nothing = (None,) * ctx.settings
        if grad_T is None:
            return None, *nothing
        z_nD, matrix, mean_D, slope_TD, shift_TD = ctx.saved_tensors
        if terms == 1:
            return matrix * grad_T, *nothing
        total = (z_nD - mean_D).mul_(grad_T @ slope_TD).add_(grad_T @ shift_TD)
        return total.addcmul_(matrix, grad_T[-1]) if matrix.numel() else total, *nothing

    operator.register_fake(shapes)
    operator.register_autograd(backward, setup_context=keep)


def no_columns(z_nD: Tensor, terms: int) -> tuple[Tensor, Tensor, Tensor]:
    """mean_D, slope_TD and shift_TD of terms that have no such part."""
    features = z_nD.shape[1]
    return z_nD.new_zeros(features), z_nD.new_zeros(terms, features), z_nD.new_zeros(terms, features)


def nothing(z_nD: Tensor, terms: int, need_gradient: bool) -> Outputs:
    """Outputs where there are too few rows for the statistic: zeros."""
    matrix = torch.zeros_like(z_nD) if need_gradient else z_nD.new_zeros(0)
    return z_nD.new_zeros(terms), matrix, *no_columns(z_nD, terms)


def needs_gradient(z_nD: Tensor) -> bool:
    return z_nD.requires_grad and torch.is_grad_enabled()
