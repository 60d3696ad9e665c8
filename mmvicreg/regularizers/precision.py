"""The precision of statistics, whatever the autocast."""

from __future__ import annotations

import torch
from torch import Tensor


def statistics_dtype(x: Tensor) -> Tensor:
    """``x`` in the precision statistics are computed in: fp64 stays, everything else becomes fp32."""
    return x if x.dtype == torch.float64 else x.float()


def without_autocast(x: Tensor) -> torch.autocast:
    """Context in which products on ``x``'s device keep their operands' precision."""
    return torch.autocast(x.device.type, enabled=False)
