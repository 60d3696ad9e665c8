"""Empirical characteristic functions on uniform knots by angle addition: one sine and cosine per element.

At knot t = 1 .. T the function of slice k is sum over rows of u^t, u = exp(i step x). Powers of u come by
complex products, and a trigonometric polynomial of x with its derivative by Horner's rule. On a CPU tiles
small enough for the cache, or, ``compiled``, one pass that torch.compile fuses (it needs a C++ compiler); on
a GPU fused Triton kernels (``characteristic_kernels``). All give equal results.

K slices, N rows, T knots (t = 0 left out: there the function is 1).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

TILE = 1 << 16
"""Elements of a tile on a CPU: two complex copies stay in a core's second-level cache."""


def characteristic_sums(x_KN: Tensor, *, knots: int, step: float, compiled: bool = False) -> Tensor:
    """(T, K) complex: sum over rows of exp(i t step x)."""
    if x_KN.is_cuda and x_KN.dtype == torch.float32:
        from mmvicreg.regularizers.characteristic_kernels import sums

        return sums(x_KN, knots=knots, step=step)
    if compiled:
        return torch.complex(*_compiled(_fused_sums)(x_KN, knots, step))
    tiles = [_tile_sums(tile, knots, step) for tile in x_KN.split(_slices(x_KN))]
    return torch.cat(tiles, dim=1)


def characteristic_slopes(
    x_KN: Tensor, weights_TK: Tensor, *, step: float, compiled: bool = False
) -> Tensor:
    """(K, N): real part of sum over t of weights_tk exp(i t step x). Overwrites ``x_KN``."""
    if x_KN.is_cuda and x_KN.dtype == torch.float32:
        from mmvicreg.regularizers.characteristic_kernels import slopes

        return slopes(x_KN, weights_TK, step=step)
    if compiled:
        return _compiled(_fused_slopes)(x_KN, *torch.view_as_real(weights_TK).movedim(-1, 0).contiguous(), step)
    size = _slices(x_KN)
    for tile, weights in zip(x_KN.split(size), weights_TK.split(size, dim=1), strict=True):
        tile.copy_(_tile_slopes(tile, weights, step))
    return x_KN


def _slices(x_KN: Tensor) -> int:
    return x_KN.shape[0] if x_KN.is_cuda else max(1, TILE // max(1, x_KN.shape[1]))


def _tile_sums(x_KN: Tensor, knots: int, step: float) -> Tensor:
    unit = torch.polar(torch.ones_like(x_KN), x_KN * step)
    power, sums = unit.clone(), [unit.sum(1)]
    for _ in range(1, knots):
        sums.append(power.mul_(unit).sum(1))
    return torch.stack(sums)


def _tile_slopes(x_KN: Tensor, weights_TK: Tensor, step: float) -> Tensor:
    unit = torch.polar(torch.ones_like(x_KN), x_KN * step)
    total = unit * weights_TK[-1][:, None]
    for weights_K in reversed(weights_TK[:-1].unbind()):
        total.add_(weights_K[:, None]).mul_(unit)
    return total.real


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """For any number of rows: present rows differ from step to step."""
    return torch.compile(function, dynamic=True)


def _fused_sums(x_KN: Tensor, knots: int, step: float) -> tuple[Tensor, Tensor]:
    cosine, sine = torch.cos(x_KN * step), torch.sin(x_KN * step)
    real, imaginary = cosine, sine
    sums = [(real.sum(1), imaginary.sum(1))]
    for _ in range(1, knots):
        real, imaginary = real * cosine - imaginary * sine, real * sine + imaginary * cosine
        sums.append((real.sum(1), imaginary.sum(1)))
    return torch.stack([pair[0] for pair in sums]), torch.stack([pair[1] for pair in sums])


def _fused_slopes(x_KN: Tensor, real_TK: Tensor, imaginary_TK: Tensor, step: float) -> Tensor:
    cosine, sine = torch.cos(x_KN * step), torch.sin(x_KN * step)
    real, imaginary = torch.zeros_like(cosine), torch.zeros_like(cosine)
    for a_K, b_K in zip(reversed(real_TK.unbind()), reversed(imaginary_TK.unbind()), strict=True):
        a, b = real + a_K[:, None], imaginary + b_K[:, None]
        real, imaginary = a * cosine - b * sine, a * sine + b * cosine
    return real
