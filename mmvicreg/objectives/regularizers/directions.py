"""Random directions and projections onto them.

Directions are drawn *as bf16 values*: projecting bf16 embeddings on them with fp32 accumulation is then
lossless, and the same numbers serve every precision. D features, K slices, n rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmvicreg.numerics import add_product, product


def directions(z_nD: Tensor, *, slices: int, seed: int) -> Tensor:
    """(K, D) bf16 rows of unit length (to bf16's precision), equal on all processes with one ``seed``."""
    generator = torch.Generator(device=z_nD.device).manual_seed(seed)
    drawn = torch.randn(slices, z_nD.shape[1], generator=generator, device=z_nD.device)
    return drawn.div_(torch.linalg.vector_norm(drawn, dim=1, keepdim=True)).bfloat16()


def project(z_nD: Tensor, directions_KD: Tensor) -> Tensor:
    """(K, n) projections in fp32 (fp64 for fp64), rows contiguous; bf16 operands are not widened on a GPU."""
    if z_nD.dtype == torch.bfloat16 and z_nD.is_cuda:
        return torch.mm(directions_KD, z_nD.T, out_dtype=torch.float32)
    wide = torch.promote_types(z_nD.dtype, torch.float32)
    return product(directions_KD.to(wide), z_nD.to(wide).T)


def add_projected_back(gradient_nD: Tensor | None, slope_Kn: Tensor, directions_KD: Tensor) -> Tensor:
    """``gradient_nD`` (in place; None: zero) + slope' directions: the slopes as the embeddings see them."""
    directions_KD = directions_KD.to(slope_Kn.dtype)
    if gradient_nD is None:
        return product(slope_Kn.T, directions_KD)
    add_product(gradient_nD, slope_Kn.T, directions_KD)
    return gradient_nD
