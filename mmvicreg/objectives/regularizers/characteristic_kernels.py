"""Triton kernels of ``characteristic``: the same results, every element read once and kept in registers.

With TRITON_INTERPRET=1 they run on CPU tensors, which is how the tests check them without a GPU.
K slices, N rows, T knots.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

SLICES, ROWS = 32, 64


def sums(x_KN: Tensor, *, knots: int, step: float) -> Tensor:
    """(T, K) complex64: sum over rows of exp(i t step x); ``x_KN`` fp32."""
    slices, rows = x_KN.shape
    blocks = max(1, triton.cdiv(rows, ROWS))
    partial = torch.empty(blocks, 2, knots, slices, device=x_KN.device)
    grid = (triton.cdiv(slices, SLICES), blocks)
    _sums[grid](x_KN.contiguous(), partial, slices, rows, step, knots, SLICES, ROWS)
    cosine, sine = partial.sum(0)
    return torch.complex(cosine, sine)


def slopes(x_KN: Tensor, weights_TK: Tensor, *, step: float) -> Tensor:
    """(K, N) fp32: real part of sum over t of weights exp(i t step x); ``weights_TK`` complex64."""
    slices, rows = x_KN.shape
    out = torch.empty_like(x_KN)
    parts = torch.view_as_real(weights_TK).movedim(-1, 0).contiguous()
    grid = (triton.cdiv(slices, SLICES), max(1, triton.cdiv(rows, ROWS)))
    _slopes[grid](x_KN.contiguous(), parts, out, slices, rows, step, weights_TK.shape[0], SLICES, ROWS)
    return out


@triton.jit
def _tile(x, slices, rows, BK: tl.constexpr, BN: tl.constexpr) -> Any:  # type: ignore[no-untyped-def]
    k = tl.program_id(0) * BK + tl.arange(0, BK)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    inside = (k[:, None] < slices) & (n[None, :] < rows)
    at = k[:, None].to(tl.int64) * rows + n[None, :]
    return k, inside, at


@triton.jit
def _sums(x, partial, slices, rows, step, T: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr) -> None:  # type: ignore[no-untyped-def]
    k, inside, at = _tile(x, slices, rows, BK, BN)
    angle = tl.load(x + at, mask=inside, other=0.0) * step
    cos1, sin1 = tl.cos(angle), tl.sin(angle)
    cosine = tl.where(inside, cos1, 0.0)  # rows beyond the end stay zero through the rotations
    sine = tl.where(inside, sin1, 0.0)
    block = partial + tl.program_id(1).to(tl.int64) * (2 * T * slices) + k
    for t in tl.static_range(T):
        tl.store(block + t * slices, tl.sum(cosine, 1), mask=k < slices)
        tl.store(block + (T + t) * slices, tl.sum(sine, 1), mask=k < slices)
        turned = cosine * cos1 - sine * sin1
        sine = sine * cos1 + cosine * sin1
        cosine = turned


@triton.jit
def _slopes(x, weights, out, slices, rows, step, T: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr) -> None:  # type: ignore[no-untyped-def]
    k, inside, at = _tile(x, slices, rows, BK, BN)
    angle = tl.load(x + at, mask=inside, other=0.0) * step
    cos1, sin1 = tl.cos(angle), tl.sin(angle)
    cosine, sine = cos1, sin1
    total = tl.zeros((BK, BN), dtype=tl.float32)
    for t in tl.static_range(T):
        real = tl.load(weights + t * slices + k, mask=k < slices, other=0.0)
        imaginary = tl.load(weights + (T + t) * slices + k, mask=k < slices, other=0.0)
        total += real[:, None] * cosine - imaginary[:, None] * sine
        turned = cosine * cos1 - sine * sin1
        sine = sine * cos1 + cosine * sin1
        cosine = turned
    tl.store(out + at, total, mask=inside)
