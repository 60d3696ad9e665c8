"""Random directions and projections onto them.

Directions are drawn *as bf16 values*: projecting bf16 embeddings on them with fp32 accumulation is then
lossless, and the same numbers serve every precision. D features, K slices, n rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmvicreg.regularizers.product import add_product, product


def directions(z_nD: Tensor, *, slices: int, seed: int) -> Tensor:
    """(D, K) bf16 columns of unit length (to bf16's precision), equal on all processes with one ``seed``."""
    generator = torch.Generator(device=z_nD.device).manual_seed(seed)
    drawn = torch.randn(z_nD.shape[1], slices, generator=generator, device=z_nD.device)
    return (drawn / torch.linalg.vector_norm(drawn, dim=0)).bfloat16()


def project(z_nD: Tensor, directions_DK: Tensor) -> Tensor:
    """(K, n) projections in fp32 (fp64 for fp64), rows contiguous; bf16 operands are not widened on a GPU."""
    if z_nD.dtype == torch.bfloat16 and z_nD.is_cuda:
        return torch.mm(directions_DK.T, z_nD.T, out_dtype=torch.float32)
    wide = torch.promote_types(z_nD.dtype, torch.float32)
    return product(directions_DK.T.to(wide), z_nD.to(wide).T)


def add_projected_back(gradient_nD: Tensor, slope_Kn: Tensor, directions_DK: Tensor) -> None:
    """gradient += slope' directions': what the slopes of the projections are to the embeddings."""
    add_product(gradient_nD, slope_Kn.T, directions_DK.T.to(slope_Kn.dtype))
