"""Precision of statistics under autocast, and fast fp32 matrix products on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor


def statistics_dtype(x: Tensor) -> Tensor:
    """``x`` in the precision statistics are computed in: fp64 stays, everything else becomes fp32."""
    return x if x.dtype == torch.float64 else x.float()


def without_autocast(x: Tensor) -> torch.autocast:
    """A context in which matrix products on the device of ``x`` keep the precision of their operands."""
    return torch.autocast(x.device.type, enabled=False)


COLUMNS = 512
"""Columns of a sum that are computed at a time where oneDNN cannot add in place."""


def product(a_nk: Tensor, b_km: Tensor) -> Tensor:
    """The matrix product a b, (n, m), without gradient.

    In fp32 on a CPU it is computed by oneDNN, as torch.compile does: about twice as fast as the BLAS behind ``@`` on
    the AMD processor we measured, equally fast on others.
    """
    if _by_onednn(a_nk, b_km):
        return torch.ops.mkldnn._linear_pointwise(_dense(a_nk), _dense(b_km).T, None, "none", [], "")
    return a_nk @ b_km


def add_product(out_nm: Tensor, a_nk: Tensor, b_km: Tensor, *, scale: float = 1.0) -> None:
    """out += scale a b, in place, holding no second (n, m) matrix."""
    if not _by_onednn(a_nk, b_km):
        out_nm.addmm_(a_nk, b_km, alpha=scale)
        return
    a_nk = _dense(a_nk)
    for out, b in zip(out_nm.split(COLUMNS, dim=1), b_km.split(COLUMNS, dim=1), strict=True):
        out.add_(product(a_nk, b), alpha=scale)


def _by_onednn(a_nk: Tensor, b_km: Tensor) -> bool:
    fast = a_nk.dtype == torch.float32 and a_nk.device.type == "cpu" and torch.backends.mkldnn.is_available()
    return fast and a_nk.numel() > 0 and b_km.numel() > 0


def _dense(x_nm: Tensor) -> Tensor:
    """``x_nm`` with contiguous rows or columns; on other strides oneDNN takes a loop a hundred times slower."""
    return x_nm if x_nm.is_contiguous() or x_nm.T.is_contiguous() else x_nm.contiguous()
