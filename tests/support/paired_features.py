"""Paired features made from shared hidden variables, as the data of closed-form solvers."""

import numpy as np
import torch
from torch import nn

from mmvicreg.solvers.statistics.pairing import PairedRows
from mmvicreg.solvers.statistics.space_features import Space

CORRELATIONS = np.array([0.95, 0.9, 0.8, 0.65, 0.5, 0.3])


def correlated(
    rows: int, widths: tuple[int, ...] = (12, 9), *, seed: int = 0, scale: float = 1.0
) -> PairedRows:
    """Branches a, b, ... whose first dimensions share hidden variables with the correlations CORRELATIONS, mixed by
    random matrices; row i of every branch is sample i."""
    random = np.random.default_rng(seed)
    hidden = random.standard_normal((rows, len(CORRELATIONS)))
    found = {}
    for name, width in zip("abcd", widths, strict=False):
        noise = random.standard_normal((rows, width))
        shared = np.sqrt(CORRELATIONS)
        noise[:, : len(shared)] = hidden * shared + noise[:, : len(shared)] * np.sqrt(1 - CORRELATIONS)
        mixing = random.standard_normal((width, width)) + 2 * np.eye(width)
        found[name] = (scale * (noise @ mixing + 3)).astype(np.float32)
    return PairedRows(found, {name: [[row] for row in range(rows)] for name in found})


def plain_spaces(data: PairedRows) -> dict[str, Space]:
    """A space a branch, without a feature map."""
    return {name: Space(name, nn.Sequential()) for name in data.rows}


def centred(rows: np.ndarray) -> torch.Tensor:
    """fp64 rows less their mean."""
    x = torch.from_numpy(rows).double()
    return x - x.mean(0)
