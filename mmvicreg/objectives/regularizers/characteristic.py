"""Empirical characteristic functions on uniform knots by angle addition: one sine and cosine per element.

At knot t = 1 .. T the function of slice k is sum over rows of u^t, u = exp(i step x). Powers of u come by
complex products, and a trigonometric polynomial of x with its derivative by Horner's rule. On a CPU tiles
small enough for the cache, or passes that torch.compile fuses (``characteristic_compiled``); on a GPU fused
Triton kernels (``characteristic_kernels``). All give equal results.

K slices, N rows, T knots (t = 0 left out: there the function is 1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TILE = 1 << 16
"""Elements of a tile on a CPU: two complex copies stay in a core's second-level cache."""


def characteristic_function(
    x_KN: Tensor, *, knots: int, step: float, compiled: bool
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """(T, K) complex: sum over rows of exp(i t step x). And what makes slopes of weights.

    ``slopes(weights_TK)`` (K, N) is the real part of sum over t of weights_tk exp(i t step x), once: it
    overwrites ``x_KN``. ``compiled``: fused passes on a CPU.
    """
    if x_KN.is_cuda and x_KN.dtype == torch.float32:
        from mmvicreg.objectives.regularizers import characteristic_kernels as kernels

        sums = kernels.sums(x_KN, knots=knots, step=step)
        return sums, lambda weights_TK: kernels.slopes(x_KN, weights_TK, step=step)
    if compiled and not x_KN.is_cuda:
        from mmvicreg.objectives.regularizers import characteristic_compiled as passes

        waves = passes.waves(x_KN, step=step)
        return passes.sums(*waves, knots=knots), lambda weights_TK: passes.slopes(*waves, weights_TK)
    tiles = [_tile_sums(tile, knots, step) for tile in x_KN.split(_slices(x_KN))]
    return torch.cat(tiles, dim=1), lambda weights_TK: _tiled_slopes(x_KN, weights_TK, step)


def _tiled_slopes(x_KN: Tensor, weights_TK: Tensor, step: float) -> Tensor:
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
