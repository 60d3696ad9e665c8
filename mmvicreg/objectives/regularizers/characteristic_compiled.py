"""Passes of ``characteristic`` that torch.compile fuses on a CPU: the same results, twice as fast as tiles.

Sines and cosines are a pass of their own: fused with the powers they cost three times as much (registers).
K slices, N rows (any number above 1: one compilation; 1 has its own), T knots.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor


def waves(x_KN: Tensor, *, step: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of step x, (K, N) each."""
    return _compiled(_waves)(x_KN, step)


def sums(cosine_KN: Tensor, sine_KN: Tensor, *, knots: int) -> Tensor:
    """(T, K) complex: sum over rows of exp(i t step x)."""
    return torch.complex(*_compiled(_sums)(cosine_KN, sine_KN, knots))


def slopes(cosine_KN: Tensor, sine_KN: Tensor, weights_TK: Tensor) -> Tensor:
    """(K, N): real part of sum over t of weights_tk exp(i t step x)."""
    real_TK, imaginary_TK = torch.view_as_real(weights_TK).movedim(-1, 0).contiguous()
    return _compiled(_slopes)(cosine_KN, sine_KN, real_TK, imaginary_TK)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


def _waves(x_KN: Tensor, step: float) -> tuple[Tensor, Tensor]:
    return torch.cos(x_KN * step), torch.sin(x_KN * step)


def _sums(cosine_KN: Tensor, sine_KN: Tensor, knots: int) -> tuple[Tensor, Tensor]:
    """Power t is the product of powers t // 2 and t - t // 2, so that rounding grows with log t only."""
    powers = [(cosine_KN, sine_KN)]
    for t in range(2, knots + 1):
        (a, b), (c, d) = powers[t // 2 - 1], powers[t - t // 2 - 1]
        powers.append((a * c - b * d, a * d + b * c))
    return torch.stack([real.sum(1) for real, _ in powers]), torch.stack([im.sum(1) for _, im in powers])


def _slopes(cosine_KN: Tensor, sine_KN: Tensor, real_TK: Tensor, imaginary_TK: Tensor) -> Tensor:
    """Clenshaw's algorithm for sum of real cos(t step x) - imaginary sin(t step x)."""
    twice = 2 * cosine_KN
    zero = torch.zeros_like(cosine_KN)
    a, a_after, b, b_after = zero, zero, zero, zero
    for real_K, imaginary_K in zip(reversed(real_TK.unbind()), reversed(imaginary_TK.unbind()), strict=True):
        a, a_after = twice * a + (real_K[:, None] - a_after), a
        b, b_after = twice * b + (imaginary_K[:, None] - b_after), b
    return cosine_KN * a - a_after - sine_KN * b
